"""PURE: an Ethernet frame with what was left to the device → the IP packets of the wire.

Does what the kernel does for a device without offloads: skb_checksum_help (net/core/dev.c),
inet_gso_segment, tcp_gso_segment and __udp_gso_segment (net/ipv4), ipv6_gso_segment (net/ipv6).
Whatever octets come in, what cannot be sent is a value that says why.

All sums are taken modulo 0xFFFF: 2**16 is 1 there, so that octets read as one large number are as
much as their words added one by one (RFC 1071), and need no loop.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from handover_nodeagent.hold import virtio
from handover_nodeagent.hold.virtio import Offload
from handover_nodeagent.sniff import frames

MOST: Final = 1024
"""Segments of one frame. 64 KiB make 46 at an MTU of 1500, and 123 at the 576 that RFC 791 grants;
one of each octet, which the header can ask for too, would take the loop more than 0.1 s."""

_ETHERNET: Final = 14
_ETHERTYPE_AT: Final = 12
_ETH_P_IP: Final = 0x0800

_IPPROTO_TCP: Final = 6
_IPPROTO_UDP: Final = 17
# Extension headers that ipv6_gso_segment passes over too: hop-by-hop, routing, destination options.
_EXTENSIONS: Final = frozenset({0, 43, 60})
_FRAGMENT: Final = 44
_EXTENSION_UNIT: Final = 8

# RFC 791 section 3.1: what is changed in an IPv4 header, and what is looked at.
_IPV4: Final = 4
_IPV4_SIZE: Final = 20
_IPV4_LENGTH: Final = 2
_IPV4_ID: Final = 4
_IPV4_FRAGMENT: Final = 6
_IPV4_IS_FRAGMENT: Final = 0x3FFF
_IPV4_MORE: Final = 0x20
_IPV4_PROTOCOL: Final = 9
_IPV4_CHECK: Final = 10
_IPV4_ADDRESSES: Final = slice(12, 20)
# RFC 8200 section 3.
_IPV6: Final = 6
_IPV6_SIZE: Final = 40
_IPV6_LENGTH: Final = 4
_IPV6_NEXT: Final = 6
_IPV6_ADDRESSES: Final = slice(8, 40)

# RFC 9293 section 3.1; each offset is that in the TCP header.
_TCP_SIZE: Final = 20
_TCP_SEQUENCE: Final = 4
_TCP_WORDS: Final = 12
_TCP_FLAGS: Final = 13
_TCP_CHECK: Final = 16
_FIN_PSH: Final = 0x09
_CWR: Final = 0x80
# RFC 768.
_UDP_SIZE: Final = 8
_UDP_LENGTH: Final = 4
_UDP_CHECK: Final = 6
# RFC 9260 section 3: the only checksum at this offset, and a CRC32c, which is no sum of words.
_SCTP_CHECK: Final = 8

_SHORT: Final = struct.Struct("!H")
_TWO_SHORTS: Final = struct.Struct("!HH")
_LONG: Final = struct.Struct("!I")
_ONES: Final = 0xFFFF
# From this size on octets are summed in four parts.
_QUARTERED: Final = 1024


class Unsendable(NamedTuple):
    """Why a frame is no packet that can be sent on."""

    reason: str


_CUT: Final = Unsendable("the frame is shorter than its headers say")
_TAGGED: Final = Unsendable("the frame has a VLAN tag")
_NO_IP: Final = Unsendable("the frame is not IP")
_BROKEN: Final = Unsendable("the IP header is broken")
_SCTP: Final = Unsendable("the checksum is SCTP's")
_OUTSIDE: Final = Unsendable("the checksum is outside of the packet")
_ELSEWHERE: Final = Unsendable("the checksum is not where the transport header says")
_UNKNOWN: Final = Unsendable("the GSO type is unknown")
_OTHER: Final = Unsendable("the packet is not what its GSO type says")
_NO_HEADER: Final = Unsendable("the transport header does not fit")
_NO_SIZE: Final = Unsendable("the segments have no size")
_TOO_MANY: Final = Unsendable("there are too many segments")


class _Protocol(NamedTuple):
    """What a GSO type says of a packet."""

    number: int
    versions: frozenset[int]
    size: int
    """Of the transport header, at least."""
    check: int


_PROTOCOLS: Final = {
    virtio.GSO_TCPV4: _Protocol(_IPPROTO_TCP, frozenset({_IPV4}), _TCP_SIZE, _TCP_CHECK),
    virtio.GSO_TCPV6: _Protocol(_IPPROTO_TCP, frozenset({_IPV6}), _TCP_SIZE, _TCP_CHECK),
    virtio.GSO_UDP_L4: _Protocol(_IPPROTO_UDP, frozenset({_IPV4, _IPV6}), _UDP_SIZE, _UDP_CHECK),
}


class _Large(NamedTuple):
    """A packet to be split; its headers are written anew for each segment."""

    protocol: _Protocol
    headers: bytearray
    transport: int
    """Where the transport header begins."""
    payload: memoryview
    size: int
    """Of the payload of each segment but the last."""
    pseudo: int
    """Sum of the pseudo header without its length."""
    is_summed: bool
    """Whether the segments have a checksum; in UDP they may have none."""


def packets(offload: Offload, frame: memoryview | bytes) -> tuple[bytes, ...] | Unsendable:
    """Return what *frame* would have been on the wire, without its Ethernet header, in order."""
    packet = _packet(memoryview(frame))
    if isinstance(packet, Unsendable):
        return packet
    if offload.gso_type == virtio.GSO_NONE:
        return _whole(offload, packet)
    large = _large(offload, packet)
    if isinstance(large, Unsendable):
        return large
    # As in virtio_net_hdr_to_skb: "Too small packets are not really GSO ones".
    if len(large.payload) <= large.size:
        return _whole(offload, packet)
    if len(large.payload) > large.size * MOST:
        return _TOO_MANY
    is_tcp = large.protocol.number == _IPPROTO_TCP
    return tuple(_tcp_segments(large) if is_tcp else _udp_segments(large))


class Fragment(NamedTuple):
    """One fragment: of which packet, by its addresses and identification, and whether more come."""

    packet: bytes
    has_more: bool


def fragment(frame: memoryview | bytes) -> Fragment | None:
    """Return what *frame* has of a packet in fragments; None where it has a whole one, or none."""
    packet = _packet(memoryview(frame))
    if isinstance(packet, Unsendable):
        return None
    number, at = _transport(packet)
    if number != _FRAGMENT:
        return None
    if packet[0] >> 4 == _IPV4:
        name = bytes(packet[_IPV4_ADDRESSES]) + bytes(packet[_IPV4_ID : _IPV4_ID + 2])
        return Fragment(name, bool(packet[_IPV4_FRAGMENT] & _IPV4_MORE))
    addresses = bytes(packet[_IPV6_ADDRESSES])
    if at + _EXTENSION_UNIT > len(packet):
        return Fragment(addresses, has_more=False)
    # RFC 8200 section 4.5: the last bit of the fragment's offset, then the identification.
    name = addresses + bytes(packet[at + 4 : at + _EXTENSION_UNIT])
    return Fragment(name, bool(packet[at + 3] & 1))


def _packet(frame: memoryview) -> memoryview | Unsendable:
    """Return the IP packet in *frame*, without what a short frame is padded with."""
    if len(frame) < _ETHERNET + _IPV4_SIZE:
        return _CUT
    (ethertype,) = _SHORT.unpack_from(frame, _ETHERTYPE_AT)
    first = frame[_ETHERNET]
    if ethertype == _ETH_P_IP:
        version, header = _IPV4, (first & 0xF) * 4
        (length,) = _SHORT.unpack_from(frame, _ETHERNET + _IPV4_LENGTH)
        is_right = _IPV4_SIZE <= header <= length
    elif ethertype == frames.ETH_P_IPV6:
        version, is_right = _IPV6, True
        length = _IPV6_SIZE + _SHORT.unpack_from(frame, _ETHERNET + _IPV6_LENGTH)[0]
    else:
        return _TAGGED if ethertype in frames.VLANS else _NO_IP
    if first >> 4 != version or not is_right:
        return _BROKEN
    end = _ETHERNET + length
    return frame[_ETHERNET:end] if len(frame) >= end else _CUT


def _whole(offload: Offload, packet: memoryview) -> tuple[bytes, ...] | Unsendable:
    """Return *packet* as the only one, its checksum completed where that was left to do."""
    if not offload.flags & virtio.NEEDS_CSUM:
        return (bytes(packet),)
    if offload.csum_offset == _SCTP_CHECK:
        return _SCTP
    start = offload.csum_start - _ETHERNET
    field = start + offload.csum_offset
    if start < _header_size(packet) or field + _SHORT.size > len(packet):
        return _OUTSIDE
    # The pseudo header's sum is in the field already, and is summed with the rest. No sum is sent
    # as 0, which to UDP means that there is none: 0xFFFF is as much.
    whole = bytearray(packet)
    _SHORT.pack_into(whole, field, -_sum(packet[start:]) % _ONES or _ONES)
    return (bytes(whole),)


def _large(offload: Offload, packet: memoryview) -> _Large | Unsendable:
    """Take *packet* apart where it is what its GSO type says."""
    protocol = _PROTOCOLS.get(offload.gso_type & ~virtio.GSO_ECN)
    if protocol is None:
        return _UNKNOWN
    if not offload.gso_size:
        return _NO_SIZE
    number, at = _transport(packet)
    if number != protocol.number or packet[0] >> 4 not in protocol.versions:
        return _OTHER
    end = _transport_end(protocol, packet, at)
    if end is None:
        return _NO_HEADER
    (field,) = _SHORT.unpack_from(packet, at + protocol.check)
    is_partial = bool(offload.flags & virtio.NEEDS_CSUM)
    if not is_partial:
        # Of a device that put segments together (LRO): the field is the sum of none of them.
        pseudo = _sum(packet[_addresses(packet)]) + number
    elif (offload.csum_start - _ETHERNET, offload.csum_offset) != (at, protocol.check):
        return _ELSEWHERE
    else:
        # Behind a routing header, the destination in it is not the one in the IPv6 header: only
        # the sender's own sum has the right one.
        pseudo = field - (len(packet) - at)
    headers, payload = bytearray(packet[:end]), packet[end:]
    is_summed = is_partial or field != 0 or number == _IPPROTO_TCP
    return _Large(protocol, headers, at, payload, offload.gso_size, pseudo, is_summed)


def _transport(packet: memoryview) -> tuple[int, int]:
    """Return the number of the protocol that *packet* carries, and where its header begins."""
    at = _header_size(packet)
    if packet[0] >> 4 == _IPV4:
        (fragment,) = _SHORT.unpack_from(packet, _IPV4_FRAGMENT)
        # As IPv6 says it, by a header of its own.
        return (_FRAGMENT if fragment & _IPV4_IS_FRAGMENT else packet[_IPV4_PROTOCOL]), at
    number = packet[_IPV6_NEXT]
    while number in _EXTENSIONS and at + _EXTENSION_UNIT <= len(packet):
        # RFC 8200 section 4: the length is in units of 8 octets, and does not count the first.
        number, at = packet[at], at + (packet[at + 1] + 1) * _EXTENSION_UNIT
    return number, at


def _transport_end(protocol: _Protocol, packet: memoryview, at: int) -> int | None:
    """Return where the transport header ends; None where it does not fit."""
    size = protocol.size
    if at + size > len(packet):
        return None
    if protocol.number == _IPPROTO_TCP:
        size = (packet[at + _TCP_WORDS] >> 4) * 4
    return at + size if protocol.size <= size <= len(packet) - at else None


def _tcp_segments(large: _Large) -> Iterator[bytes]:
    _, headers, at, payload, size, pseudo, _ = large
    number_at, flags_at, check_at = at + _TCP_SEQUENCE, at + _TCP_FLAGS, at + _TCP_CHECK
    (sequence,) = _LONG.unpack_from(headers, number_at)
    flags = headers[flags_at]
    _LONG.pack_into(headers, number_at, 0)
    headers[flags_at] = 0
    _SHORT.pack_into(headers, check_at, 0)
    fixed = pseudo + len(headers) - at + _sum(headers[at:])
    network = _Network(headers)
    for begin in range(0, len(payload), size):
        piece = payload[begin : begin + size]
        # FIN and PSH are meant for the end of what was sent; CWR for one packet (RFC 3168 section
        # 6.1.2), and the kernel keeps it to the first, whether the type has the bit of ECN or not.
        now = flags if begin + size >= len(payload) else flags & ~_FIN_PSH
        network.write(len(headers) + len(piece))
        _LONG.pack_into(headers, number_at, sequence)
        headers[flags_at] = now
        total = fixed + len(piece) + sequence + now + _sum(piece)
        _SHORT.pack_into(headers, check_at, -total % _ONES)
        yield b"".join((headers, piece))
        sequence = (sequence + size) & 0xFFFFFFFF
        flags &= ~_CWR


def _udp_segments(large: _Large) -> Iterator[bytes]:
    _, headers, at, payload, size, pseudo, is_summed = large
    length_at = at + _UDP_LENGTH
    _LONG.pack_into(headers, length_at, 0)
    fixed = pseudo + _sum(headers[at:])
    network = _Network(headers)
    for begin in range(0, len(payload), size):
        piece = payload[begin : begin + size]
        length = _UDP_SIZE + len(piece)
        network.write(len(headers) + len(piece))
        # The length is summed twice: in the header, and in the pseudo header.
        check = (-(fixed + 2 * length + _sum(piece)) % _ONES or _ONES) if is_summed else 0
        _TWO_SHORTS.pack_into(headers, length_at, length, check)
        yield b"".join((headers, piece))


class _Network:
    """The IP header at the begin of *headers*, as it is written for one segment after the other."""

    def __init__(self, headers: bytearray) -> None:
        self._headers = headers
        self._is_ipv4 = headers[0] >> 4 == _IPV4
        if self._is_ipv4:
            (self._id,) = _SHORT.unpack_from(headers, _IPV4_ID)
            _LONG.pack_into(headers, _IPV4_LENGTH, 0)
            _SHORT.pack_into(headers, _IPV4_CHECK, 0)
            self._fixed = _sum(headers[: _header_size(headers)])

    def write(self, length: int) -> None:
        """Let the next segment be *length* octets, with its headers."""
        if not self._is_ipv4:
            _SHORT.pack_into(self._headers, _IPV6_LENGTH, length - _IPV6_SIZE)
            return
        # inet_gso_segment counts on with DF, too.
        _TWO_SHORTS.pack_into(self._headers, _IPV4_LENGTH, length, self._id)
        _SHORT.pack_into(self._headers, _IPV4_CHECK, -(self._fixed + length + self._id) % _ONES)
        self._id = (self._id + 1) & _ONES


def _header_size(packet: memoryview | bytearray) -> int:
    """Return the size of the IP header, options included, extension headers not."""
    return (packet[0] & 0xF) * 4 if packet[0] >> 4 == _IPV4 else _IPV6_SIZE


def _addresses(packet: memoryview) -> slice:
    return _IPV4_ADDRESSES if packet[0] >> 4 == _IPV4 else _IPV6_ADDRESSES


def _sum(octets: memoryview | bytearray) -> int:
    """Return a number that is, modulo 0xFFFF, the sum of the words of *octets*."""
    size = len(octets)
    if size < _QUARTERED:
        total = int.from_bytes(octets, "big") % _ONES
    else:
        # To divide a number costs more than to read it: here a quarter as long a one is divided.
        # Below 1 KiB the additions cost as much as they save. All parts but the first are even:
        # whatever is added has its words where the last part has them.
        step = size // 8 * 2
        total = int.from_bytes(octets[: -3 * step], "big")
        total += int.from_bytes(octets[-3 * step : -2 * step], "big")
        total += int.from_bytes(octets[-2 * step : -step], "big")
        total = (total + int.from_bytes(octets[-step:], "big")) % _ONES
    # RFC 1071 section 4.1: an odd octet is the upper half of a word.
    return total << 8 if size % 2 else total
