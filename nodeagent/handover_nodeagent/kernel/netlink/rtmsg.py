"""PURE: route messages as bytes: those that change or ask for routes, and what the kernel shows.

A delete always names device, way, metric, table, protocol and scope: one device's end never
takes another one's route, and a foreign route of the same prefix is never ours to take. A
replace, in IPv6, takes the first route of its (prefix, metric), whatever that one's device is.
"""

import dataclasses
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from handover_nodeagent.kernel.netlink import codec, ways
from handover_nodeagent.network.model import Encapsulated, IPAddress, Nexthop, Route, Way

BODY: Final = struct.Struct("=BBBBBBBBI")
"""struct rtmsg of linux/rtnetlink.h: family, destination and source prefix length, TOS, table,
protocol, scope, type, flags."""
BODY_AT: Final = codec.HEADER.size
ATTRIBUTES_AT: Final = BODY_AT + BODY.size
PREFIX_LENGTH_AT: Final = BODY_AT + 1

# RTA_ numbers of linux/rtnetlink.h, in their order; those of a route's way are in ``ways.py``.
DESTINATION: Final = 1
PRIORITY: Final = 6
SOURCE: Final = 7
METRICS: Final = 8
REALMS: Final = 11
TABLE: Final = 15
PREFERENCE: Final = 20
CARRIED: Final = (
    *(SOURCE, METRICS, REALMS, PREFERENCE),
    *(ways.ENCAPSULATION_TYPE, ways.ENCAPSULATION),
)
"""What a route of ours takes over. Not the scope: link is what a direct route has. Not the expiry
and the nexthop object, which are their owner's to end."""

