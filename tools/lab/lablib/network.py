"""One network namespace per node and one for the bridge, which also holds the storage. `cut` drops frames between
nodes at the bridge, so the storage stays reachable; a namespace is entered by its network alone (`ip netns exec` would
hide the mounts)."""
import os

from .run import run

STORAGE_ADDRESS = "10.77.0.254"


def address(number):
    return f"10.77.0.{number}"


class Network:
    def __init__(self, lab_id):
        self.bridge = f"hf{lab_id}s"
        self.prefix = f"hf{lab_id}n"

    def namespace(self, number):
        return f"{self.prefix}{number}"

    @staticmethod
    def enter(namespace):
        """The command prefix that runs a program in a namespace."""
        return ["nsenter", f"--net=/run/netns/{namespace}", "--"]

    def configure(self, namespace, *words):
        """`ip -n` would also want to change mount propagation, which a chroot's root does not let it."""
        run(self.enter(namespace) + ["ip", *words])

    def up(self, count):
        run(["ip", "netns", "add", self.bridge])
        self.configure(self.bridge, "link", "add", "br0", "type", "bridge")
        self.configure(self.bridge, "addr", "add", f"{STORAGE_ADDRESS}/24", "dev", "br0")
        self.configure(self.bridge, "link", "set", "lo", "up")
        self.configure(self.bridge, "link", "set", "br0", "up")
        for number in range(1, count + 1):
            ns = self.namespace(number)
            run(["ip", "netns", "add", ns])
            run(["ip", "link", "add", "eth0", "netns", ns, "type", "veth", "peer", "name", f"p{number}", "netns", self.bridge])
            self.configure(self.bridge, "link", "set", f"p{number}", "master", "br0", "up")
            self.configure(ns, "addr", "add", f"{address(number)}/24", "dev", "eth0")
            self.configure(ns, "link", "set", "lo", "up")
            self.configure(ns, "link", "set", "eth0", "up")

    def down(self):
        for name in sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else []:
            if name == self.bridge or name.startswith(self.prefix):
                run(["ip", "netns", "del", name], check=False)

    def cut(self, side_a, side_b, one_way=False):
        """Drops everything from side_a to side_b (and back, unless one_way). Sides are lists of node numbers."""
        rules = ["add table bridge holdfast", "add chain bridge holdfast cut { type filter hook forward priority 0; }"]
        for a in side_a:
            for b in side_b:
                rules.append(f"add rule bridge holdfast cut ip saddr {address(a)} ip daddr {address(b)} drop")
                if not one_way:
                    rules.append(f"add rule bridge holdfast cut ip saddr {address(b)} ip daddr {address(a)} drop")
        run(self.enter(self.bridge) + ["nft", "; ".join(rules)])

    def cut_storage(self, number, on):
        """Drops everything between a node and the storage, both ways. Each node has a table of its own: it heals alone."""
        table = f"holdfast_storage_{number}"
        inside = self.enter(self.bridge)
        run(inside + ["nft", "delete", "table", "ip", table], check=False)
        if not on:
            return
        rules = [f"add table ip {table}"]
        for chain, hook, field in (("in", "input", "saddr"), ("out", "output", "daddr")):
            rules.append(f"add chain ip {table} {chain} {{ type filter hook {hook} priority 0; }}")
            rules.append(f"add rule ip {table} {chain} ip {field} {address(number)} drop")
        run(inside + ["nft", "; ".join(rules)])

    def heal(self):
        run(self.enter(self.bridge) + ["nft", "delete table bridge holdfast"], check=False)
