#!/usr/bin/env python3
"""Turns a text file into a C++ string literal: embed.py INPUT OUTPUT NAME."""
import sys

source, target, name = sys.argv[1:]
with open(source) as f:
    text = f.read()
assert ")HF" not in text
# One literal may hold 64 KiB at most in portable C++; ours is far below.
with open(target, "w") as f:
    f.write(f'// Made from {source.rsplit("/", 1)[-1]}.\n#pragma once\ninline constexpr char {name}[] = R"HF({text})HF";\n')
