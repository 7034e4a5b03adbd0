"""Applications on nodes, what they were promised, and whether it was kept. For the demonstration and the system tests."""
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))


class Failed(Exception):
    pass


class Worker:
    """One application (worker.py, or argv) on one node; collects what it was promised."""

    def __init__(self, mount, node, kind, argv=None):
        self.node, self.kind = node, kind
        self.asked = False
        self.promises = []  # (time_ns, [what, arguments...])
        self.process = subprocess.Popen(
            argv or [sys.executable, os.path.join(HERE, "worker.py"), kind, mount, node],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self._collect, daemon=True)
        self.thread.start()

    def _collect(self):
        for line in self.process.stdout:
            words = line.split()
            if len(words) >= 3 and words[1] == "ok":
                self.promises.append((int(words[0]), words[2:]))

    def ask_to_end(self):
        """Once: a second SIGTERM can meet an interpreter that is already on its way out and has no handler any more."""
        if not self.asked and self.process.poll() is None:
            self.asked = True
            self.process.send_signal(signal.SIGTERM)

    def finish(self, killed=False, seconds=60):
        if not killed:
            self.ask_to_end()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"the {self.kind} application on {self.node} hangs") from None
        self.thread.join(10)
        if code != 0 and not killed:
            raise Failed(f"the {self.kind} application on {self.node} failed ({code}): {self.process.stderr.read().strip()}")

    def kill(self):
        """For clean-up; harmless when it has ended."""
        if self.process.poll() is None:
            self.process.kill()

    def longest_gap(self, since_ns, until_ns):
        times = [since_ns] + [t for t, _ in self.promises if since_ns <= t <= until_ns] + [until_ns]
        return max(b - a for a, b in zip(times, times[1:])) / 1e9


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


def verify(mount, workers, where):
    """Every promise, read through the mount of one node (`where` names it). Returns how many of each kind."""
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
                        raise Failed(f"{words[1]}: acknowledged to {worker.node}, but its content is wrong on {where}")
                files += 1
            elif words[0] == "line":
                if words[2] not in present:
                    raise Failed(f"an appended line acknowledged to {worker.node} is not there on {where}")
                lines += 1
            else:
                if (words[1], int(words[2])) not in stored:
                    raise Failed(f"sqlite: row {words[2]} acknowledged to {words[1]} is not there on {where}")
                rows += 1
    return files, lines, rows
