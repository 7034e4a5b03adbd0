"""Power: one ipmi_sim per node in the bridge namespace. Its chassis script kills the node's cgroup, so that a fence
agent's `off` really takes the node's life."""
import os
import subprocess

from .network import STORAGE_ADDRESS
from .run import alive, read, write

LAN = """name "{name}"
set_working_mc 0x20
  startlan 1
    addr {address} {port}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcd{number:02x}
  endlan
  chassis_control "{script} {cgroup} {mount} 0x20"
  user 1 true  ""      "test"   user  10 none md2 md5 straight
  user 2 true  "admin" "{password}" admin 10 none md2 md5 straight
"""
EMULATOR = """mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
"""
PASSWORD = "lab-secret"  # of a simulator that only this lab's namespaces reach


def port(number):
    return 9000 + number


class Power:
    def __init__(self, directory, network):
        self.directory = os.path.join(directory, "ipmi")
        self.network = network

    def up(self, number, cgroup, mount):
        home = os.path.join(self.directory, f"n{number}")
        os.makedirs(os.path.join(home, "state"), exist_ok=True)
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "chassis")
        write(os.path.join(home, "lan.conf"), LAN.format(
            name=f"n{number}", address=STORAGE_ADDRESS, port=port(number), number=number, script=script, cgroup=cgroup,
            mount=mount,
            password=PASSWORD))
        write(os.path.join(home, "sim.emu"), EMULATOR)
        with open(os.path.join(home, "log"), "ab") as log:
            daemon = subprocess.Popen(
                self.network.enter(self.network.bridge)
                + ["ipmi_sim", "-n", "-c", f"{home}/lan.conf", "-f", f"{home}/sim.emu", "-s", f"{home}/state"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        write(os.path.join(home, "pid"), str(daemon.pid))

    def down(self):
        if not os.path.isdir(self.directory):
            return
        for name in os.listdir(self.directory):
            text = read(os.path.join(self.directory, name, "pid")).strip()
            if text and alive(int(text)) and "ipmi_sim" in read(f"/proc/{text}/comm"):
                os.kill(int(text), 9)
