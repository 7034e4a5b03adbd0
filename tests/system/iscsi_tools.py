#!/usr/bin/env python3
"""mkfs and fsck on iscsi:// as an administrator meets them: a volume in use is refused by both, whatever the flags, and goes on
working; a stopped one is checked over the wire, and its damage is seen and repaired there."""
import os
import shutil
import subprocess
import sys

from clusterlab import ROOT, binary, expect, lab, run_cases

BLOCK = 4096
MAGIC, BITMAP = b"Hfmd", 3  # docs/format.md: the header of every metadata block


def on(it, node, *words):
    """Runs one of our programs in a node's network; (exit code, output)."""
    namespace = it.network.namespace(node.number)
    done = subprocess.run(it.network.enter(namespace) + [binary(words[0]), *words[1:]], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, timeout=60)
    return done.returncode, done.stdout.strip()


def tools_over_iscsi():
    with lab(2, iscsi=True) as it:
        n1, n2 = it.nodes()
        url = it.volume
        shutil.copytree(os.path.join(ROOT, "docs"), os.path.join(n1.mount, "docs"))
        # In use: nobody may write, and fsck says whose use it is.
        for words in (("fsck.holdfast", "-n"), ("fsck.holdfast", "-y"), ("fsck.holdfast", "-p")):
            code, said = on(it, n1, *words, url)
            expect(code == 8 and "registered" in said, f"{words} on a volume in use: {code} {said}")
        for words in (("mkfs.holdfast", "-t", "lab:data"), ("mkfs.holdfast", "-f", "-t", "lab:data")):
            code, said = on(it, n1, *words, url)
            expect(code == 1 and said, f"{words} on a volume in use: {code} {said}")
        expect(os.listdir(os.path.join(n2.mount, "docs")), "n2 does not see the files after mkfs was refused")
        with open(os.path.join(n2.mount, "later"), "w") as f:
            f.write("still writable")
            os.fsync(f.fileno())
        n1.stop()
        n2.stop()
        code, said = on(it, n1, "fsck.holdfast", "-n", url)
        expect(code == 0 and "clean" in said, f"fsck -n: {code} {said}")
        code, said = on(it, n1, "mkfs.holdfast", "-t", "lab:data", url)
        expect(code == 1 and "-f" in said, f"mkfs over a volume without -f: {code} {said}")
        # A byte of the free-space bitmaps is turned over below the target: seen, repaired, gone.
        damage(it.image)
        code, said = on(it, n1, "fsck.holdfast", "-n", url)
        expect(code == 4, f"fsck -n of a damaged volume: {code} {said}")
        code, said = on(it, n1, "fsck.holdfast", "-y", url)
        expect(code == 1, f"fsck -y of a damaged volume: {code} {said}")
        code, said = on(it, n1, "fsck.holdfast", "-n", url)
        expect(code == 0, f"fsck -n after the repair: {code} {said}")
        return f"'{said}'"


def damage(image):
    """Turns a bit over in the last bitmap block of the volume: its checksum is wrong from now on."""
    with open(image, "r+b") as f:
        for number in range(os.path.getsize(image) // BLOCK - 1, 0, -1):
            f.seek(number * BLOCK)
            head = f.read(6)
            if head[:4] == MAGIC and int.from_bytes(head[4:6], "little") == BITMAP:
                f.seek(number * BLOCK + BLOCK // 2)
                byte = f.read(1)[0]
                f.seek(number * BLOCK + BLOCK // 2)
                f.write(bytes([byte ^ 1]))
                return
    raise AssertionError("no bitmap block found")


if __name__ == "__main__":
    sys.exit(run_cases([("mkfs and fsck over iSCSI", tools_over_iscsi)]))
