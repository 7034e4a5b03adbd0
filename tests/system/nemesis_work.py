"""The applications of the nemesis (nemesis_worker.py): which run where, what each was promised, whether it was kept.
An epoch is a folder of its own and a set of kinds; every node runs all of them, so that every kind meets itself elsewhere."""
import collections
import hashlib
import os
import sqlite3
import struct
import sys
import time

from nemesis_suites import SUITES
from promises import Failed, Worker

HERE = os.path.dirname(os.path.realpath(__file__))
BLOCK = 4096
ALL_KINDS = ["files", "append", "sqlite", "dance", "counter", "exclusive", "mapped", "blob", "churn"]
WRONG = 3


class App(Worker):
    """In its node's cgroup: what takes the node takes its applications at the same moment."""

    def __init__(self, node, kind, folder, serial, pace):
        self.home, self.kind_name, self.serial = node.name, kind, serial
        self.name = f"{node.name}.{serial}"
        argv = ["sh", "-c", 'echo $$ > "$1" && shift && exec "$@"', "sh", node.cgroup.file("cgroup.procs"),
                sys.executable, os.path.join(HERE, "nemesis_worker.py"), kind, folder, self.name, str(pace)]
        self.verified = 0   # how many of its promises have been looked at
        self.killed = False
        self.is_suite = kind in SUITES
        self.steady = not self.is_suite and kind != "sqlite"  # SQLite polls its lock: who waits has no place in a queue
        super().__init__(folder, node.name, kind, argv)

    def ended(self):
        return self.process.poll() is not None

    def words(self):
        """Why it ended; only of one that has."""
        text = self.process.stderr.read().strip().splitlines()
        return text[-1] if text else f"exit status {self.process.returncode}"


