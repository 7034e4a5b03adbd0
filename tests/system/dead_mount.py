#!/usr/bin/env python3
"""A mount dies, its node lives: what its applications may still read, and when the others go on. The second gate (cluster.md)
opens on the supervisor's word, so no read on the dead mount that begins after a survivor's write has returned may show
what was there before: not by read(2), not through mappings, not in attributes or names. usage: dead_mount.py [CASE...]"""
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from clusterlab import expect, fsck, lab, run_cases
from hiccups import Hiccups
from killed_waiters import mount_process, wait_for

ROUNDS = 3

# Looks at the old value in one way, again and again; notes in a file of memory when the last look that still saw it began
# (a mapping ends by SIGBUS, with no time for words).
LOOK = """
import mmap, os, sys, time
path, way, notes = sys.argv[1:4]
note = mmap.mmap(os.open(notes, os.O_RDWR), 8)
fd = os.open(path, os.O_RDWR if way == "store" else os.O_RDONLY)
if way in ("map", "store"):
    m = mmap.mmap(fd, 65536, prot=mmap.PROT_READ | (mmap.PROT_WRITE if way == "store" else 0))
while True:
    begun = time.monotonic_ns()
    try:
        if way == "read": old = os.pread(fd, 3, 30000) == b"old"
        elif way == "store":
            m[0] = 1
            old = m[30000:30003] == b"old"
        elif way == "map": old = m[30000:30003] == b"old"
        elif way == "size": old = os.stat(path).st_size == 65536
        else: old = os.lstat(path + ".new") is None
    except FileNotFoundError:
        old = way == "name"  # a name that is absent
    except OSError:
        old = False
    if old: note[0:8] = begun.to_bytes(8, "little")
"""


class Look:
    def __init__(self, path, way):
        self.way = way
        self.notes = tempfile.NamedTemporaryFile(dir="/dev/shm")
        self.notes.write(bytes(8))
        self.notes.flush()
        self.process = subprocess.Popen([sys.executable, "-c", LOOK, path, way, self.notes.name], stderr=subprocess.DEVNULL)

    def last(self):
        self.notes.seek(0)
        return int.from_bytes(self.notes.read(8), "little")

    def end(self):
        self.process.kill()
        self.process.wait(20)
        last = self.last()
        self.notes.close()
        return last


def wait_until_mounted_again(it, node):
    for process in [p for p in node.cgroup.pids() if comm(p) in ("mount.holdfast", "hf-supervisor")]:
        wait_for(lambda p=process: comm(p) == "", 10, "the dead mount's processes do not end")
    node.unmount(lazy=True)
    node.mount_volume()


