"""PURE: the classic BPF program of one endpoint: what its reader need never see.

The program lets through what ``frames.parse`` and ``verdict.judge`` could accept and, as far as
its 1990s instructions reach, nothing else: an NA's checksum and options stay to be judged. So a
flood from a hostile guest ends in the kernel, without a wake-up.

Offsets are those of an untagged Ethernet frame. A tag of VLAN id 0 counts as none, whether the
kernel has taken it off or it stands in the bytes: X holds by how much it moves what is behind it.
"""

import dataclasses
from collections.abc import Collection, Iterator
from typing import Final

from handover_nodeagent.kernel import bpf
from handover_nodeagent.kernel.bpf import Program, Step
from handover_nodeagent.sniff import frames
from handover_nodeagent.sniff.verdict import Expectation

SNAP_LENGTH: Final = 2048
"""More than any frame that counts: an NA with a full set of options is far below it."""

_VLAN_TAG: Final = bpf.ANCILLARY + 44
"""SKF_AD_VLAN_TAG: priority and id of the tag that the kernel took off before it shows a frame."""
_VLAN_TAG_PRESENT: Final = bpf.ANCILLARY + 48
"""SKF_AD_VLAN_TAG_PRESENT: without one the tag's own field says nothing."""

# Ethernet: the source stands before any tag, and is loaded without X.
_SOURCE: Final = 6
_ETHERTYPE: Final = 12
_TAG: Final = 14
# ARP and RARP (RFC 826), behind Ethernet.
_HARDWARE: Final = 14
_LENGTHS: Final = 18
_OPERATION: Final = 20
_SENDER_MAC: Final = 22
_SENDER: Final = 28
_TARGET: Final = 38
# IPv6 (RFC 8200) and the Neighbor Advertisement (RFC 4861 section 4.4), behind Ethernet.
_VERSION: Final = 14
_PAYLOAD_LENGTH: Final = 18
_NEXT_HEADER_AND_HOP_LIMIT: Final = 20
_NEXT_HEADER: Final = 20
_RECEIVER: Final = 38
_ICMP_TYPE: Final = 54
_NA_FLAGS: Final = 58
_NA_TARGET: Final = 62

_IPV4_LENGTH: Final = 4
_WORD: Final = 4
_GROUP_BIT: Final = 0x01

# What M[] holds.
_SHIFT: Final = 0
_KEPT_OPERATION: Final = 1
_KEPT_SENDER: Final = 2

_DROP: Final = Step(bpf.RETURN, 0)
_KEEP: Final = Step(bpf.RETURN, SNAP_LENGTH)
_RESTORE_SHIFT: Final = Step(bpf.LOAD_X, _SHIFT)

Steps = Iterator[Step | str]

CANDIDATES: Final[Program] = bpf.assemble(
    (
        Step(bpf.LOAD_HALF, _ETHERTYPE),
        Step(bpf.IF_EQUAL, frames.ETH_P_RARP, "keep"),
        Step(bpf.IF_EQUAL, frames.ETH_P_ARP, "keep"),
        Step(bpf.IF_EQUAL, frames.ETH_P_IPV6, "", "drop"),
        Step(bpf.LOAD_BYTE, _NEXT_HEADER),
        Step(bpf.IF_EQUAL, frames.IPPROTO_ICMPV6, "", "drop"),
        Step(bpf.LOAD_BYTE, _ICMP_TYPE),
        Step(bpf.IF_EQUAL, frames.ND_ADVERT, "keep", "drop"),
        *("drop", _DROP, "keep", _KEEP),
    )
)
"""Every untagged ARP, RARP and NA of anybody: what a person wants to look at."""


def compile_filter(expected: Expectation) -> Program:
    """Return the program for *expected*; while not armed, or without a MAC, RARP alone passes."""
    return bpf.assemble(_source(expected))


def compile_rarp_only(expected: Expectation) -> Program:
    """Return the program that waits for a RARP alone: what a flooded reader falls back on."""
    return compile_filter(dataclasses.replace(expected, armed=False))


def _source(expected: Expectation) -> Steps:
    """Sort by EtherType; traffic of other types, nearly all there is, ends after few steps."""
    ipv4 = {a for a in expected.addresses if len(a) == _IPV4_LENGTH and any(a)}
    ipv6 = {a for a in expected.addresses if len(a) != _IPV4_LENGTH}
    is_armed = bool(expected.armed and expected.known)
    yield from _load_ethertype()
    yield Step(bpf.IF_EQUAL, frames.ETH_P_RARP, "ARP or RARP")
    if is_armed and ipv6:
        yield Step(bpf.IF_EQUAL, frames.ETH_P_IPV6, "IPv6")
    if is_armed and ipv4:
        yield Step(bpf.IF_EQUAL, frames.ETH_P_ARP, "ARP or RARP")
    yield from (_DROP, "ARP or RARP")
    yield from _require_one_station()
    if is_armed and ipv4:
        yield Step(bpf.LOAD_HALF_X, _ETHERTYPE)
        yield Step(bpf.IF_EQUAL, frames.ETH_P_ARP, "ARP")
    yield from _rarp(expected.mac)
    if is_armed and ipv4:
        yield "ARP"
        yield from _arp(expected, ipv4)
    if is_armed and ipv6:
        yield "IPv6"
        yield from _advertisement(expected, ipv6)


