"""What the cluster's system tests share: a lab with a time limit that is taken down whatever happens, named cases, and
the closing line. Everything is found and ended by the lab's own ids."""
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(ROOT, "tools", "lab"), os.path.join(ROOT, "tools", "demo")]
os.environ.setdefault("HOLDFAST_BIN", os.path.join(ROOT, "build", "bin"))

from lablib.lab import Lab  # noqa: E402
from lablib.run import LabError, binary, run, tail, wait_until  # noqa: E402,F401

STALL_LIMIT_SECONDS = 5.0


class CaseFailed(Exception):
    pass


def expect(condition, words):
    if not condition:
        raise CaseFailed(words)


@contextlib.contextmanager
def lab(nodes=3, size="2G", **kwargs):
    """A running lab in a temporary folder; on failure its logs are shown before it goes."""
    folder = tempfile.mkdtemp(prefix="holdfast-test-")
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # some tests crash a mount
    it = Lab(folder)
    if kwargs.get("iscsi"):  # also without slow writes: it keeps tgt from a fault of its own (slow_write.cc)
        kwargs.setdefault("preload", os.environ.get("SLOW_WRITE"))
    try:
        it.up(nodes, size, kwargs.pop("iscsi", False), kwargs.pop("ipmi", False), **kwargs)
        yield it
    except BaseException as error:
        print(f"=== {type(error).__name__}: {error}", flush=True)
        show_waits(it)
        show_logs(it)
        raise
    finally:
        nodes_then = it.nodes()
        for node in nodes_then:
            with contextlib.suppress(OSError, LabError):
                node.cgroup.kill()
        it.down()
        shutil.rmtree(folder, ignore_errors=True)


def show_waits(it):
    """What every node says that it waits for, and where its processes are in the kernel."""
    for node in it.nodes():
        status = node.status() or {}
        waits = [f"{w.get('what')}: {w.get('on')} ({w.get('since_ms')} ms)" for w in find_waits(status)]
        owed = [v for space in status.get("lockspaces", []) for v in space.get("victims", [])]
        states = [f"{n.get('name')} {n.get('state')}" for n in status.get("nodes", [])]
        print(f"--- {node.name} nodes: {', '.join(states) or 'holdfastd does not answer'}; owed: {owed}; waits: {waits[:12]}",
              flush=True)
        for pid in node.cgroup.pids():
            with contextlib.suppress(OSError):
                print(f"    {pid} {' '.join(threads_of(pid))}", flush=True)


def find_waits(tree):
    """Every 'waiting' list in a status, wherever it stands."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from value if key == "waiting" and isinstance(value, list) else find_waits(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from find_waits(value)


def threads_of(pid):
    """Name, and state:place of each thread that does not merely sleep in poll or on a condition."""
    with open(f"/proc/{pid}/comm") as f:
        words = [f.read().strip()]
    for thread in sorted(os.listdir(f"/proc/{pid}/task"), key=int)[:40]:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/stat") as s, open(f"/proc/{pid}/task/{thread}/wchan") as w:
            state, place = s.read().rpartition(")")[2].split()[0], w.read()
            if state != "S" or not place.startswith(("ep_", "do_epoll", "futex_", "poll_", "do_poll", "do_sys_poll")):
                words.append(f"{state}:{place}")
    return words


def show_logs(it, lines=60):
    for node in it.nodes():
        for name in ("holdfastd.log", "mount.log"):
            text = tail(os.path.join(node.log, name), lines)
            if text:
                print(f"--- {node.name} {name}\n{text}", flush=True)


def fsck(it):
    """All nodes stopped; fsck -n must find nothing."""
    done = subprocess.run([binary("fsck.holdfast"), "-n", it.image], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=300)
    expect(done.returncode == 0, f"fsck exit code {done.returncode}: {done.stdout.strip()[-1500:]}")


def limit(seconds):
    """The whole script's time limit: clean-up still runs."""
    def expired(*_):
        raise CaseFailed(f"time limit of {seconds} s")
    signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def run_cases(cases, seconds_each=120):
    """cases: [(name, function)]; argv may name some of them. Prints a line per case and the closing line."""
    wanted = [a for a in sys.argv[1:] if not a.startswith("-")]
    passed = failed = 0
    for name, function in cases:
        if wanted and not any(w in name for w in wanted):
            continue
        limit(seconds_each)
        begun = time.monotonic()
        try:
            words = function()
            passed += 1
            print(f"ok      {name} ({time.monotonic() - begun:.1f} s){': ' + words if words else ''}", flush=True)
        except Exception as error:  # noqa: BLE001: every failure is a result here
            failed += 1
            print(f"FAILED  {name} ({time.monotonic() - begun:.1f} s): {error}", flush=True)
            if not isinstance(error, (CaseFailed, LabError)):
                traceback.print_exc()
        finally:
            signal.alarm(0)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0
