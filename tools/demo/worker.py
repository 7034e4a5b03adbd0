#!/usr/bin/env python3
"""One application on one node. Does work that must survive, and says on standard output what has been promised to it:
a line per acknowledged step, written only after fsync (or COMMIT) returned. The demonstration later checks every line.

usage: worker.py KIND MOUNT NAME     KIND: files | append | sqlite
lines: TIME_NS ok WHAT ARGUMENTS     (CLOCK_MONOTONIC, the same for all nodes of the lab)
"""
import hashlib
import os
import signal
import sqlite3
import sys
import time

stop = False


def on_term(*_):
    global stop
    stop = True


def say(*words):
    sys.stdout.write(f"{time.monotonic_ns()} ok {' '.join(map(str, words))}\n")
    sys.stdout.flush()


def record(name, number):
    text = f"{name} {number} "
    return (text + hashlib.sha256(text.encode()).hexdigest() * 4 + "\n").encode()


def files(mount, name):
    """Write, fsync, rename into a directory that all nodes share, fsync the directory."""
    shared = os.path.join(mount, "shared")
    os.makedirs(shared, exist_ok=True)
    number = 0
    while not stop:
        final = os.path.join(shared, f"{name}-{number:06d}")
        with open(final + ".tmp", "wb", buffering=0) as f:
            f.write(record(name, number))
            os.fsync(f.fileno())
        os.rename(final + ".tmp", final)
        directory = os.open(shared, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        say("file", os.path.relpath(final, mount), hashlib.sha256(record(name, number)).hexdigest())
        number += 1


def append(mount, name):
    """All nodes append to one file with O_APPEND."""
    fd = os.open(os.path.join(mount, "journal.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    number = 0
    while not stop:
        line = record(name, number)
        os.write(fd, line)
        os.fsync(fd)
        say("line", "journal.log", hashlib.sha256(line).hexdigest())
        number += 1


def sqlite(mount, name):
    """Two nodes share one SQLite database; every transaction is a true commit."""
    db = sqlite3.connect(os.path.join(mount, "shared.db"), timeout=60, isolation_level=None)
    # FULL does not sync the directory after the journal is unlinked: the end of the node could take the last COMMIT back.
    db.execute("PRAGMA synchronous=EXTRA")
    number = 0
    while not stop:
        try:
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO event (node, number, text) VALUES (?, ?, ?)", (name, number, record(name, number).decode()))
            db.execute("UPDATE counter SET value = value + 1")
            db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            if db.in_transaction:
                db.execute("ROLLBACK")
            continue
        say("row", name, number)
        number += 1
        time.sleep(0.02)  # SQLite polls its lock without a queue: without think time one node never meets a free moment


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, on_term)
    {"files": files, "append": append, "sqlite": sqlite}[sys.argv[1]](sys.argv[2], sys.argv[3])
