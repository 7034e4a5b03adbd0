#!/usr/bin/env python3
"""The nemesis: a lab of several nodes whose parts die, freeze, are cut off, run full and come back, in a sequence that a
seed chooses, while applications on all nodes work and are promised things. After each round: the survivors have gone on
within a limit, every promise is kept on a survivor, who was lost is back. At the end of each epoch (some rounds): all promises
on every node, clean stop, fsck. At the end: nothing is left over, and no process has grown.

usage: nemesis.py [--seed N] [--minutes M | --everyday] [--image|--iscsi] [--nodes 3..5] [--only|--but FAULT,..]
                  [--suites fio,stress-ng,dbench] [--rounds N] [--plan] [-v]
By default half of the time on an image file, half behind an iSCSI target. The same seed gives the same faults. --everyday: each
kind of fault once, behind the target. --suites: public test suites go round on every node meanwhile."""
import argparse
import collections
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time

import clusterlab
from clusterlab import ROOT, CaseFailed, LabError, fsck, lab, show_waits, wait_until
from nemesis_faults import EVERYDAY, FAULTS, choose
from nemesis_suites import SUITES
from nemesis_watch import Growth, explanation, leftovers
from nemesis_work import ALL_KINDS, Epoch
from promises import Failed

PROGRESS_SECONDS = 45      # a survivor that has not moved by then hangs
UNFAIR_SECONDS = 180       # the same for what is served in no order (SQLite) or takes long (a public suite)
NOTICED_SECONDS = 1.5      # a stall that the nodes should be able to explain
EXPLAIN_SECONDS = 5.0      # longer stalls are explained from what the nodes say that they wait for
STALL_SECONDS = 20.0       # the longest that any single fault may cost a survivor
ROUNDS_PER_EPOCH = 7
EVERYDAY_MINUTES = 8       # the longest that it may take, on a slow machine; it ends when each kind had its turn
GRACE_SECONDS = 200        # after its time a run has the rest of an epoch to end
PRELOAD = os.environ.get("SLOW_WRITE") or os.path.join(ROOT, "build", "tests", "system", "libslow_write.so")
CLOCK_PRELOAD = os.environ.get("STEP_CLOCK_LIBRARY") or os.path.join(ROOT, "build", "tests", "system", "libstep_clock.so")


