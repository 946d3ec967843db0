"""The node's interfaces, with its own addresses and default routes."""

import struct
from collections.abc import Mapping
from typing import Final

from handover_nodeagent.kernel import routes
from handover_nodeagent.kernel.netlink import codec, dump, rtmsg
from handover_nodeagent.network.model import IPAddress, Link

_LINK_BODY: Final = struct.Struct("=BxHiII")
"""struct ifinfomsg of linux/rtnetlink.h: family, hardware type, index, flags, changed flags."""
_ADDRESS_BODY: Final = struct.Struct("=BBBBI")
"""struct ifaddrmsg of linux/if_addr.h: family, prefix length, flags, scope, index."""
# IFLA_ADDRESS, IFLA_IFNAME and IFLA_EXT_MASK of linux/if_link.h. Without the flag
# RTEXT_FILTER_SKIP_STATS most of each message would be counters.
_MAC: Final = 1
_NAME: Final = 3
_EXTENSIONS: Final = 29
_SKIP_STATISTICS: Final = 8
# IFA_ADDRESS and IFA_LOCAL of linux/if_addr.h: on a link with a peer the first is the peer's, and
# IPv6 has the second only there.
_PEER_OR_OWN: Final = 1
_OWN: Final = 2
# IFF_UP and IFF_LOWER_UP of linux/if.h.
_UP: Final = 1
_LOWER_UP: Final = 0x10000
_NEXTHOP: Final = struct.Struct("=HBBi")
"""struct rtnexthop of linux/rtnetlink.h: length, flags, hops, index."""


def observe(table: int = 254) -> Mapping[int, Link]:
    """Return all links by index; *table* is where default routes count.

    Runs in a thread, never in the loop. Raises ObservationError.
    """
    body = _LINK_BODY.pack(0, 0, 0, 0, 0) + codec.number(_EXTENSIONS, _SKIP_STATISTICS)
    shown = dump.read(codec.compose(codec.GETLINK, codec.DUMP, body))
    addresses, hosts = _observe_addresses()
    with_default = _observe_default_devices(table)
    found = tuple(decode(message) for message in shown)
    if not found:
        # There is always lo; to believe that all are gone would take every endpoint's link away.
        text = "the kernel shows no link at all"
        raise codec.ObservationError(text)
    return {
        link.index: Link(
            link.index,
            link.name,
            link.mac,
            link.up,
            frozenset(addresses.get(link.index, ())),
            link.index in with_default,
            frozenset(hosts.get(link.index, ())),
            link.carrier,
        )
        for link in found
    }


def decode(message: bytes) -> Link:
    """Read a link message: all but addresses and default route. Raises codec.MalformedError."""
    _, _, index, flags, _ = codec.unpack(_LINK_BODY, message, codec.HEADER.size)
    found = codec.attributes(message, codec.HEADER.size + _LINK_BODY.size)
    name = codec.to_text(found.get(_NAME, b""))
    if index < 1 or not name or "\0" in name:
        text = f"link {index} has the name {name!r}"
        raise codec.MalformedError(text)
    mac, carrier = found.get(_MAC, b"").hex(":"), bool(flags & _LOWER_UP)
    return Link(index, name, mac, bool(flags & _UP), carrier=carrier)


def decode_address(message: bytes) -> tuple[int, IPAddress]:
    """Read an address message: the link's index and the node's end of it.

    Raises codec.MalformedError.
    """
    _, _, _, _, index = codec.unpack(_ADDRESS_BODY, message, codec.HEADER.size)
    found = codec.attributes(message, codec.HEADER.size + _ADDRESS_BODY.size)
    return index, codec.to_address(found.get(_OWN) or found.get(_PEER_OR_OWN, b""))


def is_host(message: bytes) -> bool:
    """Tell whether an address message tells of an address without a network: /32 or /128."""
    family, length, _, _, _ = _ADDRESS_BODY.unpack_from(message, codec.HEADER.size)
    return bool(length == rtmsg.HOST.get(family))


def _observe_addresses() -> tuple[dict[int, set[IPAddress]], dict[int, set[IPAddress]]]:
    """Return the addresses by link: all, and those without a network."""
    request = codec.compose(codec.GETADDR, codec.DUMP, _ADDRESS_BODY.pack(0, 0, 0, 0, 0))
    addresses: dict[int, set[IPAddress]] = {}
    hosts: dict[int, set[IPAddress]] = {}
    for message in dump.read(request):
        index, address = decode_address(message)
        addresses.setdefault(index, set()).add(address)
        if is_host(message):
            hosts.setdefault(index, set()).add(address)
    return addresses, hosts


def _observe_default_devices(table: int) -> frozenset[int]:
    return frozenset(
        index
        for family in rtmsg.HOST
        for message in routes.read_table(family, table)
        if message[rtmsg.PREFIX_LENGTH_AT] == 0
        for index in _devices(message)
    )


def _devices(message: bytes) -> tuple[int, ...]:
    """Return the devices of a route, of one that spreads over several all."""
    found = codec.attributes(message, rtmsg.ATTRIBUTES_AT)
    devices = [codec.to_number(found.get(rtmsg.DEVICE))]
    nexthops = found.get(rtmsg.MULTIPATH, b"")
    while nexthops:
        length, _, _, index = codec.unpack(_NEXTHOP, nexthops, 0)
        if not _NEXTHOP.size <= length <= len(nexthops):
            text = f"a next hop of {length} bytes where {len(nexthops)} are left"
            raise codec.MalformedError(text)
        # Its own attributes lie inside its length; the next one begins at a multiple of 4.
        devices.append(index)
        nexthops = nexthops[(length + 3) & ~3 :]
    return tuple(devices)
