#!/usr/bin/env python3
"""Three mounts must look like one filesystem to programs that nobody here wrote, and to small adversaries: nothing stale,
nothing torn, nothing hung. One lab serves all cases; at the end it is stopped cleanly and fsck must find nothing."""
import concurrent.futures
import ctypes
import fcntl
import hashlib
import mmap
import multiprocessing
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time

import clusterlab
import posix_facts as posix
from clusterlab import CaseFailed, expect, fsck, lab, run_cases
from fsx import Exerciser, Mismatch

it = None  # the lab
SHORT = "--long" not in sys.argv


def mounts():
    return [n.mount for n in it.nodes()]


def sh(command, cwd=None, timeout=100):
    done = subprocess.run(["sh", "-c", command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=timeout, env=dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null", HOME="/nonexistent"))
    expect(done.returncode == 0, f"'{command}' ended with {done.returncode}: {done.stdout.strip()[-600:]}")
    return done.stdout


def in_parallel(*functions):
    with concurrent.futures.ThreadPoolExecutor(len(functions)) as pool:
        return [f.result() for f in [pool.submit(g) for g in functions]]


def writes_are_seen_at_once():
    a, b, c = mounts()
    for i in range(50):
        with open(f"{a}/seen", "w") as f:
            f.write(f"value {i}")
        for m in (b, c):
            with open(f"{m}/seen") as f:
                got = f.read()
            expect(got == f"value {i}", f"round {i}: {m} reads '{got}'")
            expect(os.stat(f"{m}/seen").st_size == len(got), "stat differs from read")
        os.rename(f"{b}/seen", f"{b}/seen2")
        expect(not os.path.exists(f"{a}/seen") and os.path.exists(f"{c}/seen2"), f"round {i}: a rename is not seen")
        os.rename(f"{c}/seen2", f"{c}/seen")


def negative_names_end_when_another_node_creates():
    a, b, _ = mounts()
    for i in range(30):
        expect(not os.path.exists(f"{b}/absent{i}"), "exists too early")
        open(f"{a}/absent{i}", "w").close()
        expect(os.path.exists(f"{b}/absent{i}"), f"absent{i}: created elsewhere, still absent here")
        os.unlink(f"{b}/absent{i}")
        expect(not os.path.exists(f"{a}/absent{i}"), f"absent{i}: removed elsewhere, still there")


def append_race():
    count, size = 300, 64
    def writer(mount, tag):
        fd = os.open(f"{mount}/appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for i in range(count):
            os.write(fd, f"{tag}{i:06d}".ljust(size - 1, ".").encode() + b"\n")
        os.close(fd)
    in_parallel(*[lambda m=m, t=t: writer(m, t) for m, t in zip(mounts(), "abc")])
    for m in mounts():
        with open(f"{m}/appended") as f:
            lines = f.read().splitlines()
        expect(len(lines) == 3 * count, f"{len(lines)} lines of {3 * count}: appends overwrote each other")
        expect(len({line[:7] for line in lines}) == 3 * count, "a line is there twice")


def acknowledged_growth_is_read():
    """Whoever knows that a write has returned reads it, on whatever node, through fresh and old handles, while all nodes write."""
    record, count = 64, 400 if SHORT else 4000
    seconds_max = 60
    done = multiprocessing.Array(ctypes.c_long, 3, lock=False)  # records acknowledged, by writer
    early = multiprocessing.Array(ctypes.c_long, 6, lock=False)
    reads = multiprocessing.Array(ctypes.c_long, 6, lock=False)
    name = "grown"
    open(f"{mounts()[0]}/{name}", "wb").close()

    def writer(i):
        fd = os.open(f"{mounts()[i]}/{name}", os.O_WRONLY | os.O_APPEND)
        for _ in range(count):
            os.write(fd, bytes([65 + i]) * record)
            done[i] += 1

    def reader(i, fresh):
        path = f"{mounts()[i // 2]}/{name}"
        fd = os.open(path, os.O_RDWR)
        end = time.monotonic() + seconds_max
        while (known := sum(done)) < 3 * count and time.monotonic() < end:
            if known == 0:
                continue
            use = os.open(path, os.O_RDONLY) if fresh else fd
            got = os.pread(use, record, (known - 1) * record)
            reads[i] += 1
            early[i] += len(got) != record or len(set(got)) != 1
            if fresh:
                os.close(use)

    crew = [multiprocessing.Process(target=writer, args=(i,)) for i in range(3)]
    crew += [multiprocessing.Process(target=reader, args=(i, i % 2 == 0)) for i in range(6)]
    for one in crew:
        one.start()
    for one in crew:
        one.join(seconds_max + 20)
        expect(one.exitcode == 0, f"ended with {one.exitcode}")
    expect(sum(done) == 3 * count, f"{sum(done)} of {3 * count} appends in {seconds_max} s")
    expect(sum(early) == 0, f"{list(early)} of {list(reads)} reads did not see what was acknowledged before they began")


def exclusive_create_race():
    rounds = 60 if SHORT else 400
    barrier = threading.Barrier(3)
    def racer(mount):
        won = []
        for i in range(rounds):
            barrier.wait(60)
            try:
                os.close(os.open(f"{mount}/excl{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                won.append(i)
            except FileExistsError:
                pass
        return won
    won = sum(in_parallel(*[lambda m=m: racer(m) for m in mounts()]), [])
    expect(sorted(won) == list(range(rounds)), f"{len(won)} winners of {rounds} races")


def two_nodes_create_in_one_directory():
    seconds = 8 if SHORT else 120
    os.makedirs(f"{mounts()[0]}/crowd", exist_ok=True)
    end = time.monotonic() + seconds
    def creator(mount, tag):
        n = 0
        while time.monotonic() < end:
            with open(f"{mount}/crowd/{tag}{n}", "w") as f:
                f.write(str(n))
            os.mkdir(f"{mount}/crowd/{tag}{n}.d")
            if n % 3 == 0:
                os.rename(f"{mount}/crowd/{tag}{n}", f"{mount}/crowd/{tag}{n}.r")
            n += 1
        return n
    counts = in_parallel(lambda: creator(mounts()[0], "a"), lambda: creator(mounts()[1], "b"))
    expect(len(os.listdir(f"{mounts()[2]}/crowd")) == 2 * sum(counts), "names are missing")
    expect(min(counts) > 0, f"one node starved: {counts}")
    return f"{counts[0]} and {counts[1]} rounds in {seconds} s"


def mapped_readers_and_writers():
    a, b, c = mounts()
    size = 64 * 1024
    with open(f"{a}/mapped", "wb") as f:
        f.write(bytes(size))
    fds = [os.open(f"{m}/mapped", os.O_RDWR) for m in (a, b, c)]
    maps = [mmap.mmap(fd, size) for fd in fds]
    try:
        for i in range(1, 120):
            writer = maps[i % 3]
            at = (i * 4097) % (size - 8)
            writer[at:at + 8] = struct.pack("<Q", i)
            writer.flush()
            for reader, fd in zip(maps, fds):
                expect(reader[at:at + 8] == struct.pack("<Q", i), f"round {i}: a mapping is stale")
                expect(os.pread(fd, 8, at) == struct.pack("<Q", i), f"round {i}: read differs from the mapping")
        # Different bytes of one page by two nodes: neither may carry away the other's.
        def stores(m, offset):
            for i in range(200):
                m[offset:offset + 4] = struct.pack("<I", i)
        in_parallel(lambda: stores(maps[0], 0), lambda: stores(maps[1], 8))
        maps[0].flush()
        maps[1].flush()
        got = os.pread(fds[2], 12, 0)
        expect(struct.unpack_from("<I", got, 0)[0] == 199 and struct.unpack_from("<I", got, 8)[0] == 199,
               "a store to a shared page was lost")
    finally:
        for m in maps:
            m.close()
        for fd in fds:
            os.close(fd)


def byte_range_locks():
    a, b, _ = mounts()
    fa, fb = os.open(f"{a}/locked", os.O_RDWR | os.O_CREAT), os.open(f"{b}/locked", os.O_RDWR)
    program = (
        "import fcntl,os,sys,struct\n"
        "fd=os.open(sys.argv[1],os.O_RDWR)\n"
        "try:\n fcntl.lockf(fd,fcntl.LOCK_EX|fcntl.LOCK_NB,int(sys.argv[3]),int(sys.argv[2]))\n"
        "except OSError: print('busy')\nelse: print('got')\n")
    def other(mount, start, length):
        return subprocess.run([sys.executable, "-c", program, f"{mount}/locked", str(start), str(length)], stdout=subprocess.PIPE,
                              text=True, timeout=30).stdout.strip()
    try:
        fcntl.lockf(fa, fcntl.LOCK_EX, 100, 100)
        expect(other(b, 150, 10) == "busy", "an overlapping range was granted on another node")
        expect(other(b, 0, 100) == "got", "a free range was refused on another node")
        expect(other(b, 200, 0) == "got", "the range behind it was refused")
        fcntl.lockf(fa, fcntl.LOCK_UN, 20, 140)
        expect(other(b, 145, 10) == "got", "a hole cut into a range is still held")
        expect(other(b, 165, 10) == "busy", "the rest of a split range was lost")
        # A waiter on another node gets it on release; closing releases everything.
        waited = subprocess.Popen([sys.executable, "-c", program.replace("|fcntl.LOCK_NB", ""), f"{b}/locked", "100", "20"],
                                  stdout=subprocess.PIPE, text=True)
        time.sleep(0.3)
        expect(waited.poll() is None, "a waiter did not wait")
        os.close(fa)
        fa = None
        expect(waited.communicate(timeout=30)[0].strip() == "got", "the waiter did not get it after close")
        # flock, and a waiter that is interrupted.
        fa = os.open(f"{a}/locked", os.O_RDWR)
        fcntl.flock(fa, fcntl.LOCK_EX)
        try:
            fcntl.flock(fb, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raise CaseFailed("flock was granted twice")
        except BlockingIOError:
            pass
        sleeper = subprocess.Popen([sys.executable, "-c", "import fcntl,os,sys;fcntl.flock(os.open(sys.argv[1],os.O_RDWR),fcntl.LOCK_EX)",
                                    f"{b}/locked"], stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        expect(sleeper.poll() is None, "a flock waiter did not wait")
        sleeper.send_signal(signal.SIGTERM)
        expect(sleeper.wait(20) == -signal.SIGTERM, "an interrupted waiter did not end")
        fcntl.flock(fa, fcntl.LOCK_UN)
        fcntl.flock(fb, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        for fd in (fa, fb):
            if fd is not None:
                os.close(fd)


def ofd_locks_end_with_their_description():
    """FLUSH and RELEASE name no owner of such locks: they belong to the open file, not to the process, and go with its last close."""
    a, b, _ = mounts()
    path = "ofd"
    open(f"{a}/{path}", "w").close()

    def lock(fd, kind, start, length):
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, start, length, 0))

    def busy(fd, kind, start, length):
        try:
            lock(fd, kind, start, length)
        except BlockingIOError:
            return True
        lock(fd, fcntl.F_UNLCK, start, length)
        return False

    first, second = os.open(f"{a}/{path}", os.O_RDWR), os.open(f"{a}/{path}", os.O_RDWR)
    copy, there = os.dup(first), os.open(f"{b}/{path}", os.O_RDWR)
    try:
        lock(first, fcntl.F_WRLCK, 0, 100)
        expect(busy(second, fcntl.F_WRLCK, 50, 10), "two opens of one process share an OFD lock")
        expect(busy(there, fcntl.F_RDLCK, 50, 10), "an OFD lock is not seen on another node")
        os.close(second)
        second = None
        expect(busy(there, fcntl.F_WRLCK, 50, 10), "closing another open of the file released an OFD lock")
        os.close(first)
        first = None
        expect(busy(there, fcntl.F_WRLCK, 50, 10), "closing one descriptor of two released an OFD lock")
        os.close(copy)
        copy = None
        end = time.monotonic() + 20  # RELEASE comes after the close
        while busy(there, fcntl.F_WRLCK, 50, 10):
            expect(time.monotonic() < end, "the last close released nothing")
    finally:
        for fd in (first, second, copy, there):
            if fd is not None:
                os.close(fd)


def sqlite_on_three_nodes():
    path = "sqlite.db"
    db = sqlite3.connect(f"{mounts()[0]}/{path}")
    db.execute("CREATE TABLE t (node INTEGER, n INTEGER)")
    db.execute("CREATE TABLE c (v INTEGER)")
    db.execute("INSERT INTO c VALUES (0)")
    db.commit()
    db.close()
    rounds = 25 if SHORT else 200
    def user(index):
        own = sqlite3.connect(f"{mounts()[index]}/{path}", timeout=90, isolation_level=None)
        for i in range(rounds):
            while True:
                try:
                    own.execute("BEGIN IMMEDIATE")
                    own.execute("INSERT INTO t VALUES (?, ?)", (index, i))
                    own.execute("UPDATE c SET v = v + 1")
                    own.execute("COMMIT")
                    break
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error):
                        raise
                    if own.in_transaction:
                        own.execute("ROLLBACK")
        own.close()
    in_parallel(*[lambda i=i: user(i) for i in range(3)])
    for m in mounts():
        db = sqlite3.connect(f"{m}/{path}")
        expect(db.execute("PRAGMA integrity_check").fetchone()[0] == "ok", "malformed")
        expect(db.execute("SELECT v FROM c").fetchone()[0] == 3 * rounds, "updates were lost")
        expect(db.execute("SELECT count(*) FROM t").fetchone()[0] == 3 * rounds, "rows were lost")
        db.close()


def git_across_nodes():
    a, b, c = mounts()
    sh("git init -q repo && cd repo && git config user.name t && git config user.email t@t && mkdir d && "
       "for i in $(seq 60); do echo $i > d/f$i; done && git add . && git commit -qm one", cwd=a)
    sh("git status --porcelain | (! grep .) && for i in $(seq 30); do echo more >> d/f$i; done && git commit -qam two && git gc -q", cwd=f"{b}/repo")
    sh("git fsck --strict 2>&1 && git log --oneline | wc -l | grep -q 2 && git clone -q . ../clone", cwd=f"{c}/repo")
    sh("git pull -q && git diff --exit-code HEAD && test \"$(git rev-parse HEAD)\" = \"$(git -C ../repo rev-parse HEAD)\"", cwd=f"{a}/clone")


def tar_and_rsync_across_nodes():
    a, b, c = mounts()
    sources = " ".join(n for n in ("base", "dlm", "fs", "docs", "tools") if os.path.isdir(os.path.join(clusterlab.ROOT, n)))
    sh(f"mkdir t && tar -C {clusterlab.ROOT} -cf - {sources} | tar -C t -xf - && ln -s t/base link && ln t/base/ids.h t/hard && "
       "setfattr -n user.k -v v t/hard", cwd=a)
    sh(f"tar -C {clusterlab.ROOT} -cf - {sources} > t.tar && tar -C t --exclude=hard -df t.tar && rm t.tar", cwd=b)
    sh("rsync -aHAX t/ t2/ && rsync -aHAXcn --delete --itemize-changes t/ t2/ | (! grep .)", cwd=c)
    sh("diff -r t t2 && getfattr -n user.k t2/hard | grep -q v && rm -rf t t2 link", cwd=a)


def fio_verify():
    for m, other in zip(mounts(), mounts()[1:] + mounts()[:1]):
        name = f"fio-{os.path.basename(os.path.dirname(m))}"
        options = f"--name=v --filename={{}}/{name} --size=24M --bs=4k-64k --verify=crc32c --ioengine=psync --randseed=7 --verify_fatal=1"
        sh("fio --output-format=terse --rw=randwrite --do_verify=0 --fsync=64 " + options.format(m), cwd=it.directory)
        sh("fio --output-format=terse --rw=randwrite --verify_only=1 " + options.format(other), cwd=it.directory)
        os.unlink(f"{m}/{name}")


def fsx_across_nodes():
    steps = 250 if SHORT else 3000
    seeds = range(1, 5) if SHORT else range(1, 21)
    for seed in seeds:
        path = f"fsx{seed}"
        exerciser = Exerciser([f"{m}/{path}" for m in mounts()], seed)
        try:
            exerciser.run(steps)
        except Mismatch as error:
            raise CaseFailed(str(error)) from None
        finally:
            exerciser.close()
        os.unlink(f"{mounts()[0]}/{path}")
    return f"{len(seeds)} seeds of {steps} steps"


def unlinked_but_open_elsewhere():
    a, b, c = mounts()
    with open(f"{a}/ghost", "w") as f:
        f.write("still here" * 1000)
    reader = open(f"{b}/ghost")
    os.unlink(f"{c}/ghost")
    expect(not os.path.exists(f"{a}/ghost"), "the name is still there")
    for i in range(20):  # new blocks that would reuse the old ones
        with open(f"{a}/fill{i}", "w") as f:
            f.write("x" * 20000)
            os.fsync(f.fileno())
    expect(reader.read() == "still here" * 1000, "the data of an open file was reused")
    reader.close()


def attributes_and_xattrs():
    a, b, c = mounts()
    open(f"{a}/attr", "w").close()
    for i in range(25):
        os.chmod(f"{a}/attr", 0o600 + i % 8)
        expect(os.stat(f"{b}/attr").st_mode & 0o777 == 0o600 + i % 8, "chmod is not seen")
        os.setxattr(f"{b}/attr", "user.n", str(i).encode())
        expect(os.getxattr(f"{c}/attr", "user.n") == str(i).encode(), "an xattr is stale")
        os.utime(f"{c}/attr", ns=(i, i * 1_000_000_007))
        expect(os.stat(f"{a}/attr").st_mtime_ns == i * 1_000_000_007, "utime is not seen")
        os.link(f"{a}/attr", f"{a}/attr{i}")
        expect(os.stat(f"{b}/attr").st_nlink == i + 2, "the link count is stale")


def truncate_and_grow():
    a, b, c = mounts()
    for i in range(40):
        with open(f"{a}/sized", "wb") as f:
            f.write(b"a" * (1000 * (i % 7 + 1)))
        expect(os.stat(f"{b}/sized").st_size == 1000 * (i % 7 + 1), "size is stale")
        with open(f"{b}/sized", "ab") as f:
            f.write(b"b" * 5000)
        os.truncate(f"{c}/sized", 4000)
        with open(f"{a}/sized", "rb") as f:
            got = f.read()
        expect(len(got) == 4000 and set(got) <= set(b"ab"), f"round {i}: length {len(got)}")


def stress_ng_filesystem_class():
    seconds = 6 if SHORT else 60
    stressors = "--dentry 1 --dir 1 --fallocate 1 --fallocate-bytes 64M --fcntl 1 --filename 1 --flock 1 --link 1 --lockf 1 --lockofd 1 --rename 1 --symlink 1 --utime 1 --xattr 1 --hdd 1 --hdd-bytes 16M"
    dirs = []
    for m in mounts()[:2]:
        dirs.append(f"{m}/stress-{os.path.basename(os.path.dirname(m))}")
        os.makedirs(dirs[-1], exist_ok=True)
    in_parallel(*[lambda d=d: sh(f"stress-ng --temp-path {d} --timeout {seconds}s --metrics-brief --verify {stressors} 2>&1", timeout=90) for d in dirs])
    for d in dirs:
        shutil.rmtree(d)


def dbench_on_two_nodes():
    a, b, _ = mounts()
    seconds = 6 if SHORT else 60
    def bench(m, tag):
        os.makedirs(f"{m}/dbench-{tag}", exist_ok=True)
        return sh(f"dbench -D {m}/dbench-{tag} -t {seconds} 2 2>&1 | tail -1", timeout=90)
    out = in_parallel(lambda: bench(a, "a"), lambda: bench(b, "b"))
    for m, tag in ((a, "a"), (b, "b")):
        shutil.rmtree(f"{m}/dbench-{tag}")
    return " / ".join(o.strip() for o in out)


def posix_semantics():
    top = f"{mounts()[1]}/posix-run"
    os.makedirs(top)
    for folder in (it.directory, os.path.dirname(mounts()[1]), mounts()[1], top):
        os.chmod(folder, 0o755)  # its unprivileged steps walk down here
    words = []
    passed, failed = posix.run_all(top, words.append)
    os.rmdir(top)
    expect(not failed, "; ".join(words))
    return f"{passed} facts"


def checksum_tree(top):
    total = hashlib.sha256()
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                with open(path, "rb") as f:
                    total.update(path[len(top):].encode() + f.read())
    return total.hexdigest()


def all_three_see_the_same_at_the_end():
    sums = [checksum_tree(m) for m in mounts()]
    expect(len(set(sums)) == 1, "the mounts differ")


def clean_stop_and_fsck():
    for node in it.nodes():
        node.stop()
    fsck(it)


CASES = [
    ("writes are seen at once", writes_are_seen_at_once),
    ("negative names end when another node creates", negative_names_end_when_another_node_creates),
    ("attributes, xattrs, links", attributes_and_xattrs),
    ("truncate and grow", truncate_and_grow),
    ("append race", append_race),
    ("acknowledged growth is read", acknowledged_growth_is_read),
    ("O_EXCL race", exclusive_create_race),
    ("two nodes create in one directory", two_nodes_create_in_one_directory),
    ("mapped readers and writers", mapped_readers_and_writers),
    ("fcntl ranges and flock", byte_range_locks),
    ("OFD locks", ofd_locks_end_with_their_description),
    ("unlinked but open elsewhere", unlinked_but_open_elsewhere),
    ("posix semantics", posix_semantics),
    ("fsx across nodes", fsx_across_nodes),
    ("sqlite on three nodes", sqlite_on_three_nodes),
    ("git across nodes", git_across_nodes),
    ("tar and rsync across nodes", tar_and_rsync_across_nodes),
    ("fio --verify across nodes", fio_verify),
    ("dbench on two nodes", dbench_on_two_nodes),
    ("stress-ng on two nodes", stress_ng_filesystem_class),
    ("all three see the same at the end", all_three_see_the_same_at_the_end),
    ("clean stop, fsck", clean_stop_and_fsck),
]


def main():
    global it
    with lab(3) as it:
        return run_cases(CASES, 120 if SHORT else 900)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (CaseFailed, clusterlab.LabError) as error:
        print(f"FAILED  the lab: {error}\n0 passed, 1 failed")
        sys.exit(1)
