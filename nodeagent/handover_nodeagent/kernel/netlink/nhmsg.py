"""PURE: nexthop objects as bytes: put, removed and shown.

A nexthop object (ip-nexthop(8)) is a next hop with a number. Routes name that number, so that one
message moves all of them; they go when it goes. linux/nexthop.h has the layout. Such a route is one
of ``rtmsg``, whose way is ``model.Nexthop``.
"""

import struct
from dataclasses import dataclass
from typing import Final

from handover_nodeagent.kernel.netlink import codec, ways
from handover_nodeagent.network.model import Encapsulated, IPAddress

NEWNEXTHOP: Final = 104
DELNEXTHOP: Final = 105
GETNEXTHOP: Final = 106

BODY: Final = struct.Struct("=BBBBI")
"""struct nhmsg of linux/nexthop.h: family, scope, protocol, reserved, flags."""
PROTOCOL_AT: Final = codec.HEADER.size + 2
_ATTRIBUTES_AT: Final = codec.HEADER.size + BODY.size

# NHA_ numbers of linux/nexthop.h.
_ID: Final = 1
_DEVICE: Final = 5
_GATEWAY: Final = 6
_ENCAPSULATION_TYPE: Final = 7
_ENCAPSULATION: Final = 8

_ONLINK: Final = 4
"""RTNH_F_ONLINK."""
FIRST_ID: Final = 0x48440001
LAST_ID: Final = 0x4844FFFF
"""The numbers that are ours. Nobody registers any; FRR counts up from 1, and a person does, too."""


@dataclass(frozen=True, slots=True)
class NextHop:
    """A gateway on a device, of the family of the routes that use it, or a way into a tunnel.

    ``onlink``: the kernel shall not ask whether the gateway is on the device's link: at the other
    end of a CNI's overlay it lies in no network of the device. A node's own address is never used
    so: where it is not on the link all would be lost. ``tunnel``: by a tunnel device of ours.
    """

    version: int
    oif: int
    gateway: IPAddress | None = None
    onlink: bool = False
    tunnel: Encapsulated | None = None


def is_ours(number: int) -> bool:
    """Tell whether a nexthop object is one of ours, by its number."""
    return FIRST_ID <= number <= LAST_ID


def encode_put(number: int, nexthop: NextHop, protocol: int) -> bytes:
    """Return the message that makes a nexthop object, or changes it for all of its routes."""
    family = codec.INET if nexthop.version == 4 else codec.INET6  # noqa: PLR2004  IP's own number
    # The scope is the kernel's to find out; another one than 0 it refuses.
    body = BODY.pack(family, 0, protocol, 0, _ONLINK if nexthop.onlink else 0)
    body += codec.number(_ID, number) + codec.number(_DEVICE, nexthop.oif)
    if nexthop.gateway:
        body += codec.attribute(_GATEWAY, nexthop.gateway.packed)
    if nexthop.tunnel:
        kind, tunnel = ways.encode_tunnel(nexthop.tunnel)
        body += codec.attribute(_ENCAPSULATION_TYPE, kind)
        body += codec.attribute(_ENCAPSULATION | codec.NESTED, tunnel)
    return codec.compose(NEWNEXTHOP, codec.CREATE | codec.REPLACE, body)


def encode_remove(number: int) -> bytes:
    """Return the message that removes a nexthop object, and with it all of its routes."""
    return codec.compose(DELNEXTHOP, 0, BODY.pack(0, 0, 0, 0, 0) + codec.number(_ID, number))


def encode_dump() -> bytes:
    """Return the question for all nexthop objects; the kernel filters by no protocol."""
    return codec.compose(GETNEXTHOP, codec.DUMP, BODY.pack(0, 0, 0, 0, 0))


def decode(message: bytes) -> tuple[int, NextHop | None]:
    """Read a nexthop object: its number, and None for a group or a blackhole, which ours are not.

    Raises codec.MalformedError.
    """
    family, _, _, _, flags = codec.unpack(BODY, message, codec.HEADER.size)
    found = codec.attributes(message, _ATTRIBUTES_AT)
    number = codec.to_number(found.get(_ID))
    version = {codec.INET: 4, codec.INET6: 6}.get(family)
    if version is None or _DEVICE not in found:
        return number, None
    gateway, tunnel = found.get(_GATEWAY), None
    if _ENCAPSULATION in found:
        kind = ways.type_of(found.get(_ENCAPSULATION_TYPE, b""))
        tunnel = ways.decode_tunnel(kind, found[_ENCAPSULATION])
        if tunnel is None:
            # Somebody made another thing of it, which is unlike any that we ask for.
            return number, None
    return number, NextHop(
        version,
        codec.to_number(found[_DEVICE]),
        codec.to_address(gateway) if gateway else None,
        bool(flags & _ONLINK),
        tunnel,
    )
