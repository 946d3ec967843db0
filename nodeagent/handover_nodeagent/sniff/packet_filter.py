"""PURE: the classic BPF program of one endpoint: what its reader need never see.

The program lets through what ``frames.parse`` and ``verdict.judge`` could accept and, as far as
its 1990s instructions reach, nothing else: an NA's checksum and options stay to be judged. So a
flood from a hostile guest ends in the kernel, without a wake-up.

Offsets are those of an untagged Ethernet frame; a tag of VLAN id 0 counts as none, whether the
kernel has taken it off or it stands in the bytes. Instructions: linux/filter.h.
"""

import dataclasses
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from handover_nodeagent.sniff import frames
from handover_nodeagent.sniff.verdict import Expectation


class Instruction(NamedTuple):
    """One ``struct sock_filter``; the jumps skip that many instructions."""

    code: int
    jump_true: int
    jump_false: int
    k: int


Program = tuple[Instruction, ...]

_LOAD_WORD: Final = 0x20  # A = 4 bytes at k; a load behind the end drops the frame
_LOAD_HALF: Final = 0x28  # A = 2 bytes at k
_LOAD_BYTE: Final = 0x30  # A = 1 byte at k
_LOAD_LENGTH: Final = 0x80  # A = length of the frame
_SUBTRACT: Final = 0x14  # A -= k
_AND: Final = 0x54  # A &= k
_COPY_TO_X: Final = 0x07  # X = A
_IF_EQUAL: Final = 0x15  # A == k
_IF_EQUAL_X: Final = 0x1D  # A == X
_IF_GREATER_X: Final = 0x2D  # A > X
_IF_AT_LEAST: Final = 0x35  # A >= k
_IF_ANY_BIT: Final = 0x45  # A & k
_JUMP: Final = 0x05  # k instructions on, however many
_RETURN: Final = 0x06  # k bytes of the frame are kept; 0 drops it

_VLAN_TAG_PRESENT: Final = 0xFFFFF000 + 48
"""SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT: the kernel takes the tag off before it shows the frame."""

_VLAN_TAG: Final = 0xFFFFF000 + 44
"""SKF_AD_OFF + SKF_AD_VLAN_TAG: priority and id of the tag that was taken off."""

SNAP_LENGTH: Final = 2048

_SOURCE: Final = 6
_ETHERTYPE: Final = 12
_TAG: Final = 14

_HARDWARE: Final = 14
_LENGTHS: Final = 18
_OPERATION: Final = 20
_SENDER_MAC: Final = 22
_SENDER: Final = 28
_TARGET: Final = 38

_VERSION: Final = 14
_PAYLOAD_LENGTH: Final = 18
_NEXT_HEADER: Final = 20
_HOP_LIMIT: Final = 21
_RECEIVER: Final = 38
_ICMP_TYPE: Final = 54
_ICMP_CODE: Final = 55
_NA_FLAGS: Final = 58
_NA_TARGET: Final = 62

_IPV4_LENGTH: Final = 4

_DROP: Final = Instruction(_RETURN, 0, 0, 0)
_KEEP: Final = Instruction(_RETURN, 0, 0, SNAP_LENGTH)

DROP_ALL: Final[Program] = (_DROP,)


CANDIDATES: Final[Program] = (
    Instruction(_LOAD_HALF, 0, 0, _ETHERTYPE),
    Instruction(_IF_EQUAL, 7, 0, frames.ETH_P_RARP),
    Instruction(_IF_EQUAL, 6, 0, frames.ETH_P_ARP),
    Instruction(_IF_EQUAL, 0, 4, frames.ETH_P_IPV6),
    Instruction(_LOAD_BYTE, 0, 0, _NEXT_HEADER),
    Instruction(_IF_EQUAL, 0, 2, frames.IPPROTO_ICMPV6),
    Instruction(_LOAD_BYTE, 0, 0, _ICMP_TYPE),
    Instruction(_IF_EQUAL, 1, 0, frames.ND_ADVERT),
    _DROP,
    _KEEP,
)
"""Every untagged ARP, RARP and NA of anybody: what a person wants to look at."""


