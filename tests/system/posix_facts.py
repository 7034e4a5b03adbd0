"""POSIX semantics as programs rely on them: error numbers, times, modes, links, renames. Each check is a fact about any
good filesystem: run `python3 posix_facts.py DIR` on ext4 or xfs to compare. Used by coherence.py on a mount of ours.
Unprivileged steps run in a forked child with other ids."""
import contextlib
import ctypes
import errno
import os
import shutil
import socket
import stat
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
NOBODY, OTHER = 65534, 65533
NAME_MAX = 255


class Failure(Exception):
    pass


def expect(condition, words):
    if not condition:
        raise Failure(words)


def fails(number, function, *args, **kwargs):
    """The call must fail with exactly this errno."""
    try:
        result = function(*args, **kwargs)
    except OSError as error:
        expect(error.errno == number, f"{function.__name__}{args}: {errno.errorcode.get(error.errno)}, want {errno.errorcode[number]}")
        return
    raise Failure(f"{function.__name__}{args}: success ({result!r}), want {errno.errorcode[number]}")


def as_user(uid, gid, function, groups=()):
    """Runs function in a child with these ids; its Failure or OSError comes back as a Failure."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        words = b""
        try:
            os.setgroups(list(groups))
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            function()
        except BaseException as error:  # noqa: BLE001
            words = f"as uid {uid}: {type(error).__name__}: {error}".encode()
        os.write(write_end, words)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as f:
        words = f.read().decode()
    os.waitpid(child, 0)
    expect(not words, words)


def touch(path, mode=0o644):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))
    return path


def tick():
    """Lets the coarse clock move on, so that a changed time can be told from an unchanged one."""
    time.sleep(0.02)


MAKERS = {
    "file": touch,
    "dir": lambda p: os.mkdir(p) or p,
    "symlink": lambda p: os.symlink("nowhere", p) or p,
    "fifo": lambda p: os.mkfifo(p) or p,
    "char": lambda p: os.mknod(p, stat.S_IFCHR | 0o600, os.makedev(1, 3)) or p,
    "block": lambda p: os.mknod(p, stat.S_IFBLK | 0o600, os.makedev(1, 3)) or p,
}


def make_socket(path):
    cwd = os.getcwd()
    os.chdir(os.path.dirname(path))
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as s:
        s.bind(os.path.basename(path))
    os.chdir(cwd)
    return path


MAKERS["socket"] = make_socket


# --- names ---------------------------------------------------------------------------------------------------------

def test_names_of_255_bytes_work_and_of_256_do_not(d):
    ok, long = "n" * NAME_MAX, "n" * (NAME_MAX + 1)
    touch(f"{d}/{ok}")
    os.rename(f"{d}/{ok}", f"{d}/{'m' * NAME_MAX}")
    os.unlink(f"{d}/{'m' * NAME_MAX}")
    for call in (touch, os.mkdir, os.mkfifo, os.stat, os.unlink, os.rmdir):
        fails(errno.ENAMETOOLONG, call, f"{d}/{long}")
    touch(f"{d}/a")
    fails(errno.ENAMETOOLONG, os.rename, f"{d}/a", f"{d}/{long}")
    fails(errno.ENAMETOOLONG, os.link, f"{d}/a", f"{d}/{long}")
    fails(errno.ENAMETOOLONG, os.symlink, "a", f"{d}/{long}")


def test_names_are_bytes(d):
    for name in (b"\xff\xfe", b"new\nline", b" ", "größe".encode(), b"...", b"-"):
        path = d.encode() + b"/" + name
        touch(path)
        expect(name in os.listdir(d.encode()), f"{name!r} is not listed")
        os.unlink(path)


def test_every_type_has_its_type_and_can_be_linked_renamed_removed(d):
    kinds = {"file": stat.S_ISREG, "dir": stat.S_ISDIR, "symlink": stat.S_ISLNK, "fifo": stat.S_ISFIFO, "char": stat.S_ISCHR,
             "block": stat.S_ISBLK, "socket": stat.S_ISSOCK}
    for kind, check in kinds.items():
        path = MAKERS[kind](f"{d}/{kind}")
        st = os.lstat(path)
        expect(check(st.st_mode), f"{kind}: mode {oct(st.st_mode)}")
        listed = {e.name: e for e in os.scandir(d)}[kind]
        expect(listed.is_dir(follow_symlinks=False) == (kind == "dir") and listed.is_symlink() == (kind == "symlink"), f"{kind}: d_type")
        if kind in ("char", "block"):
            expect(st.st_rdev == os.makedev(1, 3), f"{kind}: st_rdev")
        if kind != "dir":
            os.link(path, f"{d}/other", follow_symlinks=False)
            expect(os.lstat(path).st_nlink == 2 and os.lstat(f"{d}/other").st_ino == st.st_ino, f"{kind}: link")
            os.unlink(f"{d}/other")
            expect(os.lstat(path).st_nlink == 1, f"{kind}: nlink after unlink")
        os.rename(path, f"{d}/moved")
        expect(os.lstat(f"{d}/moved").st_ino == st.st_ino, f"{kind}: inode after rename")
        (os.rmdir if kind == "dir" else os.unlink)(f"{d}/moved")


def test_missing_and_wrong_components(d):
    touch(f"{d}/file")
    for call in (os.stat, os.unlink, os.rmdir, os.listdir):
        fails(errno.ENOENT, call, f"{d}/none")
        fails(errno.ENOENT, call, f"{d}/none/x")
        fails(errno.ENOTDIR, call, f"{d}/file/x")
    for call in (touch, os.mkdir, os.mkfifo):
        fails(errno.ENOENT, call, f"{d}/none/x")
        fails(errno.ENOTDIR, call, f"{d}/file/x")
    fails(errno.ENOENT, os.rename, f"{d}/none", f"{d}/x")
    fails(errno.ENOENT, os.link, f"{d}/none", f"{d}/x")
    fails(errno.ENOTDIR, os.listdir, f"{d}/file")


def test_existing_targets(d):
    for kind, make in MAKERS.items():
        make(f"{d}/{kind}")
        fails(errno.EEXIST, os.mkdir, f"{d}/{kind}")
        fails(errno.EEXIST, os.mkfifo, f"{d}/{kind}")
        fails(errno.EEXIST, os.symlink, "x", f"{d}/{kind}")
        fails(errno.EEXIST, os.open, f"{d}/{kind}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    fails(errno.EEXIST, os.link, f"{d}/file", f"{d}/dir")


def test_unlink_and_rmdir_know_their_kind(d):
    os.mkdir(f"{d}/dir")
    touch(f"{d}/file")
    fails(errno.EISDIR, os.unlink, f"{d}/dir")
    fails(errno.ENOTDIR, os.rmdir, f"{d}/file")
    touch(f"{d}/dir/x")
    fails(errno.ENOTEMPTY, os.rmdir, f"{d}/dir")
    os.unlink(f"{d}/dir/x")
    fails(errno.EINVAL, os.rmdir, f"{d}/dir/.")
    os.rmdir(f"{d}/dir")


def test_symlink_loops_and_long_targets(d):
    os.symlink("b", f"{d}/a")
    os.symlink("a", f"{d}/b")
    fails(errno.ELOOP, os.stat, f"{d}/a")
    fails(errno.ELOOP, os.open, f"{d}/a", os.O_RDONLY)
    for length in (1, 59, 60, 255, 1000, 4095):
        os.symlink("t" * length, f"{d}/s")
        expect(os.readlink(f"{d}/s") == "t" * length and os.lstat(f"{d}/s").st_size == length, f"target of {length} bytes")
        os.unlink(f"{d}/s")
    fails(errno.ENAMETOOLONG, os.symlink, "t" * 4096, f"{d}/s")
    fails(errno.ELOOP, os.open, f"{d}/a", os.O_RDONLY | os.O_NOFOLLOW)
    fails(errno.EINVAL, os.readlink, d)


# --- directories ---------------------------------------------------------------------------------------------------

def test_link_counts_of_directories(d):
    expect(os.stat(d).st_nlink == 2, "a new directory has 2 links")
    os.mkdir(f"{d}/a")
    os.mkdir(f"{d}/b")
    expect(os.stat(d).st_nlink == 4, "two subdirectories")
    os.rename(f"{d}/a", f"{d}/b/a")
    expect((os.stat(d).st_nlink, os.stat(f"{d}/b").st_nlink) == (3, 3), "after a move between directories")
    expect(os.stat(f"{d}/b/a/..").st_ino == os.stat(f"{d}/b").st_ino, "'..' after a move")
    os.rmdir(f"{d}/b/a")
    expect(os.stat(f"{d}/b").st_nlink == 2, "after rmdir")


def test_many_names_are_listed_once(d):
    names = {f"name-{i}-{'x' * (i % 40)}" for i in range(3000)}
    for name in names:
        touch(f"{d}/{name}")
    listed = os.listdir(d)
    expect(len(listed) == len(names) and set(listed) == names, f"{len(listed)} names listed, {len(set(listed))} distinct, want {len(names)}")
    with os.scandir(d) as entries:
        for i, entry in enumerate(entries):
            if i % 2 == 0:
                os.unlink(entry.path)
    left = os.listdir(d)
    expect(len(left) == len(names) - 1500 and len(set(left)) == len(left), f"{len(left)} left after removal while listing")


def test_setgid_directories(d):
    os.chown(d, -1, 12345)
    os.chmod(d, 0o2777)
    touch(f"{d}/f")
    os.mkdir(f"{d}/sub")
    expect(os.stat(f"{d}/f").st_gid == 12345, "a file inherits the group")
    expect(os.stat(f"{d}/sub").st_gid == 12345 and os.stat(f"{d}/sub").st_mode & stat.S_ISGID, "a directory inherits group and bit")


def test_sticky_directories(d):
    os.chmod(d, 0o1777)
    touch(f"{d}/root-file")
    def stranger():
        fails(errno.EPERM, os.unlink, f"{d}/root-file")
        fails(errno.EPERM, os.rename, f"{d}/root-file", f"{d}/x")
        touch(f"{d}/mine")
        os.rename(f"{d}/mine", f"{d}/mine2")
        os.unlink(f"{d}/mine2")
    as_user(NOBODY, NOBODY, stranger)


# --- rename --------------------------------------------------------------------------------------------------------

def test_rename_replaces_what_it_may(d):
    for kind in ("file", "symlink", "fifo"):
        touch(f"{d}/new")
        MAKERS[kind](f"{d}/old")
        ino = os.stat(f"{d}/new").st_ino
        os.rename(f"{d}/new", f"{d}/old")
        expect(os.stat(f"{d}/old").st_ino == ino and not os.path.lexists(f"{d}/new"), f"over a {kind}")
        os.unlink(f"{d}/old")
    os.mkdir(f"{d}/a")
    os.mkdir(f"{d}/b")
    os.rename(f"{d}/a", f"{d}/b")
    touch(f"{d}/b/x")
    os.mkdir(f"{d}/c")
    fails(errno.ENOTEMPTY, os.rename, f"{d}/c", f"{d}/b")
    touch(f"{d}/f")
    fails(errno.ENOTDIR, os.rename, f"{d}/c", f"{d}/f")
    fails(errno.EISDIR, os.rename, f"{d}/f", f"{d}/c")


def test_rename_into_itself_and_of_links(d):
    os.makedirs(f"{d}/a/b/c")
    fails(errno.EINVAL, os.rename, f"{d}/a", f"{d}/a/b/c/d")
    fails(errno.EINVAL, os.rename, f"{d}/a", f"{d}/a/x")
    touch(f"{d}/f")
    os.link(f"{d}/f", f"{d}/g")
    os.rename(f"{d}/f", f"{d}/g")
    expect(os.path.exists(f"{d}/f") and os.path.exists(f"{d}/g"), "renaming one link over the other does nothing")
    os.rename(f"{d}/f", f"{d}/f")
    expect(os.path.exists(f"{d}/f"), "renaming onto itself")


def test_rename_noreplace_and_exchange(d):
    def renameat2(a, b, flags):
        if libc.renameat2(-100, a.encode(), -100, b.encode(), flags) != 0:
            raise OSError(ctypes.get_errno(), "renameat2")
    touch(f"{d}/a")
    os.mkdir(f"{d}/b")
    ino = os.stat(f"{d}/a").st_ino, os.stat(f"{d}/b").st_ino
    fails(errno.EEXIST, renameat2, f"{d}/a", f"{d}/b", 1)
    renameat2(f"{d}/a", f"{d}/c", 1)
    renameat2(f"{d}/c", f"{d}/b", 2)
    expect((os.stat(f"{d}/b").st_ino, os.stat(f"{d}/c").st_ino) == ino, "exchanged")
    fails(errno.ENOENT, renameat2, f"{d}/b", f"{d}/none", 2)
    os.makedirs(f"{d}/p/q")
    os.mkdir(f"{d}/r")
    touch(f"{d}/r/s")
    renameat2(f"{d}/p/q", f"{d}/r/s", 2)
    expect(os.stat(f"{d}/p").st_nlink == 2 and os.stat(f"{d}/r").st_nlink == 3, "link counts after exchanging a directory and a file")


# --- times ---------------------------------------------------------------------------------------------------------

def times(path):
    st = os.lstat(path)
    return st.st_mtime_ns, st.st_ctime_ns


def test_changes_move_the_right_times(d):
    def check(what, path, action, mtime, ctime):
        before = times(path)
        tick()
        action()
        after = times(path)
        expect((after[0] > before[0]) == mtime, f"{what}: mtime {'did not move' if mtime else 'moved'}")
        expect((after[1] > before[1]) == ctime, f"{what}: ctime {'did not move' if ctime else 'moved'}")
    f = touch(f"{d}/f")
    check("create in a directory", d, lambda: touch(f"{d}/g"), True, True)
    check("mkdir", d, lambda: os.mkdir(f"{d}/dir"), True, True)
    check("link: the directory", d, lambda: os.link(f, f"{d}/h"), True, True)
    check("link: the file", f, lambda: os.link(f, f"{d}/i"), False, True)
    check("unlink: the file left", f, lambda: os.unlink(f"{d}/i"), False, True)
    check("unlink: the directory", d, lambda: os.unlink(f"{d}/g"), True, True)
    check("rename: the directory", d, lambda: os.rename(f"{d}/h", f"{d}/j"), True, True)
    check("rmdir", d, lambda: os.rmdir(f"{d}/dir"), True, True)
    check("chmod", f, lambda: os.chmod(f, 0o600), False, True)
    check("chown", f, lambda: os.chown(f, 1, 1), False, True)
    check("truncate", f, lambda: os.truncate(f, 100), True, True)
    check("setxattr", f, lambda: os.setxattr(f, "user.x", b"1"), False, True)
    check("stat", f, lambda: os.stat(f), False, False)
    def write():
        fd = os.open(f, os.O_WRONLY)
        os.write(fd, b"x")
        os.close(fd)
    check("write", f, write, True, True)
    check("open for reading", f, lambda: os.close(os.open(f, os.O_RDONLY)), False, False)
    check("O_TRUNC", f, lambda: os.close(os.open(f, os.O_WRONLY | os.O_TRUNC)), True, True)


def test_utimensat(d):
    f = touch(f"{d}/f")
    for ns in ((0, 0), (1, 2), (1_500_000_000_123_456_789, 1_600_000_000_987_654_321), (-1, -1_000_000_001), (4_500_000_000_000_000_001, 5)):
        os.utime(f, ns=ns)
        st = os.stat(f)
        expect((st.st_atime_ns, st.st_mtime_ns) == ns, f"times {ns} came back as {(st.st_atime_ns, st.st_mtime_ns)}")
    os.symlink("f", f"{d}/l")
    os.utime(f"{d}/l", ns=(7, 8), follow_symlinks=False)
    expect(os.lstat(f"{d}/l").st_mtime_ns == 8 and os.stat(f).st_mtime_ns == 5, "utime of a symbolic link itself")
    os.chmod(f, 0o666)
    os.chmod(d, 0o777)
    def stranger():
        os.utime(f)  # now: allowed to who may write
        fails(errno.EPERM, os.utime, f, ns=(1, 1))
    as_user(NOBODY, NOBODY, stranger)


# --- modes and owners ----------------------------------------------------------------------------------------------

def test_modes_and_umask(d):
    old = os.umask(0o027)
    try:
        touch(f"{d}/f", 0o666)
        os.mkdir(f"{d}/dir", 0o777)
    finally:
        os.umask(old)
    expect(os.stat(f"{d}/f").st_mode & 0o7777 == 0o640 and os.stat(f"{d}/dir").st_mode & 0o7777 == 0o750, "umask")
    for mode in (0, 0o7777, 0o4755, 0o2755, 0o1777, 0o644):
        os.chmod(f"{d}/f", mode)
        expect(os.stat(f"{d}/f").st_mode & 0o7777 == mode, f"mode {oct(mode)}")


def test_chmod_and_chown_rights(d):
    os.chmod(d, 0o755)
    f = touch(f"{d}/f")
    def stranger():
        fails(errno.EPERM, os.chmod, f, 0o777)
        fails(errno.EPERM, os.chown, f, NOBODY, -1)
        fails(errno.EACCES, touch, f"{d}/new")
        fails(errno.EACCES, os.unlink, f)
        fails(errno.EACCES, os.mkdir, f"{d}/dir")
    as_user(NOBODY, NOBODY, stranger)
    os.chown(f, NOBODY, NOBODY)
    def owner():
        os.chmod(f, 0o600)
        fails(errno.EPERM, os.chown, f, OTHER, -1)
        os.chown(f, -1, OTHER)
    as_user(NOBODY, NOBODY, owner, groups=[OTHER])
    expect(os.stat(f).st_gid == OTHER, "an owner may give a file to a group of his")


def test_suid_is_cleared_by_writes_and_chown(d):
    os.chmod(d, 0o777)
    f = touch(f"{d}/f")
    for mode in (0o6777, 0o4755):
        os.chown(f, NOBODY, NOBODY)
        os.chmod(f, mode)
        def write():
            fd = os.open(f, os.O_WRONLY)
            os.write(fd, b"x")
            os.close(fd)
        as_user(NOBODY, NOBODY, write)
        expect(not os.stat(f).st_mode & stat.S_ISUID, f"write leaves set-user-id of {oct(mode)}")
    os.chmod(f, 0o6755)
    as_user(NOBODY, NOBODY, lambda: os.chown(f, -1, NOBODY))
    expect(not os.stat(f).st_mode & (stat.S_ISUID | stat.S_ISGID), "chown by its owner leaves set-id bits")


def test_permission_bits_are_enforced(d):
    os.chmod(d, 0o755)
    with open(f"{d}/f", "w") as f:
        f.write("secret")
    os.chmod(f"{d}/f", 0o640)
    os.chown(f"{d}/f", 0, OTHER)
    as_user(NOBODY, NOBODY, lambda: fails(errno.EACCES, os.open, f"{d}/f", os.O_RDONLY))
    def group():
        os.close(os.open(f"{d}/f", os.O_RDONLY))
        fails(errno.EACCES, os.open, f"{d}/f", os.O_WRONLY)
    as_user(NOBODY, OTHER, group)
    os.mkdir(f"{d}/closed", 0o700)
    touch(f"{d}/closed/x")
    as_user(NOBODY, NOBODY, lambda: fails(errno.EACCES, os.stat, f"{d}/closed/x"))


# --- data ----------------------------------------------------------------------------------------------------------

def test_sparse_files_and_seek_hole(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x", 10 << 20)
    expect(os.fstat(fd).st_size == (10 << 20) + 1, "size")
    expect(os.pread(fd, 10, 5 << 20) == bytes(10), "a hole reads as zeroes")
    expect(os.fstat(fd).st_blocks * 512 < 2 << 20, f"{os.fstat(fd).st_blocks} blocks for one byte behind a hole")
    os.fsync(fd)
    expect(os.lseek(fd, 0, os.SEEK_HOLE) == 0, "SEEK_HOLE")
    expect(5 << 20 < os.lseek(fd, 0, os.SEEK_DATA) <= 10 << 20, "SEEK_DATA")
    fails(errno.ENXIO, os.lseek, fd, 20 << 20, os.SEEK_DATA)
    os.close(fd)


def test_truncate_zeroes_what_comes_back(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"a" * 10000)
    os.ftruncate(fd, 100)
    os.ftruncate(fd, 10000)
    expect(os.pread(fd, 10000, 0) == b"a" * 100 + bytes(9900), "old bytes came back")
    fails(errno.EINVAL, os.ftruncate, fd, -1)
    os.close(fd)
    fails(errno.EISDIR, os.truncate, d, 0)


def test_large_offsets(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    for offset in ((1 << 32) - 2, (1 << 40) + 5, (1 << 43) + 1):
        os.pwrite(fd, b"edge", offset)
        expect(os.pread(fd, 4, offset) == b"edge", f"at {offset}")
    expect(os.fstat(fd).st_size == (1 << 43) + 5, "size")
    os.close(fd)


def test_append_and_positions(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR | os.O_APPEND)
    os.write(fd, b"one")
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"two")
    expect(os.pread(fd, 10, 0) == b"onetwo", "O_APPEND")
    os.close(fd)


def test_fallocate(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    os.posix_fallocate(fd, 0, 1 << 20)
    st = os.fstat(fd)
    expect(st.st_size == 1 << 20 and st.st_blocks * 512 >= 1 << 20, "size and blocks of a preallocated file")
    expect(os.pread(fd, 1 << 20, 0) == bytes(1 << 20), "preallocated space reads as zeroes")
    os.pwrite(fd, b"y" * 5000, 12345)
    expect(os.pread(fd, 5002, 12344) == b"\0" + b"y" * 5000 + b"\0", "writing into it")
    os.close(fd)


def test_open_flags(d):
    fails(errno.ENOENT, os.open, f"{d}/f", os.O_RDONLY)
    fails(errno.EISDIR, os.open, d, os.O_WRONLY)
    touch(f"{d}/f")
    fails(errno.ENOTDIR, os.open, f"{d}/f", os.O_RDONLY | os.O_DIRECTORY)
    fifo = MAKERS["fifo"](f"{d}/fifo")
    fails(errno.ENXIO, os.open, fifo, os.O_WRONLY | os.O_NONBLOCK)
    fails(errno.ENXIO, os.open, make_socket(f"{d}/socket"), os.O_RDONLY)


def test_unlinked_files_live_while_open(d):
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR)
    os.unlink(f"{d}/f")
    os.write(fd, b"still")
    expect(os.fstat(fd).st_nlink == 0 and os.pread(fd, 5, 0) == b"still", "an unlinked open file")
    os.fchmod(fd, 0o600)
    os.close(fd)
    temporary = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(temporary, b"t")
    at_fdcwd, at_symlink_follow = -100, 0x400  # os.link cannot follow
    linked = libc.linkat(at_fdcwd, f"/proc/self/fd/{temporary}".encode(), at_fdcwd, f"{d}/linked".encode(), at_symlink_follow)
    expect(linked == 0, f"linkat of an O_TMPFILE: {errno.errorcode.get(ctypes.get_errno())}")
    os.close(temporary)
    expect(os.stat(f"{d}/linked").st_nlink == 1, "O_TMPFILE given a name")


def test_xattrs(d):
    f = touch(f"{d}/f")
    fails(errno.ENODATA, os.getxattr, f, "user.none")
    fails(errno.ENODATA, os.removexattr, f, "user.none")
    values = {f"user.k{i}": bytes([i]) * (i * 17) for i in range(12)}
    values["user.large"] = os.urandom(1500)
    for key, value in values.items():
        os.setxattr(f, key, value)
    expect(set(os.listxattr(f)) >= set(values), "listed")
    for key, value in values.items():
        expect(os.getxattr(f, key) == value, f"value of {key}")
    fails(errno.EEXIST, os.setxattr, f, "user.k1", b"", os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, f, "user.none", b"", os.XATTR_REPLACE)
    for key in values:
        os.removexattr(f, key)
    expect(not [k for k in os.listxattr(f) if k.startswith("user.")], "removed")
    os.mkdir(f"{d}/dir")
    os.setxattr(f"{d}/dir", "user.d", b"v")
    os.setxattr(f"{d}/dir", "trusted.t", b"w")
    expect(os.getxattr(f"{d}/dir", "trusted.t") == b"w", "trusted.*")


def test_statfs(d):
    st = os.statvfs(d)
    expect(st.f_bsize > 0 and 0 < st.f_bavail <= st.f_bfree <= st.f_blocks and st.f_namemax == NAME_MAX, str(st))


TESTS = {name[5:].replace("_", " "): function for name, function in globals().copy().items() if name.startswith("test_")}


def run_all(top, report=print):
    """Runs every check in a fresh folder below `top`; returns (passed, failed)."""
    passed = failed = 0
    for name, function in TESTS.items():
        folder = os.path.join(top, "posix")
        os.mkdir(folder)
        os.chmod(folder, 0o777)
        try:
            function(folder)
            passed += 1
        except (Failure, OSError) as error:
            failed += 1
            report(f"FAILED  posix: {name}: {error}")
        shutil.rmtree(folder)
    return passed, failed


if __name__ == "__main__":
    good, bad = run_all(sys.argv[1])
    print(f"{good} passed, {bad} failed")
    sys.exit(1 if bad else 0)
