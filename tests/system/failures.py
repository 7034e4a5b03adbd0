#!/usr/bin/env python3
"""The scripted list of failures, on real processes. In each case applications on every node write and are promised things;
something dies or is cut; the survivors must go on, at default timeouts, within 5 s; every promise must be kept; one side
runs; nobody is fenced twice; after all nodes have stopped fsck finds nothing."""
import os
import signal
import subprocess
import sys
import time

from clusterlab import STALL_LIMIT_SECONDS, CaseFailed, expect, fsck, lab, run_cases
from hiccups import Hiccups
from promises import Failed, Worker, await_promises, prepare_database, verify

WORK_SECONDS = 1.5


def trace(words):
    if "-v" in sys.argv:
        print(f"        {time.strftime('%H:%M:%S')} {words}", flush=True)


class Scene:
    """A lab with an application mix on it."""

    def __init__(self, it, sqlite_nodes=("n1", "n2")):
        self.lab = it
        self.nodes = {n.name: n for n in it.nodes()}
        prepare_database(self.nodes["n1"].mount)
        self.workers = [Worker(n.mount, n.name, kind) for n in it.nodes() for kind in ("files", "append")]
        self.workers += [Worker(self.nodes[n].mount, n, "sqlite") for n in sqlite_nodes]
        trace("applications started")
        await_promises(self.workers, 5, 60)
        trace("all of them make progress")
        time.sleep(WORK_SECONDS)
        self.hiccups = Hiccups()
        self.broken_ns = time.monotonic_ns()

    def on(self, *names):
        return [w for w in self.workers if w.node in names]

    def dead(self, *names):
        """These nodes' applications are gone; forget their processes, keep their promises."""
        for worker in self.on(*names):
            worker.kill()
            worker.finish(killed=True)

    def survivors_go_on(self, *names, count=5, seconds=40):
        alive = self.on(*names)
        before = {w: len(w.promises) for w in alive}
        end = time.monotonic() + seconds
        while any(len(w.promises) < before[w] + count for w in alive):
            for w in alive:
                if w.process.poll() is not None:
                    raise CaseFailed(f"the {w.kind} application on {w.node} ended: {self.words(w)}")
            if time.monotonic() > end:
                raise CaseFailed(f"no progress on {', '.join(sorted({w.node for w in alive if len(w.promises) < before[w] + count}))} "
                                 f"within {seconds} s; status: {self.nodes[names[0]].status()}")
            time.sleep(0.02)

    @staticmethod
    def words(worker):
        return worker.process.stderr.read().strip()[-300:]

    def stall(self, *names):
        now = time.monotonic_ns()
        self.withheld = self.hiccups.since(self.broken_ns)
        return max(w.longest_gap(self.broken_ns - 500_000_000, min(now, w.promises[-1][0])) for w in self.on(*names))

    def expect_short(self, stall, limit=STALL_LIMIT_SECONDS):
        expect(stall <= limit + self.withheld, f"a survivor stalled for {stall:.2f} s; the limit is {limit:.0f} s, and "
                                               f"{self.withheld:.2f} s that the machine kept this process waiting")

    def end_work(self, *names):
        for w in self.on(*names):
            w.ask_to_end()
        for w in self.on(*names):
            w.finish()

    def verify(self, name):
        return verify(self.nodes[name].mount, self.workers, name)

    def stop_and_check(self):
        for node in self.lab.nodes():
            node.stop()
        fsck(self.lab)

    def cleanup(self):
        for w in self.workers:
            w.kill()

    def fencings(self, name):
        """How often each node was fenced, from the history."""
        return self.nodes[name].status().get("fencing", [])


def scene_case(function, nodes=3, **kwargs):
    def case():
        with lab(nodes, **kwargs) as it:
            scene = Scene(it)
            try:
                return function(scene)
            except Failed as error:
                raise CaseFailed(str(error)) from None
            finally:
                scene.cleanup()
    return case


