#!/usr/bin/env python3
"""Three holdfastds on one machine (loopback, an image file as the quorum device, fence_local by process id): they form a
cluster; one is killed, evicted, fenced, and comes back; one is stopped and fenced; all are killed and start cold; two leave and
one goes on alone. Then with members of a lockspace that are no mounts (lockspace_member.cc): join, leave, death, withdraw, replay,
death of holdfastd alone, clean stop. At last an evicted node that lives on. Needs no root. Everything is below one temporary
folder; only processes started here are ended."""
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from hiccups import Hiccups

BUILD = os.environ.get("HOLDFAST_BUILD", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build"))
BIN = os.environ.get("HOLDFAST_BIN", os.path.join(BUILD, "bin"))
# From the kill to the register: token (1 s) and a few beats. The margin is for a loaded machine.
LOG_LINES = int(os.environ.get("LOG_LINES", "40"))  # of each node, shown after a failure
DECIDED_LIMIT_MS, FENCED_LIMIT_MS = 2500, 3500


class Failed(Exception):
    pass


def expect(condition, words):
    if not condition:
        raise Failed(words)


def wait_until(what, condition, seconds=30, poll=0.02):
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"{what}: not in {seconds} s")
        time.sleep(poll)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Node:
    def __init__(self, cluster, number):
        self.name = f"n{number}"
        self.number = number
        self.home = os.path.join(cluster.folder, self.name)
        self.config = os.path.join(cluster.folder, "cluster.conf")
        self.pidfile = os.path.join(self.home, "pid")
        self.process = None
        os.makedirs(self.home)
        os.makedirs(self.home + "/state")
        self.key = self.holdfast("keys", "generate", "--state-dir", self.home + "/state").strip()

    def holdfast(self, *words, check=True):
        done = subprocess.run([os.path.join(BIN, "holdfast"), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
        if check and done.returncode != 0:
            raise Failed(f"holdfast {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def start(self):
        with open(self.home + "/log", "ab") as log:
            self.process = subprocess.Popen(
                [os.path.join(BIN, "holdfastd"), "--config", self.config, "--state-dir", self.home + "/state", "--run-dir", self.home + "/run",
                 "--node", self.name, "--no-realtime"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        with open(self.pidfile, "w") as f:
            f.write(str(self.process.pid))

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} did not end after SIGTERM") from None

    def status(self):
        done = subprocess.run([os.path.join(BIN, "holdfast"), "status", "--json", "--run-dir", self.home + "/run", "--timeout", "5"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def history(self):
        return json.loads(self.holdfast("history", "--json", "--run-dir", self.home + "/run"))

    def is_member(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended with {self.process.returncode}")
        s = self.status()
        return s.get("state") == "member" and s.get("quorate") is True and s["lease"]["state"] == "valid"

    def sees(self, other):
        """(state, incarnation) of the other node, as this one's register says."""
        for n in self.status().get("nodes", []):
            if n["name"] == other.name:
                return n["state"], n["incarnation"]
        return None, None


class Member:
    """A member of the lockspace 'data' on a node."""
    serial = 1000

    def __init__(self, cluster, node):
        Member.serial += 1
        self.nonce = Member.serial
        self.node = node
        self.events = []
        self.process = subprocess.Popen(
            [os.path.join(BUILD, "tests", "system", "lockspace_member"), node.home + "/run", cluster.image, "test", "data", str(self.nonce)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        cluster.members.append(self)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def await_event(self, what, condition=lambda e: True, seconds=15):
        return wait_until(f"{what} on {self.node.name}", lambda: next((e for e in self.events if e["event"] == what and condition(e)), None), seconds)

    def join(self):
        return self.await_event("joined")

    def view(self):
        return next((e for e in reversed(self.events) if e["event"] in ("view", "joined")), None)

    def await_view(self, what, condition, seconds=15):
        wait_until(f"{what}, in the view on {self.node.name}", lambda: condition(self.view()), seconds)
        return self.view()

    def ask(self, words):
        count = len([e for e in self.events if e["event"] == "answer"])
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        wait_until(f"answer to '{words}'", lambda: len([e for e in self.events if e["event"] == "answer"]) > count)
        return [e for e in self.events if e["event"] == "answer"][count]["outcome"]

    def replay(self, victim):
        name = f"{victim['node']} {victim['incarnation']} {victim['nonce']}"
        expect(self.ask("claim " + name) == "ok", "the claim was refused")
        expect(self.ask("done " + name) == "ok", "the end of the replay was refused")

    def kill(self):
        self.process.kill()
        self.process.wait()


class Cluster:
    def __init__(self, count, agent="fence_local", token=1000, disk=True):
        self.members = []
        self.folder = tempfile.mkdtemp(prefix="hf-daemons-")
        self.image = self.folder + "/volume.img"
        with open(self.image, "wb") as f:
            f.truncate(64 << 20)
        self.nodes = [Node(self, i + 1) for i in range(count)]
        ports = free_ports(count)
        self.disk = disk
        lines = ['<cluster name="test" config_version="1">', f'<quorumd device="{self.image}" votes="{count - 1}"/>' if disk else "",
                 '<fence_daemon post_join_delay="2"/>',
                 f'<totem token="{token}"/>', "<clusternodes>"]
        for node, port in zip(self.nodes, ports):
            key = node.key.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
            lines.append(f'<clusternode name="{node.name}" nodeid="{node.number}" addr="127.0.0.1" port="{port}" public_key="{key}"><fence>'
                         f'<method name="kill"><device name="local" pidfile="{node.pidfile}"/></method></fence></clusternode>')
        lines += ["</clusternodes>", f'<fencedevices><fencedevice name="local" agent="{agent}"/></fencedevices>', "</cluster>"]
        with open(self.folder + "/cluster.conf", "w") as f:
            f.write("\n".join(lines) + "\n")
        os.chmod(self.folder + "/cluster.conf", 0o600)

    def await_members(self, nodes, seconds=30):
        for node in nodes:
            wait_until(f"{node.name} becoming a member", node.is_member, seconds)

    def close(self, failed):
        for member in self.members:
            if member.process.poll() is None:
                member.kill()
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                node.process.send_signal(signal.SIGCONT)
                node.kill()
        if failed:
            for node in self.nodes:
                try:
                    with open(node.home + "/log", errors="replace") as f:
                        print(f"--- {node.name}", "".join(f.readlines()[-LOG_LINES:]), sep="\n")
                except OSError:
                    pass
        shutil.rmtree(self.folder, ignore_errors=True)


def recovery_of(node, victim, incarnation):
    for r in node.history()["recoveries"]:
        if r["victim"] == f"n{victim.number}.{incarnation}":
            return {p["phase"]: p["ms"] for p in reversed(r["phases"])}
    return {}


def form(cluster):
    first = cluster.nodes[0]
    print("  " + first.holdfast("quorum", "init", "--config", first.config, "--state-dir", first.home + "/state", "--run-dir", first.home + "/run",
                                "--node", first.name).strip())
    again = subprocess.run([os.path.join(BIN, "holdfast"), "quorum", "init", "--config", first.config, "--state-dir", first.home + "/state",
                            "--run-dir", first.home + "/run", "--node", first.name], stderr=subprocess.PIPE, text=True)
    expect(again.returncode == 1, "a second quorum init was not refused")
    begin = time.monotonic()
    for node in cluster.nodes:
        node.start()
    cluster.await_members(cluster.nodes)
    print(f"  three members after {time.monotonic() - begin:.2f} s")
    twin = subprocess.run([os.path.join(BIN, "holdfastd"), "--config", first.config, "--state-dir", first.home + "/state", "--run-dir",
                           first.home + "/run", "--node", first.name], stderr=subprocess.PIPE, text=True, timeout=20)
    expect(twin.returncode == 1, "a second holdfastd of one node was not refused")


def kill_one(cluster, victim, how):
    survivor = next(n for n in cluster.nodes if n is not victim)
    incarnation = survivor.sees(victim)[1]
    if how == "kill":
        victim.kill()
    else:
        victim.process.send_signal(signal.SIGSTOP)
    begin, hiccups = time.monotonic(), Hiccups()
    begin_ns = time.monotonic_ns()
    wait_until(f"{victim.name} being fenced", lambda: survivor.sees(victim)[0] == "fenced", 20)
    seen = time.monotonic() - begin
    phases = wait_until("the timeline", lambda: (lambda p: p if "fenced" in p else None)(recovery_of(survivor, victim, incarnation)), 5)
    print(f"  {victim.name} {how}: since last heard: detected {phases.get('detected')} ms, decided {phases.get('decided')} ms, fenced {phases.get('fenced')} ms"
          f" (seen by status after {seen:.2f} s)")
    withheld = hiccups.since(begin_ns) * 1000
    expect(phases["decided"] <= DECIDED_LIMIT_MS + withheld, f"decided after {phases['decided']} ms ({withheld:.0f} ms withheld)")
    expect(phases["fenced"] <= FENCED_LIMIT_MS + withheld, f"fenced after {phases['fenced']} ms ({withheld:.0f} ms withheld)")
    if how == "pause":
        victim.process.wait(10)  # fencing killed it
    victim.start()
    cluster.await_members([victim])
    expect(survivor.sees(victim)[1] > incarnation, "a new life has the old incarnation")


def restart_at_once(cluster, node):
    """holdfastd alone dies and is started again before its silence is noticed: its former life is evicted, proved gone by itself,
    and nobody's fence device hits the new one."""
    other = next(n for n in cluster.nodes if n is not node)
    before = other.sees(node)[1]
    node.kill()
    node.start()
    begin = time.monotonic()
    cluster.await_members([node])
    expect(other.sees(node)[1] == before + 1, "not the very next incarnation")
    print(f"  {node.name} restarted at once: a member again after {time.monotonic() - begin:.2f} s")


def cold_start(cluster):
    for node in cluster.nodes:
        node.process.send_signal(signal.SIGSTOP)
    for node in cluster.nodes:
        node.kill()
    begin = time.monotonic()
    for node in cluster.nodes:
        node.start()
    cluster.await_members(cluster.nodes, 40)
    print(f"  all killed, cold start: three members after {time.monotonic() - begin:.2f} s")


def last_man_standing(cluster):
    a, b, c = cluster.nodes
    expect(a.stop() == 0, "n1 did not leave cleanly")
    expect(b.stop() == 0, "n2 did not leave cleanly")
    wait_until("n3 alone", lambda: c.is_member() and c.sees(a)[0] == "left" and c.sees(b)[0] == "left")
    left = [f"n{n.number}.{c.sees(n)[1]}" for n in (a, b)]
    expect(not [f for f in c.status()["fencing"] if f["victim"] in left], "a clean leave was fenced")
    expect(c.stop() == 0, "n3 did not leave cleanly")
    c.start()
    cluster.await_members([c])
    print("  two left, the third went on alone, left, and started again alone")
    a.start()
    b.start()
    cluster.await_members(cluster.nodes)


def victims(view):
    return view["victims"]


def members_join_and_die(cluster):
    a, b, c = cluster.nodes
    m1, m2, m3 = (Member(cluster, n) for n in cluster.nodes)
    numbers = {m.join()["mount"] for m in (m1, m2, m3)}
    expect(numbers == {0, 1, 2}, f"mount numbers {numbers}")
    expect(all(m.join()["locked"] for m in (m1, m2, m3)), "a member's byte was taken")
    expect(m1.ask("lease") == "valid", "no lease")
    for m in (m1, m2, m3):
        m.await_view("three members", lambda v: len(v["members"]) == 3)
    expect(m3.ask("leave") == "ok", "leave")
    m1.await_view("a clean leave without a victim", lambda v: len(v["members"]) == 2 and not v["victims"])
    status = a.status()
    expect(len(status["lockspaces"][0]["members"]) == 2 and status["mounts"][0]["state"] == "mounted", "status of the mounts")
    expect(any(w["what"].endswith("a test") for w in status["waiting"]), "what a mount waits for is not shown")

    begin = time.monotonic()
    m2.kill()
    view = m1.await_view("a fenced victim", lambda v: victims(v) and victims(v)[0]["fenced"])
    print(f"  a mount dies: proven and told to the others after {1000 * (time.monotonic() - begin):.0f} ms")
    wait_until("the owed journal in status", lambda: any("replay" in w["on"] for w in b.status()["waiting"]))
    m1.replay(victims(view)[0])
    m1.await_view("nothing owed", lambda v: not victims(v))

    m2 = Member(cluster, b)
    m2.join()
    expect(m2.ask("withdraw") == "ok", "withdraw")
    view = m1.await_view("the withdrawn one as a fenced victim", lambda v: victims(v) and victims(v)[0]["fenced"])
    m1.replay(victims(view)[0])
    m1.await_view("nothing owed", lambda v: not victims(v))
    m2.kill()
    return m1


def a_node_dies_with_its_member(cluster, m1):
    c = cluster.nodes[2]
    m3 = Member(cluster, c)
    m3.join()
    begin = time.monotonic()
    c.kill()
    m3.kill()
    view = m1.await_view("the dead node's member as a fenced victim", lambda v: victims(v) and victims(v)[0]["fenced"])
    print(f"  a node dies: its victim is fenced in the members' view after {1000 * (time.monotonic() - begin):.0f} ms")
    m1.replay(victims(view)[0])
    m1.await_view("nothing owed", lambda v: not victims(v))
    c.start()
    cluster.await_members([c])


@contextlib.contextmanager
def another_cluster(*args, **kwargs):
    cluster = Cluster(*args, **kwargs)
    failed = True
    try:
        form(cluster)
        yield cluster
        failed = False
    finally:
        cluster.close(failed)


def holdfastd_alone_dies():
    """Its mounts are told, and until they have given up the volume its next life is no member. (With the default token the others
    would evict and kill a holdfastd that comes back after more than a second.)"""
    with another_cluster(3, token=5000) as cluster:
        restart_at_once(cluster, cluster.nodes[2])
        m1, m2 = Member(cluster, cluster.nodes[0]), Member(cluster, cluster.nodes[1])
        m1.join()
        m2.join()
        b = cluster.nodes[1]
        b.kill()
        m2.await_event("daemon_lost")
        b.start()
        wait_until("the wait for the former life's mount in status",
                   lambda: any(f.get("node") == "n2" and f["state"] == "fencing" for f in (b.status().get("fencing") or [])))
        wait_until("the end of the former mount's lease", lambda: m2.ask("lease") == "expired", 12)
        expect(b.status()["state"] != "member", "it was admitted while a former mount could write")
        m2.kill()
        cluster.await_members([b])
        view = m1.await_view("the former life's mount as a fenced victim", lambda v: victims(v) and victims(v)[0]["fenced"])
        m1.replay(victims(view)[0])
        m1.await_view("nothing owed", lambda v: not victims(v), 20)


def cold_start_owes_a_journal(cluster, m1):
    for node in cluster.nodes:
        node.kill()
    m1.kill()
    for node in cluster.nodes:
        node.start()
    wait_until("holdfastd's answer on n2", cluster.nodes[1].status)
    m = Member(cluster, cluster.nodes[1])  # before there is a quorum: the join waits
    joined = m.join()
    expect(len(joined["members"]) == 1 and len(joined["victims"]) == 1, "the first mount after a cold start does not see what is owed")
    view = m.await_view("a fenced victim", lambda v: victims(v) and victims(v)[0]["fenced"])
    expect(joined["mount"] != victims(view)[0]["mount"], "an owed journal was given out")
    m.replay(victims(view)[0])
    m.await_view("nothing owed", lambda v: not victims(v))
    cluster.await_members(cluster.nodes)
    return m


def clean_stop_asks_mounts(cluster, m):
    m.node.process.terminate()
    m.await_event("stop_requested")
    expect(m.ask("leave") == "ok", "leave")
    expect(m.node.process.wait(15) == 0, "it did not end cleanly")
    m.node.start()
    cluster.await_members([m.node])


def evicted_but_alive(device_works):
    """A fence device that says 'off' and does nothing, or one that always fails: the evicted node lives on, learns of it, and joins
    again by itself; where fencing has not succeeded it proves its former life gone itself."""
    folder = tempfile.mkdtemp(prefix="hf-agent-")
    agent = folder + "/fence_nothing"
    actions = "".join(f'<action name="{a}"/>' for a in ("on", "off", "status", "monitor", "metadata"))
    with open(agent, "w") as f:
        f.write(f"""#!/bin/sh
while read line; do case $line in action=*) action=${{line#action=}};; esac; done
case $action in
metadata) echo '<resource-agent name="fence_nothing"><parameters/><actions>{actions}</actions></resource-agent>';;
off) {"touch " + folder + "/off" if device_works else "exit 1"};;
status|monitor) [ -e {folder}/off ] && exit 2; exit 0;;
esac
""")
    os.chmod(agent, 0o700)
    try:
        with another_cluster(3, agent) as cluster:
            a, _, c = cluster.nodes
            m = Member(cluster, c)
            m.join()
            before = a.sees(c)[1]
            c.process.send_signal(signal.SIGSTOP)
            wait_until("eviction", lambda: a.sees(c)[0] in ("evicted", "fenced"))
            wait_until("the end of a stopped holdfastd's lease", lambda: m.ask("lease") == "expired", 4)
            c.process.send_signal(signal.SIGCONT)
            m.await_event("evicted")
            m.kill()
            wait_until("a new life of n3", lambda: a.sees(c)[0] == "member" and a.sees(c)[1] > before, 20)
            expect(c.process.poll() is None, "holdfastd ended instead of joining again")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def without_a_disk():
    """Three votes of three nodes: quorum init needs all of them, two go on, one alone does not."""
    cluster = Cluster(3, disk=False)
    failed = True
    try:
        a, b, c = cluster.nodes
        for node in cluster.nodes:
            node.start()
        for node in cluster.nodes:
            wait_until("an answer", node.status)
        init = lambda: subprocess.run([os.path.join(BIN, "holdfast"), "quorum", "init", "--run-dir", a.home + "/run"],  # noqa: E731
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_until("quorum init with all nodes", lambda: init().returncode == 0, 20, 0.3)
        cluster.await_members(cluster.nodes)
        expect(init().returncode == 1, "a second quorum init was not refused")
        c.kill()
        wait_until("n3 fenced", lambda: a.sees(c)[0] == "fenced", 10)
        b.kill()
        wait_until("the loss of quorum", lambda: a.status().get("quorate") is False, 10)
        expect(a.sees(b)[0] == "member", "one of three evicted the last but one")
        b.start()
        c.start()
        cluster.await_members(cluster.nodes, 40)
        failed = False
    finally:
        cluster.close(failed)


def main():
    cluster = Cluster(3)
    failed = True
    last = []
    cases = [("form", lambda: form(cluster)), ("kill", lambda: kill_one(cluster, cluster.nodes[1], "kill")),
             ("kill of the fencer's own node", lambda: kill_one(cluster, cluster.nodes[0], "kill")),
             ("pause", lambda: kill_one(cluster, cluster.nodes[2], "pause")),
             ("cold start", lambda: cold_start(cluster)), ("last man standing", lambda: last_man_standing(cluster)),
             ("members of a lockspace", lambda: last.append(members_join_and_die(cluster))),
             ("a node dies with its member", lambda: a_node_dies_with_its_member(cluster, last[-1])),
             ("holdfastd alone dies", lambda: holdfastd_alone_dies()),
             ("cold start with an owed journal", lambda: last.append(cold_start_owes_a_journal(cluster, last[-1]))),
             ("clean stop", lambda: clean_stop_asks_mounts(cluster, last[-1])),
             ("evicted but alive", lambda: evicted_but_alive(True)), ("evicted, fencing fails, node returns", lambda: evicted_but_alive(False)), ("without a disk", without_a_disk)]
    only = sys.argv[1:]
    try:
        for name, case in cases:
            if only and name not in only and name != "form":
                continue
            print(name, flush=True)
            case()
        failed = False
    except Failed as error:
        print(f"FAILED: {error}")
        for node in cluster.nodes:
            print(f"{node.name}: {json.dumps(node.status())[:3000]}")
    finally:
        cluster.close(failed)
    print("failed" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