UNICAST: Final = 1
HOST: Final = {codec.INET: 32, codec.INET6: 128}
_CLONED: Final = 0x200
"""RTM_F_CLONED: a cache entry of one destination, not a route that somebody made."""
_FIB_MATCH: Final = 0x2000
"""RTM_F_FIB_MATCH: answer with the route itself, not with the way of one packet."""
_WIDE_TABLE: Final = 252
"""RT_TABLE_COMPAT: the number does not fit the header's byte and stands in its attribute."""
_NEXTHOP: Final = struct.Struct("=HBBi")
"""struct rtnexthop of linux/rtnetlink.h: length, flags, hops, index."""
_ANYWHERE: Final[Mapping[int, IPAddress]] = {
    codec.INET: IPv4Address(0),
    codec.INET6: IPv6Address(0),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A route as the kernel shows it, whoever made it; ``route.oif`` is 0 if it has many.

    ``direct``: it leads to who is on the link, by its device alone.
    """

    route: Route
    prefix_length: int
    gateway: IPAddress | None
    direct: bool

    @property
    def is_host(self) -> bool:
        """Tell whether it leads to one address only."""
        return self.prefix_length == self.route.address.max_prefixlen

    def as_ours(self) -> Route | None:
        """Return the route that an agent wrote so; None: of such a form it writes none.

        By its protocol it is known whether one did.
        """
        if not self.is_host or not (self.direct or self.route.way):
            return None
        # No guest's address is link-local: such a route is the tunnel's own affair.
        if self.route.address.is_link_local:
            return None
        # The kernel shows the device of a nexthop object in each of its routes.
        is_by_object = isinstance(self.route.way, Nexthop)
        return dataclasses.replace(self.route, oif=0) if is_by_object else self.route


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


def encode_unwrap(route: Route) -> bytes:
    """Return the message that makes an encapsulated *route* a plain one by the same device.

    ENOENT when nothing has its (prefix, metric): unlike a replace it never adds.
    """
    return _encode(codec.NEWROUTE, codec.REPLACE, dataclasses.replace(route, way=None))


def without_carried(request: bytes, route: Route) -> bytes:
    """Return *request*, made for *route*, without what that one carries."""
    _, kind, flags, _, _ = codec.HEADER.unpack_from(request)
    return _encode(kind, flags, dataclasses.replace(route, carried=b""))


def encode_remove(route: Route) -> bytes:
    """Return the message that removes exactly *route*; ESRCH when it is not there."""
    # What is carried is not named: the kernel would go by it, and what it is may have changed.
    return _encode(codec.DELROUTE, 0, dataclasses.replace(route, carried=b""))


def encode_match(address: IPAddress, *, oif: int = 0) -> bytes:
    """Return the question which route wins for *address*; with *oif* among those of that device."""
    body = BODY.pack(codec.family_of(address), address.max_prefixlen, 0, 0, 0, 0, 0, 0, _FIB_MATCH)
    body += codec.attribute(DESTINATION, address.packed)
    return codec.compose(codec.GETROUTE, 0, body + _on(oif))


def encode_dump(family: int, table: int, *, protocol: int = 0, oif: int = 0) -> bytes:
    """Return the question for the unicast routes of one table; 0: any protocol, any device."""
    body = BODY.pack(family, 0, 0, 0, 0, protocol, 0, UNICAST, 0) + codec.number(TABLE, table)
    return codec.compose(codec.GETROUTE, codec.DUMP, body + _on(oif))


def is_asked_for(message: bytes, table: int, protocol: int) -> bool:
    """Judge by its header a message that answers :func:`encode_dump`, filtered or not.

    Of 10,000 nothing more is read. Raises codec.MalformedError.
    """
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
    way = ways.decode(found)
    # One that is made for some packets only says nothing of the others.
    carried = b"" if source_length or tos else _carried(found, way)
    gateway = found.get(ways.GATEWAY)
    return Entry(
        Route(
            _destination(found.get(DESTINATION), family, length),
            codec.to_number(found.get(ways.DEVICE)),
            codec.to_number(found.get(PRIORITY)),
            codec.to_number(found.get(TABLE), table),
            protocol,
            carried,
            way,
        ),
        length,
        codec.to_address(gateway) if gateway else None,
        any(found.get(ways.DEVICE, b""))
        and found.keys().isdisjoint((ways.GATEWAY, ways.MULTIPATH, ways.VIA))
        and not isinstance(way, Encapsulated),
    )


def devices(message: bytes) -> tuple[int, ...]:
    """Return the devices of a route, of one that spreads over several all.

    Raises codec.MalformedError.
    """
    found = codec.attributes(message, ATTRIBUTES_AT)
    indexes = [codec.to_number(found.get(ways.DEVICE))]
    nexthops = found.get(ways.MULTIPATH, b"")
    while nexthops:
        length, _, _, index = codec.unpack(_NEXTHOP, nexthops, 0)
        if not _NEXTHOP.size <= length <= len(nexthops):
            text = f"a next hop of {length} bytes where {len(nexthops)} are left"
            raise codec.MalformedError(text)
        # Its own attributes lie inside its length; the next one begins at a multiple of 4.
        indexes.append(index)
        nexthops = nexthops[(length + 3) & ~3 :]
    return tuple(indexes)


def source_of(route: Route) -> IPAddress | None:
    """Return the address that the node speaks from by *route*, where the route says so."""
    found = codec.find(route.carried, 0, SOURCE)
    return codec.to_address(found) if found else None


def _on(oif: int) -> bytes:
    """Return what narrows a question down to one device; 0 is any."""
    return codec.number(ways.DEVICE, oif) if oif else b""


def _carried(found: Mapping[int, bytes], way: Way | None) -> bytes:
    """Return what a route has beside, each part as the kernel shows it, in one order."""
    if SOURCE in found:
        codec.to_address(found[SOURCE])
    # A tunnel of ours is the way itself, and would else be written twice.
    kinds = CARRIED[:-2] if isinstance(way, Encapsulated) else CARRIED
    parts = ((kind, found[kind]) for kind in kinds if kind in found)
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
        ways.scope_of(route.way),
        UNICAST,
        0,
    )
    return codec.compose(
        kind,
        flags,
        body
        + codec.attribute(DESTINATION, address.packed)
        + ways.encode(route)
        + codec.number(PRIORITY, route.metric)
        + codec.number(TABLE, route.table)
        + route.carried,
    )
