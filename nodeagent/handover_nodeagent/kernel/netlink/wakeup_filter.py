"""PURE: the classic BPF program that keeps irrelevant notifications from waking us.

Dropped in the kernel: what our own port caused, what a bridge tells about its ports, network
routes, routes of other types than unicast, the many by which we distribute, and host routes by a
gateway, unless one is ours or took another route's place, which may have been ours. Numbers in a
message have the host's byte order, BPF loads big-endian: so the constants are turned instead.
"""

import struct
from collections.abc import Iterator
from typing import Final

from handover_nodeagent.kernel import bpf
from handover_nodeagent.kernel.bpf import Program, Step
from handover_nodeagent.kernel.netlink import codec, rtmsg, ways

_FIND_ATTRIBUTE: Final = bpf.ANCILLARY + 12
"""SKF_AD_OFF + SKF_AD_NLATTR: A = where from A on an attribute of type X starts, or 0."""

# Where struct nlmsghdr and struct rtmsg have them. The program sees the first message of a
# datagram, and each notification of rtnetlink is one.
_TYPE_AT: Final = 4
_FLAGS_AT: Final = 6
_PORT_AT: Final = 12
_FAMILY_AT: Final = codec.HEADER.size
_PROTOCOL_AT: Final = rtmsg.BODY_AT + 5
_ROUTE_TYPE_AT: Final = rtmsg.BODY_AT + 7


def compile_filter(own_port: int, protocol: int = 0) -> Program:
    """Return the program; notifications that *own_port* caused are dropped, 0 is nobody's.

    *protocol* is that of our exported routes, and the next number that of the private ones.
    """
    return bpf.assemble(
        (
            Step(bpf.LOAD_HALF, _TYPE_AT),
            Step(bpf.IF_EQUAL, _half(codec.NEWROUTE), "route"),
            Step(bpf.IF_EQUAL, _half(codec.DELROUTE), "route"),
            Step(bpf.IF_EQUAL, _half(codec.NEWLINK), "link"),
            Step(bpf.IF_EQUAL, _half(codec.DELLINK), "link"),
            Step(bpf.IF_EQUAL, _half(codec.NEWADDR), "keep"),
            Step(bpf.IF_EQUAL, _half(codec.DELADDR), "keep", "drop"),
            "link",
            # A bridge tells about its ports in link messages of its own family: a DELLINK of
            # those means that the port left, not that the link is gone.
            Step(bpf.LOAD_BYTE, _FAMILY_AT),
            Step(bpf.IF_EQUAL, 0, "keep", "drop"),
            "route",
            # Who asked for the change; 0 where the kernel made it by itself.
            Step(bpf.LOAD_WORD, _PORT_AT),
            Step(bpf.IF_EQUAL, _word(own_port or bpf.EVERYTHING), "drop"),
            Step(bpf.LOAD_BYTE, _ROUTE_TYPE_AT),
            Step(bpf.IF_EQUAL, rtmsg.UNICAST, "", "drop"),
            Step(bpf.LOAD_BYTE, _FAMILY_AT),
            Step(bpf.IF_EQUAL, codec.INET, "", "inet6"),
            Step(bpf.LOAD_BYTE, rtmsg.PREFIX_LENGTH_AT),
            Step(bpf.IF_EQUAL, rtmsg.HOST[codec.INET], "host"),
            Step(bpf.IF_EQUAL, 0, "keep", "drop"),
            "inet6",
            Step(bpf.LOAD_BYTE, rtmsg.PREFIX_LENGTH_AT),
            Step(bpf.IF_EQUAL, rtmsg.HOST[codec.INET6], "host"),
            Step(bpf.IF_EQUAL, 0, "keep", "drop"),
            "host",
            Step(bpf.LOAD_BYTE, _PROTOCOL_AT),
            Step(bpf.IF_EQUAL, protocol + 1, "", "exported"),
            *_drop_with(ways.NEXTHOP_OBJECT),
            "exported",
            Step(bpf.LOAD_BYTE, _PROTOCOL_AT),
            Step(bpf.IF_EQUAL, protocol, "keep"),
            Step(bpf.IF_EQUAL, protocol + 1, "keep"),
            # RTM_NEWROUTE says by NLM_F_REPLACE that another route had to go, perhaps ours.
            Step(bpf.LOAD_HALF, _FLAGS_AT),
            Step(bpf.IF_ANY_BIT, _half(codec.REPLACE), "keep"),
            *_drop_with(ways.GATEWAY),
            *_drop_with(ways.VIA),
            *_drop_with(ways.MULTIPATH),
            *("keep", Step(bpf.RETURN, bpf.EVERYTHING)),
            *("drop", Step(bpf.RETURN, 0)),
        )
    )


def _drop_with(attribute: int) -> Iterator[Step]:
    yield Step(bpf.LOAD_NUMBER, rtmsg.ATTRIBUTES_AT)
    yield Step(bpf.SET_X, attribute)
    yield Step(bpf.LOAD_WORD, _FIND_ATTRIBUTE)
    yield Step(bpf.IF_EQUAL, 0, "", "drop")


def _half(number: int) -> int:
    return int.from_bytes(struct.pack("=H", number), "big")


def _word(number: int) -> int:
    return int.from_bytes(struct.pack("=I", number), "big")
