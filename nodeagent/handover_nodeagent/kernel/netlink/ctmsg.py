"""PURE: connections that conntrack remembers, as bytes: asked for, read and deleted.

Layouts: linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
"""

import struct
from dataclasses import dataclass
from typing import Final

from handover_nodeagent.kernel.netlink import codec
from handover_nodeagent.network.model import IPAddress

# IPCTNL_MSG_CT_NEW, _GET and _DELETE of NFNL_SUBSYS_CTNETLINK, which is 1.
NEW: Final = 0x100
GET: Final = 0x101
DELETE: Final = 0x102

_BODY: Final = struct.Struct("=BBH")
"""struct nfgenmsg: family, version, resource."""
_ATTRIBUTES_AT: Final = codec.HEADER.size + _BODY.size
_BIG: Final = struct.Struct("!I")
"""Numbers are in network byte order here."""
# CTA_ numbers: of a connection, of its tuple, of a tuple's addresses (IPv4's source, destination,
# then IPv6's), of a filter.
_ORIGINAL: Final = 1
_STATUS: Final = 3
_ID: Final = 12
_ZONE: Final = 18
_FILTER: Final = 25
_ADDRESSES: Final = 1
_SOURCE: Final = {4: 1, 6: 3}
_DESTINATION: Final = {4: 2, 6: 4}
_FLAGS_OF_ORIGINAL: Final = 1
_BY_SOURCE, _BY_DESTINATION = 1, 2
"""CTA_FILTER_F_CTA_IP_SRC and _DST of net/netfilter/nf_conntrack_netlink.c."""
_NAT: Final = 0x30
"""IPS_SRC_NAT and IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection by its first packet; ``key`` is what names it to the kernel."""

    source: IPAddress
    destination: IPAddress
    is_translated: bool
    key: bytes


def encode_dumps(address: IPAddress) -> tuple[bytes, ...]:
    """Return the questions for the connections from and to an address; more may be shown.

    Before Linux 5.8 the kernel knows no filter. That for IPv6 addresses shows all but those that
    were asked for, up to this day: ctnetlink_filter_match_tuple takes what memcmp says for equal.
    """
    body = _BODY.pack(codec.family_of(address), 0, 0)
    if address.version == 6:  # noqa: PLR2004  IP's own number
        return (codec.compose(GET, codec.DUMP, body),)
    return tuple(
        codec.compose(GET, codec.DUMP, body + _filter(number, flag, address.packed))
        for number, flag in ((_SOURCE[4], _BY_SOURCE), (_DESTINATION[4], _BY_DESTINATION))
    )


def _filter(number: int, flag: int, address: bytes) -> bytes:
    found = codec.attribute(_ADDRESSES | codec.NESTED, codec.attribute(number, address))
    flags = codec.number(_FLAGS_OF_ORIGINAL, flag)
    original = codec.attribute(_ORIGINAL | codec.NESTED, found)
    return original + codec.attribute(_FILTER | codec.NESTED, flags)


def decode(message: bytes) -> Connection:
    """Read one connection. Raises codec.MalformedError."""
    found = codec.attributes(message, _ATTRIBUTES_AT)
    original = found.get(_ORIGINAL, b"")
    addresses = codec.attributes(codec.attributes(original, 0).get(_ADDRESSES, b""), 0)
    ends = [
        codec.to_address(addresses.get(numbers[4]) or addresses.get(numbers[6], b""))
        for numbers in (_SOURCE, _DESTINATION)
    ]
    (status,) = codec.unpack(_BIG, found.get(_STATUS, b""), 0)
    # With its number, so that one that has come in its place meanwhile stays.
    key = message[codec.HEADER.size : _ATTRIBUTES_AT]
    key += codec.attribute(_ORIGINAL | codec.NESTED, original)
    for kind in (_ZONE, _ID):
        key += codec.attribute(kind, found[kind]) if kind in found else b""
    return Connection(ends[0], ends[1], bool(status & _NAT), key)


def encode_delete(connection: Connection) -> bytes:
    """Return the message that has the kernel forget a connection."""
    return codec.compose(DELETE, codec.ACK, connection.key)
