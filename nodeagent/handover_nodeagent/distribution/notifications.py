"""Hears what changes in the kernel that distributed routes depend on.

A filter in the kernel lets through what was not done by us: nexthop objects, routes of our protocol
number, links, addresses, and network routes, by which other nodes are reached. Host routes, and
what a BGP speaker makes, wake nobody: those may be many.
"""

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from handover_nodeagent.kernel import bpf
from handover_nodeagent.kernel.bpf import Program, Step
from handover_nodeagent.kernel.netlink import codec, ifinfomsg, nhmsg, rtmsg, subscription

BUDGET: Final = 64
"""Notifications per wake-up; then the loop's other descriptors have their turn."""
RECEIVE_BUFFER: Final = 1 << 20

_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400 | 1 << 31
"""RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE; group 32 is RTNLGRP_NEXTHOP."""
_SPEAKERS: Final = (11, 12, 186)
"""RTPROT_ZEBRA, BIRD, BGP of linux/rtnetlink.h."""

# Where struct nlmsghdr and struct rtmsg have them; each notification is a datagram of its own.
_TYPE_AT: Final = 4
_PORT_AT: Final = 12
_FAMILY_AT: Final = codec.HEADER.size
_PROTOCOL_AT: Final = rtmsg.BODY_AT + 5


@dataclass(frozen=True, slots=True)
class Doubt:
    """What may be otherwise now; *link* is the one that has changed, 0 where none has.

    ``are_ours``: our routes or nexthop objects themselves.
    """

    are_ours: bool = False
    link: int = 0


def listen(
    heard: Callable[[Doubt], None], own_port: int, protocol: int
) -> subscription.Subscription:
    """Call *heard* on the running loop with each doubt, until what is returned is closed."""
    program = compile_filter(own_port, protocol)
    subject = subscription.Subject(socket.NETLINK_ROUTE, _GROUPS, BUDGET, RECEIVE_BUFFER, program)
    # What was lost may have been anything.
    return subscription.Subscription(
        subject,
        lambda message: heard(decode(message, protocol)),
        lambda: heard(Doubt(are_ours=True)),
    )


def decode(message: bytes, protocol: int) -> Doubt:
    """Read one notification. Raises codec.MalformedError."""
    kind = codec.kind_of(message)
    if kind in {codec.NEWLINK, codec.DELLINK}:
        return Doubt(link=ifinfomsg.decode_link(message).index)
    if kind in {codec.NEWROUTE, codec.DELROUTE}:
        return Doubt(codec.unpack(rtmsg.BODY, message, rtmsg.BODY_AT)[5] == protocol)
    return Doubt(kind in {nhmsg.NEWNEXTHOP, nhmsg.DELNEXTHOP})


def compile_filter(own_port: int, protocol: int) -> Program:
    """Return the program; what *own_port* caused is dropped."""
    return bpf.assemble(
        (
            Step(bpf.LOAD_HALF, _TYPE_AT),
            Step(bpf.IF_EQUAL, _half(codec.NEWLINK), "link"),
            Step(bpf.IF_EQUAL, _half(codec.DELLINK), "link"),
            Step(bpf.IF_EQUAL, _half(codec.NEWADDR), "keep"),
            Step(bpf.IF_EQUAL, _half(codec.DELADDR), "keep"),
            Step(bpf.IF_EQUAL, _half(nhmsg.NEWNEXTHOP), "nexthop"),
            Step(bpf.IF_EQUAL, _half(nhmsg.DELNEXTHOP), "nexthop"),
            # Routes; the groups bring nothing else.
            Step(bpf.LOAD_WORD, _PORT_AT),
            Step(bpf.IF_EQUAL, _word(own_port), "drop"),
            Step(bpf.LOAD_BYTE, _PROTOCOL_AT),
            Step(bpf.IF_EQUAL, protocol, "keep"),
            *(Step(bpf.IF_EQUAL, speaker, "drop") for speaker in _SPEAKERS),
            Step(bpf.LOAD_BYTE, _FAMILY_AT),
            Step(bpf.IF_EQUAL, codec.INET, "", "inet6"),
            Step(bpf.LOAD_BYTE, rtmsg.PREFIX_LENGTH_AT),
            Step(bpf.IF_EQUAL, rtmsg.HOST[codec.INET], "drop", "keep"),
            "inet6",
            Step(bpf.LOAD_BYTE, rtmsg.PREFIX_LENGTH_AT),
            Step(bpf.IF_EQUAL, rtmsg.HOST[codec.INET6], "drop", "keep"),
            "nexthop",
            Step(bpf.LOAD_WORD, _PORT_AT),
            Step(bpf.IF_EQUAL, _word(own_port), "drop", "keep"),
            "link",
            # A bridge tells of its ports in link messages of its own family.
            Step(bpf.LOAD_BYTE, _FAMILY_AT),
            Step(bpf.IF_EQUAL, 0, "keep", "drop"),
            *("keep", Step(bpf.RETURN, bpf.EVERYTHING)),
            *("drop", Step(bpf.RETURN, 0)),
        )
    )


# Numbers in a message have the host's byte order and BPF loads big-endian.
def _half(number: int) -> int:
    return int.from_bytes(struct.pack("=H", number), "big")


def _word(number: int) -> int:
    return int.from_bytes(struct.pack("=I", number), "big")
