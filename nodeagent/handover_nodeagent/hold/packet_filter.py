"""PURE: which of the frames that go into a guest's port are held for it.

What is sent to one of its addresses, by anybody, as long as it did not come from another node's
redirect (``kernel/redirect_table``): no packet passes two of those. Neither ARP nor Neighbor
Discovery, which are the link's own; nor what is for many.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from handover_nodeagent.kernel import bpf
from handover_nodeagent.kernel.bpf import Program, Step
from handover_nodeagent.kernel.redirect_table.rules import TUNNELED
from handover_nodeagent.network.model import IPAddress

# linux/filter.h: SKF_AD_PKTTYPE, SKF_AD_MARK; linux/if_packet.h: PACKET_OUTGOING.
_PACKET_TYPE: Final = bpf.ANCILLARY + 4
_MARK: Final = bpf.ANCILLARY + 20
_OUTGOING: Final = 4

# Offsets in an Ethernet frame: RFC 791, RFC 8200, RFC 4443.
_GROUP: Final = 0
_ETHERTYPE: Final = 12
_IPV4, _IPV4_RECEIVER = 0x0800, 30
_IPV6, _IPV6_RECEIVER, _NEXT_HEADER = 0x86DD, 38, 20
_ICMPV6, _ICMP_TYPE = 58, 54
_FIRST_ND, _BEHIND_ND = 133, 138
"""Router Solicitation to Redirect (RFC 4861)."""
_WORD: Final = 4


LARGEST: Final = 9216
"""Octets of a frame that a link carries as it is. What is larger is a stretch of a TCP connection
that a device is to cut (GSO): its sender sends that again by itself, a fifth of a second later."""


def compile_filter(addresses: Iterable[IPAddress], largest: int | None = None) -> Program:
    """Return the program that keeps, whole, what is sent to one of *addresses*.

    Of no more than *largest* octets, where that is given.
    """
    return bpf.assemble(_source(tuple(addresses), largest))


def _source(addresses: tuple[IPAddress, ...], largest: int | None) -> Iterator[Step | str]:
    if largest is not None:
        yield Step(bpf.LOAD_LENGTH)
        yield Step(bpf.IF_AT_LEAST, largest + 1, "drop")
    ipv4 = [one for one in addresses if isinstance(one, IPv4Address)]
    ipv6 = [one for one in addresses if isinstance(one, IPv6Address)]
    yield Step(bpf.LOAD_WORD, _PACKET_TYPE)
    yield Step(bpf.IF_EQUAL, _OUTGOING, "", "drop")
    yield Step(bpf.LOAD_WORD, _MARK)
    yield Step(bpf.IF_ANY_BIT, TUNNELED, "drop")
    yield Step(bpf.LOAD_BYTE, _GROUP)
    yield Step(bpf.IF_ANY_BIT, 1, "drop")
    yield Step(bpf.LOAD_HALF, _ETHERTYPE)
    yield Step(bpf.IF_EQUAL, _IPV4, "IPv4")
    yield Step(bpf.IF_EQUAL, _IPV6, "IPv6", "drop")
    yield "IPv6"
    yield Step(bpf.LOAD_BYTE, _NEXT_HEADER)
    yield Step(bpf.IF_EQUAL, _ICMPV6, "", "IPv6 receiver")
    yield Step(bpf.LOAD_BYTE, _ICMP_TYPE)
    yield Step(bpf.IF_AT_LEAST, _FIRST_ND, "", "IPv6 receiver")
    yield Step(bpf.IF_AT_LEAST, _BEHIND_ND, "", "drop")
    yield "IPv6 receiver"
    for octets in (one.packed for one in ipv6):
        yield from _compare(_IPV6_RECEIVER, octets)
    yield from ("drop", Step(bpf.RETURN, 0), "IPv4")
    for octets in (one.packed for one in ipv4):
        yield from _compare(_IPV4_RECEIVER, octets)
    yield from ("drop", Step(bpf.RETURN, 0), "keep", Step(bpf.RETURN, bpf.EVERYTHING))


def _compare(offset: int, octets: bytes) -> Iterator[Step | str]:
    """Keep a packet that has *octets* at *offset*; else go on with the next address."""
    words = range(0, len(octets), _WORD)
    for at in words:
        yield Step(bpf.LOAD_WORD, offset + at)
        word = int.from_bytes(octets[at : at + _WORD], "big")
        yield Step(bpf.IF_EQUAL, word, "keep" if at == words[-1] else "", "next")
    yield "next"