def comm(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as f:
        return f.read().strip()
    return ""


def one_death(it, a, b, name):
    path = f"{a.mount}/{name}"
    ways = ["read", "map", "store", "size", "name"]
    for way in ways:
        with open(f"{path}.{way}", "wb") as f:
            f.write(b"old" * 21845 + b"o")
            f.flush()
            os.fsync(f.fileno())
    lookers = [Look(f"{path}.{way}", way) for way in ways]
    for look in lookers:
        wait_for(lambda it=look: it.last() != 0, 10, f"{look.way}: does not see the old value")
    victim = mount_process(a)
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic_ns()
    done = {}
    for way in ways:
        if way == "name":
            open(f"{b.mount}/{name}.{way}.new", "w").close()
        else:
            with open(f"{b.mount}/{name}.{way}", "r+b") as f:
                f.seek(30000)
                f.write(b"NEW")
                f.truncate(40000)
        done[way] = time.monotonic_ns()
    time.sleep(0.3)  # time to look again, wrongly
    late = {look.way: (last - done[look.way]) / 1e6 for look, last in ((look, look.end()) for look in lookers) if last > done[look.way]}
    expect(not late, f"the dead mount still shows what was there before the survivor's write: {late} ms after it")
    return (max(done.values()) - killed) / 1e9


def readers_end_first():
    with lab(2) as it:
        a, b = it.nodes()
        stalls, hiccups = [], Hiccups()
        for i in range(ROUNDS):
            begun_ns = time.monotonic_ns()
            stall = one_death(it, a, b, f"f{i}")
            stalls.append(max(0.0, stall - hiccups.since(begun_ns)))
            wait_until_mounted_again(it, a)
        for node in it.nodes():
            node.stop()
        fsck(it)
        expect(statistics.median(stalls) < 1.0, f"survivors waited {', '.join(f'{s:.2f}' for s in stalls)} s: the gate did not open on the supervisor's word")
        return f"five writes on the survivor done {', '.join(f'{s:.2f}' for s in stalls)} s after the kill"


def loop_of(node, which):
    """Makes names in a folder that others fill too, looks for absent ones, and writes to mapped pages of a file of all."""
    program = """
import mmap, os, sys
mount, name = sys.argv[1:]
fd = os.open(mount + "/pages", os.O_RDWR)
pages = mmap.mmap(fd, 65536)
i = 0
while True:
    i += 1
    open(f"{mount}/d/{name}{i}", "w").close()
    os.path.exists(f"{mount}/d/x{i}")
    for k in range(16):
        pages[(i * 7 + k) * 4096 % 65536] = i % 256
        os.pread(fd, 4096, ((i + k * 5) % 16) * 4096)
"""
    return subprocess.Popen([sys.executable, "-c", program, node.mount, f"{node.name}.{which}"], stderr=subprocess.DEVNULL)


def death_amid_work(doomed_names, number, rounds=1):
    """These processes of one node die while the kernel waits for them and their notifications for it. How long does the other
    node wait? Whatever is left of them ends by itself."""
    with lab(2) as it:
        a, b = it.nodes()
        os.makedirs(f"{a.mount}/d")
        with open(f"{a.mount}/pages", "wb") as f:
            f.write(bytes(65536))
        stalls, hiccups = [], Hiccups()
        for i in range(rounds):
            busy = [loop_of(node, k) for node in (a, b) for k in range(3)]
            try:
                before = len(os.listdir(f"{b.mount}/d"))
                wait_for(lambda: len(os.listdir(f"{b.mount}/d")) > before + 100, 30, "no files are made")
                doomed = [p for p in a.cgroup.pids() if comm(p) in doomed_names]
                expect(len(doomed) == len(doomed_names), f"not {doomed_names}: {doomed}")
                begun, begun_ns = time.monotonic(), time.monotonic_ns()
                for pid in doomed:
                    os.kill(pid, number)
                for process in busy[:3]:
                    wait_for(lambda p=process: p.poll() is not None, 15, "the application on the dead mount waits for ever")
                with open(f"{b.mount}/d/after{i}", "w"):
                    pass
                stalls.append(max(0.0, time.monotonic() - begun - hiccups.since(begun_ns)))
                wait_for(lambda: not owed(b), 15, "the burial does not end")
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
            wait_until_mounted_again(it, a)
            expect(os.path.exists(f"{a.mount}/d/after{i}"), "the survivor's file")
        for node in it.nodes():
            node.stop()
        fsck(it)
        expect(max(stalls) < 5, f"the survivor waited {max(stalls):.1f} s")
        return f"the survivor goes on after {', '.join(f'{s:.1f}' for s in stalls)} s"


def owed(node):
    return [v for s in (node.status() or {}).get("lockspaces", []) for v in s.get("victims", [])]


def with_its_supervisor():
    """Nobody can testify, and nobody of the mount ends its connection: holdfastd does, and the others go on after lease and margin."""
    return death_amid_work(("mount.holdfast", "hf-supervisor"), signal.SIGKILL)


def a_crash():
    """The kernel lets a crashed process end only when none of its threads waits in there any more."""
    return death_amid_work(("mount.holdfast",), signal.SIGSEGV, ROUNDS)


CASES = [
    ("no stale read after the gate has opened", readers_end_first),
    ("mount and supervisor killed together", with_its_supervisor),
    ("a mount that crashes ends", a_crash),
]

if __name__ == "__main__":
    sys.exit(run_cases(CASES, 150))
