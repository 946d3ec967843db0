"""Our host routes in the kernel: encoded, observed, and asked who wins.

A delete always names device, metric, table, protocol and scope: one device's end never takes
another one's route, and a foreign route of the same prefix is never ours to take. A replace, in
IPv6, takes the first route of its (prefix, metric), whatever that one's device is.
"""

import dataclasses
import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from handover_nodeagent.kernel.netlink import codec, dump
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress, Route

BODY: Final = struct.Struct("=BBBBBBBBI")
"""struct rtmsg of linux/rtnetlink.h: family, destination and source prefix length, TOS, table,
protocol, scope, type, flags."""
BODY_AT: Final = codec.HEADER.size
ATTRIBUTES_AT: Final = BODY_AT + BODY.size
PREFIX_LENGTH_AT: Final = BODY_AT + 1

# RTA_ numbers of linux/rtnetlink.h, in their order.
DESTINATION: Final = 1
DEVICE: Final = 4
GATEWAY: Final = 5
PRIORITY: Final = 6
SOURCE: Final = 7
METRICS: Final = 8
MULTIPATH: Final = 9
REALMS: Final = 11
TABLE: Final = 15
VIA: Final = 18
PREFERENCE: Final = 20
ENCAPSULATION_TYPE: Final = 21
ENCAPSULATION: Final = 22
CARRIED: Final = (SOURCE, METRICS, REALMS, PREFERENCE, ENCAPSULATION_TYPE, ENCAPSULATION)
"""What a route of ours takes over. Not the scope: link is what a direct route has. Not the expiry
and the nexthop object, which are their owner's to end."""

UNICAST: Final = 1
HOST: Final = {codec.INET: 32, codec.INET6: 128}
# RT_SCOPE_LINK. RTM_F_FIB_MATCH: answer with the route itself, not with the way of one packet.
_SCOPE_LINK: Final = 253
_FIB_MATCH: Final = 0x2000
_CLONED: Final = 0x200
"""RTM_F_CLONED: a cache entry of one destination, not a route that somebody made."""
_WIDE_TABLE: Final = 252
"""RT_TABLE_COMPAT: the number does not fit the header's byte and stands in its attribute."""
_ANYWHERE: Final[Mapping[int, IPAddress]] = {
    codec.INET: IPv4Address(0),
    codec.INET6: IPv6Address(0),
}


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


@dataclass(frozen=True, slots=True)
class Entry:
    """A route as the kernel shows it, whoever made it; ``route.oif`` is 0 if it has many."""

    route: Route
    prefix_length: int
    gateway: IPAddress | None
    direct: bool

    @property
    def is_host(self) -> bool:
        """Tell whether it leads to one address only."""
        return self.prefix_length == self.route.address.max_prefixlen

    def __str__(self) -> str:
        route = self.route
        via = f" via {self.gateway}" if self.gateway else ""
        return (
            f"{route.address}/{self.prefix_length}{via} dev {_device(route.oif)} "
            f"metric {route.metric} table {route.table} "
            f"proto {_PROTOCOLS.get(route.protocol, route.protocol)}"
        )


