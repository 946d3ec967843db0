"""The kernel's forwarding table (FIB): its routes are read, and it is asked which one wins.

Nothing is changed here; what adds and removes our routes is ``routes/route_writer.py``.
"""

import errno
import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from handover_nodeagent.kernel.netlink import codec, dump, rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.rtmsg import Entry
from handover_nodeagent.network.model import (
    TUNNEL_ID,
    Encapsulated,
    IPAddress,
    Nexthop,
    Route,
    Via,
)

_PROTOCOLS: Final = {
    2: "kernel",
    3: "boot",
    4: "static",
    9: "ra",
    11: "zebra",
    12: "bird",
    16: "dhcp",
    80: "calico",
    186: "bgp",
    187: "isis",
    188: "ospf",
    189: "rip",
    192: "eigrp",
}
"""As ip-route(8) names them (rtnetlink(7), /etc/iproute2/rt_protos), and Calico's own."""


_NOTHING_THERE: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH)


def is_certain(channel: Channel, route: Route) -> bool:
    """Tell whether a delete of *route* takes that one and no other of its device.

    To the kernel metric 0 and protocol 0 stand for any, and table 0 for main. A route that has
    one of them is taken only where it is the first of its device, and so the one that a delete
    meets.
    """
    if route.metric and route.protocol and route.table:
        return True
    first = winner(channel, route.address, oif=route.oif)
    same = isinstance(first, Entry) and first.route == route
    return same and isinstance(route.address, IPv4Address)


def observe(protocol: int, tables: Iterable[int]) -> tuple[Route, ...]:
    """Return the host routes that carry our *protocol*, as we wrote them, in the kernel's order.

    The kernel filters, so that 10,000 foreign ones cost nothing. Runs in a thread, never in the
    loop. Raises ObservationError.
    """
    entries = (
        rtmsg.decode(message)
        for table in tables
        for family in rtmsg.HOST
        for message in read_table(family, table, protocol=protocol)
    )
    ours = [route for entry in entries if (route := entry.as_ours())]
    # In IPv6 a replace may have made two of one; here they are one, and a remove takes both.
    # In IPv4 two on one device differ in what they carry.
    ipv6 = dict.fromkeys(route for route in ours if isinstance(route.address, IPv6Address))
    return (*(route for route in ours if isinstance(route.address, IPv4Address)), *ipv6)


def winner(channel: Channel, address: IPAddress, *, oif: int = 0) -> Entry | int:
    """Ask which route the node itself would take to *address*, as :func:`match` does.

    It is ours when ``winner(...).as_ours()`` equals our route.
    """
    message = match(channel, address, oif=oif)
    if isinstance(message, int):
        return message
    try:
        return rtmsg.decode(message)
    except codec.MalformedError:
        # A kernel that answers like this is as good as none: nobody knows who wins.
        return errno.EPROTO


def match(channel: Channel, address: IPAddress, *, oif: int = 0) -> bytes | int:
    """Return the winner's route message, or why there is none. A few microseconds.

    With *oif* the winner among the routes of that device, also one that is below another's; where
    the kernel is set to ignore routes without carrier, it says nothing of those. That takes as long
    as a dump where a nexthop object stands before.

    ENETUNREACH: no route leads there. EHOSTUNREACH, EACCES, EINVAL: one wins that only refuses
    (unreachable, prohibit, blackhole). All others: nobody knows.
    """
    found = channel.ask(rtmsg.encode_match(address, oif=oif))
    if not oif or found not in _NOTHING_THERE:
        return found
    try:
        return _find_hidden(channel, address, oif) or found
    except (codec.MalformedError, codec.ObservationError):
        # As good as the answer before.
        return found


def _find_hidden(channel: Channel, address: IPAddress, oif: int) -> bytes | None:
    """Return the first route to *address* on a device that a nexthop object hides; None: none.

    In IPv4 a lookup for a device gives a prefix up at a nexthop object that leads to another one
    (fib_table_lookup in net/ipv4/fib_trie.c), and finds nothing of what stands behind.
    """
    first = channel.ask(rtmsg.encode_match(address))
    hiding = rtmsg.decode(first).route if isinstance(first, bytes) else None
    if hiding is None or not isinstance(hiding.way, Nexthop):
        return None
    entries = (
        (entry.route.metric, message)
        for message in read_table(codec.family_of(address), hiding.table, oif=oif)
        if (entry := rtmsg.decode(message)).is_host and entry.route.address == address
    )
    return min(entries, default=(0, None))[1]


def read_table(family: int, table: int, *, protocol: int = 0, oif: int = 0) -> Iterator[bytes]:
    """Ask for the unicast routes of one table; 0 stands for any protocol, any device.

    What the kernel shows beside, because it knows no such filter or family, is left out.
    Raises ObservationError.
    """
    shown = dump.read(rtmsg.encode_dump(family, table, protocol=protocol, oif=oif))
    return (message for message in shown if rtmsg.is_asked_for(message, table, protocol))


def describe(entry: Entry) -> str:
    """Say to a person which route it is, in the words of ``ip route``."""
    route = entry.route
    return (
        f"{route.address}/{entry.prefix_length}{_way(entry)} dev {_device(route.oif)} "
        f"metric {route.metric} table {route.table} "
        f"proto {_PROTOCOLS.get(route.protocol, route.protocol)}"
    )


def _way(entry: Entry) -> str:
    match entry.route.way:
        case Encapsulated(remote, source):
            spoken_from = f" src {source}" if source else ""
            return f" encap ip id {TUNNEL_ID}{spoken_from} dst {remote}"
        case Via(gateway):
            return f" via {gateway}"
        case Nexthop(number):
            via = f" via {entry.gateway}" if entry.gateway else ""
            return f" nhid {number}{via}"
    return ""


def _device(index: int) -> str:
    """Name an interface to a person; one that is gone by now has its number left."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)
