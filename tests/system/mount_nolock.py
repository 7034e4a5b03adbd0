"""mount.holdfast with lockproto=nolock on an image: foreign programs, kill -9 and replay, stale readers, the supervisor,
the fallback for kernels without the epoch, errors in one line. Each mount ends clean and fsck finds nothing."""
import contextlib
import fcntl
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import clusterlab
import posix_matrix
from clusterlab import CaseFailed, binary, expect, run_cases

folder = image = mountpoint = log = None


def sh(*argv, cwd=None, timeout=100):
    done = subprocess.run(argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    expect(done.returncode == 0, f"{' '.join(argv)[:80]} ended with {done.returncode}: {done.stdout[-600:]}")
    return done.stdout


def mkfs():
    with open(image, "wb") as f:
        f.truncate(1 << 30)
    sh(binary("mkfs.holdfast"), "-f", "-q", image)


def mount(*extra):
    options = ",".join(("lockproto=nolock", f"log={log}", f"run-dir={folder}") + extra)
    return subprocess.run([binary("mount.holdfast"), image, mountpoint, "-o", options], capture_output=True, text=True, timeout=60)


def server():
    """The mount's process: the one whose command line names our image."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            argv = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
            if len(argv) > 2 and argv[0].endswith(b"mount.holdfast") and argv[1].decode() == image:
                return int(pid)
    return 0


def children_of(pid):
    return [int(p) for p in filter(str.isdigit, os.listdir("/proc")) if f"PPid:\t{pid}\n" in read(f"/proc/{p}/status")]


def read(path):
    with contextlib.suppress(OSError):
        return open(path).read()
    return ""


def wait_for(condition, seconds, words):
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise CaseFailed(words)
        time.sleep(0.005)


def umount():
    pid = server()
    if os.path.ismount(mountpoint) or pid:
        subprocess.run(["umount", mountpoint], capture_output=True, timeout=60)
        wait_for(lambda: not server(), 30, "the mount process does not end after umount")


def fsck():
    sh(binary("fsck.holdfast"), "-n", image)


@contextlib.contextmanager
def mounted(*extra):
    done = mount(*extra)
    expect(done.returncode == 0, f"mount: {done.stderr}")
    try:
        yield mountpoint
    finally:
        umount()


def foreign_programs():
    source = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "fs")
    with mounted() as m:
        sh("cp", "-a", source, f"{m}/copy")
        sh("diff", "-r", source, f"{m}/copy")
        sh("sh", "-c", f"tar -C {m} -cf {m}/t.tar copy && mkdir {m}/x && tar -C {m}/x -xf {m}/t.tar && diff -r {m}/copy {m}/x/copy")
        if shutil.which("rsync"):
            sh("rsync", "-a", "--checksum", f"{m}/copy/", f"{m}/synced/")
        if shutil.which("git"):
            env = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=m"]
            sh("git", *env, "init", "-q", f"{m}/repo")
            shutil.copytree(source, f"{m}/repo/src")
            sh("git", *env, "add", ".", cwd=f"{m}/repo")
            sh("git", *env, "commit", "-q", "-m", "one", cwd=f"{m}/repo")
            expect(sh("git", "status", "--short", cwd=f"{m}/repo") == "", "git status is not clean")
            sh("git", "fsck", "--strict", cwd=f"{m}/repo")
        import sqlite3
        db = sqlite3.connect(f"{m}/t.db")
        db.execute("create table t(x)")
        for i in range(50):
            with db:
                db.execute("insert into t values(?)", (i,))
        expect(db.execute("pragma integrity_check").fetchone() == ("ok",), "sqlite integrity")
        db.close()
        if shutil.which("fio"):
            sh("fio", "--name=v", f"--filename={m}/fio", "--size=16M", "--bs=4k-64k", "--rw=randwrite", "--verify=crc32c",
               "--ioengine=psync", "--verify_fatal=1", "--verify_state_save=0", "--fsync=32")
    with mounted() as m:
        sh("diff", "-r", source, f"{m}/copy")
    fsck()


def like_ext4():
    """Thousands of small situations must end as they do on ext4."""
    reference, device = f"{folder}/reference", f"{folder}/reference.img"
    os.makedirs(reference)
    with open(device, "wb") as f:
        f.truncate(600 << 20)
    sh("mkfs.ext4", "-q", "-F", device)
    sh("mount", "-o", "loop", device, reference)
    try:
        with mounted() as m:
            os.mkdir(f"{m}/matrix")
            number, differences = posix_matrix.compare(reference, f"{m}/matrix", full=False)
        expect(not differences, f"{len(differences)} of {number} situations differ:\n" + "\n".join(differences))
    finally:
        sh("umount", reference)
    fsck()
    return f"{number} situations"


def killed_and_replayed():
    with mounted() as m:
        os.makedirs(f"{m}/k", exist_ok=True)
        fd = os.open(f"{m}/k/log", os.O_CREAT | os.O_RDWR)
        for i in range(300):
            os.write(fd, b"%07d\n" % i)
            os.rename(f"{m}/k/log", f"{m}/k/log{i % 2}")
            os.rename(f"{m}/k/log{i % 2}", f"{m}/k/log")
            os.fsync(fd)
            open(f"{m}/k/f{i}", "w").close()
        pid = server()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: server() == 0, 10, "not dead")
        raises(os.close, fd)
        subprocess.run(["umount", "-l", m], capture_output=True)
    with mounted() as m:
        text = open(f"{m}/k/log").read().split()
        expect([int(x) for x in text] == list(range(len(text))) and len(text) >= 300, "synced records are missing")
        os.stat(f"{m}/k/f298")
    fsck()


def raises(function, *args):
    try:
        function(*args)
    except OSError:
        return True
    return False


def stale_readers_end():
    with mounted() as m:
        with open(f"{m}/cached", "wb") as f:
            f.write(b"c" * 65536)
        fd = os.open(f"{m}/cached", os.O_RDONLY)
        os.pread(fd, 65536, 0)
        mapping = mmap.mmap(fd, 4096, prot=mmap.PROT_READ)
        expect(mapping[0] == ord("c"), "mapping")
        # The supervisor must be up: it starts beside the mount.
        wait_for(lambda: any("hf-supervisor" in read(f"/proc/{p}/comm") for p in children_of(server())), 10, "no supervisor")
        wait_for(lambda: "supervisor ready" in read(log), 10, "the supervisor is not ready")
        os.kill(server(), signal.SIGKILL)
        begun = time.monotonic()
        wait_for(lambda: raises(os.pread, fd, 10, 0), 5, "an open descriptor reads cached pages after the mount's death")
        took = time.monotonic() - begun
        expect(raises(os.stat, f"{m}/cached"), "stat answers after the mount's death")
        mapping.close()
        raises(os.close, fd)
        subprocess.run(["umount", "-l", m], capture_output=True)
    with mounted():
        pass
    fsck()
    return f"{took * 1000:.0f} ms after kill -9"


def supervisor_is_replaced():
    with mounted() as m:
        pid = server()
        def supervisors():
            return [p for p in children_of(pid) if read(f"/proc/{p}/comm").strip() == "hf-supervisor" and "State:\tZ" not in read(f"/proc/{p}/status")]
        wait_for(supervisors, 10, "no supervisor")
        first = supervisors()[0]
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: [p for p in supervisors() if p != first], 10, "no new supervisor")
        with open(f"{m}/after", "w") as f:
            f.write("still here")
        expect(open(f"{m}/after").read() == "still here", "the mount does not go on")
    fsck()


def without_the_epoch():
    with mounted("noepoch") as m:
        for i in range(200):
            os.mkdir(f"{m}/ne{i}")
            open(f"{m}/ne{i}/f", "w").close()
            os.rename(f"{m}/ne{i}/f", f"{m}/ne{i}/g")
            expect(not os.path.exists(f"{m}/ne{i}/f") and os.path.exists(f"{m}/ne{i}/g"), "a name is wrong")
        shutil.rmtree(f"{m}/ne0")
    fsck()


def locks_between_processes():
    with mounted() as m:
        path = f"{m}/locked"
        a, b = open(path, "w"), open(path, "w")
        fcntl.flock(a, fcntl.LOCK_EX)
        expect(raises(fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB), "two exclusive flocks")
        a.close()
        wait_for(lambda: not raises(fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB), 5, "not free after close")
        child = subprocess.Popen([sys.executable, "-c", f"import fcntl,sys;f=open({path!r},'r+');fcntl.lockf(f,fcntl.LOCK_EX,10,100);print('got',flush=True);sys.stdin.read()"],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            expect(child.stdout.readline() == "got\n", "no range lock")
            c = open(path, "r+")
            expect(raises(fcntl.lockf, c, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 105), "overlapping ranges")
            fcntl.lockf(c, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 110)
            # A waiter that a signal ends, rule 7.
            waiter = subprocess.Popen([sys.executable, "-c", f"import fcntl;f=open({path!r},'r+');fcntl.lockf(f,fcntl.LOCK_EX,1,105)"])
            time.sleep(0.3)
            waiter.kill()
            wait_for(lambda: waiter.poll() is not None, 5, "a killed lock waiter does not end")
        finally:
            child.stdin.close()
            child.wait(10)
        wait_for(lambda: not raises(fcntl.lockf, c, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 105), 5, "the range is not free after exit")
        b.close()
        c.close()
    fsck()


def refusals():
    with mounted():
        twice = subprocess.run([binary("mount.holdfast"), image, folder + "/other", "-o", "lockproto=nolock"], capture_output=True, text=True, timeout=30)
        expect(twice.returncode == 32 and "in use" in twice.stderr, f"a second mount: {twice.returncode} {twice.stderr}")
    for argv, code in (([image], 1), ([image, mountpoint, "-o", "lockproto=magic"], 1), ([image, folder + "/absent", "-o", "lockproto=nolock"], 32),
                       ([folder + "/no-such-volume", mountpoint, "-o", "lockproto=nolock"], 32), (["/dev/null", mountpoint, "-o", "lockproto=nolock"], 32)):
        done = subprocess.run([binary("mount.holdfast")] + argv, capture_output=True, text=True, timeout=30)
        lines = [l for l in done.stderr.splitlines() if l.startswith("mount.holdfast: ")]
        expect(done.returncode == code and len(lines) == 1, f"{argv}: exit {done.returncode}, {done.stderr!r}")


def fill(m, megabytes):
    with open(f"{m}/dirty", "wb") as f:
        for i in range(megabytes):
            f.write(bytes([i % 251]) * (1 << 20))


def umount_waits():
    """After the helper the volume is clean and free at once."""
    helper = binary("umount.fuse.holdfast")
    for i in range(4):
        expect(mount().returncode == 0, "mount")
        fill(mountpoint, 12)
        sh(helper, mountpoint, "-t", "fuse.holdfast")
        expect(not server(), "the server lives after umount")
        expect(not os.path.ismount(mountpoint), "still mounted")
        sh(binary("fsck.holdfast"), "-n", image)
    busy = subprocess.run([helper, mountpoint], capture_output=True, text=True, timeout=20)
    expect(busy.returncode == 32 and "not mounted" in busy.stderr, f"not mounted: {busy.returncode} {busy.stderr!r}")
    with mounted() as m:
        with open(f"{m}/open", "w"):
            busy = subprocess.run([helper, m], capture_output=True, text=True, timeout=20)
            expect(busy.returncode == 32 and "busy" in busy.stderr, f"busy: {busy.returncode} {busy.stderr!r}")
        # Mounted in two places: the server stays, nothing is waited for.
        sh("mount", "--bind", m, f"{folder}/other")
        sh(helper, f"{folder}/other")
        open(f"{m}/open").close()
        expect(server() != 0, "the server has ended with a bind mount")
        sh(helper, m)
        expect(not server(), "the server lives after umount")
    # umount(8) finds it where it is installed: /sbin, here in a mount namespace of its own.
    os.makedirs(f"{folder}/sbin", exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.symlink(helper, f"{folder}/sbin/umount.fuse.holdfast")
    sh("unshare", "-m", "--propagation", "private", "sh", "-ec",
       f"mount --bind {folder}/sbin /usr/sbin; {binary('mount.holdfast')} {image} {mountpoint} -o lockproto=nolock,log={log},run-dir={folder}; "
       f"head -c 20000000 /dev/zero > {mountpoint}/dirty; umount {mountpoint}; {binary('fsck.holdfast')} -n {image}")


def next_user_waits():
    """umount2() alone: the next user of the volume waits until the server has ended; a mount that lives is refused at once."""
    for i in range(3):
        expect(mount().returncode == 0, "mount")
        fill(mountpoint, 12)
        sh("umount", "-i", mountpoint)
        if i == 2:
            done = mount()
            expect(done.returncode == 0, f"mount after umount: {done.stderr}")
            sh("umount", "-i", mountpoint)
        sh(binary("fsck.holdfast"), "-n", image)
    with mounted():
        begun = time.monotonic()
        for program in (("fsck.holdfast", "-n"), ("mkfs.holdfast", "-n")):
            done = subprocess.run([binary(program[0]), *program[1:], image], capture_output=True, text=True, timeout=30)
            expect(done.returncode != 0 and "mounted" in done.stdout + done.stderr, f"{program}: {done.returncode} {done.stderr}")
        expect(time.monotonic() - begun < 3, "a volume that stays mounted was waited for")
    fsck()


def birth_times():
    """statx's birth time, in its own form of the protocol, beside everything else that stat says."""
    def seen(m, name):
        return sh("stat", "-c", "%W %F %s %h %a %i", f"{m}/{name}").strip()
    with mounted() as m:
        begun = int(time.time())
        os.makedirs(f"{m}/born")
        with open(f"{m}/born/file", "w") as f:
            f.write("text")
        os.symlink("file", f"{m}/born/link")
        before = {name: seen(m, f"born/{name}") for name in (".", "file", "link")}
        for words in before.values():
            expect(begun <= int(words.split()[0]) <= time.time() + 1, f"birth time: {words}, now {begun}")
        os.utime(f"{m}/born/file", (1, 1))
        expect(int(os.stat(f"{m}/born/file").st_mtime) == 1, "mtime")
        expect(seen(m, "born/file") == before["file"], "another birth time after utime")
        expect(before["file"].split()[1:] == f"regular file 4 1 644 {os.stat(f'{m}/born/file').st_ino}".split(), f"attributes by statx: {before['file']}")
    with mounted() as m:
        expect({name: seen(m, f"born/{name}") for name in before} == before, "after a remount")
        shutil.rmtree(f"{m}/born")
    fsck()


def damage_withdraws():
    """A block that does not validate ends the mount with EIO, never a crash (I7)."""
    with mounted() as m:
        for i in range(50):
            open(f"{m}/victim{i}", "w").write("x" * 5000)
        number = os.stat(f"{m}/victim7").st_ino
    with open(image, "r+b") as f:
        f.seek(number * 4096 + 100)
        f.write(b"\xff" * 64)
    done = mount()
    expect(done.returncode == 0, f"mount: {done.stderr}")
    expect(raises(os.stat, f"{mountpoint}/victim7"), "a damaged inode is served")
    wait_for(lambda: not server(), 20, "the mount does not withdraw")
    expect("withdraw" in read(log), "no reason in the log")
    subprocess.run(["umount", "-l", mountpoint], capture_output=True)
    mkfs()


CASES = [
    ("git, sqlite, tar, rsync, fio on one mount", foreign_programs),
    ("POSIX: situations compared with ext4", like_ext4),
    ("kill -9, remount, replay", killed_and_replayed),
    ("stale readers end with the mount", stale_readers_end),
    ("a killed supervisor is replaced", supervisor_is_replaced),
    ("without the epoch notification", without_the_epoch),
    ("flock and ranges, an interrupted waiter", locks_between_processes),
    ("refusals are one line and an exit code", refusals),
    ("umount's helper waits for the server's end", umount_waits),
    ("after umount the next user waits", next_user_waits),
    ("birth times by statx", birth_times),
    ("a damaged block withdraws the mount", damage_withdraws),
]


def main():
    global folder, image, mountpoint, log
    folder = tempfile.mkdtemp(prefix="holdfast-nolock-")
    image, mountpoint, log = f"{folder}/volume.img", f"{folder}/mnt", f"{folder}/mount.log"
    os.makedirs(mountpoint)
    os.makedirs(f"{folder}/other")
    try:
        mkfs()
        code = run_cases(CASES, 150)
        if code:
            print(clusterlab.tail(log, 40))
        return code
    finally:
        pid = server()
        if pid:
            os.kill(pid, signal.SIGKILL)
        subprocess.run(["umount", "-l", mountpoint], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
