"""POSIX conformance by comparison: some ten thousand small situations (kind of file x modes and owners x user x call), each played
on a reference filesystem (ext4 on a loop device) and on the mount under test. What is compared: the error or the result of the call, and
afterwards kind, mode, owner, links, size and device of everything in the scene, and which of its times moved.
`posix_matrix.py REFERENCE_DIR DIR` prints the differences; exit status 1 if there are any. Root. Used by mount_nolock.py and
coherence.py, with a part of the situations there."""
import contextlib
import ctypes
import errno
import os
import platform
import shutil
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = -100, 1, 2, 4
USERS = {"root": (0, 0, []), "owner": (1001, 1001, []), "group": (1002, 1002, [1001]), "other": (1003, 1003, [])}
KINDS = ("none", "file", "dir", "fulldir", "fifo", "char", "link", "dangling", "loop")
OLD = 1_000_000_000 * 10**9  # what atime and mtime are before each call


def _release():
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


# Before 6.13 ext4's clock moves in ticks: a change within a tick of the last one is invisible in ctime.
COMPARE_CTIME = _release() >= (6, 13)


@contextlib.contextmanager
def acting_as(name):
    uid, gid, groups = USERS[name]
    if uid == 0:
        yield
        return
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([])


def make(kind, path, mode, uid=1001, gid=1001):
    if kind == "none":
        return
    if kind == "file":
        with open(path, "w") as f:
            f.write("content")
    elif kind in ("dir", "fulldir"):
        os.mkdir(path)
        if kind == "fulldir":
            with open(os.path.join(path, "inside"), "w"):
                pass
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "char":
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    elif kind in ("link", "dangling", "loop"):
        os.symlink({"link": "pointed", "dangling": "nowhere", "loop": os.path.basename(path)}[kind], path)
        if kind == "link":
            with open(os.path.join(os.path.dirname(path), "pointed"), "w") as f:
                f.write("pointed")
            os.chown(os.path.join(os.path.dirname(path), "pointed"), uid, gid)
    os.lchown(path, uid, gid)
    if kind not in ("link", "dangling", "loop"):
        os.chmod(path, mode)


def look(folder):
    """Everything in the scene: name -> facts, with the raw times."""
    seen = {}
    for name in [".", *sorted(os.listdir(folder))]:
        s = os.lstat(os.path.join(folder, name))
        size = s.st_size if not stat.S_ISDIR(s.st_mode) else None
        seen[name] = ((oct(s.st_mode), s.st_uid, s.st_gid, s.st_nlink, size, s.st_rdev if stat.S_ISCHR(s.st_mode) else None),
                      (s.st_mtime_ns, s.st_ctime_ns))
    return seen


def settle(folder):
    for name in [*os.listdir(folder), "."]:
        os.utime(os.path.join(folder, name), ns=(OLD, OLD), follow_symlinks=False)


def play(folder, user, call):
    """Outcome of one call in the prepared folder, and what it did to the scene."""
    settle(folder)
    before = look(folder)
    try:
        with acting_as(user):
            result = call(folder)
        outcome = "ok" if result is None else f"ok {result}"
    except OSError as error:
        outcome = errno.errorcode.get(error.errno, str(error.errno))
    after = look(folder)
    facts = [outcome]
    for name, (what, times) in after.items():
        moved = ""
        if name in before:
            moved = "".join(letter for letter, a, b in zip("mc", before[name][1], times) if a != b and (letter == "m" or COMPARE_CTIME))
        facts.append(f"{name}: {what} {moved}")
    return facts


# ---- calls ---------------------------------------------------------------------------------------------------------------
def opened(flags, mode=0o644):
    def call(folder):
        fd = os.open(os.path.join(folder, "t"), flags | os.O_NONBLOCK, mode)
        os.close(fd)
    return call


def renameat2(source, target, flags):
    if libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def on(function, *args, **kwargs):
    return lambda folder: function(os.path.join(folder, "t"), *args, **kwargs)


def written(folder):
    with open(os.path.join(folder, "t"), "r+b", buffering=0) as f:
        f.write(b"W")


def descriptor(flags, function):
    def call(folder):
        fd = os.open(os.path.join(folder, "t"), flags | os.O_NONBLOCK)
        try:
            return function(fd)
        finally:
            os.close(fd)
    return call


