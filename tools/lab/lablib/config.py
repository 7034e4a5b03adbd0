"""The lab's cluster.conf: an ordinary one, as an administrator would write it."""
from xml.sax.saxutils import quoteattr

from . import power
from .network import STORAGE_ADDRESS, address


def cluster_conf(nodes, volume, keys, iscsi, ipmi):
    """keys: CURVE public key of each node, in order."""
    count = len(nodes)
    lines = ['<?xml version="1.0"?>', '<cluster name="lab" config_version="1">']
    # N-1 votes for the disk: any single node that reaches it stays quorate (last man standing).
    lines.append(f'  <quorumd device={quoteattr(volume)} votes="{max(count - 1, 1)}"/>')
    lines.append('  <fence_daemon post_join_delay="2"/>')
    lines.append("  <clusternodes>")
    for node in nodes:
        number = node.number
        lines.append(f'    <clusternode name="n{number}" nodeid="{number}" votes="1" addr="{address(number)}" '
                     f"public_key={quoteattr(keys[number - 1])}>")
        lines.append("      <fence>")
        if ipmi:
            lines.append('        <method name="power">')
            lines.append(f'          <device name="bmc{number}" action="off"/>')
            lines.append("        </method>")
        if iscsi:
            lines.append('        <method name="storage">')
            lines.append('          <device name="reservation"/>')
            lines.append("        </method>")
        elif not ipmi:
            lines.append('        <method name="isolate">')
            lines.append(f'          <device name="local" cgroup={quoteattr(node.cgroup.path)} mount={quoteattr(node.mount)}/>')
            lines.append("        </method>")
        lines.append("      </fence>")
        lines.append("    </clusternode>")
    lines.append("  </clusternodes>")
    lines.append("  <fencedevices>")
    if ipmi:
        for number in range(1, count + 1):
            lines.append(f'    <fencedevice name="bmc{number}" agent="fence_ipmilan" ipaddr="{STORAGE_ADDRESS}" '
                         f'ipport="{power.port(number)}" login="admin" passwd="{power.PASSWORD}" lanplus="1" cipher="3" '
                         'power_wait="0"/>')
    if iscsi:
        # tgt has no APTPL: the lab accepts the storage step alone and status says so.
        lines.append('    <fencedevice name="reservation" agent="fence_pr" accept_volatile="1"/>')
    else:
        lines.append('    <fencedevice name="local" agent="fence_local"/>')
    lines.append("  </fencedevices>")
    lines.append("</cluster>")
    return "\n".join(lines) + "\n"
