"""Lab: bring up, break, mend and take down a cluster whose whole state is one folder."""
import concurrent.futures
import ctypes
import hashlib
import json
import os
import shutil
import struct
import subprocess
import time

from .cgroup import Cgroup, abort_mount, detach_mount, hierarchy
from .config import cluster_conf
from .network import Network, address
from .power import Power
from .run import LabError, binary, read, run, tail, wait_until, write
from .storage import Target, create_image, url

START_SECONDS = 60


def parse_size(text):
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    number, shift = (text[:-1], units[text[-1].upper()]) if text and text[-1].upper() in units else (text, 0)
    try:
        size = int(number) << shift
    except ValueError:
        size = 0
    if size < 256 << 20:
        raise LabError(f"size '{text}': give at least 256M, such as 512M or 4G")
    return size


class Node:
    def __init__(self, lab, number):
        self.lab = lab
        self.number = number
        self.name = f"n{number}"
        self.home = os.path.join(lab.directory, self.name)
        self.mount = os.path.join(self.home, "mnt")
        self.state = os.path.join(self.home, "state")
        self.run_dir = os.path.join(self.home, "run")
        self.config = os.path.join(self.home, "cluster.conf")
        self.log = os.path.join(self.home, "log")
        self.cgroup = Cgroup(os.path.join(lab.cgroup.path, self.name))

    def options(self):
        return ["--config", self.config, "--state-dir", self.state, "--run-dir", self.run_dir]

    def spawn(self, argv, log):
        """Starts a program of this node: its network, its cgroup, its log; a session of its own."""
        self.cgroup.create()
        environment = {k: v.replace("%HOME%", self.home) for k, v in self.lab.settings.get("node_environment", {}).items()}
        procs = self.cgroup.file("cgroup.procs")
        shell = 'echo $$ > "$1" && shift && exec "$@"'
        with open(os.path.join(self.log, log), "ab") as out:
            return subprocess.Popen(
                ["sh", "-c", shell, "sh", procs, *self.lab.network.enter(self.lab.network.namespace(self.number)), *argv],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, env=dict(os.environ, **environment))

    def prepare(self):
        for folder in (self.mount, self.state, self.run_dir, self.log):
            os.makedirs(folder, exist_ok=True)
        self.step_clock(0)
        os.chmod(self.state, 0o700)
        os.chmod(self.run_dir, 0o700)

    def step_clock(self, seconds):
        """For processes that run with the preload of tests/system/step_clock.cc: their wall clock from now on."""
        path = os.path.join(self.home, "clock")
        with open(path, "r+b" if os.path.exists(path) else "wb") as f:  # in place: they have it mapped
            f.write(struct.pack("<q", int(seconds * 1e9)))

    def status(self):
        """holdfastd's own account, or None while it does not answer."""
        try:
            done = subprocess.run([binary("holdfast"), "status", "--json", "--run-dir", self.run_dir],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10)
            return json.loads(done.stdout) if done.returncode == 0 else None
        except (subprocess.TimeoutExpired, ValueError):
            return None

    def is_member(self):
        status = self.status()
        return bool(status) and status.get("quorate") is True and status.get("state") == "member"

    def start_daemon(self):
        daemon = self.spawn([binary("holdfastd"), *self.options(), "--node", self.name], "holdfastd.log")
        write(os.path.join(self.home, "holdfastd.pid"), str(daemon.pid))
        return daemon

    def await_member(self, daemon, seconds=START_SECONDS):
        def joined():
            if daemon is not None and daemon.poll() is not None:
                words = tail(os.path.join(self.log, "holdfastd.log"), 1)
                raise LabError(f"holdfastd of {self.name} ended ({daemon.returncode}): {words}")
            return self.is_member()
        wait_until(f"{self.name} joining the cluster (log: {self.log}/holdfastd.log)", joined, seconds, 0.1)

    def mount_volume(self):
        if os.path.ismount(self.mount):
            return
        options = f"config={self.config},state-dir={self.state},run-dir={self.run_dir},node={self.name}"
        if self.lab.settings.get("mount_options"):
            options += "," + self.lab.settings["mount_options"]
        helper = self.spawn([binary("mount.holdfast"), self.lab.volume, self.mount, "-o", options], "mount.log")
        try:
            code = helper.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            raise LabError(f"mount on {self.name} did not end in {START_SECONDS} s (log: {self.log}/mount.log)") from None
        if code != 0:
            raise LabError(f"mount on {self.name} failed ({code}): {tail(os.path.join(self.log, 'mount.log'), 1)}")

    def unmount(self, lazy=False):
        # /proc/self/mountinfo, not stat: the server may be dead or frozen.
        if not self.mounted():
            return
        if lazy:
            abort_mount(self.mount)
            wait_until(f"the end of the mount {self.mount}", lambda: detach_mount(self.mount) or not self.mounted(), 10)
        else:
            run(["umount", self.mount], timeout=40)

    def mounted(self):
        return f" {self.mount} " in read("/proc/self/mountinfo")

    def stop(self):
        """Clean: unmount, leave, end."""
        self.unmount()
        pid = int(read(os.path.join(self.home, "holdfastd.pid")) or 0)
        if pid in self.cgroup.pids():
            os.kill(pid, 15)
        wait_until(f"end of {self.name}", lambda: not self.cgroup.populated(), 30)

    def kill(self):
        self.cgroup.adopt_users_of(self.mount)
        self.cgroup.kill(meanwhile=self.abort_connection)
        self.unmount(lazy=True)

    def abort_connection(self):
        """A thread of the killed server that waits inside the kernel keeps the FUSE connection open, and the applications
        waiting for it; a crash of the whole machine leaves no such rest. No stat, no umount(8): they would wait too."""
        if f" {self.mount} " in read("/proc/self/mountinfo"):
            ctypes.CDLL(None, use_errno=True).umount2(self.mount.encode(), 1)  # MNT_FORCE: aborts even when busy

    def describe(self):
        state = "frozen" if self.cgroup.frozen() else "up" if self.cgroup.populated() else "down"
        return {"name": self.name, "address": address(self.number), "state": state, "mounted": self.mounted(), "mount": self.mount,
                "run_dir": self.run_dir}


