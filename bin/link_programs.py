#!/usr/bin/env python3
"""Links every program into one folder: link_programs.py FOLDER STAMP PROGRAM..."""
import os
import sys

folder, stamp, *programs = sys.argv[1:]
for program in programs:
    link = os.path.join(folder, os.path.basename(program))
    target = os.path.abspath(program)
    if not (os.path.islink(link) and os.readlink(link) == target):
        if os.path.lexists(link):
            os.unlink(link)
        os.symlink(target, link)
with open(stamp, "w") as f:
    f.write("\n".join(sorted(os.path.basename(p) for p in programs)) + "\n")