def after_the_break(scene, gone, left, rejoin=True, stall_limit=STALL_LIMIT_SECONDS):
    """The common end: `left` go on, promises kept, `gone` come back and see all, fsck."""
    scene.dead(*gone)
    trace(f"{', '.join(gone)} gone")
    scene.survivors_go_on(*left)
    stall = scene.stall(*left)
    trace(f"the survivors go on after {stall:.2f} s")
    scene.end_work(*left)
    files, lines, rows = scene.verify(left[0])
    trace("promises verified")
    if rejoin:
        for name in gone:
            scene.lab.start(name)
            trace(f"{name} is back")
            scene.verify(name)
    scene.stop_and_check()
    trace("stopped, fsck")
    scene.expect_short(stall, stall_limit)
    return f"longest stall of a survivor {stall:.2f} s; {files} files, {lines} lines, {rows} rows verified"


def kill_of_a_writer(scene):
    scene.lab.kill("n2")
    return after_the_break(scene, ["n2"], ["n1", "n3"])


def kill_of_the_master_of_a_hot_lock(scene):
    # n3 made no file first; the shared files' masters are spread, and the hottest (journal.log, shared/) were first used on n1.
    scene.lab.kill("n1")
    return after_the_break(scene, ["n1"], ["n2", "n3"])


def kill_of_the_fencer(scene):
    # The fencer is the lowest living id: n1 fences n3, and dies as soon as it has been decided.
    scene.lab.kill("n3")
    end = time.monotonic() + 10
    while time.monotonic() < end:
        status = scene.nodes["n1"].status()
        if status and any(n.get("name") == "n3" and n.get("state") != "member" for n in status.get("nodes", [])):
            break
    else:
        raise CaseFailed("n3 was not evicted within 10 s of its death")
    scene.lab.kill("n1")
    return after_the_break(scene, ["n1", "n3"], ["n2"], stall_limit=2 * STALL_LIMIT_SECONDS)


def kill_of_the_replayer(scene):
    # The replayer is the lowest member left, on n1: it dies when the register shows that it has claimed the journal.
    scene.lab.kill("n3")
    end = time.monotonic() + 15
    while time.monotonic() < end:
        status = scene.nodes["n1"].status() or {}
        owed = [v for ls in status.get("lockspaces", []) for v in ls.get("victims", [])]
        if any(v.get("replayer") or v.get("replayed") for v in owed):
            break
        if not owed and any(n.get("name") == "n3" and n.get("state") == "fenced" for n in status.get("nodes", [])):
            break
    else:
        raise CaseFailed("nobody claimed the replay of n3's journal within 15 s")
    scene.lab.kill("n1")
    return after_the_break(scene, ["n1", "n3"], ["n2"], stall_limit=2 * STALL_LIMIT_SECONDS)


def processes_of(node, name):
    found = []
    for pid in node.cgroup.pids():
        with open(f"/proc/{pid}/comm") as f:
            if f.read().strip() == name[:15]:
                found.append(pid)
    return found


