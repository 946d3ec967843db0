"""PURE: link and address messages as bytes, and the node's links as all of them together show them.

Two of the kernel's structures, struct ifinfomsg and struct ifaddrmsg, for one value: a link with
the node's own addresses on it.
"""

import dataclasses
import struct
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from handover_nodeagent.kernel.netlink import codec, rtmsg
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


def encode_dump_links() -> bytes:
    """Return the question for all links."""
    body = _LINK_BODY.pack(0, 0, 0, 0, 0) + codec.number(_EXTENSIONS, _SKIP_STATISTICS)
    return codec.compose(codec.GETLINK, codec.DUMP, body)


def encode_dump_addresses() -> bytes:
    """Return the question for the node's own addresses, of both families."""
    return codec.compose(codec.GETADDR, codec.DUMP, _ADDRESS_BODY.pack(0, 0, 0, 0, 0))


def decode_link(message: bytes) -> Link:
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


def decode_all(
    links: Iterable[bytes], addresses: Iterable[bytes], with_default: AbstractSet[int]
) -> Mapping[int, Link]:
    """Return all links by index, of what the kernel shows of links and of addresses.

    *with_default* are the devices of default routes. Raises ObservationError.
    """
    own: dict[int, set[IPAddress]] = {}
    hosts: dict[int, set[IPAddress]] = {}
    for message in addresses:
        index, address = decode_address(message)
        own.setdefault(index, set()).add(address)
        if is_host(message):
            hosts.setdefault(index, set()).add(address)
    found = tuple(map(decode_link, links))
    if not found:
        # There is always lo; to believe that all are gone would take every endpoint's link away.
        text = "the kernel shows no link at all"
        raise codec.ObservationError(text)
    return {
        link.index: dataclasses.replace(
            link,
            addresses=frozenset(own.get(link.index, ())),
            default_route=link.index in with_default,
            hosts=frozenset(hosts.get(link.index, ())),
        )
        for link in found
    }
