#!/usr/bin/env python3
"""fence_local as a program: it kills a frozen cgroup, and proves by the byte locks that the last write has landed; it
refuses what it cannot prove. Every cgroup and process is this script's own and goes at the end."""
import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree

HERE = os.path.dirname(os.path.realpath(__file__))
BIN = os.environ.get("HOLDFAST_BIN", os.path.join(HERE, "..", "..", "build", "bin"))
FENCE_LOCAL = os.path.join(BIN, "fence_local")
BYTE_BASE = 1 << 40
# A process of the node: opens the volume once, holds its bytes on that descriptor, and hands the descriptor on to a helper
# when it is asked to (argv[3]): a request in flight keeps the description open just so.
NODE = """
import fcntl, os, struct, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
for byte in sys.argv[2].split(","):
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, (1 << 40) + int(byte), 1, 0))
if len(sys.argv) > 3:
    helper = os.fork()
    if helper == 0:
        print(os.getpid(), flush=True)
        while True: time.sleep(1)
else:
    print(os.getpid(), flush=True)
while True: time.sleep(1)
"""


class Failed(Exception):
    pass


def expect(condition, words):
    if not condition:
        raise Failed(words)


def wait_until(what, condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"waited {seconds} s for {what}")
        time.sleep(0.005)


def hierarchy():
    for root in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        if os.path.exists(os.path.join(root, "cgroup.controllers")):
            return root
    raise Failed("no version 2 cgroup hierarchy is mounted")


class Cgroup:
    def __init__(self, name):
        self.name = f"hf-test-{os.getpid()}-{name}"
        self.path = os.path.join(hierarchy(), self.name)
        os.mkdir(self.path)

    def read(self, name):
        with open(os.path.join(self.path, name)) as f:
            return f.read()

    def write(self, name, text):
        with open(os.path.join(self.path, name), "w") as f:
            f.write(text)

    def freeze(self):
        self.write("cgroup.freeze", "1")
        wait_until("the freeze", lambda: "frozen 1" in self.read("cgroup.events"))

    def remove(self):
        self.write("cgroup.kill", "1")
        wait_until("the end of the cgroup", lambda: "populated 0" in self.read("cgroup.events"))
        os.rmdir(self.path)


@contextlib.contextmanager
def node(bytes_held, helper=False):
    """A volume and a node's process in a cgroup of its own. Yields (volume, cgroup, process, pid of the helper or itself)."""
    cgroup = Cgroup(bytes_held.replace(",", "-"))
    process = None
    said = 0
    with tempfile.TemporaryDirectory(prefix="holdfast-fence-") as folder:
        volume = os.path.join(folder, "volume")
        with open(volume, "wb") as f:
            f.truncate(1 << 20)
        try:
            words = [sys.executable, "-c", NODE, volume, bytes_held] + (["helper"] if helper else [])
            process = subprocess.Popen(words, stdout=subprocess.PIPE)
            said = int(process.stdout.readline())
            cgroup.write("cgroup.procs", str(process.pid))
            yield volume, cgroup, process, said
        finally:
            if process:
                process.kill()
                process.wait()
                process.stdout.close()
            if helper and said:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(said, signal.SIGKILL)
            cgroup.remove()


def fence(action, **parameters):
    lines = "".join(f"{name}={value}\n" for name, value in {"action": action, **parameters}.items())
    return subprocess.run([FENCE_LOCAL], input=lines, capture_output=True, text=True, timeout=60)


def held(volume, byte):
    fd = os.open(volume, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, BYTE_BASE + byte, 1, 0))
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def frozen():
    with node("1,258") as (volume, cgroup, process, _):
        cgroup.freeze()
        expect(held(volume, 1) and held(volume, 258), "the node does not hold its bytes")
        expect(fence("status", cgroup=cgroup.name).returncode == 0, "status of a frozen node is not ON")
        done = fence("off", cgroup=cgroup.name, volume=volume, nodeid=2, mounts=2)
        expect(done.returncode == 0, f"off: {done.stderr}")
        expect(process.wait(5) == -signal.SIGKILL, "the frozen process has not been killed")
        expect(not held(volume, 1) and not held(volume, 258), "a byte is still held")
        expect(fence("status", cgroup=cgroup.name).returncode == 2, "status afterwards is not OFF")
        expect(fence("off", cgroup=cgroup.name, volume=volume, nodeid=2, mounts=2).returncode == 0, "off is not repeatable")


