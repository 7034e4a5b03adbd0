#!/usr/bin/env python3
"""The demonstration: N nodes, one volume, one of them killed in the middle of its work.

Brings up a lab, lets every node write, rename and fsync in one tree (one of the applications a SQLite database shared by
two nodes), copies our own sources in on one node and checksums them on another, kills node 2 with kill -9, shows what the
survivors felt and what recovery did, verifies every record that was acknowledged before the kill, lets node 2 rejoin,
unmounts and runs fsck. Exit code 0 only if all of it held.
"""
import argparse
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

from promises import Failed, Worker, await_promises, prepare_database, verify

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BIN = os.environ.get("HOLDFAST_BIN") or os.path.join(ROOT, "build", "bin")
STALL_LIMIT_SECONDS = 5.0


def step(text):
    print(f"\n== {text}", flush=True)


def fact(text):
    print(f"   {text}", flush=True)


def call(*argv, timeout=120, check=True):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise Failed(f"'{' '.join(argv)}' ended with {done.returncode}:\n{done.stdout.strip()}")
    return done.stdout


def holdfast(*argv, **kwargs):
    return call(os.path.join(BIN, "holdfast"), *argv, **kwargs)


def tree_sums(top):
    sums = {}
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            with open(path, "rb") as f:
                sums[os.path.relpath(path, top)] = hashlib.sha256(f.read()).hexdigest()
    return sums


