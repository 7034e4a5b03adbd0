"""The faults of the nemesis. Each is chosen and parameterised by the round's own random numbers before anything happens, so
that a seed gives the same sequence whatever the timing was. A fault's function breaks something and returns a Broken:
whose applications are lost, who must go on, and how it is mended."""
import os
import random
import signal
import time

from clusterlab import wait_until
from promises import Failed


class Broken:
    def __init__(self, lost=(), by_itself=False, mend=None, back="start", hold=0.0, loser=None):
        self.lost = list(lost)        # nodes whose applications are lost
        self.by_itself = by_itself    # they must end with an error, without being killed
        self.mend = mend or (lambda: None)
        self.back = back              # how a lost node comes back: start | remount | none
        self.hold = hold              # seconds that it lasts before it is mended, at least
        self.loser = loser            # who loses is decided by the cluster: () -> names


def node_processes(node, comm):
    found = []
    for pid in node.cgroup.pids():
        try:
            with open(f"/proc/{pid}/comm") as f:
                if f.read().strip() == comm[:15]:
                    found.append(pid)
        except OSError:
            pass
    if not found:
        raise Failed(f"{node.name} has no process {comm}")
    return found


def signal_all(node, comm, number):
    for pid in node_processes(node, comm):
        os.kill(pid, number)


# --- nodes ---------------------------------------------------------------------------------------------------------

def kill(run_, r):
    victim = run_.pick(r)
    return [victim], lambda: (run_.lab.kill(victim), Broken([victim]))[1]


def kill_two(run_, r):
    first, second = r.sample(run_.names, 2)
    gap = r.choice([0, 0, 0.05, 0.3, r.uniform(0, 3)])  # also amid the other's recovery
    def act():
        run_.lab.kill(first)
        time.sleep(gap)
        run_.lab.kill(second)
        return Broken([first, second])
    return [first, second, f"{gap:.2f} s apart"], act


def kill_all(run_, r):
    def act():
        for node in run_.lab.nodes():
            node.cgroup.adopt_users_of(node.mount)
        for node in run_.lab.nodes():
            node.cgroup.kill(meanwhile=node.abort_connection)
        for node in run_.lab.nodes():
            node.unmount(lazy=True)
        return Broken(run_.names, back="cold")
    return ["all"], act


def pause(run_, r):
    victim, seconds = run_.pick(r), r.uniform(2.5, 6)
    def act():
        run_.lab.pause(victim)
        return Broken([victim], by_itself=True, hold=seconds, mend=lambda: run_.lab.resume(victim))
    return [victim, f"{seconds:.1f} s"], act


def short_pause(run_, r):
    victim, seconds = run_.pick(r), r.uniform(0.1, 0.4)
    def act():
        run_.lab.pause(victim)
        time.sleep(seconds)
        run_.lab.resume(victim)
        return Broken()
    return [victim, f"{seconds:.2f} s"], act


def stop_and_start(run_, r):
    victim = run_.pick(r)
    def act():
        run_.epoch.end(victim)
        run_.node(victim).stop()
        return Broken([victim])
    return [victim], act


# --- parts of a node -----------------------------------------------------------------------------------------------

def holdfastd_alone(run_, r):
    victim = run_.pick(r)
    def act():
        signal_all(run_.node(victim), "holdfastd", signal.SIGKILL)
        return Broken([victim], by_itself=True)
    return [victim], act


def holdfastd_stands_still(run_, r):
    victim, seconds = run_.pick(r), r.uniform(2.5, 5)
    def act():
        pids = node_processes(run_.node(victim), "holdfastd")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        def go_on():
            for pid in pids:
                if os.path.exists(f"/proc/{pid}"):
                    os.kill(pid, signal.SIGCONT)
        return Broken([victim], by_itself=True, hold=seconds, mend=go_on)
    return [victim, f"{seconds:.1f} s"], act


def mount_alone(run_, r):
    victim = run_.pick(r)
    how = r.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])  # killed, or it crashes
    def act():
        signal_all(run_.node(victim), "mount.holdfast", how)
        return Broken([victim], by_itself=True, back="remount")
    return [victim, how.name], act


def mount_stands_still(run_, r):
    victim, seconds = run_.pick(r), r.uniform(0.5, 4)
    def act():
        pids = node_processes(run_.node(victim), "mount.holdfast")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        return Broken()
    return [victim, f"{seconds:.1f} s"], act