class Run:
    def __init__(self, options, it, seed):
        self.options, self.lab, self.seed = options, it, seed
        self.names = [n.name for n in it.nodes()]
        self.iscsi = bool(it.settings["iscsi"])
        self.serials = itertools.count()
        self.epoch = None
        self.round = 0
        self.kills = 0
        self.stalls = []           # (seconds, round, fault)
        self.noticed = []          # of each stall that was looked into while it lasted: what the nodes said, or nothing
        self.passed = collections.Counter()
        self.promises = 0
        self.by_fault = {}
        self.growth = Growth()
        self.doing = "coming up"

    # --- small things --------------------------------------------------------------------------------------------

    def node(self, name):
        return self.lab.node(name)

    def pick(self, r):
        return r.choice(self.names)

    def say(self, words):
        if self.options.verbose:
            print(f"        {time.strftime('%H:%M:%S')} {words}", flush=True)

    def slow_writes(self, percent, ms):
        path = os.path.join(self.lab.directory, "slow")
        if not percent:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        with open(path + ".new", "w") as f:
            f.write(f"{percent} {ms}\n")
        os.rename(path + ".new", path)

    def states(self, name):
        status = self.node(name).status() or {}
        return {n["name"]: n["state"] for n in status.get("nodes", [])}

    def lost_members(self, among):
        """Whom the others have put out, as soon as they have."""
        found = []
        def decided():
            for name in among:
                status = self.node(name).status() or {}
                if status.get("quorate") is True and status.get("state") == "member":
                    out = [n["name"] for n in status["nodes"] if n["state"] != "member"]
                    if out:
                        found[:] = out
                        return True
            return False
        wait_until("the decision who stays", decided, 20)
        return found

    # --- progress ------------------------------------------------------------------------------------------------

    def progress(self, names, count, seconds, explain=True):
        """Every application of these nodes is promised `count` more things. Returns the longest gap of any of them."""
        apps = [a for a in self.epoch.running(*names) if a.steady]
        for a in self.epoch.running(*names):
            if a.ended():
                raise Failed(f"{a.kind} on {a.node} ({a.name}) ended: {a.words()}")
        begun = time.monotonic()
        begun_ns = time.monotonic_ns()
        before = {a: len(a.promises) for a in apps}
        explained = not explain
        next_look, reason, looked = NOTICED_SECONDS, None, False
        while True:
            behind = [a for a in apps if len(a.promises) < before[a] + count]
            for a in behind:
                if a.ended():
                    raise Failed(f"{a.kind} on {a.node} ({a.name}) ended: {a.words()}")
            if not behind:
                break
            waited = time.monotonic() - begun
            if waited > next_look and explain:
                reason = explanation(self.lab) or reason
                next_look = waited + 0.5
                looked = True
            if waited > EXPLAIN_SECONDS and not explained:
                explained = True
                names_behind = ", ".join(f"{a.kind} on {a.node}" for a in behind)
                print(f"    after {waited:.1f} s still without progress: {names_behind}", flush=True)
                show_waits(self.lab)
            if waited > seconds:
                raise Failed(f"no progress within {seconds} s: "
                             f"{', '.join(f'{a.kind} on {a.node} ({len(a.promises) - before[a]} of {count})' for a in behind)}")
            time.sleep(0.02)
        if looked:
            self.noticed.append(reason)
            self.say(f"a stall; the nodes say: {reason}")
        now = time.monotonic_ns()
        return max((a.longest_gap(begun_ns, now) for a in apps), default=0.0)

    # --- one round -----------------------------------------------------------------------------------------------

    def play(self, number, only):
        r = random.Random(f"{self.seed}/{number}")
        name = choose(self, r, number, only, self.options.everyday)
        pause = r.uniform(0.1, 1.0)
        looker, last = r.random(), r.random()
        details, act = FAULTS[name][0](self, r)
        self.round = number
        words = f"round {number}: {name} {' '.join(map(str, details))}".rstrip()
        if self.options.plan:
            print(words)
            return
        begun = time.monotonic()
        self.doing = words + ": before it"
        self.progress(self.names, 1, PROGRESS_SECONDS)
        time.sleep(pause)
        self.doing = words
        self.say(words)
        broken_ns = time.monotonic_ns()
        broken = act()
        if broken.loser:
            broken.lost = broken.loser()
            self.say(f"lost: {broken.lost}")
        left = [n for n in self.names if n not in broken.lost]
        stall = self.go_on(broken, left, broken_ns)
        if left and broken.back != "cold":
            self.doing = words + ": promises"
            self.promises += self.epoch.verify(self.node(left[int(looker * len(left))]))
        self.doing = words + ": mending"
        rest = broken.hold - (time.monotonic_ns() - broken_ns) / 1e9
        if rest > 0:
            time.sleep(rest)
        broken.mend()
        self.bring_back(broken, left)
        self.doing = words + ": promises after it"
        back = broken.lost or self.names
        self.promises += self.epoch.verify(self.node(back[int(last * len(back))]))
        self.all_members()
        self.growth.sample(self.lab)
        self.kills += FAULTS[name][3]
        self.by_fault.setdefault(name, []).append(stall)
        self.stalls.append((stall, number, name))
        print(f"    {words}: stall {stall:.2f} s, round {time.monotonic() - begun:.1f} s", flush=True)

    def go_on(self, broken, left, broken_ns):
        if not left:
            return 0.0
        gap = self.progress(left, 2, PROGRESS_SECONDS)
        now = time.monotonic_ns()
        steady = [a for a in self.epoch.running(*left) if a.steady]
        gap = max([gap] + [a.longest_gap(broken_ns, now) for a in steady])
        if gap > EXPLAIN_SECONDS:
            print(f"    a survivor stalled for {gap:.2f} s", flush=True)
        if gap > STALL_SECONDS:
            raise Failed(f"a survivor stalled for {gap:.2f} s")
        return gap

    def bring_back(self, broken, left):
        self.doing += ": back"
        lost = broken.lost
        self.epoch.bury(*lost, by_itself=broken.by_itself and broken.back != "after target")
        if broken.back == "cold":
            self.lab.start_all()
        elif broken.back == "remount":
            for name in lost:
                self.node(name).unmount(lazy=True)
                self.node(name).mount_volume()
        elif broken.back == "after target":
            self.after_target(lost)
        elif broken.back == "start":
            for name in lost:
                self.rejoin(name)
        for name in lost:
            self.epoch.start(self.node(name), self.serials)
        if lost:  # also: nobody is asked to end before he has begun
            self.progress(self.names, 1, PROGRESS_SECONDS)

    def rejoin(self, name):
        node = self.node(name)
        # What is left of its mount ends by itself; then it is started as after a boot.
        if node.cgroup.populated():
            wait_until(f"the end of {name}'s mount", lambda: not self.has_mount(node), 30)
        node.unmount(lazy=True)
        self.lab.start(name)

    @staticmethod
    def has_mount(node):
        for pid in node.cgroup.pids():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as f:
                if f.read().strip() == "mount.holdfast":
                    return True
        return False

    def after_target(self, names):
        """The reservations are gone with the old target: mounts withdraw, daemons register anew; then all mount again."""
        for name in names:
            wait_until(f"the end of {name}'s mount", lambda n=name: not self.has_mount(self.node(n)), 30)
        for name in names:
            self.node(name).unmount(lazy=True)
        for name in names:
            self.lab.start(name)

    def all_members(self):
        def settled():
            return all(set(self.states(n).values()) == {"member"} and len(self.states(n)) == len(self.names) for n in self.names)
        try:
            wait_until("all nodes being members", settled, 30, 0.2)
        except LabError:
            raise Failed(f"not all are members: {({n: self.states(n) for n in self.names})}") from None

    # --- epochs --------------------------------------------------------------------------------------------------

    def begin_epoch(self, number):
        r = random.Random(f"{self.seed}/epoch {number}")
        kinds = sorted(r.sample(ALL_KINDS, 6))
        old = self.epoch
        pace = r.choice([0.01, 0.05] if self.options.everyday or self.options.suites else [0.0, 0.01, 0.05])
        self.epoch = Epoch(number, kinds + self.options.suites, pace)
        self.doing = f"epoch {number}"
        node = self.node(self.pick(r))
        self.epoch.prepare(node)
        for n in self.lab.nodes():
            self.epoch.start(n, self.serials)
        if old:  # taking the last one away is load too
            remover = self.node(self.pick(r))
            self.remove_tree(old.folder(remover))
        print(f"  epoch {number}: {', '.join(kinds)}; pace {self.epoch.pace * 1000:.0f} ms", flush=True)

    @staticmethod
    def remove_tree(folder, seconds=120):
        process = subprocess.Popen(["rm", "-rf", folder], stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        if process.returncode is None:  # it ends with its mount
            raise Failed(f"taking away {folder} does not end in {seconds} s")
        if process.returncode != 0:
            raise Failed(f"taking away {folder}: {process.stderr.read().strip()[-300:]}")

    def end_epoch(self):
        self.doing = f"end of epoch {self.epoch.number}"
        self.unfair_ones_go_on()
        self.passed += self.epoch.passed()
        self.epoch.end(*self.names)
        for node in self.lab.nodes():
            self.promises += self.epoch.verify(node, everything=True)

    def unfair_ones_go_on(self):
        """Each SQLite is served once more, and each public suite has passed on some node."""
        begun = time.monotonic()
        waiting = {a: len(a.promises) for a in self.epoch.running(*self.names) if a.kind == "sqlite"}
        while True:
            behind = [f"{a.kind} on {a.node}" for a, count in waiting.items() if len(a.promises) <= count]
            behind += [suite for suite in self.options.suites if not self.epoch.passed()[suite]]
            if not behind:
                return
            if time.monotonic() > begun + UNFAIR_SECONDS:
                raise Failed(f"no progress within {UNFAIR_SECONDS} s: {', '.join(behind)}")
            self.progress(self.names, 0, PROGRESS_SECONDS)  # looks whether any has ended
            time.sleep(0.2)

    def stop_and_check(self):
        for node in self.lab.nodes():
            node.stop()
        fsck(self.lab)

    def go(self, end, rounds, only):
        number = 0
        while number < rounds and time.monotonic() < end:
            if number:
                self.lab.start_all()
            self.begin_epoch(number // ROUNDS_PER_EPOCH)
            for _ in range(ROUNDS_PER_EPOCH):
                if number >= rounds or time.monotonic() >= end:
                    break
                self.play(number, only)
                number += 1
            self.end_epoch()
            self.stop_and_check()

    def report(self):
        longest = max(self.stalls, default=(0.0, 0, "none"))
        print(f"  {len(self.stalls)} rounds, {self.kills} of them kills; {self.promises} promises verified; the longest stall "
              f"{longest[0]:.2f} s ({longest[2]})")
        silent = sum(not reason for reason in self.noticed)
        print(f"  {len(self.noticed)} waits were looked into after {NOTICED_SECONDS} s; holdfast status gave a reason for "
              f"{len(self.noticed) - silent}")
        if self.passed:
            print("  public suites that passed: " + ", ".join(f"{s} {n} times" for s, n in sorted(self.passed.items())))
        for name, stalls in sorted(self.by_fault.items()):
            stalls = sorted(stalls)
            middle = stalls[len(stalls) // 2]
            print(f"    {name:26} {len(stalls):3} times, stall median {middle:5.2f} s, longest {stalls[-1]:5.2f} s")
        self.growth.report()


def end_all(run):
    print(f"=== seed {run.seed}, {run.doing}: does not end; all nodes are killed", flush=True)
    show_waits(run.lab)
    for node in run.lab.nodes():
        node.cgroup.kill(meanwhile=node.abort_connection)


def one_life(options, iscsi, seed, end):
    print(f"{'iSCSI target' if iscsi else 'image file'}, {options.nodes} nodes, seed {seed}", flush=True)
    kwargs = {"preload": PRELOAD, "environment": {"SLOW_CONTROL": "%LAB%/slow"}} if iscsi else {}
    kwargs["node_environment"] = {"LD_PRELOAD": CLOCK_PRELOAD, "STEP_CLOCK": "%HOME%/clock"}
    with lab(options.nodes, size="1G", iscsi=iscsi, mount_options=options.mount_options, **kwargs) as it:
        run = Run(options, it, seed)
        # A call of ours that hangs in the kernel hears no alarm: it ends when the nodes do.
        last_resort = threading.Timer(end - time.monotonic() + GRACE_SECONDS, end_all, [run])
        last_resort.daemon = True
        last_resort.start()
        try:
            run.go(end, options.rounds, options.only)
            run.report()
            run.growth.check()
        except BaseException as error:
            print(f"=== seed {seed}, {'iscsi' if iscsi else 'image'}, {run.doing}: {error}", flush=True)
            raise
        finally:
            last_resort.cancel()
            if run.epoch:
                run.epoch.cleanup()
        directory, lab_id = it.directory, it.id
    left = leftovers(directory, lab_id)
    if left:
        raise CaseFailed(f"left over: {left}")


class Plan:
    """Stands in for a lab when only the sequence is wanted."""

    def __init__(self, nodes, iscsi):
        self.settings = {"iscsi": iscsi}
        self._nodes = [type("N", (), {"name": f"n{i + 1}"}) for i in range(nodes)]

    def nodes(self):
        return self._nodes


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seed", type=int, default=int(time.time()) // 86400)
    p.add_argument("--minutes", type=float, default=4)
    p.add_argument("--nodes", type=int, default=3, choices=[3, 4, 5])
    p.add_argument("--rounds", type=int, default=1 << 30, help="at most so many")
    p.add_argument("--only", default="", help="only these faults, with commas")
    p.add_argument("--but", default="", help="all but these")
    p.add_argument("--image", action="store_true")
    p.add_argument("--iscsi", action="store_true")
    p.add_argument("--everyday", action="store_true", help="each kind of fault once, behind a target; no limit of minutes")
    p.add_argument("--suites", default="", help=f"public suites that run meanwhile: {','.join(SUITES)}")
    p.add_argument("--mount-options", default="")
    p.add_argument("--plan", action="store_true", help="print the sequence of faults, do nothing")
    p.add_argument("-v", "--verbose", action="store_true")
    options = p.parse_args()
    if options.everyday:
        options.iscsi, options.rounds, options.minutes = True, min(options.rounds, len(EVERYDAY)), EVERYDAY_MINUTES
    options.suites = [w for w in options.suites.split(",") if w]
    for word in options.suites:
        if word not in SUITES:
            p.error(f"there is no suite '{word}'; there are: {', '.join(SUITES)}")
    options.only = [w for w in options.only.split(",") if w]
    if options.but:
        unwanted = options.but.split(",")
        options.only = [w for w in options.only or FAULTS if w not in unwanted]
    for word in options.only:
        if word not in FAULTS:
            p.error(f"there is no fault '{word}'; there are: {', '.join(FAULTS)}")
    return options


def main():
    options = parse()
    kinds = [False] if options.image else [True] if options.iscsi else [False, True]
    if options.plan:
        for iscsi in kinds:
            run = Run(options, Plan(options.nodes, iscsi), options.seed)
            for number in range(min(options.rounds, 60)):
                run.play(number, options.only)
        return 0
    clusterlab.limit(int(options.minutes * 60 + GRACE_SECONDS + 60))
    begun = time.monotonic()
    failed = 0
    for index, iscsi in enumerate(kinds):
        end = begun + options.minutes * 60 * (index + 1) / len(kinds)
        try:
            one_life(options, iscsi, options.seed, end)
        except (CaseFailed, LabError, Failed, OSError, subprocess.SubprocessError) as error:
            failed += 1
            print(f"FAILED  {'iscsi' if iscsi else 'image'}, seed {options.seed}: {error}", flush=True)
    signal.alarm(0)
    print(f"{len(kinds) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