def copy_sources(destination):
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    names = listed.stdout.split() or [os.path.relpath(os.path.join(folder, name), ROOT)
                                      for top in ("base", "dlm", "fs", "cluster") for folder, _, found in os.walk(os.path.join(ROOT, top))
                                      for name in found]
    for name in names:
        target = os.path.join(destination, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(os.path.join(ROOT, name), target)
    return len(names)


def demonstrate(lab, args):
    nodes = [f"n{i}" for i in range(1, args.nodes + 1)]
    mounts = {n: os.path.join(lab, n, "mnt") for n in nodes}
    survivors = [n for n in nodes if n != "n2"]

    step(f"{args.nodes} nodes, one volume{' behind iSCSI' if args.iscsi else ''}")
    begun = time.monotonic()
    options = ["--nodes", str(args.nodes)] + (["--iscsi"] if args.iscsi else [])
    holdfast("lab", "up", lab, *options, timeout=300)
    fact(f"up and mounted on every node after {time.monotonic() - begun:.1f} s")
    print(holdfast("status", "--run-dir", os.path.join(lab, "n1", "run")).rstrip())

    step("one filesystem: a source tree copied in on n1, checksummed on the last node")
    count = copy_sources(os.path.join(mounts["n1"], "source"))
    if tree_sums(os.path.join(mounts["n1"], "source")) != tree_sums(os.path.join(mounts[nodes[-1]], "source")):
        raise Failed("the copies differ between nodes")
    fact(f"{count} files, the same bytes on n1 and {nodes[-1]}")

    step("every node writes, renames and fsyncs; n1 and n2 share a SQLite database")
    prepare_database(mounts["n1"])
    workers = [Worker(mounts[n], n, kind) for n in nodes for kind in ("files", "append")]
    workers += [Worker(mounts[n], n, "sqlite") for n in ("n1", "n2")]
    try:
        await_promises(workers, 10, 120)
        time.sleep(args.seconds)
        fact(f"{sum(len(w.promises) for w in workers)} acknowledged steps so far")

        step("kill -9 of node 2, in the middle of its work")
        killed_ns = time.monotonic_ns()
        holdfast("lab", "kill", lab, "n2")
        alive = [w for w in workers if w.node != "n2"]
        before = {w: len(w.promises) for w in alive}
        for w in workers:
            if w.node == "n2":
                w.finish(killed=True)
        end = time.monotonic() + 60
        while any(len(w.promises) < before[w] + 10 for w in alive):
            if time.monotonic() > end:
                print(holdfast("status", "--run-dir", os.path.join(lab, "n1", "run"), check=False))
                raise Failed("the survivors did not go on within 60 s of the kill")
            time.sleep(0.05)
        time.sleep(args.seconds)
    finally:
        for w in workers:
            w.ask_to_end()
    for w in workers:
        if w.node != "n2":
            w.finish()
    until_ns = time.monotonic_ns()
    stalls = {n: max(w.longest_gap(killed_ns - 10**9, min(until_ns, w.promises[-1][0])) for w in workers if w.node == n)
              for n in survivors}
    for n in survivors:
        fact(f"longest stall on {n}: {stalls[n]:.2f} s")
    if max(stalls.values()) > STALL_LIMIT_SECONDS:
        raise Failed(f"a survivor stalled for {max(stalls.values()):.2f} s; the limit is {STALL_LIMIT_SECONDS:.0f} s")

    step("what recovery did")
    print(holdfast("history", "--run-dir", os.path.join(lab, "n1", "run")).rstrip())

    step(f"every acknowledged record, read on {survivors[-1]}")
    files, lines, rows = verify(mounts[survivors[-1]], workers, survivors[-1])
    fact(f"{files} files, {lines} appended lines, {rows} database rows: all there")

    step("node 2 rejoins and sees everything")
    begun = time.monotonic()
    holdfast("lab", "start", lab, "n2")
    fact(f"back after {time.monotonic() - begun:.1f} s")
    verify(mounts["n2"], workers, "n2")
    if tree_sums(os.path.join(mounts["n2"], "source")) != tree_sums(os.path.join(mounts["n1"], "source")):
        raise Failed("n2 sees another source tree than n1")
    with open(os.path.join(mounts["n2"], "hello-from-n2"), "w") as f:
        f.write("back\n")
    if open(os.path.join(mounts["n1"], "hello-from-n2")).read() != "back\n":
        raise Failed("n1 does not see what n2 wrote after its return")
    fact("and n1 sees at once what it writes")


def check_volume(lab, args):
    step("unmount everywhere; fsck")
    config = json.load(open(os.path.join(lab, "lab.json")))
    for i in range(1, args.nodes + 1):
        holdfast("lab", "stop", lab, f"n{i}")
    done = subprocess.run([os.path.join(BIN, "fsck.holdfast"), "-n", config["image"]], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=600)
    print(done.stdout.rstrip())
    if done.returncode != 0:
        raise Failed(f"fsck found something (exit code {done.returncode})")


def next_things(lab):
    print(f"""
The cluster is up. Things to try, as root:
  cd {lab}/n1/mnt                      one of the mounts; {lab}/n2/mnt and n3/mnt are the same files
  {BIN}/holdfast status --run-dir {lab}/n1/run
  {BIN}/holdfast lab kill {lab} n2     kill -9 of a whole node; then status again, and:
  {BIN}/holdfast history --run-dir {lab}/n1/run
  {BIN}/holdfast lab start {lab} n2    it rejoins
  {BIN}/holdfast lab cut {lab} n1,n2 n3 ; {BIN}/holdfast lab heal {lab}
  {BIN}/holdfast lab down {lab}        the end of it""")


def main():
    parser = argparse.ArgumentParser(prog="demo", description="Three nodes, one volume, one kill -9.")
    parser.add_argument("--once", action="store_true", help="run it through, take it down, exit with 0 only if all held")
    parser.add_argument("--iscsi", action="store_true", help="use a real iSCSI target (tgt) instead of an image file")
    parser.add_argument("--nodes", type=int, default=3, help="2 to 16 (default 3)")
    parser.add_argument("--seconds", type=float, default=5, help="of work before and after the kill (default 5)")
    args = parser.parse_args()
    if not 2 <= args.nodes <= 16:
        parser.error("--nodes: 2 to 16")
    lab = tempfile.mkdtemp(prefix="holdfast-demo-")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    keep = False
    try:
        demonstrate(lab, args)
        if args.once:
            check_volume(lab, args)
            step("all held")
        else:
            keep = True
            next_things(lab)
        return 0
    except (Failed, OSError, sqlite3.Error, subprocess.TimeoutExpired) as error:
        print(f"\ndemo: FAILED: {error}", file=sys.stderr)
        for i in range(1, args.nodes + 1):
            for name in ("holdfastd.log", "mount.log"):
                path = os.path.join(lab, f"n{i}", "log", name)
                if os.path.exists(path):
                    print(f"--- n{i} {name}\n{call('tail', '-n', '15', path, check=False).rstrip()}", file=sys.stderr)
        return 1
    finally:
        if not keep:
            call(os.path.join(BIN, "holdfast"), "lab", "down", lab, timeout=180, check=False)
            shutil.rmtree(lab, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