def mount_and_supervisor(run_, r):
    victim, first = run_.pick(r), r.choice(["mount.holdfast", "hf-supervisor"])
    def act():
        node = run_.node(victim)
        pids = node_processes(node, "mount.holdfast") + node_processes(node, "hf-supervisor")
        for pid in pids if first == "mount.holdfast" else reversed(pids):
            os.kill(pid, signal.SIGKILL)
        # Nobody is left who could end the connection: applications may wait until the mount point is detached.
        return Broken([victim], back="remount")
    return [victim, f"{first} first"], act


def supervisor_alone(run_, r):
    victim = run_.pick(r)
    def act():
        node = run_.node(victim)
        old = node_processes(node, "hf-supervisor")
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        def renewed():
            try:
                return not set(node_processes(node, "hf-supervisor")) & set(old)
            except Failed:
                return False
        wait_until(f"a new supervisor on {victim}", renewed, 15)
        return Broken()
    return [victim], act


def remount(run_, r):
    victim = run_.pick(r)
    def act():
        run_.epoch.end(victim)
        run_.node(victim).unmount()
        return Broken([victim], back="remount")
    return [victim], act


# --- network -------------------------------------------------------------------------------------------------------

def cut(run_, r, ways=("both",)):
    victim, way = run_.pick(r), r.choice(ways)
    others = ",".join(n for n in run_.names if n != victim)
    def act():
        if way == "to it":
            run_.lab.cut(others, victim, True)
        else:
            run_.lab.cut(victim, others, way == "from it")
        return Broken([victim], by_itself=True, mend=run_.lab.heal, hold=2)
    return [victim, way], act


def one_way_cut(run_, r):
    return cut(run_, r, ("to it", "from it"))


def cut_pair(run_, r):
    a, b = r.sample(run_.names, 2)
    one_way = r.random() < 0.5
    def loser():
        return run_.lost_members([n for n in run_.names])
    def act():
        run_.lab.cut(a, b, one_way)
        return Broken(loser=loser, by_itself=True, mend=run_.lab.heal, hold=2)
    return [a, "->" if one_way else "<->", b], act


def short_cut(run_, r):
    victim, seconds = run_.pick(r), r.uniform(0.1, 0.5)
    others = ",".join(n for n in run_.names if n != victim)
    def act():
        run_.lab.cut(victim, others, False)
        time.sleep(seconds)
        run_.lab.heal()
        return Broken()
    return [victim, f"{seconds:.2f} s"], act


# --- clocks --------------------------------------------------------------------------------------------------------

CLOCK_STEPS = [-86400 * 365 * 30, -86400, -3600, -7, 11, 3600, 86400, 86400 * 365 * 20]  # seconds


def loaded(pid, library):
    with open(f"/proc/{pid}/maps") as f:
        return library in f.read()


def clock_step(run_, r):
    """The wall clock of one node's processes leaps, and stays there. Nothing may be lost, wait or be fenced by that."""
    victim, steps = run_.pick(r), r.sample(CLOCK_STEPS, 2)
    def act():
        node = run_.node(victim)
        for comm in ("holdfastd", "mount.holdfast"):
            for pid in node_processes(node, comm):
                if not loaded(pid, "step_clock"):
                    raise Failed(f"{comm} of {victim} runs without the preload that steps its clock")
        path = os.path.join(node.mount, "clock")
        for step in steps:
            run_.lab.step_clock(victim, step)
            with open(path, "w"):
                pass
            os.utime(path)  # "now", by the server's clock
            error = os.stat(path).st_mtime - time.time() - step
            if abs(error) > 30:
                raise Failed(f"a file made after a step by {step} s is {error:.0f} s off: the step did not happen")
            os.unlink(path)
            time.sleep(1)
        return Broken()
    return [victim] + [f"{step:+} s" for step in steps], act


# --- storage -------------------------------------------------------------------------------------------------------

