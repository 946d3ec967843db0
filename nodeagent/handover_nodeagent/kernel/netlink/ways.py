"""PURE: how a route leads on, as attributes: a device alone, a gateway, a tunnel, a nexthop object.

A tunnel's route is ours by its tunnel id; whatever else somebody encapsulates stays bytes that a
route carries.
"""

import struct
from collections.abc import Mapping
from typing import Final

from handover_nodeagent.kernel.netlink import codec
from handover_nodeagent.network.model import (
    TUNNEL_ID,
    Encapsulated,
    IPAddress,
    Nexthop,
    Route,
    Via,
    Way,
)

# RTA_ numbers of linux/rtnetlink.h.
DEVICE: Final = 4
GATEWAY: Final = 5
MULTIPATH: Final = 9
VIA: Final = 18
ENCAPSULATION_TYPE: Final = 21
ENCAPSULATION: Final = 22
NEXTHOP_OBJECT: Final = 30

_IP_TUNNEL: Final = {codec.INET: 2, codec.INET6: 4}
"""LWTUNNEL_ENCAP_IP and LWTUNNEL_ENCAP_IP6 of linux/lwtunnel.h, by the underlay's family: it has
nothing to do with the route's own."""
# LWTUNNEL_IP_ID, _DST and _SRC of linux/lwtunnel.h; the IP6 ones have the same numbers.
_ID: Final = 1
_DESTINATION: Final = 2
_SOURCE: Final = 3
_TYPE: Final = struct.Struct("=H")
_BIG_ENDIAN: Final = struct.Struct(">Q")
"""LWTUNNEL_IP_ID is in network order, unlike all else in a route message."""
_TUNNEL_ID: Final = _BIG_ENDIAN.pack(TUNNEL_ID)
_FAMILY: Final = struct.Struct("=H")
"""struct rtvia of linux/rtnetlink.h: the family, then the address."""

_SCOPE_UNIVERSE: Final = 0
_SCOPE_LINK: Final = 253


def scope_of(way: Way | None) -> int:
    """Return the scope of a route that leads on by *way*."""
    # RT_SCOPE_LINK is what a route without gateway has, and what fib_check_nh refuses to one with
    # a gateway. A delete in IPv4 names it.
    return _SCOPE_LINK if way is None or isinstance(way, Encapsulated) else _SCOPE_UNIVERSE


def encode(route: Route) -> bytes:
    """Return the attributes that say where *route* leads on; ``oif`` is no part of an object's."""
    match route.way:
        case None:
            return codec.number(DEVICE, route.oif)
        case Nexthop(number):
            # The kernel refuses a request that names both (fib_create_info, ip6_route_info_create).
            return codec.number(NEXTHOP_OBJECT, number)
        case Via(gateway):
            return codec.number(DEVICE, route.oif) + _encode_gateway(route.address, gateway)
        case Encapsulated() as way:
            kind, tunnel = encode_tunnel(way)
            return (
                codec.number(DEVICE, route.oif)
                + codec.attribute(ENCAPSULATION_TYPE, kind)
                + codec.attribute(ENCAPSULATION | codec.NESTED, tunnel)
            )


def encode_tunnel(way: Encapsulated) -> tuple[bytes, bytes]:
    """Return what RTA_ENCAP_TYPE and RTA_ENCAP, or those of a nexthop object, have in them."""
    tunnel = codec.attribute(_ID, _TUNNEL_ID) + codec.attribute(_DESTINATION, way.remote.packed)
    if way.source:
        tunnel += codec.attribute(_SOURCE, way.source.packed)
    return _TYPE.pack(_IP_TUNNEL[codec.family_of(way.remote)]), tunnel


def decode(found: Mapping[int, bytes]) -> Way | None:
    """Read the way of a route from its attributes; None: its device alone, or several ways.

    Raises codec.MalformedError.
    """
    if NEXTHOP_OBJECT in found:
        return Nexthop(codec.to_number(found[NEXTHOP_OBJECT]))
    if GATEWAY in found:
        return Via(codec.to_address(found[GATEWAY]))
    if VIA in found:
        return Via(codec.to_address(found[VIA][_FAMILY.size :]))
    if ENCAPSULATION in found:
        return decode_tunnel(type_of(found.get(ENCAPSULATION_TYPE, b"")), found[ENCAPSULATION])
    return None


def decode_tunnel(kind: int, payload: bytes) -> Encapsulated | None:
    """Read what is in RTA_ENCAP, of RTA_ENCAP_TYPE *kind*; None: it is no tunnel of ours.

    Raises codec.MalformedError.
    """
    if kind not in _IP_TUNNEL.values():
        return None
    tunnel = codec.attributes(payload, 0)
    if tunnel.get(_ID) != _TUNNEL_ID or _DESTINATION not in tunnel:
        return None
    # The kernel always shows a source: of zeros where it chooses.
    source = tunnel.get(_SOURCE, b"")
    shown = codec.to_address(source) if any(source) else None
    return Encapsulated(codec.to_address(tunnel[_DESTINATION]), shown)


def type_of(payload: bytes) -> int:
    """Read what is in RTA_ENCAP_TYPE, or in that of a nexthop object. Raises MalformedError."""
    return codec.unpack(_TYPE, payload, 0)[0]


def _encode_gateway(address: IPAddress, gateway: IPAddress) -> bytes:
    if gateway.version == address.version:
        return codec.attribute(GATEWAY, gateway.packed)
    # RFC 5549 (now 8950): an IPv4 destination behind an IPv6 neighbor; RTA_GATEWAY has no room.
    return codec.attribute(VIA, _FAMILY.pack(codec.family_of(gateway)) + gateway.packed)
