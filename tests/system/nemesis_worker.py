#!/usr/bin/env python3
"""One application of the nemesis, on one node: does work that must survive, checks what it can check by itself, and says
what has been promised to it (a line per acknowledged step). A full volume is no failure: the step is done again.

usage: nemesis_worker.py KIND FOLDER NAME PACE_SECONDS      (NAME is never used twice; FOLDER is shared by all nodes)
lines: TIME_NS ok WHAT ARGUMENTS                            (CLOCK_MONOTONIC of the machine)
An answer that contradicts the application's own knowledge ends it with exit status 3.
"""
import errno
import fcntl
import hashlib
import mmap
import os
import random
import signal
import sqlite3
import struct
import sys
import time

from nemesis_suites import SUITES, Corrupt, run_suite

BLOCK = 4096
WRONG = 3
stop = False


def on_term(*_):
    global stop
    stop = True


def say(*words):
    sys.stdout.write(f"{time.monotonic_ns()} ok {' '.join(map(str, words))}\n")
    sys.stdout.flush()


def wrong(words):
    sys.stderr.write(f"WRONG: {words}\n")
    sys.stderr.flush()
    os._exit(WRONG)


def text_of(name, number):
    text = f"{name} {number} "
    return (text + hashlib.sha256(text.encode()).hexdigest() * 4).encode()


def block_of(name, version, index):
    text = f"{name} {version} {index} "
    return (text + hashlib.sha256(text.encode()).hexdigest()).encode().ljust(BLOCK, b".")