def full(run_, r):
    filler, killed = run_.pick(r), r.random() < 0.3
    def act():
        node = run_.node(filler)
        path = os.path.join(node.mount, "filler")
        with open(path, "wb") as f:
            free = os.statvfs(node.mount)
            size = free.f_bavail * free.f_frsize
            for part in (size - (16 << 20), 8 << 20, 1 << 20, 1 << 20):
                try:
                    os.posix_fallocate(f.fileno(), os.fstat(f.fileno()).st_size, max(part, 1 << 20))
                except OSError as error:
                    run_.say(f"fallocate of {part >> 20} MiB: {error.strerror}")
            f.seek(0, 2)
            try:
                for _ in range(4096):
                    f.write(b"f" * (256 << 10))
                    f.flush()
            except OSError as error:
                run_.say(f"full: {error.strerror}")
        time.sleep(1)
        if killed:
            run_.lab.kill(filler)
        def free_it():
            other = next(n for n in run_.lab.nodes() if n.mounted() and not (killed and n.name == filler))
            try:
                os.unlink(os.path.join(other.mount, "filler"))
            except FileNotFoundError:
                if not killed:
                    raise
        free_it()
        return Broken([filler] if killed else [])
    return [filler, "and killed" if killed else ""], act


def slow_writes(run_, r):
    percent, ms, victim = r.choice([5, 20, 100]), r.choice([20, 50, 200]), run_.pick(r)
    killed = r.random() < 0.5
    if percent == 100:
        ms = 20
    def act():
        run_.slow_writes(percent, ms)
        time.sleep(1)
        if killed:
            run_.lab.kill(victim)
        return Broken([victim] if killed else [], hold=2, mend=lambda: run_.slow_writes(0, 0))
    return [f"{percent}% by {ms} ms"] + ([f"kill of {victim}"] if killed else []), act


def storage_cut_short(run_, r):
    victim, seconds = run_.pick(r), r.uniform(0.2, 0.7)
    def act():
        run_.lab.cut_storage(victim)
        time.sleep(seconds)
        run_.lab.heal_storage(victim)
        return Broken()
    return [victim, f"{seconds:.2f} s"], act


def target_restart(run_, r):
    seconds = r.uniform(0, 1.5)
    def act():
        run_.lab.stop_target()
        time.sleep(seconds)
        run_.lab.start_target()
        return Broken(run_.names, by_itself=True, back="after target")
    return [f"{seconds:.1f} s away"], act


# name -> (function, weight, needs iscsi, counts as a kill round, fewest nodes)
FAULTS = {
    "kill": (kill, 6, False, True, 2),
    "kill two": (kill_two, 4, False, True, 3),
    "kill all": (kill_all, 1, False, True, 1),
    "pause": (pause, 3, False, False, 2),
    "short pause": (short_pause, 1, False, False, 1),
    "stop and start": (stop_and_start, 1, False, False, 2),
    "holdfastd alone": (holdfastd_alone, 2, False, True, 2),
    "holdfastd stands still": (holdfastd_stands_still, 2, False, False, 2),
    "mount alone": (mount_alone, 4, False, True, 2),
    "mount stands still": (mount_stands_still, 1, False, False, 1),
    "mount and supervisor": (mount_and_supervisor, 2, False, True, 2),
    "supervisor alone": (supervisor_alone, 1, False, False, 1),
    "umount and mount": (remount, 1, False, False, 2),
    "cut": (cut, 2, False, False, 3),
    "one-way cut": (one_way_cut, 2, False, False, 3),
    "cut of a pair": (cut_pair, 2, False, False, 3),
    "short cut": (short_cut, 1, False, False, 2),
    "clock step": (clock_step, 1, False, False, 1),
    "full": (full, 1, False, False, 2),
    "slow writes": (slow_writes, 2, True, False, 2),
    "short cut of the storage": (storage_cut_short, 1, True, False, 1),
    "target restart": (target_restart, 1, True, False, 1),
}


# Once each, in an order that the seed chooses: what every ./test goes through.
EVERYDAY = ["kill", "kill two", "pause", "holdfastd alone", "mount alone", "supervisor alone", "mount and supervisor", "cut",
            "one-way cut", "clock step", "full", "slow writes", "target restart"]


def choose(run_, r, number, only=(), everyday=False):
    """The fault of one round."""
    if everyday:
        order = list(EVERYDAY)
        random.Random(f"{run_.seed}/everyday").shuffle(order)
        return order[number]
    possible = [n for n, (_, _, iscsi, _, fewest) in FAULTS.items()
                if (run_.iscsi or not iscsi) and len(run_.names) >= fewest and (not only or n in only)]
    name = r.choices(possible, [FAULTS[n][1] for n in possible])[0]
    return name