def _load_ethertype() -> Steps:
    """Leave the EtherType in A and what a priority tag shifts in X; drop what is of a VLAN."""
    # Before any jump: the kernel refuses a program that may read M[] unwritten, and to its check
    # (check_load_and_stores in net/core/filter.c) what follows a return goes on from before it.
    yield Step(bpf.SET_X, 0)
    yield Step(bpf.STORE_X, _SHIFT)
    yield Step(bpf.LOAD_WORD, _VLAN_TAG_PRESENT)
    yield Step(bpf.IF_EQUAL, 0, "no tag taken off")
    yield Step(bpf.LOAD_WORD, _VLAN_TAG)
    yield Step(bpf.AND, frames.VLAN_ID)
    yield Step(bpf.IF_EQUAL, 0, "", "drop")
    yield "no tag taken off"
    yield Step(bpf.LOAD_HALF, _ETHERTYPE)
    yield Step(bpf.IF_EQUAL, frames.ETH_P_8021Q, "tag")
    yield Step(bpf.IF_EQUAL, frames.ETH_P_8021AD, "tag", "payload")
    yield "tag"
    yield Step(bpf.LOAD_HALF, _TAG)
    yield Step(bpf.AND, frames.VLAN_ID)
    yield Step(bpf.IF_EQUAL, 0, "", "drop")
    yield Step(bpf.SET_X, frames.TAG_SIZE)
    yield Step(bpf.STORE_X, _SHIFT)
    yield Step(bpf.LOAD_HALF_X, _ETHERTYPE)
    yield "payload"


def _require_one_station() -> Steps:
    """Want Ethernet and IPv4, and the station that sends to be the one that the payload names."""
    hardware, protocol, hardware_length, protocol_length = frames.ETHERNET_IPV4
    yield Step(bpf.LOAD_WORD_X, _HARDWARE)
    yield Step(bpf.IF_EQUAL, hardware << 16 | protocol, "", "drop")
    yield Step(bpf.LOAD_HALF_X, _LENGTHS)
    yield Step(bpf.IF_EQUAL, hardware_length << 8 | protocol_length, "", "drop")
    # A comparison of two loads needs X, so that the shift comes back from M afterwards.
    yield Step(bpf.LOAD_WORD_X, _SENDER_MAC)
    yield Step(bpf.COPY_TO_X)
    yield Step(bpf.LOAD_WORD, _SOURCE)
    yield Step(bpf.IF_EQUAL_X, 0, "", "drop")
    yield _RESTORE_SHIFT
    yield Step(bpf.LOAD_HALF_X, _SENDER_MAC + _WORD)
    yield Step(bpf.COPY_TO_X)
    yield Step(bpf.LOAD_HALF, _SOURCE + _WORD)
    yield Step(bpf.IF_EQUAL_X, 0, "", "drop")
    yield _RESTORE_SHIFT


def _rarp(mac: bytes | None) -> Steps:
    """Keep a request of *mac* or, where none is known, of any single station."""
    yield Step(bpf.LOAD_HALF_X, _OPERATION)
    yield Step(bpf.IF_EQUAL, frames.RARP_REQUEST, "", "drop")
    # Nobody asks what stands there: the load alone drops a frame that is cut short of its end.
    yield Step(bpf.LOAD_WORD_X, _TARGET)
    if mac:
        yield from _find(_SOURCE, [mac])
    else:
        yield Step(bpf.LOAD_BYTE, _SOURCE)
        yield Step(bpf.IF_ANY_BIT, _GROUP_BIT, "drop")
        # All zeros are no station: both parts would have to be 0.
        yield Step(bpf.LOAD_WORD, _SOURCE)
        yield Step(bpf.IF_EQUAL, 0, "", "found")
        yield Step(bpf.LOAD_HALF, _SOURCE + _WORD)
        yield Step(bpf.IF_EQUAL, 0, "drop")
    yield from ("found", _KEEP, "drop", _DROP)


