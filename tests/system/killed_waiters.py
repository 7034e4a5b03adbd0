#!/usr/bin/env python3
"""Rule 7 of filesystem.md on real processes: whatever waits for a lock that another node holds and does not give (its mount
stands still) ends on SIGKILL and on other fatal signals, leaves nothing behind, and is not disturbed by a signal
that it catches. usage: killed_waiters.py [CASE...]"""
import contextlib
import os
import signal
import subprocess
import sys
import time

from clusterlab import CaseFailed, expect, find_waits, fsck, lab, run_cases

LIMIT = 2.0  # seconds from the signal to the end of the process


def mount_process(node):
    for pid in node.cgroup.pids():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as f:
            if f.read().strip() == "mount.holdfast":
                return pid
    raise CaseFailed(f"no mount process on {node.name}")


@contextlib.contextmanager
def standing_still(node):
    """The node's mount answers nobody; its daemon lives, so nothing is fenced."""
    pid = mount_process(node)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def python(code, **kwargs):
    return subprocess.Popen([sys.executable, "-c", "import fcntl, os, signal, sys, time\n" + code], **kwargs)


def wait_for(condition, seconds, words):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise CaseFailed(words)
        time.sleep(0.005)


def blocked(process):
    """In the kernel, waiting for our answer."""
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/wchan") as f:
        return f.read() in ("request_wait_answer", "__fuse_simple_request", "folio_wait_bit_common")
    return False


def catches(process, number):
    """A python that is still starting waits for pages of its own files, and has no handler yet."""
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/status") as f:
        caught = next(line.split()[1] for line in f if line.startswith("SigCgt:"))
        return int(caught, 16) >> (number - 1) & 1 == 1
    return False


def ends(process, signal_number, words):
    begun = time.monotonic()
    process.send_signal(signal_number)
    wait_for(lambda: process.poll() is not None, LIMIT, f"{words}: signal {signal_number} does not end it within {LIMIT} s")
    expect(process.returncode == -signal_number, f"{words}: ended with {process.returncode}, not by signal {signal_number}")
    return time.monotonic() - begun


def no_waits(node):
    wait_for(lambda: not [w for w in find_waits(node.status() or {}) if "lock" in str(w.get("what", ""))], 10, f"{node.name} still waits: {list(find_waits(node.status()))}")


def operations():
    with lab(2) as it:
        a, b = it.nodes()
        for i in range(8):
            os.makedirs(f"{a.mount}/d{i}")
            with open(f"{b.mount}/d{i}/f", "w") as f:
                f.write("of node 2\n")
        os.makedirs(f"{a.mount}/mine")
        open(f"{a.mount}/mine/x", "w").close()
        m = a.mount
        tried = {
            "open": f"open({m + '/d0/f'!r})",
            "create": f"open({m + '/d1/new'!r}, 'w')",
            "mkdir": f"os.mkdir({m + '/d2/sub'!r})",
            "rename": f"os.rename({m + '/mine/x'!r}, {m + '/d3/x'!r})",
            "unlink": f"os.unlink({m + '/d4/f'!r})",
            "readdir": f"os.listdir({m + '/d5'!r})",
            "setxattr": f"os.setxattr({m + '/d6'!r}, 'user.x', b'1')",
            "truncate": f"os.truncate({m + '/d7/f'!r}, 3)",
        }
        worst = 0
        with standing_still(b):
            waiting = {name: python(code) for name, code in tried.items()}
            for name, process in waiting.items():
                wait_for(lambda p=process: blocked(p), 5, f"{name} does not wait (ended: {process.poll()})")
            for i, (name, process) in enumerate(waiting.items()):
                worst = max(worst, ends(process, signal.SIGKILL if i % 2 else signal.SIGTERM, name))
        # None of them has happened, and nothing is held.
        expect(not os.path.exists(f"{m}/d1/new") and not os.path.exists(f"{m}/d2/sub") and os.path.exists(f"{m}/mine/x"),
               "an operation whose process was killed was done afterwards")
        expect(open(f"{m}/d7/f").read() == open(f"{m}/d4/f").read() == "of node 2\n", "a file of node 2 has changed")
        no_waits(a)
        for node in (b, a):
            for i in range(8):
                os.rename(f"{node.mount}/d{i}/f", f"{node.mount}/d{i}/g")
                os.rename(f"{node.mount}/d{i}/g", f"{node.mount}/d{i}/f")
        for node in it.nodes():
            node.stop()
        fsck(it)
        return f"{len(tried)} operations, slowest end {worst * 1000:.0f} ms"