class Lab:
    def __init__(self, directory):
        self.directory = os.path.realpath(directory)
        self.id = hashlib.sha1(self.directory.encode()).hexdigest()[:6]
        self.file = os.path.join(self.directory, "lab.json")
        self.network = Network(self.id)
        self.cgroup = Cgroup(os.path.join(hierarchy(), f"holdfast-{self.id}"))  # the nodes' are below it
        self.target = Target(self.directory, self.id, self.network)
        self.power = Power(self.directory, self.network)
        self.image = os.path.join(self.directory, "volume.img")
        self.settings = json.loads(read(self.file) or "{}")

    @property
    def volume(self):
        return url() if self.settings.get("iscsi") else self.image

    def nodes(self):
        return [Node(self, n) for n in range(1, self.settings.get("nodes", 0) + 1)]

    def node(self, name):
        for node in self.nodes():
            if node.name == name:
                return node
        raise LabError(f"there is no node '{name}' in {self.directory}; it has "
                       f"{', '.join(n.name for n in self.nodes()) or 'none: run holdfast lab up'}")

    def require_up(self):
        if not self.settings:
            raise LabError(f"no lab in {self.directory}; start one with: holdfast lab up {self.directory}")

    # --- up and down ---------------------------------------------------------------------------------------------

    def up(self, count, size, iscsi, ipmi, journals=0, preload=None, environment=None, mount=True, mount_options="",
           node_environment=None):
        """preload, environment (%LAB% is the lab's folder): of tgtd, for tests; also when it is started again.
        node_environment (%HOME% is the node's folder): of every node's programs."""
        if self.settings:
            raise LabError(f"{self.directory} holds a lab already; end it with: holdfast lab down {self.directory}")
        if not 1 <= count <= 16:
            raise LabError("give 1 to 16 nodes")
        os.makedirs(self.directory, exist_ok=True)
        self.settings = {"id": self.id, "nodes": count, "iscsi": iscsi, "ipmi": ipmi, "image": self.image,
                         "mount_options": mount_options, "preload": preload, "environment": environment or {},
                         "node_environment": node_environment or {}}
        write(self.file, json.dumps(self.settings, indent=2) + "\n")
        try:
            self._build(count, parse_size(size), journals or max(4, count))
            self.start_all(mount)
        except BaseException:
            if not os.environ.get("HOLDFAST_LAB_KEEP"):
                self.down(keep_logs=True)
            raise

    def _build(self, count, size, journals):
        self.network.up(count)
        self.cgroup.create()
        create_image(self.image, size)
        if self.settings["iscsi"]:
            self.start_target()
        keys = []
        for node in self.nodes():
            node.prepare()
            keys.append(run([binary("holdfast"), "keys", "generate", "--state-dir", node.state]).strip())
        text = cluster_conf(self.nodes(), self.volume, keys, self.settings["iscsi"], self.settings["ipmi"])
        for node in self.nodes():
            write(node.config, text)
            os.chmod(node.config, 0o600)
            if self.settings["ipmi"]:
                node.cgroup.create()
                self.power.up(node.number, node.cgroup.path, node.mount)
        first = self.nodes()[0]
        inside = self.network.enter(self.network.namespace(1))
        run(inside + [binary("mkfs.holdfast"), "-q", "-t", "lab:data", "-j", str(journals), self.volume], timeout=300)
        run(inside + [binary("holdfast"), "quorum", "init", *first.options(), "--node", first.name])

    def start_all(self, mount=True):
        daemons = [(node, node.start_daemon()) for node in self.nodes() if not node.cgroup.populated()]
        for node, daemon in daemons:
            node.await_member(daemon)
        if mount:
            with concurrent.futures.ThreadPoolExecutor() as pool:
                list(pool.map(lambda node: node.mount_volume(), self.nodes()))

    def down(self, keep_logs=False):
        problems = []
        for node in self.nodes():
            try:
                if node.cgroup.populated() and not node.cgroup.frozen() and not keep_logs:
                    node.stop()
            except LabError as error:
                problems.append(str(error))
        # One thing that will not go must not keep the others.
        steps = [step for node in self.nodes() for step in (node.kill, node.cgroup.remove)]
        steps += [self.cgroup.remove, self.power.down, self.target.stop, self.network.down]
        for step in steps:
            try:
                step()
            except (LabError, OSError) as error:
                problems.append(str(error))
        for path in [self.file] + ([] if keep_logs else [self.image]):
            if os.path.exists(path):
                os.unlink(path)
        if not keep_logs:
            for node in self.nodes():
                shutil.rmtree(node.home, ignore_errors=True)
            shutil.rmtree(self.power.directory, ignore_errors=True)
        self.settings = {}
        return problems

    # --- one node ------------------------------------------------------------------------------------------------

    def start(self, name, mount=True):
        node = self.node(name)
        if node.cgroup.frozen():
            raise LabError(f"{name} is paused; holdfast lab resume {self.directory} {name}")
        node.unmount(lazy=not node.cgroup.populated())
        daemon = None
        if int(read(os.path.join(node.home, "holdfastd.pid")) or 0) not in node.cgroup.pids():
            daemon = node.start_daemon()
        node.await_member(daemon)
        if mount:
            node.mount_volume()

    def kill(self, name):
        self.node(name).kill()

    def pause(self, name):
        node = self.node(name)
        node.cgroup.adopt_users_of(node.mount)
        node.cgroup.freeze(True)

    def resume(self, name):
        self.node(name).cgroup.freeze(False)

    def step_clock(self, name, seconds):
        self.node(name).step_clock(seconds)

    def cut(self, side_a, side_b, one_way):
        numbers = [[self.node(n).number for n in side.split(",")] for side in (side_a, side_b)]
        if set(numbers[0]) & set(numbers[1]):
            raise LabError("a node is on both sides of the cut")
        self.network.cut(*numbers, one_way)

    def heal(self):
        self.network.heal()

    # --- the storage ---------------------------------------------------------------------------------------------

    def require_iscsi(self):
        if not self.settings.get("iscsi"):
            raise LabError("the volume is an image file, without a target between; see: holdfast lab up --iscsi")

    def stop_target(self):
        """kill -9 of the target: its reservations and sessions are gone, what it has answered is not."""
        self.require_iscsi()
        self.target.stop()

    def start_target(self):
        self.require_iscsi()
        environment = {k: v.replace("%LAB%", self.directory) for k, v in self.settings.get("environment", {}).items()}
        self.target.up(self.image, self.settings.get("preload"), environment)

    def cut_storage(self, name):
        self.require_iscsi()
        self.network.cut_storage(self.node(name).number, True)

    def heal_storage(self, name):
        self.require_iscsi()
        self.network.cut_storage(self.node(name).number, False)

    def show(self):
        return {"directory": self.directory, "volume": self.volume, "time": time.time(),
                "nodes": [n.describe() for n in self.nodes()]}