def compile_filter(expected: Expectation) -> Program:
    """Return the program for *expected*; while not armed, or without a MAC, RARP alone passes."""
    rarp = _rarp(expected.mac)
    arp: Program = ()
    advertisement: Program = ()
    if expected.armed and expected.known:
        ipv4 = sorted(a for a in expected.addresses if len(a) == _IPV4_LENGTH and any(a))
        ipv6 = sorted(a for a in expected.addresses if len(a) != _IPV4_LENGTH)
        arp = _arp(expected.known, ipv4, expected.askers)
        advertisement = _advertisement(expected.known, ipv6, expected.askers)
        if expected.witness:
            answer = _arp(expected.witness, ipv4, expected.askers, is_witness=True)
            arp = _if_from(expected.witness, answer) + arp
            answer = _advertisement(expected.witness, ipv6, expected.askers, is_witness=True)
            advertisement = _if_from(expected.witness, answer) + advertisement
    untagged: Program = (
        _load(_LOAD_LENGTH, 0),
        *_require(_IF_AT_LEAST, frames.ARP.size),
        _load(_LOAD_HALF, _ETHERTYPE),
        Instruction(_IF_EQUAL, 0, len(rarp), frames.ETH_P_RARP),
        *rarp,
        Instruction(_IF_EQUAL, 0, len(arp), frames.ETH_P_ARP),
        *arp,
        *_require(_IF_EQUAL, frames.ETH_P_IPV6),
        *advertisement,
        _DROP,
    )
    return (*_require_no_vlan(), *_untag(untagged), *untagged)


def compile_rarp_only(expected: Expectation) -> Program:
    """Return the program that waits for a RARP alone: what a flooded reader falls back on."""
    return compile_filter(dataclasses.replace(expected, armed=False))


def _require_no_vlan() -> Program:
    """Drop what the kernel has taken a tag off, unless that was a mere priority (VLAN id 0)."""
    priority = (
        _load(_LOAD_WORD, _VLAN_TAG),
        Instruction(_AND, 0, 0, frames.VLAN_ID),
        *_require(_IF_EQUAL, 0),
    )
    return (
        _load(_LOAD_WORD, _VLAN_TAG_PRESENT),
        Instruction(_IF_EQUAL, len(priority), 0, 0),
        *priority,
    )


def _untag(untagged: Program) -> Program:
    """Judge a frame with a tag in its bytes by *untagged*; go on behind with one that has none."""
    tagged = (
        _load(_LOAD_HALF, _TAG),
        Instruction(_AND, 0, 0, frames.VLAN_ID),
        *_require(_IF_EQUAL, 0),
        *map(_behind_tag, untagged),
    )
    return (
        _load(_LOAD_HALF, _ETHERTYPE),
        Instruction(_IF_EQUAL, 2, 0, frames.ETH_P_8021Q),
        Instruction(_IF_EQUAL, 1, 0, frames.ETH_P_8021AD),
        Instruction(_JUMP, 0, 0, len(tagged)),
        *tagged,
    )


def _behind_tag(instruction: Instruction) -> Instruction:
    """Return what does the same where everything from the EtherType on stands behind a tag."""
    code, _, _, k = instruction
    is_offset = code in {_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE} and k >= _ETHERTYPE
    # The two that count the frame's own bytes: its least length, and where its payload begins.
    is_size = code == _SUBTRACT or (code == _IF_AT_LEAST and k == frames.ARP.size)
    return instruction._replace(k=k + frames.TAG_SIZE) if is_offset or is_size else instruction


