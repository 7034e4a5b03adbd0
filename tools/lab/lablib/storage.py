"""The shared volume: an image file, or the same file behind a real iSCSI target (tgt) in the bridge namespace."""
import os
import subprocess

from .network import STORAGE_ADDRESS
from .run import alive, read, run, wait_until, write

TARGET = "iqn.2026-11.org.holdfast:lab"
PORT = 3260


def create_image(path, size):
    with open(path, "wb") as f:
        f.truncate(size)


def url():
    return f"iscsi://{STORAGE_ADDRESS}:{PORT}/{TARGET}/1"


class Target:
    """tgtd on a control port of its own, so that it meets no other. `preload` is for tests that delay its writes."""

    def __init__(self, directory, lab_id, network):
        self.directory = directory
        self.control = str(10000 + int(lab_id, 16) % 20000)
        self.network = network
        self.pid_file = os.path.join(directory, "tgtd.pid")

    def admin(self, *words, check=True):
        return run(["tgtadm", "-C", self.control, "--lld", "iscsi", *words], check=check)

    def pid(self):
        text = read(self.pid_file).strip()
        return int(text) if text else 0

    def up(self, image, preload=None, environment=None):
        """The same call starts it again after stop(): same file, same names; the reservations are gone, since tgt keeps none."""
        os.makedirs("/var/run/tgtd", exist_ok=True)
        env = dict(os.environ, **(environment or {}))
        if preload:
            env["LD_PRELOAD"] = preload
        with open(os.path.join(self.directory, "tgtd.log"), "ab") as log:
            daemon = subprocess.Popen(
                self.network.enter(self.network.bridge)
                + ["tgtd", "-f", "-C", self.control, "--iscsi", f"portal={STORAGE_ADDRESS}:{PORT}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=env)
        write(self.pid_file, str(daemon.pid))
        wait_until("start of tgtd", lambda: self._answers(), 10)
        self.admin("--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET)
        self.admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", image, "--bstype", "rdwr")
        self.admin("--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--params", "thin_provisioning=1")
        self.admin("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")

    def _answers(self):
        return subprocess.run(["tgtadm", "-C", self.control, "--lld", "iscsi", "--op", "show", "--mode", "target"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    def stop(self):
        # tgtd does not end on SIGTERM while a target exists.
        pid = self.pid()
        if pid and alive(pid) and "tgtd" in read(f"/proc/{pid}/comm"):
            os.kill(pid, 9)
            wait_until("end of tgtd", lambda: not alive(pid), 10)
        if os.path.exists(self.pid_file):
            os.unlink(self.pid_file)
        for socket in (f"/var/run/tgtd/socket.{self.control}", f"/var/run/tgtd/socket.{self.control}.lock"):
            if os.path.exists(socket):
                os.unlink(socket)