class Epoch:
    def __init__(self, number, kinds, pace):
        self.number, self.kinds, self.pace = number, kinds, pace
        self.apps = []       # running, and ended ones with their promises
        self.folder_name = f"e{number}"

    def folder(self, node):
        return os.path.join(node.mount, self.folder_name)

    def prepare(self, node):
        os.makedirs(self.folder(node), exist_ok=True)
        if "sqlite" in self.kinds:
            db = sqlite3.connect(os.path.join(self.folder(node), "shared.db"))
            db.execute("PRAGMA synchronous=EXTRA")
            db.execute("CREATE TABLE IF NOT EXISTS event (node TEXT, number INTEGER, text TEXT, PRIMARY KEY (node, number))")
            db.execute("CREATE TABLE IF NOT EXISTS counter (value INTEGER)")
            if not db.execute("SELECT count(*) FROM counter").fetchone()[0]:
                db.execute("INSERT INTO counter VALUES (0)")
            db.commit()
            db.close()
        fd = os.open(self.folder(node), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    def start(self, node, serials):
        started = [App(node, kind, self.folder(node), next(serials), self.pace) for kind in self.kinds]
        self.apps += started
        return started

    def running(self, *names):
        return [a for a in self.apps if a.node in names and not a.killed and not a.asked]

    def passed(self):
        """How often each public suite has passed."""
        return collections.Counter(words[1] for app in self.apps for _, words in list(app.promises) if words[0] == "pass")

    # --- the end of applications ---------------------------------------------------------------------------------

    def end(self, *names, seconds=60):
        """They end by themselves, in order, after the step they are at."""
        mine = self.running(*names)
        limit = time.monotonic() + seconds
        for app in mine:
            while not app.promises and not app.ended() and time.monotonic() < limit:
                time.sleep(0.02)  # an interpreter that has not begun would just die of the signal
            app.ask_to_end()
        for app in mine:
            app.finish(seconds=seconds)

    def bury(self, *names, by_itself=False, seconds=30):
        """The node's applications are gone, or (by_itself) must end now with an error: nothing may hang on a dead mount."""
        for app in self.running(*names):
            if by_itself:
                end = time.monotonic() + seconds
                while not app.ended() and time.monotonic() < end:
                    time.sleep(0.02)
                if not app.ended():
                    raise Failed(f"{app.kind} on {app.node} still runs (or hangs) {seconds} s after its mount has ended")
            app.kill()
            app.killed = True
            app.finish(killed=True, seconds=20)
            if app.process.returncode == WRONG:
                raise Failed(f"{app.kind} on {app.node} ({app.name}): {app.words()}")

    def cleanup(self):
        for app in self.apps:
            app.kill()

    # --- verification --------------------------------------------------------------------------------------------

    def verify(self, node, everything=False):
        """Every promise made until now (only the new ones, unless everything), read through one node. Returns a count."""
        fresh = collections.defaultdict(list)  # what -> [(app, words)]
        todo = []
        for app in self.apps:
            upto = len(app.promises)
            begin = 0 if everything else app.verified
            for _, words in app.promises[begin:upto]:
                fresh[words[0]].append((app, words[1:]))
            todo.append((app, upto))
        checks = {"file": self._files, "line": self._lines, "row": self._rows, "at": self._dance, "count": self._counter,
                  "won": self._won, "slot": self._slots, "blob": self._blobs}
        for what, check in checks.items():
            if fresh[what]:
                check(node, fresh[what])
        for app, upto in todo:
            app.verified = upto
        return sum(len(v) for k, v in fresh.items() if k in checks)

    def _broken(self, app, node, words):
        raise Failed(f"{app.kind} of {app.name}, looked at on {node.name}: {words}")

    def _read(self, node, *parts):
        with open(os.path.join(self.folder(node), *parts), "rb") as f:
            return f.read()

    def _files(self, node, promises):
        for app, (path, digest) in promises:
            try:
                got = self._read(node, path)
            except OSError as error:
                self._broken(app, node, f"acknowledged file: {error}")
            if hashlib.sha256(got).hexdigest() != digest:
                self._broken(app, node, f"{path} has {len(got)} bytes that are not what was acknowledged: {got[:60]!r}")

    def _lines(self, node, promises):
        lines = self._read(node, "journal.log").split(b"\n")
        present = {hashlib.sha256(line).hexdigest() for line in lines}
        for app, (digest,) in promises:
            if digest not in present:
                self._broken(app, node, "an acknowledged line is not there")

    def _rows(self, node, promises):
        db = sqlite3.connect(f"file:{self.folder(node)}/shared.db?mode=rw", uri=True, timeout=120, isolation_level=None)
        try:
            db.execute("BEGIN")
            verdict = db.execute("PRAGMA integrity_check").fetchone()[0]
            stored = set(db.execute("SELECT node, number FROM event"))
            counter = db.execute("SELECT value FROM counter").fetchone()[0]
            db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise Failed(f"sqlite on {node.name}: {error}") from None
        finally:
            db.close()
        if verdict != "ok" or counter != len(stored):
            raise Failed(f"sqlite on {node.name}: {verdict}; the counter says {counter}, there are {len(stored)} rows")
        for app, (name, number) in promises:
            if (name, int(number)) not in stored:
                self._broken(app, node, f"acknowledged row {number} is not there")

    def _dance(self, node, promises):
        last = {app: int(words[1]) for app, words in promises}
        for app, turn in last.items():
            if not app.ended():
                continue  # it moves while we look
            turn = max(int(w[2]) for _, w in app.promises if w[0] == "at")
            places = [i for i in range(3) if os.path.lexists(os.path.join(self.folder(node), "dance", str(i), app.name))]
            if places not in ([turn % 3], [(turn + 1) % 3]):
                self._broken(app, node, f"its file is in folders {places}; turn {turn} was acknowledged: {turn % 3} or the next")
            content = self._read(node, "dance", str(places[0]), app.name)
            if not content.startswith(app.name.encode() + b" 0 "):
                self._broken(app, node, f"its file has another content: {content[:40]!r}")

    def _counter(self, node, promises):
        now = int(self._read(node, "counter"))
        seen = {}
        for app in self.apps:
            for _, words in list(app.promises):
                if words[0] != "count":
                    continue
                value = int(words[1])
                if value in seen:
                    self._broken(app, node, f"{value} was given to {seen[value]} too")
                seen[value] = app.name
        top = max(int(words[0]) for _, words in promises)
        if now < top:
            self._broken(promises[0][0], node, f"the counter is {now}, {top} was acknowledged")

    def _won(self, node, promises):
        for app, (number, name) in promises:
            try:
                got = self._read(node, "exclusive", f"{int(number):06d}")
            except OSError as error:
                self._broken(app, node, f"acknowledged name: {error}")
            if got != name.encode():
                self._broken(app, node, f"{number} was made by it with O_EXCL and synced, but holds {got[:40]!r}")

    def _slots(self, node, promises):
        data = self._read(node, "mapped")
        for app, (slot, value) in promises:
            got = struct.unpack_from("<Q", data, int(slot))[0]
            if got < int(value):
                self._broken(app, node, f"slot {slot} holds {got}, {value} was acknowledged")

    def _blobs(self, node, promises):
        promised = {}
        for app in self.apps:
            for _, words in app.promises[:]:
                if words[0] == "void":
                    promised.pop(words[1], None)
                elif words[0] == "blob":
                    promised[words[1]] = (app, int(words[2]))
        touched = {words[0] for _, words in promises}
        for which, (app, version) in promised.items():
            if which in touched:
                self._blob(node, app, which, version)

    def _blob(self, node, app, which, version):
        data = self._read(node, "blob", which)
        whole = app.ended() or len(app.promises) == 0
        for index in range(len(data) // BLOCK):
            block = data[index * BLOCK:(index + 1) * BLOCK]
            words = block[:120].split(b" ")
            if len(words) < 4 or words[0] != which.encode() or int(words[2]) != index:
                if whole:
                    self._broken(app, node, f"block {index} of {which} is foreign: {block[:60]!r}")
                continue
            text = b" ".join(words[:3]) + b" "
            if hashlib.sha256(text).hexdigest().encode() != words[3][:64] or block[len(text) + 64:].strip(b".") != b"":
                if whole:
                    self._broken(app, node, f"block {index} of {which} is torn: {block[:100]!r}")
            elif int(words[1]) < version:
                self._broken(app, node, f"block {index} of {which} is of version {int(words[1])}, {version} was acknowledged")
        if whole and len(data) < 48 * BLOCK and not self._voided(app, which):
            self._broken(app, node, f"{which} has {len(data)} bytes of {48 * BLOCK}")

    @staticmethod
    def _voided(app, which):
        last = None
        for _, words in app.promises:
            if words[0] in ("void", "blob") and words[1] == which:
                last = words[0]
        return last == "void"
