#!/usr/bin/env python3
"""The zombie on iSCSI: a node is frozen with writes in flight that the target itself delays, is fenced by reservation, its
journal is replayed, the survivors write the same blocks, and then it wakes up. Not one of its writes may land; it withdraws
with a clear message, its readers get errors instead of stale data, and it can rejoin."""
import os
import subprocess
import sys
import threading
import time

from clusterlab import ROOT, CaseFailed, expect, fsck, lab, run_cases, wait_until

SLOW_MS = 1500
PRELOAD = os.environ.get("SLOW_WRITE") or os.path.join(ROOT, "build", "tests", "system", "libslow_write.so")
BLOCKS = 16
# tgtd's preload delays writes whose data starts with SLOWIO.
WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
block = bytearray(b"SLOWIO zombie".ljust(4096, b"z"))
n = 0
while True:
    block[16:24] = n.to_bytes(8, "little")
    for i in range(int(sys.argv[2])):
        os.pwrite(fd, block, 4096 * i)
    os.fsync(fd)
    n += 1
    print(n, flush=True)
"""


def state_of(node, name):
    status = node.status() or {}
    return next((n.get("state") for n in status.get("nodes", []) if n.get("name") == name), None)


def zombie():
    with lab(3, iscsi=True, preload=PRELOAD, environment={"SLOW_MS": str(SLOW_MS)}) as it:
        n1, n2, n3 = it.nodes()
        path = os.path.join(n2.mount, "victim")
        with open(path, "wb") as f:
            f.write(b"first".ljust(4096, b".") * BLOCKS)
            os.fsync(f.fileno())
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path, str(BLOCKS)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            expect(writer.stdout.readline().strip() == b"1", "the slow writer did not finish a round")
            time.sleep(0.4)  # into the middle of a round, whose writes take SLOW_MS inside tgtd
            paused = time.monotonic()
            it.pause("n2")
            wait_until("fencing of n2", lambda: state_of(n1, "n2") in ("fenced", "left", "configured"), 20)
            fenced = time.monotonic() - paused
            # A survivor takes the file over and overwrites the very blocks.
            new = b"survivor".ljust(4096, b"s") * BLOCKS
            def overwrite():
                with open(os.path.join(n1.mount, "victim"), "r+b") as f:
                    f.write(new)
                    os.fsync(f.fileno())
            thread = threading.Thread(target=overwrite, daemon=True)
            thread.start()
            thread.join(30)
            expect(not thread.is_alive(), f"the survivor cannot write the victim's file; status: {n1.status()}")
            stall = time.monotonic() - paused
            it.resume("n2")
            # What the zombie had queued would land now, and what tgtd held back, within SLOW_MS.
            end = time.monotonic() + 2 * SLOW_MS / 1000 + 1
            while time.monotonic() < end:
                with open(os.path.join(n3.mount, "victim"), "rb") as f:
                    expect(f.read() == new, "a write of the zombie landed over the survivor's data")
                time.sleep(0.1)
            wait_until("the end of the zombie's writer with an error", lambda: writer.poll() is not None, 20)
            expect(b"Error" in writer.stderr.read(), "the zombie's writer got no error")
            log = open(os.path.join(n2.log, "mount.log"), errors="replace").read()
            expect("withdraw" in log, "the zombie's mount does not say that it withdrew")
        finally:
            if writer.poll() is None:
                writer.kill()
        # It rejoins.
        it.kill("n2")
        it.start("n2")
        with open(os.path.join(n2.mount, "victim"), "rb") as f:
            expect(f.read() == new, "the zombie, rejoined, sees something else")
        for node in it.nodes():
            node.stop()
        fsck(it)
        expect(blocks_in(it.image, b"survivor".ljust(4096, b"s")) >= BLOCKS, "the image lacks blocks that the survivor synced")
        return f"fenced after {fenced:.2f} s, the survivor's write done after {stall:.2f} s"


def blocks_in(image, block):
    found = 0
    with open(image, "rb") as f:
        while chunk := f.read(16 << 20):
            found += chunk.count(block)
    return found


if __name__ == "__main__":
    try:
        sys.exit(run_cases([("the zombie on iSCSI, with delayed writes in flight", zombie)], 150))
    except CaseFailed as error:
        print(f"FAILED  {error}\n0 passed, 1 failed")
        sys.exit(1)