def argv_of(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as f:
        return f.read().decode(errors="replace").split("\0")


def mount_process(node, supervisor=False):
    """The FUSE server of a node, or its supervisor (which shows itself as such in its name)."""
    for pid in node.cgroup.pids():
        with open(f"/proc/{pid}/comm") as f:
            comm = f.read().strip()
        if (comm == "hf-supervisor") if supervisor else (comm == "mount.holdfast"):
            return pid
    raise CaseFailed(f"{node.name}: no {'supervisor' if supervisor else 'mount'} process among "
                     f"{[argv_of(p)[:1] for p in node.cgroup.pids()]}")


def kill_of_the_mount_alone(scene, others=()):
    os.kill(mount_process(scene.nodes["n2"]), signal.SIGKILL)
    # Its applications get errors; the node stays a member and is not fenced.
    scene.dead("n2")
    scene.survivors_go_on("n1", "n3")
    stall = scene.stall("n1", "n3")
    for process in others:
        process.kill()
        process.wait()
    scene.end_work("n1", "n3")
    scene.verify("n1")
    status = scene.nodes["n1"].status()
    state = [n["state"] for n in status["nodes"] if n["name"] == "n2"]
    expect(state == ["member"], f"n2 lost only its mount, but is {state}")
    scene.nodes["n2"].unmount(lazy=True)
    scene.nodes["n2"].mount_volume()
    scene.verify("n2")
    scene.stop_and_check()
    scene.expect_short(stall)
    return f"longest stall of a survivor {stall:.2f} s; the node stayed a member"


CREATOR = """
import os, sys
folder, name = sys.argv[1:]
i = 0
while True:
    i += 1
    path = os.path.join(folder, f"{name}-{i % 50}")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        os.rename(path, path + "-moved")
        os.unlink(path + "-moved")
    except FileNotFoundError:
        pass
    if i == 20:
        print("creating", flush=True)
"""


def kill_of_the_mount_alone_amid_creates(scene):
    # All nodes create, rename and unlink in one directory: notifications of names wait for the directory's lock in the kernel,
    # which the application holds whose request the dead mount does not answer any more.
    folder = os.path.join(scene.nodes["n1"].mount, "crowded")
    os.mkdir(folder)
    creators = []
    try:
        for node in scene.nodes.values():
            place = os.path.join(node.mount, "crowded")
            for i in range(3):
                creators.append((node, subprocess.Popen([sys.executable, "-c", CREATOR, place, f"{node.name}-{i}"],
                                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)))
        for _, process in creators:
            process.stdout.readline()
        return kill_of_the_mount_alone(scene, [p for _, p in creators])
    finally:
        for _, process in creators:
            process.kill()
            process.wait()
            process.stdout.close()


def kill_of_holdfastd_alone(scene):
    pid = processes_of(scene.nodes["n2"], "holdfastd")[0]
    os.kill(pid, signal.SIGKILL)
    return_words = None
    scene.dead("n2")
    scene.survivors_go_on("n1", "n3")
    stall = scene.stall("n1", "n3")
    scene.end_work("n1", "n3")
    scene.verify("n1")
    scene.lab.kill("n2")
    scene.lab.start("n2")
    scene.verify("n2")
    scene.stop_and_check()
    scene.expect_short(stall)
    return return_words or f"longest stall of a survivor {stall:.2f} s"


def kill_of_the_supervisor_alone(scene):
    old = mount_process(scene.nodes["n2"], supervisor=True)
    os.kill(old, signal.SIGKILL)
    scene.survivors_go_on("n1", "n2", "n3")
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if mount_process(scene.nodes["n2"], supervisor=True) != old:
                break
        except CaseFailed:
            pass
        time.sleep(0.02)
    else:
        raise CaseFailed("the mount started no new supervisor within 10 s")
    scene.end_work("n1", "n2", "n3")
    scene.verify("n3")
    scene.stop_and_check()
    return f"a new supervisor; longest stall {scene.stall('n1', 'n2', 'n3'):.2f} s"


def kill_of_all_and_cold_start(scene):
    for node in scene.lab.nodes():
        node.cgroup.adopt_users_of(node.mount)
    for node in scene.lab.nodes():
        node.cgroup.kill()
    for node in scene.lab.nodes():
        node.unmount(lazy=True)
    scene.dead("n1", "n2", "n3")
    begun = time.monotonic()
    scene.lab.start_all()
    took = time.monotonic() - begun
    files, lines, rows = scene.verify("n2")
    scene.stop_and_check()
    return f"up again after {took:.1f} s; {files} files, {lines} lines, {rows} rows verified"


def cut_one_from_two(scene):
    scene.lab.cut("n1", "n2,n3", False)
    # The larger group goes on; n1 is fenced. Its applications die with it.
    scene.survivors_go_on("n2", "n3")
    stall = scene.stall("n2", "n3")
    scene.end_work("n2", "n3")
    scene.lab.heal()
    return finish_cut(scene, "n1", ["n2", "n3"], stall)


def cut_two_from_one(scene):
    scene.lab.cut("n1,n2", "n3", False)
    scene.survivors_go_on("n1", "n2")
    stall = scene.stall("n1", "n2")
    scene.end_work("n1", "n2")
    scene.lab.heal()
    return finish_cut(scene, "n3", ["n1", "n2"], stall)


def finish_cut(scene, loser, left, stall):
    scene.lab.kill(loser)
    scene.dead(loser)
    scene.verify(left[0])
    scene.lab.start(loser)
    scene.verify(loser)
    for name in left:
        state = [n["state"] for n in scene.nodes[name].status()["nodes"]]
        expect(state == ["member"] * len(state), f"after the heal {name} sees {state}: a fence loop?")
    scene.stop_and_check()
    scene.expect_short(stall)
    return f"longest stall of the side that runs {stall:.2f} s"


def cut_one_from_one(scene):
    scene.lab.cut("n1", "n2", False)
    # The disk decides: the lower id goes on, the other is fenced; never both, never none.
    scene.survivors_go_on("n1")
    stall = scene.stall("n1")
    frozen = {w: len(w.promises) for w in scene.on("n2")}
    scene.survivors_go_on("n1")
    moved = [w.kind for w in scene.on("n2") if len(w.promises) != frozen[w]]
    expect(not moved, f"both sides of the cut go on: {moved} on n2 too")
    scene.end_work("n1")
    scene.lab.heal()
    return finish_cut(scene, "n2", ["n1"], stall)


def paused_node_resumed_after_its_fencing(scene):
    scene.lab.pause("n2")
    scene.survivors_go_on("n1", "n3")
    stall = scene.stall("n1", "n3")
    # fence_local has killed what was frozen: resuming finds nothing that could write.
    scene.lab.resume("n2")
    scene.dead("n2")
    scene.survivors_go_on("n1", "n3")
    scene.end_work("n1", "n3")
    scene.verify("n1")
    scene.lab.kill("n2")
    scene.lab.start("n2")
    scene.verify("n2")
    scene.stop_and_check()
    scene.expect_short(stall)
    return f"longest stall of a survivor {stall:.2f} s"


def fence_ipmilan_takes_the_node(scene):
    # n2 lives, but is cut off: its BMC's power-off must end it before anybody replays.
    scene.lab.cut("n2", "n1,n3", False)
    scene.survivors_go_on("n1", "n3")
    stall = scene.stall("n1", "n3")
    expect(not scene.nodes["n2"].cgroup.populated(), "n2 was fenced by power-off, but its processes live")
    scene.end_work("n1", "n3")
    scene.lab.heal()
    return finish_cut(scene, "n2", ["n1", "n3"], stall)


CASES = [
    ("kill of a writer", scene_case(kill_of_a_writer)),
    ("kill of the fencer", scene_case(kill_of_the_fencer)),
    ("kill of the replayer during replay", scene_case(kill_of_the_replayer)),
    ("kill of the master of a hot lock", scene_case(kill_of_the_master_of_a_hot_lock)),
    ("kill of the mount process alone", scene_case(kill_of_the_mount_alone)),
    ("kill of the mount process alone, amid creates in one directory", scene_case(kill_of_the_mount_alone_amid_creates)),
    ("kill of holdfastd alone", scene_case(kill_of_holdfastd_alone)),
    ("kill of the supervisor alone", scene_case(kill_of_the_supervisor_alone)),
    ("kill of all nodes at once, cold start", scene_case(kill_of_all_and_cold_start)),
    ("cut 1|2", scene_case(cut_one_from_two)),
    ("cut 2|1", scene_case(cut_two_from_one)),
    ("cut 1|1 of two nodes with the disk", scene_case(cut_one_from_one, nodes=2)),
    ("a paused node resumed after its fencing", scene_case(paused_node_resumed_after_its_fencing)),
    ("a cut-off node is powered off through fence_ipmilan", scene_case(fence_ipmilan_takes_the_node, ipmi=True)),
]

if __name__ == "__main__":
    sys.exit(run_cases(CASES))
