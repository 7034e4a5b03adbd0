"""Running commands: one place for errors, time limits and namespaces."""
import os
import subprocess
import sys
import time


class LabError(Exception):
    """Something that the user can act on; printed as one line."""


def run(argv, check=True, timeout=60, **kwargs):
    """Runs a command, returns its output. LabError with its last words if it fails."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout, **kwargs)
    except FileNotFoundError:
        raise LabError(f"{argv[0]} is not installed; tools/install-packages installs all that is needed") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"'{' '.join(argv)}' did not end in {timeout} s") from None
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise LabError(f"'{' '.join(argv)}' failed ({done.returncode}): {words[-1] if words else 'no message'}")
    return done.stdout


def wait_until(what, condition, seconds, poll=0.05):
    """Polls until condition() is true; LabError that names what did not happen."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise LabError(f"{what}: did not happen in {seconds} s")
        time.sleep(poll)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def tail(path, lines=5):
    try:
        with open(path, errors="replace") as f:
            return "".join(f.readlines()[-lines:]).rstrip()
    except OSError:
        return ""


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


def binary(name):
    """A program of ours: in $HOLDFAST_BIN, beside the script as it was called (build/bin/holdfast-lab), or in PATH."""
    folder = os.environ.get("HOLDFAST_BIN") or os.path.dirname(os.path.abspath(sys.argv[0]))
    candidate = os.path.join(folder, name)
    return candidate if os.path.exists(candidate) else name