def data():
    """read and write of files that were open before."""
    with lab(2) as it:
        a, b = it.nodes()
        for name in ("r", "w"):
            with open(f"{a.mount}/{name}", "w") as f:
                f.write("x" * 100_000)
        reader = python(f"f=os.open({a.mount + '/r'!r}, os.O_RDONLY); print('open', flush=True); sys.stdin.readline(); os.pread(f, 100, 50000)",
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        writer = python(f"f=os.open({a.mount + '/w'!r}, os.O_RDWR); print('open', flush=True); sys.stdin.readline(); os.pwrite(f, b'late', 0)",
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for process in (reader, writer):
            expect(process.stdout.readline() == "open\n", "not open")
        for name in ("r", "w"):
            with open(f"{b.mount}/{name}", "r+") as f:
                f.write("node 2")
        with standing_still(b):
            for process in (reader, writer):
                process.stdin.write("go\n")
                process.stdin.flush()
                wait_for(lambda: blocked(process), 5, "does not wait")
            took = max(ends(reader, signal.SIGKILL, "read"), ends(writer, signal.SIGKILL, "write"))
        for name in ("r", "w"):
            expect(open(f"{a.mount}/{name}").read(8) == "node 2xx", "a killed write was done afterwards")
        no_waits(a)
        for node in it.nodes():
            node.stop()
        fsck(it)
        return f"{took * 1000:.0f} ms"


def caught_signals():
    """A signal that is caught disturbs nothing: no EINTR; SIGKILL after it still ends the process."""
    with lab(2) as it:
        a, b = it.nodes()
        for name in ("one", "two"):
            with open(f"{b.mount}/{name}", "w") as f:
                f.write("whole")
        catch = "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        with standing_still(b):
            patient = python(catch + f"print(open({a.mount + '/one'!r}).read(), flush=True)", stdout=subprocess.PIPE, text=True)
            doomed = python(catch + f"open({a.mount + '/two'!r}).read()")
            for process in (patient, doomed):
                wait_for(lambda p=process: catches(p, signal.SIGUSR1) and blocked(p), 5, "does not wait")
                process.send_signal(signal.SIGUSR1)
            time.sleep(0.2)  # nothing must happen
            expect(patient.poll() is None and doomed.poll() is None, "a caught signal ended a request")
            took = ends(doomed, signal.SIGKILL, "after a caught signal")
        out, _ = patient.communicate(timeout=20)
        expect(patient.returncode == 0 and out == "whole\n", f"the patient one got {out!r}, exit {patient.returncode}")
        return f"{took * 1000:.0f} ms"


def range_locks():
    """Waiters, unlockers, and holders that die while the lock's master stands still."""
    with lab(2) as it:
        a, b = it.nodes()
        code = "f=open({!r}, 'r+')\nfcntl.lockf(f, {}, 10, {})\nprint('got', flush=True)\nsys.stdin.readline()\n"
        held, waiting = [], []
        for i in range(3):
            open(f"{b.mount}/l{i}", "w").close()
            # Node 2 locks first: its mount masters the range locks of that file.
            held.append(python(code.format(f"{b.mount}/l{i}", "fcntl.LOCK_EX", 0), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            expect(held[-1].stdout.readline() == "got\n", "no lock on node 2")
        mine = python(code.format(f"{a.mount}/l0", "fcntl.LOCK_EX", 100), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        expect(mine.stdout.readline() == "got\n", "no lock on node 1")
        waiting = [python(code.format(f"{a.mount}/l1", "fcntl.LOCK_EX", 0)),
                   python(f"f=open({a.mount + '/l2'!r}, 'r+')\nfcntl.flock(f, fcntl.LOCK_EX)\nprint('flock')\n"
                          "fcntl.lockf(f, fcntl.LOCK_SH, 5, 5)")]
        for process in waiting:
            wait_for(lambda p=process: blocked(p), 5, "does not wait")
        with standing_still(b):
            took = max([ends(p, signal.SIGKILL, "a lock's waiter") for p in waiting] + [ends(mine, signal.SIGKILL, "a lock's holder")])
        no_waits(a)
        # What the dead asked for and held is free; what node 2 holds is not.
        probe = python(f"f=open({b.mount + '/l0'!r}, 'r+')\nfor i in range(200):\n  try:\n    fcntl.lockf(f, fcntl.LOCK_EX|fcntl.LOCK_NB, 10, 100)\n    sys.exit(0)\n"
                       "  except OSError: time.sleep(0.02)\nsys.exit(1)")
        expect(probe.wait(20) == 0, "a dead holder's range is not free")
        for process in held:
            process.communicate("\n", timeout=10)
        for i in range(3):
            free = python(f"f=open({a.mount + f'/l{i}'!r}, 'r+')\nfcntl.lockf(f, fcntl.LOCK_EX)\nfcntl.flock(f, fcntl.LOCK_EX)")
            expect(free.wait(20) == 0, "a lock is not free at the end")
        return f"{took * 1000:.0f} ms"


CASES = [
    ("operations on names", operations),
    ("reads and writes of open files", data),
    ("caught signals", caught_signals),
    ("range locks", range_locks),
]

if __name__ == "__main__":
    sys.exit(run_cases(CASES, 100))
