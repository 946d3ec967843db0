"""PURE: the classic BPF program that keeps irrelevant notifications from waking us.

Dropped in the kernel: what our own port caused, what a bridge tells about its ports, network
routes, routes of other types than unicast, and host routes by a gateway, unless one took another
route's place, which may have been ours. Numbers in a message have the host's byte order, BPF
loads big-endian: so the constants are turned instead.
"""

import struct
from dataclasses import dataclass
from typing import Final

from handover_nodeagent.kernel import routes
from handover_nodeagent.kernel.netlink import codec
from handover_nodeagent.sniff.packet_filter import Instruction, Program

_LOAD_WORD: Final = 0x20  # A = 4 bytes at k
_LOAD_HALF: Final = 0x28  # A = 2 bytes at k
_LOAD_BYTE: Final = 0x30  # A = 1 byte at k
_LOAD_IMMEDIATE: Final = 0x00  # A = k
_LOAD_X_IMMEDIATE: Final = 0x01  # X = k
_IF_EQUAL: Final = 0x15  # A == k
_IF_ANY_BIT: Final = 0x45  # A & k
_RETURN: Final = 0x06  # k bytes are kept; 0 drops the message

_FIND_ATTRIBUTE: Final = 0xFFFFF000 + 12
"""SKF_AD_OFF + SKF_AD_NLATTR: A = where from A on an attribute of type X starts, or 0."""

_TYPE_AT: Final = 4
_FLAGS_AT: Final = 6
_PORT_AT: Final = 12
_FAMILY_AT: Final = codec.HEADER.size
_ROUTE_TYPE_AT: Final = routes.BODY_AT + 7
_EVERYTHING: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Line:
    """An instruction whose jumps have names; "" is the next line."""

    code: int
    k: int
    true: str = ""
    false: str = ""
    label: str = ""


def compile_filter(own_port: int) -> Program:
    """Return the program; notifications that *own_port* caused are dropped, 0 is nobody's."""
    return _link(
        (
            _Line(_LOAD_HALF, _TYPE_AT),
            _Line(_IF_EQUAL, _half(codec.NEWROUTE), "route"),
            _Line(_IF_EQUAL, _half(codec.DELROUTE), "route"),
            _Line(_IF_EQUAL, _half(codec.NEWLINK), "link"),
            _Line(_IF_EQUAL, _half(codec.DELLINK), "link"),
            _Line(_IF_EQUAL, _half(codec.NEWADDR), "keep"),
            _Line(_IF_EQUAL, _half(codec.DELADDR), "keep", "drop"),
            # A bridge tells about its ports in link messages of its own family: a DELLINK of
            # those means that the port left, not that the link is gone.
            _Line(_LOAD_BYTE, _FAMILY_AT, label="link"),
            _Line(_IF_EQUAL, 0, "keep", "drop"),
            _Line(_LOAD_WORD, _PORT_AT, label="route"),
            _Line(_IF_EQUAL, _word(own_port or _EVERYTHING), "drop"),
            _Line(_LOAD_BYTE, _ROUTE_TYPE_AT),
            _Line(_IF_EQUAL, routes.UNICAST, "", "drop"),
            _Line(_LOAD_BYTE, _FAMILY_AT),
            _Line(_IF_EQUAL, codec.INET, "", "inet6"),
            _Line(_LOAD_BYTE, routes.PREFIX_LENGTH_AT),
            _Line(_IF_EQUAL, routes.HOST[codec.INET], "host"),
            _Line(_IF_EQUAL, 0, "keep", "drop"),
            _Line(_LOAD_BYTE, routes.PREFIX_LENGTH_AT, label="inet6"),
            _Line(_IF_EQUAL, routes.HOST[codec.INET6], "host"),
            _Line(_IF_EQUAL, 0, "keep", "drop"),
            _Line(_LOAD_HALF, _FLAGS_AT, label="host"),
            _Line(_IF_ANY_BIT, _half(codec.REPLACE), "keep"),
            *_drop_with(routes.GATEWAY),
            *_drop_with(routes.VIA),
            *_drop_with(routes.MULTIPATH),
            _Line(_RETURN, _EVERYTHING, label="keep"),
            _Line(_RETURN, 0, label="drop"),
        )
    )


def _drop_with(attribute: int) -> tuple[_Line, ...]:
    return (
        _Line(_LOAD_IMMEDIATE, routes.ATTRIBUTES_AT),
        _Line(_LOAD_X_IMMEDIATE, attribute),
        _Line(_LOAD_WORD, _FIND_ATTRIBUTE),
        _Line(_IF_EQUAL, 0, "", "drop"),
    )


def _link(lines: tuple[_Line, ...]) -> Program:
    """Turn names into distances."""
    places = {line.label: number for number, line in enumerate(lines) if line.label}
    return tuple(
        Instruction(
            line.code,
            places.get(line.true, number + 1) - number - 1,
            places.get(line.false, number + 1) - number - 1,
            line.k,
        )
        for number, line in enumerate(lines)
    )


def _half(number: int) -> int:
    return int.from_bytes(struct.pack("=H", number), "big")


def _word(number: int) -> int:
    return int.from_bytes(struct.pack("=I", number), "big")