PATH_CALLS = {
    "open r": opened(os.O_RDONLY), "open w": opened(os.O_WRONLY), "open rw": opened(os.O_RDWR), "open trunc": opened(os.O_WRONLY | os.O_TRUNC),
    "open creat": opened(os.O_WRONLY | os.O_CREAT), "open excl": opened(os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "open dir": opened(os.O_RDONLY | os.O_DIRECTORY), "open nofollow": opened(os.O_RDONLY | os.O_NOFOLLOW),
    "open creat dir": opened(os.O_RDONLY | os.O_CREAT | os.O_DIRECTORY), "open path": opened(os.O_PATH | os.O_NOFOLLOW),
    "unlink": on(os.unlink), "rmdir": on(os.rmdir), "mkdir": on(os.mkdir, 0o751), "mkfifo": on(os.mkfifo, 0o640),
    "mknod char": on(os.mknod, stat.S_IFCHR | 0o600, os.makedev(1, 5)), "mknod file": on(os.mknod, stat.S_IFREG | 0o640),
    "chmod": on(os.chmod, 0o6741), "chmod plain": on(os.chmod, 0o604), "chown uid": on(os.chown, 1003, -1), "chown gid": on(os.chown, -1, 1001),
    "chown gid other": on(os.chown, -1, 1003), "chown none": on(os.chown, -1, -1), "lchown": on(os.lchown, 1003, 1003),
    "truncate": on(os.truncate, 3), "truncate same": on(os.truncate, 7), "truncate up": on(os.truncate, 20_000), "truncate neg": on(os.truncate, -1),
    "utime now": on(os.utime), "utime set": on(os.utime, ns=(5 * 10**9, 6 * 10**9)), "lutime": on(os.utime, ns=(5 * 10**9, 6 * 10**9), follow_symlinks=False),
    "access r": on(lambda p: str(os.access(p, os.R_OK, effective_ids=True))), "access w": on(lambda p: str(os.access(p, os.W_OK, effective_ids=True))),
    "access x": on(lambda p: str(os.access(p, os.X_OK, effective_ids=True))),
    "readlink": on(lambda p: os.readlink(p)), "listdir": on(lambda p: str(sorted(os.listdir(p)))), "write": written,
    "setxattr": on(os.setxattr, "user.a", b"value"), "getxattr": on(lambda p: str(os.getxattr(p, "user.none"))),
    "setxattr trusted": on(os.setxattr, "trusted.a", b"value"), "removexattr": on(os.removexattr, "user.none"),
    "stat below": lambda f: os.stat(os.path.join(f, "t", "below")) and None, "stat dot": lambda f: os.stat(os.path.join(f, "t", ".")) and None,
    "stat slash": lambda f: os.stat(os.path.join(f, "t") + "/") and None, "unlink slash": lambda f: os.unlink(os.path.join(f, "t") + "/"),
    "mkdir slash": lambda f: os.mkdir(os.path.join(f, "t") + "/"), "rmdir slash": lambda f: os.rmdir(os.path.join(f, "t") + "/"),
    "rmdir dot": lambda f: os.rmdir(os.path.join(f, "t", ".")), "rmdir dotdot": lambda f: os.rmdir(os.path.join(f, "t", "..")),
    "mkdir below": lambda f: os.mkdir(os.path.join(f, "t", "below")), "create below": lambda f: os.close(os.open(os.path.join(f, "t", "below"), os.O_CREAT | os.O_WRONLY)),
    "symlink here": lambda f: os.symlink("anything", os.path.join(f, "t")),
    "link to new": lambda f: os.link(os.path.join(f, "t"), os.path.join(f, "new"), follow_symlinks=False),
    "link followed": lambda f: os.link(os.path.join(f, "t"), os.path.join(f, "new"), follow_symlinks=True),
    "link from other": lambda f: os.link(os.path.join(f, "beside"), os.path.join(f, "t")),
    "rename to new": lambda f: os.rename(os.path.join(f, "t"), os.path.join(f, "new")),
    "rename over": lambda f: os.rename(os.path.join(f, "beside"), os.path.join(f, "t")),
    "rename onto file": lambda f: os.rename(os.path.join(f, "t"), os.path.join(f, "beside")),
    "rename onto dir": lambda f: os.rename(os.path.join(f, "t"), os.path.join(f, "folder")),
    "rename dir over": lambda f: os.rename(os.path.join(f, "folder"), os.path.join(f, "t")),
    "rename into": lambda f: os.rename(os.path.join(f, "t"), os.path.join(f, "folder", "t")),
    "rename into self": lambda f: os.rename(os.path.join(f, "t"), os.path.join(f, "t", "t")),
    "rename same": lambda f: os.rename(os.path.join(f, "t"), os.path.join(f, "t")),
    "rename slash": lambda f: os.rename(os.path.join(f, "t"), os.path.join(f, "new") + "/"),
    "rename dot": lambda f: os.rename(os.path.join(f, "t", "."), os.path.join(f, "new")),
    "rename noreplace": lambda f: renameat2(os.path.join(f, "beside"), os.path.join(f, "t"), RENAME_NOREPLACE),
    "rename exchange": lambda f: renameat2(os.path.join(f, "beside"), os.path.join(f, "t"), RENAME_EXCHANGE),
    "exchange dir": lambda f: renameat2(os.path.join(f, "folder"), os.path.join(f, "t"), RENAME_EXCHANGE),
    "rename both flags": lambda f: renameat2(os.path.join(f, "beside"), os.path.join(f, "t"), RENAME_EXCHANGE | RENAME_NOREPLACE),
    "tmpfile linked": lambda f: tmpfile(f),
}
CREATES = ("open creat", "open excl", "mkdir", "mkfifo", "mknod char", "mknod file", "symlink here", "link from other", "rename over", "rename dir over",
           "rename noreplace", "open r", "unlink", "rmdir", "stat below", "tmpfile linked", "mkdir slash", "chmod", "truncate", "readlink")


def tmpfile(folder):
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        os.write(fd, b"temporary")
        os.link(f"/proc/self/fd/{fd}", os.path.join(folder, "t"), follow_symlinks=True)
    finally:
        os.close(fd)


def holes(fd):
    os.pwrite(fd, b"x", 0)
    os.pwrite(fd, b"y", 1 << 20)
    os.fsync(fd)
    out = [os.lseek(fd, 0, os.SEEK_DATA)]
    with contextlib.suppress(OSError):
        out.append(os.lseek(fd, 1 << 20, os.SEEK_DATA))
    out.append(os.lseek(fd, 1 << 20, os.SEEK_HOLE))
    try:
        os.lseek(fd, (1 << 20) + 1, os.SEEK_DATA)
    except OSError as error:
        out.append(errno.errorcode[error.errno])
    return str(out)


FALLOC = {"allocate": 0, "keep size": 1, "punch": 3, "zero": 16, "zero keep": 17, "collapse": 8, "insert": 32, "punch alone": 2, "unknown": 0x4000}


def fallocated(mode, offset, length):
    def function(fd):
        libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        if libc.fallocate(fd, mode, offset, length) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")
        return str(os.fstat(fd).st_size) + " " + os.pread(fd, 12, 0).hex()
    return function


FD_CALLS = {
    "write on read fd": descriptor(os.O_RDONLY, lambda fd: os.write(fd, b"x")), "read on write fd": descriptor(os.O_WRONLY, lambda fd: os.read(fd, 1)),
    "ftruncate read fd": descriptor(os.O_RDONLY, lambda fd: os.ftruncate(fd, 1)), "fchmod": descriptor(os.O_RDONLY, lambda fd: os.fchmod(fd, 0o600)),
    "fchown": descriptor(os.O_RDONLY, lambda fd: os.fchown(fd, -1, 1001)), "append": descriptor(os.O_WRONLY | os.O_APPEND, lambda fd: os.pwrite(fd, b"end", 0)),
    "holes": descriptor(os.O_RDWR, holes), "pread eof": descriptor(os.O_RDONLY, lambda fd: str(os.pread(fd, 10, 7))),
    "write nothing": descriptor(os.O_WRONLY, lambda fd: str(os.write(fd, b""))), "read dir": descriptor(os.O_RDONLY, lambda fd: os.read(fd, 1)),
    "seek beyond": descriptor(os.O_RDONLY, lambda fd: str(os.lseek(fd, 1 << 40, 0))), "seek neg": descriptor(os.O_RDONLY, lambda fd: os.lseek(fd, -1, 0)),
    "write far": descriptor(os.O_WRONLY, lambda fd: str(os.pwrite(fd, b"x", 1 << 40)) + str(os.fstat(fd).st_size)),
    "fsync": descriptor(os.O_RDONLY, os.fsync), "fdatasync": descriptor(os.O_RDONLY, os.fdatasync),
}
for _name, _mode in FALLOC.items():
    FD_CALLS["fallocate " + _name] = descriptor(os.O_RDWR, fallocated(_mode, 0, 8192 if _name not in ("punch", "zero") else 4))
FD_CALLS["fallocate nothing"] = descriptor(os.O_RDWR, fallocated(0, 0, 0))
FD_CALLS["fallocate neg"] = descriptor(os.O_RDWR, fallocated(0, -1, 4))
FD_CALLS["fallocate read fd"] = descriptor(os.O_RDONLY, fallocated(0, 0, 4096))

NAMES = {"255": "n" * 255, "256": "n" * 256, "utf8": "ä" * 127, "newline": "a\nb", "bytes": b"\xff\xfe".decode("utf8", "surrogateescape"),
         "dots": "...", "space": " ", "long path": "/".join(["d" * 250] * 16), "too long path": "/".join(["d" * 250] * 17)}


def named(name, function):
    return lambda folder: function(os.path.join(folder, name))


def touch(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL))


