"""How long has the machine itself kept us waiting? Limits in seconds are for a machine that gives its processors to those who want
them. A thread that asks for a short sleep again and again, and for a block on stable storage, measures what it gets: on a quiet
machine that adds up to nothing, on a shared one it is the part of the time that the others have had."""
import os
import tempfile
import threading
import time

SLEEP_SECONDS = 0.02
USUAL_SECONDS = 0.02        # how late a sleep, and a sync, may be without anything being amiss
SYNC_EVERY = 10


class Hiccups:
    def __init__(self):
        self._late = []     # (when it was over in ns, seconds)
        threading.Thread(target=self._measure, daemon=True).start()

    def _measure(self):
        with tempfile.TemporaryFile() as f:
            rounds = 0
            while True:
                begun = time.monotonic()
                time.sleep(SLEEP_SECONDS)
                late = time.monotonic() - begun - SLEEP_SECONDS
                rounds += 1
                if rounds % SYNC_EVERY == 0:
                    os.pwrite(f.fileno(), bytes(4096), 0)
                    os.fdatasync(f.fileno())
                    late = time.monotonic() - begun - SLEEP_SECONDS
                if late > USUAL_SECONDS:
                    self._late.append((time.monotonic_ns(), late))

    def since(self, begun_ns):
        """Seconds that were withheld from then to now."""
        return sum(late for when, late in self._late if when >= begun_ns)
