#!/usr/bin/env python3
"""Benchmarks: each figure beside its reference, measured in turns in one run, medians, printed as a ratio. Machines are
shared and noisy: read the ratios. usage: sudo benchmarks/run.py [--rounds N] [--iscsi] [--json]"""
import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(HERE)
BUILD = os.environ.get("HOLDFAST_BUILD", os.path.join(ROOT, "build"))
sys.path[:0] = [os.path.join(ROOT, "tools", "lab")]
os.environ.setdefault("HOLDFAST_BIN", os.path.join(BUILD, "bin"))
from lablib.lab import Lab  # noqa: E402
from lablib.run import binary, run, wait_until  # noqa: E402


def timed(count, function):
    begun = time.perf_counter()
    for i in range(count):
        function(i)
    return count / (time.perf_counter() - begun)


def create_rate(folder, count=1500):
    def create(i):
        os.close(os.open(f"{folder}/c{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    return timed(count, create)


def unlink_rate(folder, count=1500):
    return timed(count, lambda i: os.unlink(f"{folder}/c{i}"))


def stat_rate(folder, count=20000):
    open(f"{folder}/warm", "w").close()
    os.stat(f"{folder}/warm")
    rate = timed(count, lambda i: os.stat(f"{folder}/warm"))
    os.unlink(f"{folder}/warm")
    return rate


def write_fsync_rate(path, count=300):
    block = os.urandom(4096)
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    def step(i):
        os.pwrite(fd, block, 4096 * (i % 256))
        os.fsync(fd)
    rate = timed(count, step)
    os.close(fd)
    return rate


def stream_write(path, megabytes=128):
    block = os.urandom(1 << 20)
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    begun = time.perf_counter()
    for _ in range(megabytes):
        os.write(fd, block)
    os.fsync(fd)
    rate = megabytes / (time.perf_counter() - begun)
    os.close(fd)
    return rate


def stream_read(path, megabytes=128):
    """Sequential, buffered, from the disk: the kernel's pages of the file are dropped before."""
    if not os.path.exists(path) or os.path.getsize(path) < megabytes << 20:
        stream_write(path, megabytes)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    while os.read(fd, 1 << 20):
        pass
    rate = megabytes / (time.perf_counter() - begun)
    os.close(fd)
    return rate


def raw_fsync_rate(folder):
    """fio on the raw file: 4 KiB, O_DIRECT, one fdatasync each: the disk's own floor."""
    out = run(["fio", "--name=raw", f"--filename={folder}/raw", "--size=64M", "--bs=4k", "--rw=randwrite", "--direct=1", "--ioengine=libaio",
               "--iodepth=1", "--fdatasync=1", "--runtime=2", "--time_based", "--output-format=json"], timeout=60)
    return json.loads(out)["jobs"][0]["write"]["iops"]


def raw_stream(folder, way="write"):
    out = run(["fio", "--name=raw", f"--filename={folder}/rawseq", "--size=128M", "--bs=1M", f"--rw={way}", "--direct=1", "--ioengine=libaio",
               "--iodepth=4", "--end_fsync=1", "--output-format=json"], timeout=60)
    return json.loads(out)["jobs"][0][way]["bw"] / 1024


def stream_rows(row, rounds, folder, alone, empty):
    """In turns: ours, the empty FUSE server (memory: what the kernel's side costs), the disk."""
    for way, rate in (("write + fsync", stream_write), ("read", stream_read)):
        ours, fuse, raw = [], [], []
        for _ in range(rounds):
            ours.append(rate(f"{alone}/stream"))
            fuse.append(rate(f"{empty}/stream"))
            raw.append(raw_stream(folder, way.split()[0]))
        row(f"1 MiB stream {way}, one node", "MiB/s", ours, raw, "fio on the raw file")
        row(f"1 MiB stream {way}, one node", "MiB/s", ours, fuse, "empty FUSE server (memory)")
    os.unlink(f"{empty}/stream")


@contextlib.contextmanager
def empty_server(folder):
    mount = os.path.join(folder, "empty")
    os.makedirs(mount)
    server = subprocess.Popen([os.path.join(BUILD, "benchmarks", "empty_fuse"), mount])
    wait_until("the empty server's mount", lambda: os.path.ismount(mount), 10)
    try:
        yield mount
    finally:
        run(["umount", "-l", mount], check=False)
        server.wait(10)


@contextlib.contextmanager
def standalone(folder):
    image, mount = os.path.join(folder, "alone.img"), os.path.join(folder, "alone")
    os.makedirs(mount)
    with open(image, "wb") as f:
        f.truncate(2 << 30)
    run([binary("mkfs.holdfast"), "-q", image])
    state = os.path.join(folder, "alone-state")
    os.makedirs(state, mode=0o700)
    run([binary("mount.holdfast"), image, mount, "-o", f"lockproto=nolock,state-dir={state},run-dir={state}"])
    try:
        yield mount
    finally:
        run(["umount", mount], check=False, timeout=120)


def hand_over(a, b, rounds=100):
    """One file written by two nodes in turns: microseconds per hand-over (write here, then there)."""
    fds = [os.open(f"{m}/pingpong", os.O_CREAT | os.O_RDWR, 0o644) for m in (a, b)]
    block = os.urandom(4096)
    begun = time.perf_counter()
    for i in range(rounds):
        os.pwrite(fds[i % 2], block, 0)
    took = (time.perf_counter() - begun) / rounds * 1e6
    for fd in fds:
        os.close(fd)
    return took


def remote_lock(a, b, rounds=150):
    """First use on one node of a file that another node made: one remote lock and one uncached stat. Microseconds."""
    names = [f"lock{time.monotonic_ns()}-{i}" for i in range(rounds)]
    os.makedirs(f"{a}/locks", exist_ok=True)
    for name in names:
        open(f"{a}/locks/{name}", "w").close()
    os.listdir(f"{b}/locks")
    begun = time.perf_counter()
    for name in names:
        os.stat(f"{b}/locks/{name}")
    return (time.perf_counter() - begun) / rounds * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iscsi", action="store_true", help="the cluster's volume behind tgt")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []

    def row(what, unit, ours, reference, reference_name):
        m, r = statistics.median(ours), statistics.median(reference)
        rows.append({"what": what, "unit": unit, "holdfast": m, "reference": r, "reference_name": reference_name, "ratio": m / r})

    folder = tempfile.mkdtemp(prefix="holdfast-bench-")
    lab = Lab(os.path.join(folder, "lab"))
    try:
        with empty_server(folder) as empty, standalone(folder) as alone:
            for what, rate in (("create", create_rate), ("unlink", unlink_rate), ("stat, warm", stat_rate)):
                ours, reference = [], []
                for i in range(args.rounds):
                    for mount, list_ in ((alone, ours), (empty, reference)):
                        if what == "unlink":
                            create_rate(mount)
                        list_.append(rate(mount))
                        if what == "create":
                            unlink_rate(mount)
                row(f"{what}, one node", "1/s", ours, reference, "empty FUSE server")
            row("4 KiB write + fsync, one node", "1/s", [write_fsync_rate(f"{alone}/sync") for _ in range(args.rounds)],
                [raw_fsync_rate(folder) for _ in range(args.rounds)], "fio on the raw file")
            stream_rows(row, args.rounds, folder, alone, empty)
        lab.up(2, "2G", args.iscsi, False)
        a, b = (n.mount for n in lab.nodes())
        ping = [float(run([os.path.join(BUILD, "benchmarks", "zmq_ping")])) for _ in range(args.rounds)]
        row("remote lock (first stat of another node's file)", "us", [remote_lock(a, b) for _ in range(args.rounds)], ping, "bare ZeroMQ round trip")
        row("two-node hand-over of one dirty file", "us", [hand_over(a, b) for _ in range(args.rounds)], ping, "bare ZeroMQ round trip")
        with empty_server(os.path.join(folder, "lab")) as empty:
            row("create, one of two nodes", "1/s", [create_and_remove(a) for _ in range(args.rounds)],
                [create_and_remove(empty) for _ in range(args.rounds)], "empty FUSE server")
    finally:
        lab.down()
        shutil.rmtree(folder, ignore_errors=True)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'':50}{'holdfast':>12}{'reference':>12}  {'ratio':>7}  against (medians of {args.rounds})")
    for r in rows:
        print(f"{r['what']:50}{r['holdfast']:>12.0f}{r['reference']:>12.0f}  {r['ratio']:>7.2f}  {r['reference_name']}, {r['unit']}")


def create_and_remove(mount):
    rate = create_rate(mount)
    unlink_rate(mount)
    return rate


if __name__ == "__main__":
    main()
