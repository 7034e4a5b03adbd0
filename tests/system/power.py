#!/usr/bin/env python3
"""Power fencing in a whole cluster: each node has a BMC (ipmi_sim) that fence_ipmilan talks to; its `off` ends the node's cgroup.
A killed node and a paused one are fenced by power, their synced records are read on the survivors, and they rejoin."""
import os
import sys
import time

from clusterlab import CaseFailed, expect, fsck, lab, run_cases, wait_until


def state_of(node, name):
    status = node.status() or {}
    return next((n.get("state") for n in status.get("nodes", []) if n.get("name") == name), None)


def write_synced(path, text):
    with open(path, "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


def read(path):
    with open(path) as f:
        return f.read()


def fenced_by_power(it, victim, how):
    survivor = next(n for n in it.nodes() if n.name != victim.name)
    write_synced(os.path.join(victim.mount, f"of-{victim.name}"), "synced before it died")
    begun = time.monotonic()
    (it.kill if how == "kill" else it.pause)(victim.name)
    wait_until(f"fencing of {victim.name}", lambda: state_of(survivor, victim.name) == "fenced", 30)
    took = time.monotonic() - begun
    expect(not victim.cgroup.populated(), f"{victim.name} is 'fenced' and lives: power off did not reach it")
    expect(read(os.path.join(survivor.mount, f"of-{victim.name}")) == "synced before it died", "a synced record is lost")
    text = open(os.path.join(survivor.log, "holdfastd.log"), errors="replace").read()
    others = "".join(open(os.path.join(n.log, "holdfastd.log"), errors="replace").read() for n in it.nodes() if n.name != victim.name)
    expect("kind=power" in text + others, "no proof by power in the logs of the survivors")
    if how == "pause":
        it.resume(victim.name)  # the cgroup stays frozen, though nothing is in it any more
    it.start(victim.name)
    expect(read(os.path.join(victim.mount, f"of-{victim.name}")) == "synced before it died", "the rejoined node does not see its record")
    return took


def power():
    with lab(3, ipmi=True) as it:
        n1, n2, n3 = it.nodes()
        killed = fenced_by_power(it, n2, "kill")
        paused = fenced_by_power(it, n3, "pause")
        for node in it.nodes():
            node.stop()
        fsck(it)
        return f"killed: fenced after {killed:.2f} s; paused: after {paused:.2f} s"


if __name__ == "__main__":
    try:
        sys.exit(run_cases([("power fencing through fence_ipmilan", power)], 150))
    except CaseFailed as error:
        print(f"FAILED  {error}\n0 passed, 1 failed")
        sys.exit(1)