def situations(full=True):
    """(label, prepare(folder), user, call)"""
    parents = [(0o755, 1001), (0o777, 0), (0o1777, 0), (0o1777, 1001), (0o555, 1001), (0o311, 1001), (0o2775, 1001), (0o700, 0)]
    for parent_mode, parent_uid in parents if full else parents[:3]:
        for kind in KINDS:
            for mode in ((0o644, 0o600, 0o6755) if full and kind in ("file", "dir") else (0o755,)):
                for user in USERS:
                    calls = PATH_CALLS if kind != "none" else {k: PATH_CALLS[k] for k in CREATES}
                    for name, call in calls.items():
                        def prepare(folder, kind=kind, mode=mode, parent_mode=parent_mode, parent_uid=parent_uid):
                            make(kind, os.path.join(folder, "t"), mode)
                            make("file", os.path.join(folder, "beside"), 0o666, 1002, 1002)
                            make("dir", os.path.join(folder, "folder"), 0o777, 1002, 1002)
                            os.chown(folder, parent_uid, 1001)
                            os.chmod(folder, parent_mode)
                        yield f"{name} of {kind} {mode:o} by {user} in {parent_mode:o} of {parent_uid}", prepare, user, call
    for kind, mode, user in [("file", 0o666, "owner"), ("file", 0o6777, "other"), ("file", 0o6777, "owner"), ("file", 0o2676, "other"), ("dir", 0o777, "other"), ("file", 0o6777, "root")]:
        for name, call in FD_CALLS.items():
            yield (f"{name} of {kind} {mode:o} by {user}", lambda folder, kind=kind, mode=mode: (make(kind, os.path.join(folder, "t"), mode), os.chmod(folder, 0o777)),
                   user, call)
    for label, name in NAMES.items():
        for what, function in {"create": touch, "mkdir": os.mkdir, "stat": lambda p: os.stat(p) and None, "symlink": lambda p: os.symlink("x", p), "unlink": os.unlink}.items():
            yield f"{what} {label}", lambda folder: os.chmod(folder, 0o777), "owner", named(name, function)
    for length in (0, 1, 59, 60, 500, 4095, 4096):
        yield f"symlink of {length}", lambda folder: None, "root", lambda f, n=length: (os.symlink("l" * n, os.path.join(f, "t")), os.readlink(os.path.join(f, "t")))[1]
    for size in (0, 1, 100, 3000):
        yield (f"xattr of {size}", lambda folder: make("file", os.path.join(folder, "t"), 0o644), "owner",
               lambda f, n=size: (os.setxattr(os.path.join(f, "t"), "user.x", b"v" * n), str(os.getxattr(os.path.join(f, "t"), "user.x")), str(os.listxattr(os.path.join(f, "t"))))[1])