def descriptor_in_flight():
    with node("1", helper=True) as (volume, cgroup, process, helper):
        done = fence("off", cgroup=cgroup.name, volume=volume, nodeid=2, agent_timeout=2)
        expect(process.wait(5) == -signal.SIGKILL, "the process has not been killed")
        expect(done.returncode == 1, "fenced although something still holds the node's byte: process gone is not I/O gone")
        expect("still held" in done.stderr, f"the reason is not told: {done.stderr}")
        os.kill(helper, signal.SIGKILL)
        wait_until("the byte", lambda: not held(volume, 1))
        expect(fence("off", cgroup=cgroup.name, volume=volume, nodeid=2).returncode == 0, "off after the last descriptor went")


def not_there():
    expect(fence("off", cgroup=f"hf-test-none-{os.getpid()}").returncode == 1, "a cgroup that does not exist was 'fenced'")
    expect(fence("off").returncode == 1, "no parameters, and 'fenced'")
    expect(fence("off", pidfile="/nonexistent/pid").returncode == 1, "a missing pid file was 'fenced'")
    expect(fence("reboot", cgroup="x").returncode == 1, "an unknown action succeeded")


def not_ourselves():
    cgroup = Cgroup("self")
    try:
        move = f"echo $$ > {cgroup.path}/cgroup.procs; printf 'action=off\\ncgroup={cgroup.path}\\n' | {FENCE_LOCAL}; echo alive $?"
        done = subprocess.run(["/bin/sh", "-c", move], capture_output=True, text=True, timeout=30)
        expect(done.stdout.strip() == "alive 1", f"it killed its own cgroup: {done.stdout!r}")
    finally:
        cgroup.remove()


def by_pid_file():
    with tempfile.TemporaryDirectory(prefix="holdfast-fence-") as folder:
        process = subprocess.Popen(["sleep", "1000"])
        try:
            path = os.path.join(folder, "pid")
            with open(path, "w") as f:
                f.write(f"{process.pid}\n")
            expect(fence("status", pidfile=path).returncode == 0, "status is not ON")
            expect(fence("off", pidfile=path).returncode == 0, "off failed")
            expect(process.wait(5) == -signal.SIGKILL, "the process has not been killed")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def metadata():
    for program in ("fence_local", "fence_pr"):
        done = subprocess.run([os.path.join(BIN, program)], input="action=metadata\n", capture_output=True, text=True, timeout=30)
        expect(done.returncode == 0, f"{program}: metadata failed")
        root = ElementTree.fromstring(done.stdout)
        actions = {a.get("name") for a in root.find("actions")}
        expect({"off", "status", "monitor", "metadata"} <= actions, f"{program}: actions {actions}")


CASES = [("fence_local kills a frozen node and takes its bytes", frozen),
         ("fence_local does not take 'process gone' for 'last write landed'", descriptor_in_flight),
         ("fence_local: what does not exist is not fenced", not_there),
         ("fence_local refuses its own cgroup", not_ourselves),
         ("fence_local by pid file", by_pid_file),
         ("metadata of both agents", metadata)]


def main():
    def expired(*_):
        raise Failed("time limit of 100 s")
    signal.signal(signal.SIGALRM, expired)
    signal.alarm(100)
    failed = 0
    for name, function in CASES:
        try:
            function()
            print(f"ok      {name}", flush=True)
        except (Failed, OSError, subprocess.SubprocessError, ElementTree.ParseError) as error:
            failed += 1
            print(f"FAILED  {name}: {error}", flush=True)
    print(f"{len(CASES) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
