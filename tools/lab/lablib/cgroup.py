"""A node is one cgroup (version 2): killing or freezing it takes along its daemon, mount, supervisor and the
applications that have files open below its mount, as a real crash or hang does."""
import ctypes
import os

from .run import LabError, read, run, wait_until, write

libc = ctypes.CDLL(None, use_errno=True)
MNT_FORCE, MNT_DETACH = 1, 2


def hierarchy():
    """Where cgroup v2 with cgroup.kill lives: mounted alone, or as `unified` beside version 1."""
    for root in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        if os.path.exists(os.path.join(root, "cgroup.procs")) and os.path.exists(os.path.join(root, "cgroup.controllers")):
            return root
    own = "/run/holdfast-cgroup2"
    os.makedirs(own, exist_ok=True)
    if not os.path.exists(os.path.join(own, "cgroup.procs")):
        try:
            run(["mount", "-t", "cgroup2", "none", own])
        except LabError as error:
            raise LabError(f"the lab needs cgroup version 2: {error}") from None
    return own


def abort_mount(path):
    """umount2(MNT_FORCE): ends the FUSE connection without looking at the mount (umount(8) would stat it, and wait)."""
    libc.umount2(path.encode(), MNT_FORCE)


def detach_mount(path):
    libc.umount2(path.encode(), MNT_DETACH)


class Cgroup:
    def __init__(self, path):
        self.path = path

    def file(self, name):
        return os.path.join(self.path, name)

    def create(self):
        os.makedirs(self.path, exist_ok=True)

    def pids(self):
        return [int(p) for p in read(self.file("cgroup.procs")).split()]

    def populated(self):
        return "populated 1" in read(self.file("cgroup.events"))

    def add(self, pid):
        try:
            write(self.file("cgroup.procs"), str(pid))
            return True
        except OSError:
            return False  # it has ended meanwhile

    def adopt_users_of(self, mount):
        """Moves in every process that has something open, mapped, or its working directory below the mount."""
        prefix = mount.rstrip("/") + "/"
        moved = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) != os.getpid() and _uses(pid, mount, prefix) and self.add(pid):
                moved.append(int(pid))
        return moved

    def kill(self, meanwhile=None):
        if not os.path.isdir(self.path):
            return
        write(self.file("cgroup.kill"), "1")
        if meanwhile:
            meanwhile()
        wait_until(f"end of the processes of {self.path}", lambda: not self.populated(), 20, 0.005)

    def freeze(self, on):
        """A process that waits inside the kernel for the (now frozen) FUSE server never counts as frozen: it stands still all
        the same, so what is awaited is that every other process has stopped."""
        write(self.file("cgroup.freeze"), "1" if on else "0")
        if on:
            wait_until(f"{self.path} standing still", lambda: self.frozen() or all(map(_stands_still, self.pids())), 20, 0.005)

    def frozen(self):
        return "frozen 1" in read(self.file("cgroup.events"))

    def remove(self):
        if os.path.isdir(self.path):
            self.kill()
            os.rmdir(self.path)


def _stands_still(pid):
    """Stopped by the freezer; waiting for an answer of FUSE; or (state D) for a lock that such a one holds: before it runs any
    code of its own again it meets the freezer."""
    where, stat = read(f"/proc/{pid}/wchan"), read(f"/proc/{pid}/stat")
    waits = ("freez", "get_signal", "request_wait_answer", "fuse")
    return not stat or stat.rpartition(")")[2].split()[0] in "DZ" or any(w in where for w in waits)


def _uses(pid, mount, prefix):
    # Links and maps only: looking at a file below the mount could wait for the very node that is being killed.
    links = [f"/proc/{pid}/cwd", f"/proc/{pid}/exe"]
    try:
        links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        pass
    for link in links:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target == mount or target.startswith(prefix):
            return True
    return False
