"""A VM's tap on a node, as a CNI like Calico sets it up: routed, no bridge, the same on every node.

The fixed MAC and the link-local gateways are what a guest finds on each node, so after a migration
its neighbor entries for them still hold.
"""

import subprocess
from typing import Final

from handover_lab.processes.place import Place

MAC: Final = "ee:ee:ee:ee:ee:ee"
USUAL: Final = 1000
"""The length of a tap's queue, in packets."""

GATEWAY_IPV4: Final = "169.254.1.1"
GATEWAY_IPV6: Final = "fe80::ecee:eeff:feee:eeee"

# The guest's gateway is no IPv4 address of the node: the kernel answers as a proxy only, and that
# after up to 0.8 s unless proxy_delay is 0 (arp(7)). The link-local address is the one that the
# kernel would make of the MAC, too, but only after duplicate address detection.
GATEWAY: Final = f"""
ip link set "$1" address {MAC} addrgenmode none
cd /proc/sys/net/ipv4/conf
echo 1 > "$1/proxy_arp"
echo 1 > "$1/forwarding"
echo 0 > "../neigh/$1/proxy_delay"
# The hard case for the ARP guard: with a reverse path filter the kernel would not answer for the
# VM's own address, but also drop all that the guest sends before its route is there.
echo 0 > all/rp_filter
echo 0 > "$1/rp_filter"
echo 0 > "/proc/sys/net/ipv6/conf/$1/accept_ra"
echo 1 > "/proc/sys/net/ipv6/conf/$1/forwarding"
ip link set "$1" up
ip -6 address add {GATEWAY_IPV6}/64 dev "$1" nodad
"""
"""Makes of the interface $1 what a guest behind it takes for its gateway."""

SCRIPT: Final = f"""
set -e
ip tuntap add dev "$1" mode tap
{GATEWAY}
"""


def add(place: Place, name: str) -> None:
    """Make the tap *name* at *place*, ready for QEMU.

    Raises:
        subprocess.CalledProcessError: it exists already, or /dev/net/tun is missing.
    """
    subprocess.run(place.command("sh", "-c", SCRIPT, "tap", name), check=True, capture_output=True)


def remove(place: Place, name: str) -> None:
    """Take the tap *name* away, with all its routes and neighbors."""
    subprocess.run(place.command("ip", "link", "delete", name), check=True, capture_output=True)


def queue(place: Place, name: str, packets: int = USUAL) -> None:
    """Let so many packets wait for the guest, however short of a processor it is.

    A long queue keeps an emulated guest that answers late from passing for a network that loses.
    """
    words = ("ip", "link", "set", name, "txqueuelen", str(packets))
    subprocess.run(place.command(*words), check=True, capture_output=True)
