"""The kernel is asked how another node is reached; what is made of it, ``nexthop`` says."""

import contextlib
import socket
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from handover_nodeagent.distribution import nexthop
from handover_nodeagent.distribution.nexthop import Answer, Tunneled, Ways
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.kernel import route_lookup
from handover_nodeagent.kernel.netlink import codec, rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.nhmsg import NextHop
from handover_nodeagent.network.model import IPAddress

_TUNNELS: Final = ("handover0", "handover1")
_OUTSIDE: Final[Mapping[int, IPAddress]] = {
    4: IPv4Address("203.0.113.1"),
    6: IPv6Address("3fff::1"),
}
"""Of TEST-NET-3 (RFC 5737) and of documentation's own network (RFC 9637), to which nobody has a
route of its own."""
_ONLINK: Final = 4
"""RTNH_F_ONLINK of linux/rtnetlink.h, which a route of one next hop shows among its own flags."""


def to_node(channel: Channel, node: Node, version: int) -> NextHop | Tunneled | None:
    """Ask how *node* is reached in one family: two look-ups of some microseconds."""
    address, pods = nexthop.questions(node, version)
    ways = Ways(_ask(channel, address), _ask(channel, pods))
    return nexthop.choose(node, version, ways, _own_devices())


def device_outside(channel: Channel, version: int = 4) -> int:
    """Return the device by which clients outside of the cluster are answered; 0: none."""
    return device_to(channel, _OUTSIDE[version])


def device_to(channel: Channel, address: IPAddress) -> int:
    """Return the device by which *address* is reached; 0: none, or one of several."""
    answer = _ask(channel, address)
    return answer.oif if answer else 0


def _ask(channel: Channel, address: IPAddress | None) -> Answer | None:
    """Return the kernel's way to *address*; None where there is none, or one that is no answer."""
    message = route_lookup.match(channel, address) if address else None
    if not isinstance(message, bytes):
        return None
    try:
        entry = rtmsg.decode(message)
        flags = codec.unpack(rtmsg.BODY, message, rtmsg.BODY_AT)[8]
    except codec.MalformedError:
        return None
    # By several next hops, or by one of the other family: none of them is the node for sure.
    if not entry.direct and entry.gateway is None:
        return None
    is_default = entry.prefix_length == 0
    return Answer(entry.route.oif, entry.gateway, bool(flags & _ONLINK), is_default)


def _own_devices() -> list[int]:
    found: list[int] = []
    for name in _TUNNELS:
        with contextlib.suppress(OSError):
            found.append(socket.if_nametoindex(name))
    return found