def assemble(program: Program) -> bytes:
    """Return *program* as the kernel reads it: an array of ``struct sock_filter``."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _load(code: int, offset: int) -> Instruction:
    return Instruction(code, 0, 0, offset)


def _require(test: int, k: int = 0) -> Program:
    """Go on when A passes *test*, else drop: no jump is longer than one, whatever comes."""
    return (Instruction(test, 1, 0, k), _DROP)


def _word(packed: bytes) -> int:
    return int.from_bytes(packed, "big")


def _require_mac(offset: int, mac: bytes) -> Program:
    return (
        _load(_LOAD_WORD, offset),
        *_require(_IF_EQUAL, _word(mac[:4])),
        _load(_LOAD_HALF, offset + 4),
        *_require(_IF_EQUAL, _word(mac[4:])),
    )


def _require_sender(mac: bytes | None) -> Program:
    """Want *mac* in both places or, where none is known, the same station in both."""
    if mac:
        return (*_require_mac(_SOURCE, mac), *_require_mac(_SENDER_MAC, mac))
    return (
        _load(_LOAD_BYTE, _SOURCE),
        Instruction(_IF_ANY_BIT, 0, 1, 0x01),
        _DROP,
        _load(_LOAD_WORD, _SOURCE),
        _load(_COPY_TO_X, 0),
        _load(_LOAD_WORD, _SENDER_MAC),
        *_require(_IF_EQUAL_X),
        _load(_LOAD_HALF, _SOURCE + 4),
        _load(_COPY_TO_X, 0),
        _load(_LOAD_HALF, _SENDER_MAC + 4),
        *_require(_IF_EQUAL_X),
        # All zeros are no station: both halves would have to be 0.
        Instruction(_IF_EQUAL, 0, 3, 0),
        _load(_LOAD_WORD, _SOURCE),
        Instruction(_IF_EQUAL, 0, 1, 0),
        _DROP,
    )


def _require_ethernet_ipv4() -> Program:
    hardware, protocol, hardware_length, protocol_length = frames.ETHERNET_IPV4
    return (
        _load(_LOAD_WORD, _HARDWARE),
        *_require(_IF_EQUAL, hardware << 16 | protocol),
        _load(_LOAD_HALF, _LENGTHS),
        *_require(_IF_EQUAL, hardware_length << 8 | protocol_length),
    )


def _require_one_of(offset: int, addresses: Sequence[bytes]) -> Program:
    """Drop unless one of *addresses*, all of one family, stands at *offset*."""
    program: list[Instruction] = [_DROP]
    for address in reversed(addresses):
        words = [address[at : at + 4] for at in range(0, len(address), 4)]
        block: list[Instruction] = []
        for index, word in enumerate(words):
            is_last = index == len(words) - 1
            left = 2 * (len(words) - 1 - index)
            # The last word's success leaves the list, any word's failure tries the next address.
            block += [
                _load(_LOAD_WORD, offset + 4 * index),
                Instruction(_IF_EQUAL, len(program) if is_last else 0, left, _word(word)),
            ]
        program = block + program
    return tuple(program)


def _rarp(mac: bytes | None) -> Program:
    return (
        *_require_ethernet_ipv4(),
        _load(_LOAD_HALF, _OPERATION),
        *_require(_IF_EQUAL, frames.RARP_REQUEST),
        *_require_sender(mac),
        _KEEP,
    )


def _if_from(mac: bytes, program: Program) -> Program:
    """Let *program* decide about a frame of *mac*; go on behind it with any other one."""
    return (
        _load(_LOAD_WORD, _SOURCE),
        Instruction(_IF_EQUAL, 0, 2 + len(program), _word(mac[:4])),
        _load(_LOAD_HALF, _SOURCE + 4),
        Instruction(_IF_EQUAL, 0, len(program), _word(mac[4:])),
        *program,
    )


def _arp(
    mac: bytes, addresses: Sequence[bytes], askers: Iterable[bytes], *, is_witness: bool = False
) -> Program:
    asking = sorted(asker for asker in askers if len(asker) == _IPV4_LENGTH)
    gratuitous = _if_gratuitous(_DROP if is_witness else _KEEP)
    # A request counts when it is gratuitous: the sender asks for itself.
    request = (*_require(_IF_EQUAL, frames.ARP_REQUEST), *gratuitous, _DROP)
    reply = (*gratuitous, *_require_one_of(_TARGET, asking), _KEEP)
    return (
        *_require_ethernet_ipv4(),
        *_require_sender(mac),
        *_require_one_of(_SENDER, addresses),
        _load(_LOAD_HALF, _OPERATION),
        Instruction(_IF_EQUAL, len(request), 0, frames.ARP_REPLY),
        *request,
        *reply,
    )


def _if_gratuitous(decision: Instruction) -> Program:
    return (
        _load(_LOAD_WORD, _SENDER),
        _load(_COPY_TO_X, 0),
        _load(_LOAD_WORD, _TARGET),
        Instruction(_IF_EQUAL_X, 0, 1, 0),
        decision,
    )


def _advertisement(
    mac: bytes, addresses: Sequence[bytes], askers: Iterable[bytes], *, is_witness: bool = False
) -> Program:
    asking = sorted(asker for asker in askers if len(asker) != _IPV4_LENGTH)
    return (
        _load(_LOAD_BYTE, _NEXT_HEADER),
        *_require(_IF_EQUAL, frames.IPPROTO_ICMPV6),
        _load(_LOAD_BYTE, _ICMP_TYPE),
        *_require(_IF_EQUAL, frames.ND_ADVERT),
        _load(_LOAD_BYTE, _ICMP_CODE),
        *_require(_IF_EQUAL, 0),
        _load(_LOAD_BYTE, _HOP_LIMIT),
        *_require(_IF_EQUAL, frames.ND_HOP_LIMIT),
        _load(_LOAD_BYTE, _VERSION),
        _load(_AND, 0xF0),
        *_require(_IF_EQUAL, 0x60),
        *_require_mac(_SOURCE, mac),
        # The payload ends inside the frame and holds all up to the options.
        _load(_LOAD_LENGTH, 0),
        _load(_SUBTRACT, _ICMP_TYPE),
        _load(_COPY_TO_X, 0),
        _load(_LOAD_HALF, _PAYLOAD_LENGTH),
        *_require(_IF_AT_LEAST, frames.ND.size - _ICMP_TYPE),
        Instruction(_IF_GREATER_X, 0, 1, 0),
        _DROP,
        *_require_one_of(_NA_TARGET, addresses),
        _load(_LOAD_WORD, _NA_FLAGS),
        Instruction(_IF_ANY_BIT, 1, 0, frames.NA_SOLICITED),
        _DROP if is_witness else _KEEP,
        *_require_one_of(_RECEIVER, asking),
        _KEEP,
    )
