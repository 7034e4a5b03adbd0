"""A small file exerciser in the manner of fsx: random reads, writes, truncates, holes and mapped writes on one file, each
through a randomly chosen path (all paths name the same file, seen through different mounts), against a model in memory."""
import ctypes
import mmap
import os
import random

FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE = 1, 2
MAX_SIZE = 300_000
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]


class Mismatch(Exception):
    pass


class Exerciser:
    def __init__(self, paths, seed):
        self.random = random.Random(seed)
        self.seed = seed
        self.fds = [os.open(p, os.O_RDWR | os.O_CREAT, 0o644) for p in paths]
        self.model = bytearray()
        self.log = []

    def close(self):
        for fd in self.fds:
            os.close(fd)

    def step(self):
        which = self.random.randrange(len(self.fds))
        fd = self.fds[which]
        action = self.random.choice([self.write, self.write, self.read, self.read, self.truncate, self.punch, self.map_write, self.sync])
        offset, length = self.random.randrange(MAX_SIZE), self.random.randrange(1, 30_000)
        self.log.append(f"{action.__name__} via {which} offset {offset} length {length}")
        action(fd, offset, length)

    def check(self, fd, offset, length):
        got, want = os.pread(fd, length, offset), bytes(self.model[offset:offset + length])
        if got != want:
            at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
            raise Mismatch(f"seed {self.seed}, step {len(self.log)}: at byte {offset + at} got {got[at:at + 8].hex()} want "
                           f"{want[at:at + 8].hex()} (lengths {len(got)}, {len(want)}); last steps: {'; '.join(self.log[-6:])}")

    def read(self, fd, offset, length):
        self.check(fd, offset, length)

    def write(self, fd, offset, length):
        data = self.random.randbytes(length)
        if os.pwrite(fd, data, offset) != length:
            raise Mismatch("short write")
        if len(self.model) < offset + length:
            self.model.extend(bytes(offset + length - len(self.model)))
        self.model[offset:offset + length] = data

    def truncate(self, fd, offset, _length):
        os.ftruncate(fd, offset)
        if offset < len(self.model):
            del self.model[offset:]
        else:
            self.model.extend(bytes(offset - len(self.model)))

    def punch(self, fd, offset, length):
        if libc.fallocate(fd, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, offset, length) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")
        end = min(offset + length, len(self.model))
        if offset < end:
            self.model[offset:end] = bytes(end - offset)

    def map_write(self, fd, offset, length):
        size = os.fstat(fd).st_size
        if size != len(self.model):
            raise Mismatch(f"seed {self.seed}: size {size}, want {len(self.model)}; last steps: {'; '.join(self.log[-6:])}")
        if offset >= size:
            return
        end = min(offset + length, size)
        data = self.random.randbytes(end - offset)
        with mmap.mmap(fd, size) as m:
            m[offset:end] = data
            m.flush()
        self.model[offset:end] = data

    def sync(self, fd, _offset, _length):
        os.fsync(fd)

    def run(self, steps):
        for _ in range(steps):
            self.step()
        for fd in self.fds:
            self.check(fd, 0, MAX_SIZE * 2)
