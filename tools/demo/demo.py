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
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BIN = os.path.join(ROOT, "build", "bin")
STALL_LIMIT_SECONDS = 5.0


class Failed(Exception):
    pass


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


class Worker:
    """One application; collects what it was promised."""

    def __init__(self, lab, node, kind):
        self.node, self.kind = node, kind
        self.promises = []  # (time_ns, [what, arguments...])
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "worker.py"), kind, os.path.join(lab, node, "mnt"), node],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self._collect, daemon=True)
        self.thread.start()

    def _collect(self):
        for line in self.process.stdout:
            words = line.split()
            if len(words) >= 3 and words[1] == "ok":
                self.promises.append((int(words[0]), words[2:]))

    def finish(self, killed=False, seconds=60):
        if not killed and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"the {self.kind} application on {self.node} hangs") from None
        self.thread.join(10)
        if code != 0 and not killed:
            raise Failed(f"the {self.kind} application on {self.node} failed:\n{self.process.stderr.read().strip()}")

    def longest_gap(self, since_ns, until_ns):
        times = [since_ns] + [t for t, _ in self.promises if since_ns <= t <= until_ns] + [until_ns]
        return max(b - a for a, b in zip(times, times[1:])) / 1e9


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


def verify(mount, workers, survivors_view):
    """Every promise, read through another node's mount."""
    files = lines = rows = 0
    with open(os.path.join(mount, "journal.log"), "rb") as f:
        present = {hashlib.sha256(line).hexdigest() for line in f.read().splitlines(keepends=True)}
    db = sqlite3.connect(f"file:{mount}/shared.db?mode=rw", uri=True, timeout=60)
    if db.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
        raise Failed("sqlite: the database is malformed")
    stored = {(node, number) for node, number in db.execute("SELECT node, number FROM event")}
    counter = db.execute("SELECT value FROM counter").fetchone()[0]
    if counter != len(stored):
        raise Failed(f"sqlite: the counter says {counter}, there are {len(stored)} rows: a transaction was torn")
    db.close()
    for worker in workers:
        for _, words in worker.promises:
            if words[0] == "file":
                with open(os.path.join(mount, words[1]), "rb") as f:
                    if hashlib.sha256(f.read()).hexdigest() != words[2]:
                        raise Failed(f"{words[1]}: acknowledged to {worker.node}, but its content is wrong on {survivors_view}")
                files += 1
            elif words[0] == "line":
                if words[2] not in present:
                    raise Failed(f"an appended line acknowledged to {worker.node} is not there on {survivors_view}")
                lines += 1
            else:
                if (words[1], int(words[2])) not in stored:
                    raise Failed(f"sqlite: row {words[2]} acknowledged to {words[1]} is not there on {survivors_view}")
                rows += 1
    return files, lines, rows


def prepare_database(mount):
    db = sqlite3.connect(os.path.join(mount, "shared.db"))
    db.execute("CREATE TABLE event (node TEXT, number INTEGER, text TEXT, PRIMARY KEY (node, number))")
    db.execute("CREATE TABLE counter (value INTEGER)")
    db.execute("INSERT INTO counter VALUES (0)")
    db.commit()
    db.close()


def await_promises(workers, count, seconds):
    end = time.monotonic() + seconds
    while any(len(w.promises) < count for w in workers):
        for w in workers:
            if w.process.poll() is not None:
                raise Failed(f"the {w.kind} application on {w.node} ended early:\n{w.process.stderr.read().strip()}")
        if time.monotonic() > end:
            slow = ", ".join(f"{w.kind} on {w.node}: {len(w.promises)}" for w in workers if len(w.promises) < count)
            raise Failed(f"too little progress in {seconds} s ({slow})")
        time.sleep(0.05)


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
    workers = [Worker(lab, n, kind) for n in nodes for kind in ("files", "append")]
    workers += [Worker(lab, n, "sqlite") for n in ("n1", "n2")]
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
            if w.process.poll() is None:
                w.process.send_signal(signal.SIGTERM)
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