def _device(index: int) -> str:
    """Name an interface to a person; one that is gone by now has its number left."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


def encode_add(route: Route) -> bytes:
    """Return the message that adds *route*; EEXIST when its (prefix, metric) is taken."""
    return _encode(codec.NEWROUTE, codec.CREATE | codec.EXCLUSIVE, route)


def encode_beside(route: Route) -> bytes:
    """Return the message that adds *route* behind another one of its (prefix, metric).

    EEXIST when it is there already or, in IPv6, anybody's direct one on its device.
    """
    return _encode(codec.NEWROUTE, codec.CREATE | codec.APPEND, route)


def encode_replace(route: Route) -> bytes:
    """Return the message that puts *route* in the place of its (prefix, metric), atomically.

    It overrides another device's and another protocol's route; there is no moment without one.
    """
    return _encode(codec.NEWROUTE, codec.CREATE | codec.REPLACE, route)


def without_carried(request: bytes, route: Route) -> bytes:
    """Return *request*, made for *route*, without what that one carries."""
    _, kind, flags, _, _ = codec.HEADER.unpack_from(request)
    return _encode(kind, flags, dataclasses.replace(route, carried=b""))


def encode_remove(route: Route) -> bytes:
    """Return the message that removes exactly *route*; ESRCH when it is not there."""
    # What is carried is not named: the kernel would go by it, and what it is may have changed.
    return _encode(codec.DELROUTE, 0, dataclasses.replace(route, carried=b""))


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
    """Return the direct host routes that carry our *protocol*, in the kernel's order.

    The kernel filters, so that 10,000 foreign ones cost nothing. Runs in a thread, never in the
    loop. Raises ObservationError.
    """
    entries = (
        decode(message)
        for table in tables
        for family in HOST
        for message in read_table(family, table, protocol=protocol)
    )
    ours = [entry.route for entry in entries if entry.is_host and entry.direct]
    # In IPv6 a replace may have made two of one; here they are one, and a remove takes both.
    # In IPv4 two on one device differ in what they carry.
    ipv6 = dict.fromkeys(route for route in ours if isinstance(route.address, IPv6Address))
    return (*(route for route in ours if isinstance(route.address, IPv4Address)), *ipv6)


def winner(channel: Channel, address: IPAddress, *, oif: int = 0) -> Entry | int:
    """Ask which route the node itself would take to *address*, as :func:`match` does.

    It is ours when ``winner(...).route`` equals our route.
    """
    message = match(channel, address, oif=oif)
    if isinstance(message, int):
        return message
    try:
        return decode(message)
    except codec.MalformedError:
        # A kernel that answers like this is as good as none: nobody knows who wins.
        return errno.EPROTO


def match(channel: Channel, address: IPAddress, *, oif: int = 0) -> bytes | int:
    """Return the winner's route message, or why there is none. A few microseconds.

    ENETUNREACH: no route leads there. EHOSTUNREACH, EACCES, EINVAL: one wins that only refuses
    (unreachable, prohibit, blackhole). All others: nobody knows. With *oif* the winner among the
    routes of that device, also one that is below another's; where the kernel is set to ignore
    routes without carrier, it says nothing of those.
    """
    body = BODY.pack(codec.family_of(address), address.max_prefixlen, 0, 0, 0, 0, 0, 0, _FIB_MATCH)
    body += codec.attribute(DESTINATION, address.packed)
    if oif:
        body += codec.number(DEVICE, oif)
    return channel.ask(codec.compose(codec.GETROUTE, 0, body))


def read_table(family: int, table: int, *, protocol: int = 0, oif: int = 0) -> Iterator[bytes]:
    """Ask for the unicast routes of one table; 0 stands for any protocol, any device.

    What the kernel shows beside, because it knows no such filter or family, is left out.
    Raises ObservationError.
    """
    body = BODY.pack(family, 0, 0, 0, 0, protocol, 0, UNICAST, 0)
    body += codec.number(TABLE, table)
    if oif:
        body += codec.number(DEVICE, oif)
    shown = dump.read(codec.compose(codec.GETROUTE, codec.DUMP, body))
    return (message for message in shown if _is_asked_for(message, table, protocol))


def _is_asked_for(message: bytes, table: int, protocol: int) -> bool:
    """Judge a message of a dump by its header; of 10,000 nothing more is read."""
    _, _, _, _, short, owner, _, _, _ = codec.unpack(BODY, message, BODY_AT)
    if not is_made(message) or protocol not in {0, owner}:
        return False
    # Only a number of more than 8 bits makes it necessary to look for its attribute.
    if short != _WIDE_TABLE:
        return short == table
    return codec.to_number(codec.find(message, ATTRIBUTES_AT, TABLE)) == table


def is_made(message: bytes) -> bool:
    """Tell whether *message* shows a unicast route that somebody made, and no cache entry.

    Raises codec.MalformedError.
    """
    _, _, _, _, _, _, _, kind, flags = codec.unpack(BODY, message, BODY_AT)
    return kind == UNICAST and not flags & _CLONED


def decode(message: bytes) -> Entry:
    """Read a route message. Raises codec.MalformedError."""
    family, length, source_length, tos, table, protocol, *_ = codec.unpack(BODY, message, BODY_AT)
    found = codec.attributes(message, ATTRIBUTES_AT)
    # One that is made for some packets only says nothing of the others.
    carried = b"" if source_length or tos else _carried(found)
    gateway = found.get(GATEWAY)
    return Entry(
        Route(
            _destination(found.get(DESTINATION), family, length),
            codec.to_number(found.get(DEVICE)),
            codec.to_number(found.get(PRIORITY)),
            codec.to_number(found.get(TABLE), table),
            protocol,
            carried,
        ),
        length,
        codec.to_address(gateway) if gateway else None,
        any(found.get(DEVICE, b"")) and found.keys().isdisjoint((GATEWAY, MULTIPATH, VIA)),
    )


def source_of(route: Route) -> IPAddress | None:
    """Return the address that the node speaks from by *route*, where the route says so."""
    found = codec.find(route.carried, 0, SOURCE)
    return codec.to_address(found) if found else None


def _carried(found: Mapping[int, bytes]) -> bytes:
    """Return what a route has beside, each part as the kernel shows it, in one order."""
    if SOURCE in found:
        codec.to_address(found[SOURCE])
    parts = ((kind, found[kind]) for kind in CARRIED if kind in found)
    # The kernel shows the preference of every IPv6 route; 0 is what each has by itself.
    return b"".join(
        codec.attribute(kind, payload)
        for kind, payload in parts
        if kind != PREFERENCE or any(payload)
    )


def _destination(shown: bytes | None, family: int, length: int) -> IPAddress:
    """Read where a route leads; address, family and prefix length must fit together."""
    address = codec.to_address(shown) if shown else _ANYWHERE.get(family)
    if address is None or codec.family_of(address) != family:
        text = f"a destination {address} of family {family}"
        raise codec.MalformedError(text)
    if length > address.max_prefixlen or (length and shown is None):
        text = f"a destination {address} of {length} bits"
        raise codec.MalformedError(text)
    return address


def _encode(kind: int, flags: int, route: Route) -> bytes:
    address = route.address
    # The table stands in its attribute, where it may have more than 8 bits.
    body = BODY.pack(
        codec.family_of(address),
        address.max_prefixlen,
        0,
        0,
        0,
        route.protocol,
        _SCOPE_LINK,
        UNICAST,
        0,
    )
    return codec.compose(
        kind,
        flags,
        body
        + codec.attribute(DESTINATION, address.packed)
        + codec.number(DEVICE, route.oif)
        + codec.number(PRIORITY, route.metric)
        + codec.number(TABLE, route.table)
        + route.carried,
    )
