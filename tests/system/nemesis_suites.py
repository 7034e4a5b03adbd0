"""Public test suites as applications of the nemesis: each goes round in a folder of its own, with its own verification. A run
that is cut short by the loss of its node is no failure; a run that passes is a promise kept; one that finds other data than it
wrote, hangs, or fails on a node that lives, is."""
import ctypes
import errno
import os
import re
import shutil
import signal
import subprocess
import time

HANGS_SECONDS = 300     # of a run that takes seconds on a quiet machine
FULL = re.compile(r"No space left|ENOSPC|errno=28\b|Disk quota")
# What fio and stress-ng say of data that is not what they wrote. (An I/O error of a dead mount reads otherwise.)
CORRUPT = re.compile(r"verify: bad|verify: .*failed|bad magic header|bad header|hdr_fail|Invalid or incomplete multibyte"
                     r"|data does not match|data mismatch|incorrect data|does not match expected|checksum mismatch")
libc = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def die_with_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Corrupt(Exception):
    pass


def run_suite(argv, folder, stopping):
    """One run. OSError: EIO when it failed, ENOSPC when there was no room. Corrupt: it found what it had not written."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder, exist_ok=True)
    process = subprocess.Popen(argv, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, errors="replace", start_new_session=True, preexec_fn=die_with_parent)
    begun = time.monotonic()
    while True:
        try:
            output = process.communicate(timeout=0.2)[0]
            break
        except subprocess.TimeoutExpired:
            if stopping():
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                shutil.rmtree(folder, ignore_errors=True)
                return False
            if time.monotonic() - begun > HANGS_SECONDS:
                os.killpg(process.pid, signal.SIGKILL)
                raise OSError(errno.ETIMEDOUT, f"{argv[0]} has not ended in {HANGS_SECONDS} s") from None
    words = " | ".join(output.strip().splitlines()[-12:])[-1500:]
    if CORRUPT.search(output):
        raise Corrupt(f"{argv[0]}: {words}")
    if FULL.search(output):
        raise OSError(errno.ENOSPC, words)
    if process.returncode != 0:
        raise OSError(errno.EIO, f"{argv[0]} ended with {process.returncode}: {words}")
    shutil.rmtree(folder)
    return True


def fio(folder, n):
    """Random and sequential writes through pages, mappings and directly, each block with a checksum; read and compared."""
    engine, more = [("psync", []), ("mmap", []), ("libaio", ["--direct=1", "--iodepth=8"]), ("psync", ["--fsync=16"])][n % 4]
    return ["fio", "--name=v", f"--directory={folder}", f"--rw={['randwrite', 'write', 'randrw'][n % 3]}", "--size=12M",
            "--bsrange=4k-64k" if engine != "mmap" else "--bs=4k", "--blockalign=4k", f"--ioengine={engine}", "--verify=crc32c",
            "--do_verify=1", "--verify_fatal=1", "--numjobs=2", f"--randseed={n + 1}", *more]


def stress_ng(folder, n):
    """The file classes, three or four kinds at a time, with --verify."""
    rounds = ["--hdd 1 --hdd-bytes 8M --rename 1 --link 1 --symlink 1", "--dentry 1 --dir 1 --xattr 1 --utime 1",
              "--fallocate 1 --fallocate-bytes 16M --flock 1 --lockf 1 --filename 1",
              "--seek 1 --seek-size 8M --fcntl 1 --lockofd 1"]
    return ["stress-ng", "--temp-path", folder, "--timeout", "4s", "--verify", *rounds[n % len(rounds)].split()]


def dbench(folder, _n):
    """The file operations of an office's day; it stops at the first answer that it does not expect."""
    return ["dbench", "-D", folder, "-t", "4", "2"]


SUITES = {"fio": fio, "stress-ng": stress_ng, "dbench": dbench}