def sync_folder(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def there(path):
    """os.path.exists() takes every error for 'no'; here EIO of a dead mount must stay an error."""
    try:
        os.lstat(path)
        return True
    except FileNotFoundError:
        return False


class Kind:
    """step(n) is done again after ENOSPC, so it must not mind what it did before."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        self.random = random.Random(name)
        self.begin()

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def make(self, *parts):
        os.makedirs(self.path(*parts), exist_ok=True)
        return self.path(*parts)

    def begin(self):
        pass


class Files(Kind):
    """Write, fsync, rename into a folder that all nodes share, fsync the folder."""

    def begin(self):
        self.shared = self.make("shared")

    def step(self, n):
        final = os.path.join(self.shared, f"{self.name}-{n:06d}")
        with open(final + ".tmp", "wb", buffering=0) as f:
            f.write(text_of(self.name, n))
            os.fsync(f.fileno())
        os.rename(final + ".tmp", final)
        sync_folder(self.shared)
        say("file", os.path.relpath(final, self.folder), hashlib.sha256(text_of(self.name, n)).hexdigest())


class Append(Kind):
    """All append to one file. A line begins with a line end too: what a full volume cut short spoils nobody else's line."""

    def begin(self):
        self.fd = os.open(self.path("journal.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def step(self, n):
        line = text_of(self.name, n)
        whole = b"\n" + line + b"\n"
        if os.write(self.fd, whole) != len(whole):
            raise OSError(errno.ENOSPC, "short write")
        os.fsync(self.fd)
        say("line", hashlib.sha256(line).hexdigest())


class Sqlite(Kind):
    """One database; EXTRA, since FULL does not make the removal of its journal durable."""

    def begin(self):
        self.tight = -1000.0
        self.db = sqlite3.connect(self.path("shared.db"), timeout=60, isolation_level=None)
        self.db.execute("PRAGMA synchronous=EXTRA")

    def step(self, n):
        self.look_at_space()
        try:
            self.db.execute("BEGIN IMMEDIATE")
            text = text_of(self.name, n).decode()
            self.db.execute("INSERT INTO event (node, number, text) VALUES (?, ?, ?)", (self.name, n, text))
            self.db.execute("UPDATE counter SET value = value + 1")
            self.db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            # Its journal could not be made: SQLite does not say why. It is for want of space only while the volume is full.
            self.look_at_space()
            no_room = "unable to open" in str(error) and time.monotonic() < self.tight + 15
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            if "locked" in str(error) or "full" in str(error) or no_room:
                raise OSError(errno.ENOSPC, str(error)) from None
            raise
        say("row", self.name, n)
        time.sleep(0.05)  # SQLite polls its lock without a queue: without think time one node never meets a free moment

    def look_at_space(self):
        space = os.statvfs(self.folder)
        if space.f_bavail * space.f_frsize < 64 << 20:
            self.tight = time.monotonic()


class Dance(Kind):
    """A file that goes round three folders by rename, with a second name made and taken away: always at one place."""

    def begin(self):
        self.folders = [self.make("dance", str(i)) for i in range(3)]
        if not there(os.path.join(self.folders[0], self.name)):
            with open(os.path.join(self.folders[0], self.name), "wb") as f:
                f.write(text_of(self.name, 0))
                f.flush()
                os.fsync(f.fileno())
            sync_folder(self.folders[0])
        say("at", self.name, 0)

    def step(self, n):
        source, target = (os.path.join(self.folders[(n + i) % 3], self.name) for i in (0, 1))
        if n % 5 == 0:
            second = source + ".second"
            if not there(second) and there(source):
                os.link(source, second)
                if os.stat(source).st_nlink != 2:
                    wrong(f"{source} has {os.stat(source).st_nlink} links after link()")
            if there(second):
                os.unlink(second)
        if there(source):
            os.rename(source, target)
        for folder in self.folders:
            sync_folder(folder)
        if there(source) or not there(target):
            wrong(f"{source} still there, or {target} not, after rename()")
        say("at", self.name, n + 1)


class Counter(Kind):
    """A number under an fcntl lock: nobody else may ever be promised the same one."""

    def begin(self):
        self.fd = os.open(self.path("counter"), os.O_RDWR | os.O_CREAT, 0o644)

    def step(self, _n):
        fcntl.lockf(self.fd, fcntl.LOCK_EX)
        try:
            value = int(os.pread(self.fd, 32, 0) or b"0") + 1
            os.pwrite(self.fd, f"{value:020d}".encode(), 0)
            if int(os.pread(self.fd, 32, 0)) != value:
                wrong(f"the counter reads {os.pread(self.fd, 32, 0)!r} under the lock, {value} was written")
            os.fsync(self.fd)
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN)
        say("count", value)


class Exclusive(Kind):
    """Who creates a name with O_EXCL has it alone."""

    def begin(self):
        self.place = self.make("exclusive")
        self.next = 0

    def step(self, _n):
        path = os.path.join(self.place, f"{self.next:06d}")
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            self.next += 1
            say("lost", self.next - 1)
            return
        try:
            os.write(fd, self.name.encode())
            os.fsync(fd)
            sync_folder(self.place)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                os.unlink(path)
            raise
        finally:
            os.close(fd)
        say("won", self.next, self.name)
        self.next += 1


class Mapped(Kind):
    """Eight bytes of a page that all nodes map and write to."""
    SIZE = 65536

    def begin(self):
        self.slot = int(self.name.split(".")[1]) * 8 % self.SIZE
        fd = os.open(self.path("mapped"), os.O_RDWR | os.O_CREAT, 0o644)
        if os.fstat(fd).st_size < self.SIZE:
            os.posix_fallocate(fd, 0, self.SIZE)
        self.map = mmap.mmap(fd, self.SIZE)
        self.fd = fd

    def step(self, n):
        self.map[self.slot:self.slot + 8] = struct.pack("<Q", n + 1)
        self.map.flush(self.slot // BLOCK * BLOCK, BLOCK)
        os.fsync(self.fd)
        if self.map[self.slot:self.slot + 8] != struct.pack("<Q", n + 1):
            wrong(f"slot {self.slot} lost a store")
        say("slot", self.slot, n + 1)


class Blob(Kind):
    """Files written over in place, block by block: each block is of the promised version or a later one."""
    BLOCKS = 48

    def begin(self):
        self.make("blob")

    def step(self, n):
        which = f"{self.name}-{n % 3}"
        path = self.path("blob", which)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if n % 10 == 9:
                say("void", which)
                os.ftruncate(fd, 0)
            order = list(range(self.BLOCKS))
            self.random.shuffle(order)
            for index in order:
                if os.pwrite(fd, block_of(which, n, index), index * BLOCK) != BLOCK:
                    raise OSError(errno.ENOSPC, "short write")
            os.fsync(fd)
            index = self.random.randrange(self.BLOCKS)
            if os.pread(fd, BLOCK, index * BLOCK) != block_of(which, n, index):
                wrong(f"block {index} of {which} is not what was just written")
        finally:
            os.close(fd)
        say("blob", which, n)


class Churn(Kind):
    """Names made, moved and taken away in one crowded folder; nothing is synced, so nothing is promised."""

    def begin(self):
        self.place = self.make("crowd")

    def step(self, n):
        path = os.path.join(self.place, f"{self.name}-{n % 40}")
        with open(path, "wb") as f:
            f.write(text_of(self.name, n))
        os.mkdir(path + ".d")
        os.rename(path, os.path.join(path + ".d", "inside"))
        with open(os.path.join(path + ".d", "inside"), "rb") as f:
            if f.read() != text_of(self.name, n):
                wrong(f"{path}.d/inside does not have the content that was written")
        os.unlink(os.path.join(path + ".d", "inside"))
        os.rmdir(path + ".d")
        if there(path) or there(path + ".d"):
            wrong(f"{path} is there after it was removed")
        say("beat", n)


class Suite(Kind):
    """A public test suite (nemesis_suites.py), over and over."""

    def __init__(self, suite):
        self.suite = suite

    def __call__(self, folder, name):
        super().__init__(folder, name)
        return self

    def step(self, n):
        self.make("suites")
        place = self.path("suites", f"{self.name}-{self.suite}")
        try:
            if run_suite(SUITES[self.suite](place, n), place, lambda: stop):
                say("pass", self.suite, n)
        except Corrupt as error:
            wrong(error)


KINDS = {"files": Files, "append": Append, "sqlite": Sqlite, "dance": Dance, "counter": Counter, "exclusive": Exclusive,
         "mapped": Mapped, "blob": Blob, "churn": Churn, **{suite: Suite(suite) for suite in SUITES}}


def again_when_full(work):
    while not stop:
        try:
            return work()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            time.sleep(0.05)
    return None


def clean_churn(kind):
    """A step that a full volume cut short may have left its names behind."""
    for n in range(40):
        path = os.path.join(kind.place, f"{kind.name}-{n}")
        for leftover, remove in ((os.path.join(path + ".d", "inside"), os.unlink), (path + ".d", os.rmdir), (path, os.unlink)):
            if there(leftover):
                remove(leftover)


def main():
    signal.signal(signal.SIGTERM, on_term)
    name, folder, own, pace = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
    say("ready", own)  # from now on it can be asked to end
    kind = again_when_full(lambda: KINDS[name](folder, own))
    n = 0
    while not stop:
        def step():
            try:
                kind.step(n)
            except OSError as error:
                if name == "churn" and error.errno == errno.ENOSPC:
                    clean_churn(kind)
                raise
        again_when_full(step)
        n += 1
        time.sleep(pace)


if __name__ == "__main__":
    main()
