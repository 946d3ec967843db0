"""PURE: bytes of the wire to a Frame; knows the formats and no endpoint.

Only the five kinds that can prove a guest alive are frames here, everything else is None, and no
bytes whatsoever raise. A VLAN tag of id 0 carries a priority alone (IEEE 802.1Q 6.9.1), so the
frame counts as untagged, as the kernel's own ARP takes it; any other id is another network. The
kernel takes the outermost tag off before it shows the frame: that one only the BPF filter sees
(``packet_filter``).
"""

import contextlib
import enum
import struct
from typing import Final, NamedTuple

# linux/if_ether.h.
ETH_P_ARP: Final = 0x0806
ETH_P_RARP: Final = 0x8035
ETH_P_IPV6: Final = 0x86DD
ETH_P_8021Q: Final = 0x8100
ETH_P_8021AD: Final = 0x88A8
VLANS: Final = (ETH_P_8021Q, ETH_P_8021AD)
VLAN_ID: Final = 0x0FFF
"""The bits of a tag that name the VLAN; the others are priority and drop eligibility."""
TAG_SIZE: Final = 4

# Operations of ARP (RFC 826) and RARP (RFC 903).
ARP_REQUEST: Final = 1
ARP_REPLY: Final = 2
RARP_REQUEST: Final = 3
ETHERNET_IPV4: Final = (1, 0x0800, 6, 4)
"""Hardware type, protocol type and both address lengths: the only ARP that there is for us."""

IPPROTO_ICMPV6: Final = 58
# What a router has forwarded has less: it comes from this very link (RFC 4861 section 7.1.2).
ND_HOP_LIMIT: Final = 255
# Types, flags and options of RFC 4861 sections 4.3, 4.4 and 4.6.1.
ND_SOLICIT: Final = 135
ND_ADVERT: Final = 136
NA_ROUTER: Final = 0x80000000
NA_SOLICITED: Final = 0x40000000
NA_OVERRIDE: Final = 0x20000000
OPTION_SOURCE_LINK_LAYER: Final = 1
OPTION_TARGET_LINK_LAYER: Final = 2

ARP: Final = struct.Struct("!6s6sH HHBBH 6s4s6s4s")
"""Ethernet header, then RFC 826: 42 bytes."""
_TAG: Final = struct.Struct("!HH")
"""EtherType of the tag, then priority, drop eligibility and VLAN id."""
ND: Final = struct.Struct("!6s6sH IHBB16s16s BBHI16s")
"""Ethernet header, IPv6 header, then RFC 4861 sections 4.3 and 4.4 up to the options: 78 bytes."""

# Behind both MACs: a tag stands where the EtherType would, which follows it.
_TAG_AT: Final = 12
_IPV6_AT: Final = 14
ND_AT: Final = 54
"""Where the ICMPv6 message begins."""
_OPTION_UNIT: Final = 8
_ARP_OPERATIONS: Final = frozenset({ARP_REQUEST, ARP_REPLY})
_UNSPECIFIED: Final = bytes(4)
_MULTICAST: Final = 0xFF
_VERSION_6: Final = 6
_MAC_LENGTH: Final = 6


class Kind(enum.Enum):
    """What a frame says, as far as the frame alone tells."""

    RARP = "RARP"
    GRATUITOUS_ARP = "gratuitous ARP"
    ARP_ANSWER = "ARP reply"
    UNSOLICITED_NA = "unsolicited NA"
    SOLICITED_NA = "solicited NA"


class Frame(NamedTuple):
    """One parsed frame; all addresses are packed.

    ``claimed``: the MAC that the payload gives for ``address``, empty when an NA carries none.
    ``address`` is empty in a RARP. ``asker``: whom an answer answers, empty in other kinds.
    """

    kind: Kind
    source: bytes
    claimed: bytes
    address: bytes = b""
    asker: bytes = b""


def pack_mac(text: str) -> bytes:
    """Return the six bytes of a MAC as values have it; raise ValueError for anything else."""
    packed = b""
    with contextlib.suppress(ValueError):
        packed = bytes.fromhex(text.replace(":", ""))
    if len(packed) != _MAC_LENGTH:
        message = f"{text!r} is not a MAC such as 52:54:00:65:00:02"
        raise ValueError(message)
    return packed


def parse(frame: bytes | memoryview) -> Frame | None:
    """Return what *frame* is; None when it can be no announcement, answers no probe or is broken.

    Bytes after the payload are padding; a payload that is cut short is broken.
    """
    return _read(_without_priority_tag(frame))


