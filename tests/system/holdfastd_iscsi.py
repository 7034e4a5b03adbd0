#!/usr/bin/env python3
"""Three holdfastds whose quorum device is a real iSCSI target (tgt) and whose fencing is fence_pr: one is killed and fenced by
reservation; one is stopped, fenced, and continued: it learns that it was evicted and comes back with a new life; the target is
restarted and has lost all keys: the cluster goes on. Everything is below one temporary folder; only processes started here
are ended."""
import os
import signal
import socket
import subprocess
import sys
import time

import holdfastd_cluster as daemons
from holdfastd_cluster import Cluster, Failed, expect, free_ports, wait_until

TARGET = "iqn.2026-11.org.holdfast:daemons"


class Target:
    def __init__(self, image, folder):
        self.image, self.folder = image, folder
        self.port = free_ports(1)[0]
        self.control = str(10000 + self.port % 20000)
        self.process = None

    def url(self):
        return f"iscsi://127.0.0.1:{self.port}/{TARGET}/1"

    def admin(self, *words):
        return subprocess.run(["tgtadm", "-C", self.control, "--lld", "iscsi", *words], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode == 0

    def start(self):
        os.makedirs("/var/run/tgtd", exist_ok=True)
        with open(os.path.join(self.folder, "tgtd.log"), "ab") as log:
            self.process = subprocess.Popen(["tgtd", "-f", "-C", self.control, "--iscsi", f"portal=127.0.0.1:{self.port}"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until("start of tgtd", lambda: self.admin("--op", "show", "--mode", "target"), 10)
        good = (self.admin("--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET) and
                self.admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", self.image, "--bstype", "rdwr") and
                self.admin("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"))
        expect(good, "tgtd refused the target")

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()  # it does not end on SIGTERM while a target exists
            self.process.wait()

    def remove(self):
        self.kill()
        for end in ("", ".lock"):
            path = f"/var/run/tgtd/socket.{self.control}{end}"
            if os.path.exists(path):
                os.unlink(path)


class IscsiCluster(Cluster):
    def __init__(self, count):
        super().__init__(count)
        self.target = Target(self.image, self.folder)
        self.target.start()
        with open(self.folder + "/cluster.conf") as f:
            text = f.read()
        text = text.replace(f'device="{self.image}"', f'device="{self.target.url()}"')
        for node in self.nodes:
            text = text.replace(f'<device name="local" pidfile="{node.pidfile}"/>', '<device name="pr"/>')
        text = text.replace('<fencedevice name="local" agent="fence_local"/>', '<fencedevice name="pr" agent="fence_pr" accept_volatile="1"/>')
        with open(self.folder + "/cluster.conf", "w") as f:
            f.write(text)

    def close(self, failed):
        super().close(failed)
        self.target.remove()


def killed(cluster):
    daemons.kill_one(cluster, cluster.nodes[1], "kill")
    proof = [f for f in cluster.nodes[0].status()["fencing"] if f["victim"].startswith("n2.")]
    expect(not proof or "torage" in str(proof), f"not fenced by storage: {proof}")


def stopped_and_continued(cluster):
    zombie, survivor = cluster.nodes[2], cluster.nodes[0]
    before = survivor.sees(zombie)[1]
    zombie.process.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    wait_until("the fencing of n3", lambda: survivor.sees(zombie)[0] == "fenced", 20)
    print(f"  n3 stopped: fenced by reservation after {time.monotonic() - begin:.2f} s")
    zombie.process.send_signal(signal.SIGCONT)
    wait_until("n3's new life", lambda: survivor.sees(zombie) > ("member", before) and survivor.sees(zombie)[0] == "member", 30)
    expect(survivor.sees(zombie)[1] > before, "the zombie is a member with its old life")
    cluster.await_members([zombie])


def log_size(node):
    return os.path.getsize(node.home + "/log")


def sessions_after(node, sizes):
    """Has this node got its key on the disk again since then?"""
    with open(node.home + "/log", "rb") as f:
        f.seek(sizes[node.name])
        text = f.read()
    return b"keys_lost" in text or b"disk reserved" in text


def target_restarted(cluster):
    lives = [cluster.nodes[0].sees(n)[1] for n in cluster.nodes]
    restarted = {n.name: log_size(n) for n in cluster.nodes}
    cluster.target.kill()
    cluster.target.start()
    begin = time.monotonic()
    # The disk stops answering on everybody's account, then answers again; a node that cannot tell 'lost' from 'preempted' comes
    # back with a new life.
    for node in cluster.nodes:
        wait_until(f"{node.name} and the disk", lambda n=node: (n.is_member() and n.status().get("quorum", {}).get("disk") == "ok" and
                                                               sessions_after(n, restarted)), 40)
    cluster.await_members(cluster.nodes, 40)
    # It works as before: one more is killed and fenced.
    daemons.kill_one(cluster, cluster.nodes[1], "kill")
    now = [cluster.nodes[0].sees(n)[1] for n in cluster.nodes]
    print(f"  the target restarted without its keys: a node fenced and back {time.monotonic() - begin:.2f} s later; lives {lives} -> {now}")


def main():
    def expired(*_):
        raise Failed("time limit of 200 s")
    signal.signal(signal.SIGALRM, expired)
    signal.alarm(200)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    daemons.FENCED_LIMIT_MS = 5000
    cluster, failed, passed = None, 0, 0
    cases = [("three daemons form a cluster on an iSCSI target", daemons.form), ("a killed daemon is fenced by reservation", killed),
             ("a stopped daemon is fenced, continues, and comes back with a new life", stopped_and_continued),
             ("a target that lost its keys does not end the cluster", target_restarted)]
    try:
        cluster = IscsiCluster(3)
        for name, function in cases:
            try:
                function(cluster)
                passed += 1
                print(f"ok      {name}", flush=True)
            except (Failed, OSError, subprocess.SubprocessError, KeyError, socket.error) as error:
                failed += 1
                print(f"FAILED  {name}: {error}", flush=True)
                break
    finally:
        signal.alarm(0)
        if cluster:
            cluster.close(failed > 0)
    failed += len(cases) - passed - failed
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
