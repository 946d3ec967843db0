"""PURE: rtnetlink messages as bytes: composed, split and read without a copy too many.

Written with ``struct``, on the loop that a guest's announcement waits for: a route takes 2 µs,
with pyroute2's message classes 195. The tests let pyroute2 and iproute2 judge every byte.
Layouts: linux/netlink.h, rtnetlink.h.
"""

import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from handover_nodeagent.network.model import IPAddress

# NLMSG_ERROR and NLMSG_DONE of linux/netlink.h; the RTM_ numbers of linux/rtnetlink.h.
ERROR: Final = 2
DONE: Final = 3
NEWLINK: Final = 16
DELLINK: Final = 17
GETLINK: Final = 18
NEWADDR: Final = 20
DELADDR: Final = 21
GETADDR: Final = 22
NEWROUTE: Final = 24
DELROUTE: Final = 25
GETROUTE: Final = 26
NEWNEIGH: Final = 28
GETNEIGH: Final = 30

# NLM_F_ flags of linux/netlink.h. The same bits mean one thing in a GET (NLM_F_DUMP is ROOT and
# MATCH, 0x100 and 0x200) and another in a NEW (0x100 to 0x800).
REQUEST: Final = 0x1
ACK: Final = 0x4
DUMP: Final = 0x300
REPLACE: Final = 0x100
EXCLUSIVE: Final = 0x200
CREATE: Final = 0x400
APPEND: Final = 0x800
DUMP_INTERRUPTED: Final = 0x10

INET: Final = 2
INET6: Final = 10

HEADER: Final = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port of who caused it."""
_ATTRIBUTE: Final = struct.Struct("=HH")
"""struct rtattr: length, its own 4 bytes included, and type."""
# The two bits above are flags: NLA_F_NESTED and NLA_F_NET_BYTEORDER.
_TYPE_MASK: Final = 0x3FFF
NESTED: Final = 0x8000
"""NLA_F_NESTED: what is written since Linux 5.2 has to say of an attribute that holds others."""
_LENGTH: Final = struct.Struct("=I")
_ADDRESS_SIZES: Final[Mapping[int, type[IPv4Address] | type[IPv6Address]]] = {
    4: IPv4Address,
    16: IPv6Address,
}


class ObservationError(Exception):
    """The kernel's state could not be read now: the sentence says why; worth another try."""


class MalformedError(ObservationError):
    """What came is not what the kernel writes; nobody may conclude anything from it."""


def compose(kind: int, flags: int, body: bytes) -> bytes:
    """Return one message; the channel fills in its sequence number."""
    return HEADER.pack(HEADER.size + len(body), kind, flags | REQUEST, 0, 0) + body


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded to where the next one may start."""
    padding = bytes(-len(payload) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + padding


def unpack(layout: struct.Struct, message: bytes, start: int) -> tuple[int, ...]:
    """Read the numbers of *layout*. Raises MalformedError when the message ends before them."""
    if start + layout.size > len(message):
        text = f"a message of {len(message)} bytes, too short for what it must begin with"
        raise MalformedError(text)
    return layout.unpack_from(message, start)


def kind_of(message: bytes) -> int:
    """Return the type that the header names. Raises MalformedError."""
    return unpack(HEADER, message, 0)[1]


def number(kind: int, value: int) -> bytes:
    """Return an attribute that holds a 32-bit number."""
    return attribute(kind, _LENGTH.pack(value))


def attributes(message: bytes, start: int) -> Mapping[int, bytes]:
    """Return the attributes from *start* to the end; of a kind that comes twice the last.

    Raises MalformedError when a length lies: what came before it may be as wrong.
    """
    found: dict[int, bytes] = {}
    end = len(message)
    while start + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(message, start)
        if length < _ATTRIBUTE.size or start + length > end:
            text = f"an attribute of {length} bytes where {end - start} are left"
            raise MalformedError(text)
        # The length does not count the padding up to the next multiple of 4 (RTA_ALIGNTO).
        found[kind & _TYPE_MASK] = message[start + _ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3
    return found


def find(message: bytes, start: int, kind: int) -> bytes:
    """Return the first attribute of *kind*, b"" if there is none, reading no further."""
    end = len(message)
    while start + _ATTRIBUTE.size <= end:
        length, found = _ATTRIBUTE.unpack_from(message, start)
        if found == kind or length < _ATTRIBUTE.size:
            return message[start + _ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3
    return b""


def to_number(payload: bytes | None, absent: int = 0) -> int:
    """Read what :func:`number` wrote. Raises MalformedError."""
    return absent if payload is None else unpack(_LENGTH, payload, 0)[0]


def to_address(payload: bytes) -> IPAddress:
    """Read an address of either family: its length tells which. Raises MalformedError."""
    make = _ADDRESS_SIZES.get(len(payload))
    if make is None:
        text = f"an address of {len(payload)} bytes"
        raise MalformedError(text)
    return make(payload)


def to_text(payload: bytes) -> str:
    """Read a string that ends in a zero byte; a name of bytes that are no UTF-8 survives."""
    return payload.rstrip(b"\0").decode(errors="surrogateescape")


def family_of(address: IPAddress) -> int:
    """Return the kernel's number of the address's family."""
    return INET if isinstance(address, IPv4Address) else INET6


def split(buffer: bytes) -> Iterator[bytes]:
    """Take the messages out of one datagram. Raises MalformedError at a rest that is none.

    A rest that is left alone would be an answer that is missing, and nobody would know.
    """
    start = 0
    end = len(buffer)
    while start < end:
        length = unpack(HEADER, buffer, start)[0]
        if length < HEADER.size or start + length > end:
            text = f"a message of {length} bytes where {end - start} are left"
            raise MalformedError(text)
        yield buffer[start : start + length]
        start += (length + 3) & ~3