def _arp(expected: Expectation, addresses: Collection[bytes]) -> Steps:
    """Keep what is gratuitous, and replies to who asks in our name."""
    askers = [asker for asker in expected.askers if len(asker) == _IPV4_LENGTH]
    yield from _require_known(expected)
    yield Step(bpf.LOAD_HALF_X, _OPERATION)
    yield Step(bpf.IF_EQUAL, frames.ARP_REPLY, "operation")
    yield Step(bpf.IF_EQUAL, frames.ARP_REQUEST, "operation", "drop")
    yield from ("operation", Step(bpf.STORE, _KEPT_OPERATION))
    yield from _find(_SENDER, addresses)
    # It is gratuitous when the sender asks for itself, as a request or as a reply.
    yield from ("found", Step(bpf.STORE, _KEPT_SENDER))
    yield Step(bpf.LOAD_WORD_X, _TARGET)
    yield Step(bpf.LOAD_X, _KEPT_SENDER)
    yield Step(bpf.IF_EQUAL_X, 0, "unasked")
    yield from _match(_TARGET, askers)
    yield from ("found", Step(bpf.LOAD_MEMORY, _KEPT_OPERATION))
    yield Step(bpf.IF_EQUAL, frames.ARP_REPLY, "keep", "drop")
    yield from _decide_unasked(expected)


def _advertisement(expected: Expectation, addresses: Collection[bytes]) -> Steps:
    """Keep an NA that is whole as far as its fields tell (RFC 4861 section 7.1.2)."""
    askers = [asker for asker in expected.askers if len(asker) != _IPV4_LENGTH]
    header = frames.IPPROTO_ICMPV6 << 8 | frames.ND_HOP_LIMIT
    yield Step(bpf.LOAD_HALF_X, _NEXT_HEADER_AND_HOP_LIMIT)
    yield Step(bpf.IF_EQUAL, header, "", "drop")
    # Type and code, which is 0, in one.
    yield Step(bpf.LOAD_HALF_X, _ICMP_TYPE)
    yield Step(bpf.IF_EQUAL, frames.ND_ADVERT << 8, "", "drop")
    yield Step(bpf.LOAD_BYTE_X, _VERSION)
    yield Step(bpf.AND, 0xF0)
    yield Step(bpf.IF_EQUAL, 0x60, "", "drop")
    yield from _require_known(expected)
    # The payload holds all up to the options, and ends inside the frame.
    yield Step(bpf.LOAD_HALF_X, _PAYLOAD_LENGTH)
    yield Step(bpf.IF_AT_LEAST, frames.ND.size - frames.ND_AT, "", "drop")
    yield Step(bpf.ADD, frames.ND_AT)
    yield Step(bpf.ADD_X)
    yield Step(bpf.COPY_TO_X)
    yield Step(bpf.LOAD_LENGTH)
    yield Step(bpf.IF_AT_LEAST_X, 0, "", "drop")
    yield _RESTORE_SHIFT
    yield from _find(_NA_TARGET, addresses)
    yield from ("found", Step(bpf.LOAD_WORD_X, _NA_FLAGS))
    yield Step(bpf.IF_ANY_BIT, frames.NA_SOLICITED, "", "unasked")
    yield from _find(_RECEIVER, askers)
    yield from ("found", _KEEP)
    yield from _decide_unasked(expected)


def _require_known(expected: Expectation) -> Steps:
    """Want a frame of the guest or, where another one may answer for it, of that one."""
    yield from _find(_SOURCE, [mac for mac in (expected.known, expected.witness) if mac])
    yield "found"


def _decide_unasked(expected: Expectation) -> Steps:
    """Keep what nobody has asked for, but of the guest itself alone."""
    yield "unasked"
    if expected.witness:
        yield from _find(_SOURCE, [mac for mac in (expected.known,) if mac])
        yield "found"
    yield from ("keep", _KEEP, "drop", _DROP)


def _find(offset: int, values: Collection[bytes]) -> Steps:
    """Go to "found" when one of *values*, all of one length, stands at *offset*, else drop."""
    if values:
        yield _load(offset, len(next(iter(values))))
    yield from _match(offset, values)


def _match(offset: int, values: Collection[bytes]) -> Steps:
    """Do so where the first word is in A already: a tree, in which each word is loaded once."""
    if not values:
        yield _DROP
    rests: dict[bytes, list[bytes]] = {}
    for value in sorted(values):
        rests.setdefault(value[:_WORD], []).append(value[_WORD:])
    otherwise = f"not at {offset}"
    for number, (word, behind) in enumerate(rests.items(), start=1):
        # No two branches begin with the same word: who fails inside one fails altogether.
        failed = "drop" if number == len(rests) else otherwise
        if any(behind):
            yield Step(bpf.IF_EQUAL, int.from_bytes(word, "big"), "", failed)
            yield from _find(offset + _WORD, behind)
        else:
            yield Step(bpf.IF_EQUAL, int.from_bytes(word, "big"), "found", failed)
        yield otherwise


def _load(offset: int, size: int) -> Step:
    """Load a word, or what is left of a MAC. The source stands before a tag, all else behind."""
    if offset < _ETHERTYPE:
        return Step(bpf.LOAD_WORD if size >= _WORD else bpf.LOAD_HALF, offset)
    return Step(bpf.LOAD_WORD_X, offset)