def _without_priority_tag(frame: bytes | memoryview) -> bytes | memoryview:
    """Return *frame* without a tag of VLAN id 0; a second one behind it stays, and is broken."""
    if len(frame) < _TAG_AT + TAG_SIZE:
        return frame
    ethertype, tag = _TAG.unpack_from(frame, _TAG_AT)
    if ethertype not in VLANS or tag & VLAN_ID:
        return frame
    return bytes(frame[:_TAG_AT]) + bytes(frame[_TAG_AT + TAG_SIZE :])


def _read(frame: bytes | memoryview) -> Frame | None:
    if len(frame) < ARP.size:
        return None
    # Before its EtherType is known: what may be an NA is longer, and is unpacked anew.
    fields = ARP.unpack_from(frame)
    _, source, ethertype, hardware, protocol, hlen, plen, op, sha, spa, _, tpa = fields
    if ethertype == ETH_P_IPV6:
        return _parse_advertisement(frame)
    if (hardware, protocol, hlen, plen) != ETHERNET_IPV4:
        return None
    if ethertype == ETH_P_RARP and op == RARP_REQUEST:
        return Frame(Kind.RARP, source, sha)
    return _parse_arp(source, op, sha, spa, tpa) if ethertype == ETH_P_ARP else None


def _parse_arp(source: bytes, op: int, sha: bytes, spa: bytes, tpa: bytes) -> Frame | None:
    # A sender of 0.0.0.0 probes whether an address is free (RFC 5227) and claims none.
    if op not in _ARP_OPERATIONS or spa == _UNSPECIFIED:
        return None
    if spa == tpa:
        return Frame(Kind.GRATUITOUS_ARP, source, sha, spa)
    return Frame(Kind.ARP_ANSWER, source, sha, spa, tpa) if op == ARP_REPLY else None


def _parse_advertisement(frame: bytes | memoryview) -> Frame | None:
    """Apply every validity check of RFC 4861 section 7.1.2."""
    if len(frame) < ND.size:
        return None
    fields = ND.unpack_from(frame)
    _, source, _, flow, length, header, hop_limit, _, receiver = fields[:9]
    kind, code, _, flags, target = fields[9:]
    if (header, hop_limit, kind, code) != (IPPROTO_ICMPV6, ND_HOP_LIMIT, ND_ADVERT, 0):
        return None
    # Cut to the length that IPv6 gives: what a short frame is padded with is no part of the sum,
    # which is taken over both addresses, 8 octets into the header, and the message.
    payload = bytes(frame[ND_AT : ND_AT + length])
    is_solicited = bool(flags & NA_SOLICITED)
    if (
        flow >> 28 != _VERSION_6
        or not ND.size - ND_AT <= length == len(payload)
        or target[0] == _MULTICAST
        or (is_solicited and receiver[0] == _MULTICAST)
        or checksum(bytes(frame[_IPV6_AT + 8 : ND_AT]), payload) != 0
    ):
        return None
    claimed = _link_layer_address(payload[ND.size - ND_AT :])
    if claimed is None:
        return None
    if is_solicited:
        return Frame(Kind.SOLICITED_NA, source, claimed, target, receiver)
    return Frame(Kind.UNSOLICITED_NA, source, claimed, target)


def _link_layer_address(options: bytes) -> bytes | None:
    """Return the first target link-layer address, b"" without one, None if options are broken."""
    found = b""
    while options:
        # RFC 4861 section 4.6: lengths are in units of 8 octets, and 0 makes the whole invalid.
        size = options[1] * _OPTION_UNIT if len(options) > 1 else 0
        if not 0 < size <= len(options):
            return None
        if options[0] == OPTION_TARGET_LINK_LAYER and not found:
            found = options[2:size]
        options = options[size:]
    return found


def checksum(addresses: bytes, payload: bytes) -> int:
    """Return the ICMPv6 checksum (RFC 4443 2.3) over *payload*; 0 when it holds a right one."""
    pseudo = addresses + struct.pack("!II", len(payload), IPPROTO_ICMPV6)
    octets = pseudo + payload + bytes(len(payload) % 2)
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    # Ones' complement: 2**16 is 1 modulo 0xFFFF, and a sum that is not 0 has no zero but 0xFFFF.
    return 0xFFFF - (total % 0xFFFF or 0xFFFF)