def clear(folder):
    os.chmod(folder, 0o777)
    shutil.rmtree(folder)


def known(label):
    """What no FUSE server can do: the kernel asks it nothing, or too little."""
    if label.startswith(("chown none of file 6755 by group", "chown none of file 6755 by other")):
        return True  # the request does not say that it is a chown of a stranger's set-id file: nothing changes
    if label.startswith(("fallocate collapse", "fallocate insert")):
        return True  # refused by the kernel for every FUSE filesystem
    return label.startswith("write of fifo")  # the times of a FIFO after a write into the pipe, which never reaches the server


def compare(reference_dir, our_dir, full=True, most=40):
    """(number of situations, list of differences)"""
    differences, count = [], 0
    os.umask(0o022)
    for label, prepare, user, call in situations(full):
        results = []
        for base in (reference_dir, our_dir):
            folder = os.path.join(base, f"s{count}")
            os.mkdir(folder)
            prepare(folder)
            results.append(play(folder, user, call))
            clear(folder)
        count += 1
        if results[0] != results[1] and not known(label):
            lines = [f"   reference {a}   here {b}" for a, b in zip(results[0] + [""] * 9, results[1] + [""] * 9) if a != b]
            differences.append(label + "\n" + "\n".join(lines[:4]))
            if len(differences) >= most:
                break
    return count, differences


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: posix_matrix.py REFERENCE_DIR DIR [most]")
    number, found = compare(sys.argv[1], sys.argv[2], most=int(sys.argv[3]) if len(sys.argv) > 3 else 40)
    print("\n".join(found))
    print(f"{number} situations, {len(found)} differences")
    sys.exit(1 if found else 0)
