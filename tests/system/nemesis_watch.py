"""What the nemesis watches over a run: descriptors and memory of the daemons and mounts, what the nodes say while an application
waits, and what is left at the end."""
import contextlib
import os

from clusterlab import CaseFailed, find_waits

WATCHED = ("holdfastd", "mount.holdfast", "hf-supervisor")
RSS_GROWTH_MIB = 192     # a process's caches may fill; measured from its first sample to its last
FD_GROWTH = 48
PAGE = os.sysconf("SC_PAGE_SIZE")


class Growth:
    def __init__(self):
        self.first, self.last, self.samples = {}, {}, {}

    def sample(self, lab):
        for node in lab.nodes():
            for pid in node.cgroup.pids():
                with contextlib.suppress(OSError):
                    with open(f"/proc/{pid}/comm") as f:
                        comm = f.read().strip()
                    if comm not in WATCHED:
                        continue
                    with open(f"/proc/{pid}/statm") as f:
                        rss = int(f.read().split()[1]) * PAGE >> 20
                    key = (comm, node.name, pid)
                    now = (rss, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")))
                    self.first.setdefault(key, now)
                    self.last[key] = now
                    self.samples[key] = self.samples.get(key, 0) + 1

    def _by_program(self):
        for comm in WATCHED:
            keys = [k for k in self.first if k[0] == comm]
            if keys:
                yield comm, keys

    def report(self):
        for comm, keys in self._by_program():
            rss = max(self.last[k][0] - self.first[k][0] for k in keys)
            fds = max(self.last[k][1] - self.first[k][1] for k in keys)
            oldest = max(keys, key=lambda k: self.samples[k])
            print(f"    {comm:15} {len(keys):3} processes; growth at most {rss} MiB (bound {RSS_GROWTH_MIB}), {fds} descriptors "
                  f"(bound {FD_GROWTH}); the longest lived, over {self.samples[oldest]} rounds: {self.first[oldest][0]} -> "
                  f"{self.last[oldest][0]} MiB, {self.first[oldest][1]} -> {self.last[oldest][1]} descriptors, "
                  f"{self.first[oldest][2]} -> {self.last[oldest][2]} threads", flush=True)

    def check(self):
        for comm, keys in self._by_program():
            for key in keys:
                rss, fds = (self.last[key][i] - self.first[key][i] for i in (0, 1))
                if rss > RSS_GROWTH_MIB or fds > FD_GROWTH:
                    raise CaseFailed(f"{comm} {key[2]} on {key[1]} grew by {rss} MiB and {fds} descriptors")


def explanation(lab):
    """What the nodes say that would keep an application waiting, in a few words; nothing if they see no reason."""
    for node in lab.nodes():
        status = node.status()
        if status is None:
            return f"holdfastd of {node.name} does not answer"
        if not status.get("quorate") or status.get("state") != "member":
            return f"{node.name} is {status.get('state')}, {'' if status.get('quorate') else 'not '}quorate"
        others = [f"{n['name']} is {n['state']}" for n in status.get("nodes", []) if n["state"] != "member"]
        owed = [v for space in status.get("lockspaces", []) for v in space.get("victims", [])]
        waits = [f"{w.get('what')}: {w.get('on')}" for w in find_waits(status)]
        if others or owed or waits:
            return f"{node.name}: {'; '.join(others + [f'owed: {owed}'] * bool(owed) + waits[:2])}"
    return None


def leftovers(directory, lab_id):
    """After the lab is down: what still bears its name. Found by its folder and id, so another lab is never meant."""
    found = []
    with open("/proc/self/mountinfo") as f:
        found += [f"mount {line.split()[4]}" for line in f if f" {directory}/" in line]
    if os.path.isdir("/run/netns"):
        found += [f"namespace {n}" for n in os.listdir("/run/netns") if n.startswith(f"hf{lab_id}")]
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/run/holdfast-cgroup2"):
        if os.path.exists(os.path.join(root, f"holdfast-{lab_id}")):
            found.append(f"cgroup {root}/holdfast-{lab_id}")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().decode(errors="replace")
            if int(pid) != os.getpid() and directory + "/" in words:
                found.append(f"process {pid} {words.replace(chr(0), ' ')[:100]}")
    return found
