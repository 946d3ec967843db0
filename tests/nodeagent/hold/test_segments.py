"""Frames whose checksums and segments were left to a device, as the wire would have had them."""

import dataclasses
import struct
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.config import conf

conf.route_autoload = conf.route6_autoload = False

from scapy.layers.inet import IP, TCP, UDP  # noqa: E402  # only after the routes are switched off
from scapy.layers.inet6 import IPv6  # noqa: E402
from tests.nodeagent.hold import sent as compose  # noqa: E402
from tests.nodeagent.hold.sent import ACK, CWR, ETHERNET, FIN, PSH, Sent, payload_of  # noqa: E402

from handover_nodeagent.hold import segments, virtio  # noqa: E402
from handover_nodeagent.hold.segments import Unsendable, packets  # noqa: E402
from handover_nodeagent.hold.virtio import Offload  # noqa: E402

PLAIN: Final = Offload()
TIMESTAMPS: Final = bytes.fromhex("0101080a0000000100000002")
NUMBERED: Final = bytes(range(256)) * 16

sents: Final = st.builds(
    Sent,
    version=st.sampled_from([4, 6]),
    payload=st.binary(max_size=300),
    protocol=st.sampled_from([compose.TCP, compose.UDP]),
    flags=st.integers(0, 255),
    sequence=st.integers(0, 2**32 - 1),
    identification=st.integers(0, 2**16 - 1),
    options=st.sampled_from([b"", TIMESTAMPS]),
    between=st.integers(0, 4),
    is_partial=st.booleans(),
)


def sendable(offload: Offload, frame: bytes | memoryview) -> tuple[bytes, ...]:
    found = packets(offload, frame)
    assert not isinstance(found, Unsendable), found
    return found


def changed(frame: bytes, at: int, octets: bytes) -> bytes:
    return frame[:at] + octets + frame[at + len(octets) :]


# Without segments.


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_whose_sums_are_right_stays_as_it_is(version: int) -> None:
    frame = Sent(version, b"abc", is_partial=False).frame
    assert sendable(PLAIN, frame) == (frame[ETHERNET:],)
    assert sendable(PLAIN, memoryview(bytearray(frame))) == (frame[ETHERNET:],)
    assert sendable(Offload(flags=virtio.VALID), frame) == (frame[ETHERNET:],)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("is_partial", [False, True])
def test_what_a_short_frame_is_padded_with_is_left_out(version: int, *, is_partial: bool) -> None:
    it = Sent(version, b"abc", is_partial=is_partial)
    assert sendable(it.offload(), it.frame + b"pad") == sendable(it.offload(), it.frame)


@given(sents)
def test_an_unfinished_checksum_is_completed(it: Sent) -> None:
    (packet,) = sendable(it.offload(), it.frame)
    assert payload_of(packet, it) == it.payload
    complete = dataclasses.replace(it, is_partial=False)
    assert packet[: it.transport_at - ETHERNET] == complete.frame[ETHERNET : it.transport_at]


@given(st.integers(900, 9000), st.integers(0, 255))
def test_long_packets_are_summed_as_short_ones(size: int, begin: int) -> None:
    it = Sent(payload=(NUMBERED * 3)[begin : begin + size])
    (packet,) = sendable(it.offload(), it.frame)
    assert payload_of(packet, it) == it.payload


@pytest.mark.parametrize("size", [2, 3])
def test_no_sum_is_sent_as_none(size: int) -> None:
    """A datagram whose words add up to 0xFFFF; and one of them is an odd octet's."""
    blank = Sent(protocol=compose.UDP, payload=bytes(size))
    complete = dataclasses.replace(blank, is_partial=False).frame
    check = complete[blank.transport_at + 6 : blank.transport_at + 8]
    it = dataclasses.replace(blank, payload=check + bytes(size - 2))
    (packet,) = sendable(it.offload(), it.frame)
    assert packet[26:28] == b"\xff\xff"
    assert payload_of(packet, it) == it.payload
    *_, last = sendable(it.offload(size), split_in_two(it, size).frame)
    assert last[26:28] == b"\xff\xff"


def split_in_two(it: Sent, size: int) -> Sent:
    """Return a datagram whose last segment is *it*."""
    return dataclasses.replace(it, payload=bytes(size) + it.payload)


def test_a_tcp_segment_may_have_a_sum_of_zero() -> None:
    """As tcp_gso_segment leaves it: to TCP 0 is a sum as any other."""
    blank = Sent(payload=bytes(2), is_partial=False)
    check = blank.frame[blank.transport_at + 16 : blank.transport_at + 18]
    it = Sent(payload=check + bytes(2), sequence=blank.sequence)
    first, _ = sendable(it.offload(2), it.frame)
    assert payload_of(first, it) == check
    assert first[36:38] == b"\0\0"
    # A packet alone is none of its segments, and skb_checksum_help does not ask what it sums.
    alone = dataclasses.replace(it, payload=check)
    (only,) = sendable(alone.offload(2), alone.frame)
    assert only[36:38] == b"\xff\xff"


# With segments.


@given(sents, st.integers(1, 200), st.sampled_from([0, virtio.GSO_ECN]))
def test_segments_together_are_what_was_sent(it: Sent, size: int, ecn: int) -> None:
    offload = it.offload(size)
    found = sendable(offload._replace(gso_type=offload.gso_type | ecn), it.frame)
    pieces = [payload_of(packet, it) for packet in found]
    assert b"".join(pieces) == it.payload
    assert {len(piece) for piece in pieces[:-1]} <= {size}
    assert len(pieces[-1]) <= size
    if it.version == 4:
        numbers = [int.from_bytes(packet[4:6], "big") for packet in found]
        assert numbers == [(it.identification + n) % 2**16 for n in range(len(found))]
    if it.protocol == compose.TCP:
        at = it.transport_at - ETHERNET
        sequences = [int.from_bytes(packet[at + 4 : at + 8], "big") for packet in found]
        assert sequences == [(it.sequence + n * size) % 2**32 for n in range(len(found))]


@given(sents, st.integers(1, 200))
def test_all_else_in_the_headers_stays(it: Sent, size: int) -> None:
    """What the wire has for one segment alone is what its sender had made of it alone."""
    place = 0
    for number, packet in enumerate(sendable(it.offload(size), it.frame)):
        piece = it.payload[place : place + size]
        place += len(piece)
        is_last = place == len(it.payload)
        flags = it.flags if is_last else it.flags & ~(FIN | PSH)
        alone = dataclasses.replace(
            it,
            payload=piece,
            flags=flags & ~CWR if number else flags,
            sequence=(it.sequence + number * size) % 2**32,
            identification=(it.identification + number) % 2**16,
            is_partial=False,
        )
        check = it.transport_at - ETHERNET + it.check_offset
        expected = alone.frame[ETHERNET:]
        # A sum of 0 has two forms.
        assert changed(packet, check, b"\0\0") == changed(expected, check, b"\0\0")


@pytest.mark.parametrize("ecn", [0, virtio.GSO_ECN])
def test_flags_of_the_end_are_in_the_last_segment_and_cwr_in_the_first(ecn: int) -> None:
    it = Sent(payload=bytes(30), flags=ACK | FIN | PSH | CWR)
    found = sendable(it.offload(10, virtio.GSO_TCPV4 | ecn), it.frame)
    assert [packet[33] for packet in found] == [ACK | CWR, ACK, ACK | FIN | PSH]


def test_numbers_begin_again_behind_their_last() -> None:
    it = Sent(payload=bytes(30), sequence=2**32 - 10, identification=0xFFFF)
    found = sendable(it.offload(10), it.frame)
    assert [packet[4:6].hex() for packet in found] == ["ffff", "0000", "0001"]
    assert [packet[24:28].hex() for packet in found] == ["fffffff6", "00000000", "0000000a"]
    assert [payload_of(packet, it) for packet in found] == [bytes(10)] * 3


def test_hop_by_hop_options_are_passed_over() -> None:
    it = Sent(6, NUMBERED, between=2)
    found = sendable(it.offload(1000), changed(it.frame, ETHERNET + 6, b"\0"))
    assert b"".join(payload_of(packet, it) for packet in found) == NUMBERED


def test_a_sum_behind_a_routing_header_keeps_the_last_destination() -> None:
    """RFC 8200 section 8.1: the pseudo header has the one that the IPv6 header will have."""
    it = Sent(6, NUMBERED, between=1)
    way = changed(it.frame, ETHERNET + 6, bytes([43]))
    onward = changed(way, ETHERNET + 24, bytes.fromhex("fd00006500000000000000000000ffff"))
    for packet in sendable(it.offload(1000), onward):
        payload_of(packet, it)


def test_a_datagram_without_a_checksum_gets_none() -> None:
    it = Sent(protocol=compose.UDP, payload=b"abcdef", is_partial=False)
    frame = changed(it.frame, it.transport_at + 6, b"\0\0")
    found = sendable(it.offload(4), frame)
    assert [packet[24:28] for packet in found] == [b"\0\x0c\0\0", b"\0\x0a\0\0"]
    assert [packet[28:] for packet in found] == [b"abcd", b"ef"]


@pytest.mark.parametrize("protocol", [compose.TCP, compose.UDP])
@pytest.mark.parametrize("version", [4, 6])
def test_another_author_makes_the_same_sums(version: int, protocol: int) -> None:
    it = Sent(version, NUMBERED, protocol, options=TIMESTAMPS)
    found = sendable(it.offload(1448), it.frame)
    assert len(found) == 3
    for packet in found:
        read = (IP if version == 4 else IPv6)(packet)
        layer = read[TCP if protocol == compose.TCP else UDP]
        for one, names in ((read, ("len", "plen", "chksum")), (layer, ("len", "chksum"))):
            for name in names:
                if name in one.fields:
                    one.delfieldval(name)
        assert bytes(read) == packet


# What cannot be sent.


TCP4: Final = Sent(payload=NUMBERED)
TCP6: Final = Sent(6, NUMBERED)
UDP4: Final = Sent(4, NUMBERED, compose.UDP)
WHOLE: Final = TCP4.offload()
LARGE: Final = TCP4.offload(1448)
LARGE6: Final = TCP6.offload(1448)
LARGE_UDP: Final = UDP4.offload(1448)
TAG: Final = TCP4.frame[:12] + bytes.fromhex("81000007") + TCP4.frame[12:]
ARP: Final = compose.MACS + bytes.fromhex("0806") + bytes(46)


def cut(frame: bytes, size: int) -> bytes:
    """Return *frame* with *size* octets of IP, as its IPv4 header says too."""
    return changed(frame, 16, struct.pack("!H", size))[: ETHERNET + size]


@pytest.mark.parametrize(
    ("offload", "frame", "expected"),
    [
        pytest.param(PLAIN, b"", segments._CUT, id="nothing"),
        pytest.param(PLAIN, TCP4.frame[:33], segments._CUT, id="less than an IP header"),
        pytest.param(PLAIN, TCP4.frame[:-1], segments._CUT, id="IPv4 cut by one"),
        pytest.param(PLAIN, TCP6.frame[:-1], segments._CUT, id="IPv6 cut by one"),
        pytest.param(PLAIN, TCP6.frame[:40], segments._CUT, id="half an IPv6 header"),
        pytest.param(PLAIN, TAG, segments._TAGGED, id="a VLAN tag"),
        pytest.param(PLAIN, ARP, segments._NO_IP, id="ARP"),
        pytest.param(
            PLAIN, changed(TCP4.frame, 14, b"\x65"), segments._BROKEN, id="IPv4 of version 6"
        ),
        pytest.param(
            PLAIN, changed(TCP6.frame, 14, b"\x45"), segments._BROKEN, id="IPv6 of version 4"
        ),
        pytest.param(
            PLAIN, changed(TCP4.frame, 14, b"\x44"), segments._BROKEN, id="a header of 16 octets"
        ),
        pytest.param(
            PLAIN,
            changed(TCP4.frame, 14, b"\x46\0\0\x17"),
            segments._BROKEN,
            id="a header longer than its packet",
        ),
        pytest.param(
            WHOLE._replace(csum_offset=8), TCP4.frame, segments._SCTP, id="a checksum of SCTP"
        ),
        pytest.param(
            WHOLE._replace(csum_start=33), TCP4.frame, segments._OUTSIDE, id="a sum of IPv4"
        ),
        pytest.param(
            WHOLE._replace(csum_start=53), TCP6.frame, segments._OUTSIDE, id="a sum of IPv6"
        ),
        pytest.param(WHOLE._replace(csum_start=0), TCP4.frame, segments._OUTSIDE, id="no start"),
        pytest.param(
            WHOLE._replace(csum_offset=len(TCP4.frame) - 35),
            TCP4.frame,
            segments._OUTSIDE,
            id="a field that ends behind the packet",
        ),
        pytest.param(
            LARGE._replace(gso_type=virtio.GSO_UDP), TCP4.frame, segments._UNKNOWN, id="UFO"
        ),
        pytest.param(
            LARGE._replace(gso_type=virtio.GSO_ECN), TCP4.frame, segments._UNKNOWN, id="ECN alone"
        ),
        pytest.param(
            LARGE._replace(gso_type=0x25), TCP4.frame, segments._UNKNOWN, id="a type of tunnels"
        ),
        pytest.param(LARGE._replace(gso_size=0), TCP4.frame, segments._NO_SIZE, id="no size"),
        pytest.param(LARGE, UDP4.frame, segments._OTHER, id="a datagram as TCP"),
        pytest.param(LARGE_UDP, TCP4.frame, segments._OTHER, id="TCP as datagrams"),
        pytest.param(LARGE, TCP6.frame, segments._OTHER, id="IPv6 as IPv4"),
        pytest.param(LARGE6, TCP4.frame, segments._OTHER, id="IPv4 as IPv6"),
        pytest.param(
            LARGE, changed(TCP4.frame, 20, b"\x20\0"), segments._OTHER, id="a first fragment"
        ),
        pytest.param(
            LARGE, changed(TCP4.frame, 20, b"\0\x01"), segments._OTHER, id="a later fragment"
        ),
        pytest.param(
            LARGE6, changed(TCP6.frame, 20, b"\x2c"), segments._OTHER, id="a fragment of IPv6"
        ),
        pytest.param(
            LARGE6,
            changed(TCP6.frame, 18, b"\0\x07\0")[:61],
            segments._OTHER,
            id="an extension header that does not fit",
        ),
        pytest.param(
            LARGE6,
            changed(TCP6.frame, 18, b"\0\x01\0")[:55],
            segments._OTHER,
            id="one octet of an extension header",
        ),
        pytest.param(
            LARGE6,
            changed(changed(TCP6.frame, 20, b"\0"), 54, b"\x06\xff")[:2000],
            segments._CUT,
            id="cut behind an extension header",
        ),
        pytest.param(LARGE, cut(TCP4.frame, 39), segments._NO_HEADER, id="a TCP header cut by one"),
        pytest.param(LARGE_UDP, cut(UDP4.frame, 27), segments._NO_HEADER, id="half a UDP header"),
        pytest.param(
            LARGE, changed(TCP4.frame, 46, b"\x40"), segments._NO_HEADER, id="TCP of 16 octets"
        ),
        pytest.param(
            LARGE,
            changed(cut(TCP4.frame, 79), 46, b"\xf0"),
            segments._NO_HEADER,
            id="options of TCP cut by one",
        ),
        pytest.param(
            LARGE._replace(csum_start=35), TCP4.frame, segments._ELSEWHERE, id="another start"
        ),
        pytest.param(
            LARGE._replace(csum_offset=6), TCP4.frame, segments._ELSEWHERE, id="another field"
        ),
        pytest.param(
            LARGE._replace(gso_size=3), TCP4.frame, segments._TOO_MANY, id="tiny segments"
        ),
    ],
)
def test_what_cannot_be_sent_says_why(offload: Offload, frame: bytes, expected: Unsendable) -> None:
    assert packets(offload, frame) == expected
    assert packets(offload, memoryview(frame)) == expected


def test_as_many_segments_as_there_may_be_are_sent() -> None:
    assert len(sendable(TCP4.offload(4), TCP4.frame)) == segments.MOST


@pytest.mark.parametrize("frame", [cut(TCP4.frame, 40), cut(TCP4.frame, 41), TCP4.frame])
def test_one_segment_alone_is_a_packet_as_any_other(frame: bytes) -> None:
    whole = sendable(TCP4.offload(), frame)
    assert sendable(TCP4.offload(len(NUMBERED)), frame) == whole


def test_a_field_at_the_end_of_the_packet_is_inside() -> None:
    (packet,) = sendable(WHOLE._replace(csum_offset=len(TCP4.frame) - 36), TCP4.frame)
    assert packet[:-2] == TCP4.frame[ETHERNET:-2]


offloads: Final = st.builds(
    Offload,
    st.integers(0, 3) | st.integers(0, 255),
    st.sampled_from([0, 1, 3, 4, 5, 0x81, 0x84, 0x85]) | st.integers(0, 255),
    st.integers(0, 0xFFFF),
    st.integers(0, 100) | st.integers(0, 0xFFFF),
    st.sampled_from([14, 34, 54]) | st.integers(0, 0xFFFF),
    st.sampled_from([6, 16]) | st.integers(0, 0xFFFF),
)
bent: Final = st.builds(
    lambda it, at, octets: changed(it.frame, at, octets)[: len(it.frame)],
    sents,
    st.integers(12, 90),
    st.binary(max_size=4),
)


@given(offloads, st.binary(max_size=200) | bent)
def test_fuzz_whatever_comes_in_a_value_comes_out(offload: Offload, frame: bytes) -> None:
    found = packets(offload, frame)
    if isinstance(found, Unsendable):
        assert found.reason
    else:
        assert found
        assert all(20 <= len(packet) <= len(frame) - ETHERNET for packet in found)


@given(sents, st.integers(0, 100), st.data())
def test_fuzz_a_cut_or_bent_large_frame_is_no_accident(
    it: Sent, size: int, draw: st.DataObject
) -> None:
    frame = changed(it.frame, draw.draw(st.integers(12, 100)), draw.draw(st.binary(max_size=3)))
    end = draw.draw(st.integers(0, len(frame)))
    found = packets(it.offload(size), frame[:end] if draw.draw(st.booleans()) else frame)
    assert isinstance(found, Unsendable) or sum(map(len, found)) >= 20


def fragment4(offset: int) -> bytes:
    """Compose a frame of IPv4 with such a flags-and-offset word."""
    words = struct.pack("!BBHHHBBH", 0x45, 0, 28, 7, offset, 64, 17, 0)
    return bytes(12) + b"\x08\x00" + words + bytes(8) + bytes(8)


def fragment6(offset: int, header: int = 44) -> bytes:
    """The same of IPv6, behind a header for hops."""
    fragment = struct.pack("!BBHI", 17, 0, offset, 7)
    hops = bytes([header, 0]) + bytes(6)
    payload = hops + fragment + bytes(8)
    fixed = struct.pack("!IHBB", 6 << 28, len(payload), 0, 64) + bytes(32)
    return bytes(12) + b"\x86\xdd" + fixed + payload


@pytest.mark.parametrize(
    ("frame", "is_fragment", "has_more"),
    [
        pytest.param(fragment4(0x2000), True, True, id="IPv4, the first"),
        pytest.param(fragment4(0x2001), True, True, id="IPv4, one in the middle"),
        pytest.param(fragment4(0x0001), True, False, id="IPv4, the last"),
        pytest.param(fragment4(0x4000), False, False, id="IPv4, none"),
        pytest.param(fragment6(1), True, True, id="IPv6, the first"),
        pytest.param(fragment6(9), True, True, id="IPv6, one in the middle"),
        pytest.param(fragment6(8), True, False, id="IPv6, the last"),
        pytest.param(fragment6(1, header=17), False, False, id="IPv6, none"),
        pytest.param(fragment6(1)[:-9], False, False, id="cut"),
        pytest.param(bytes(60), False, False, id="not IP"),
    ],
)
def test_a_fragment_and_its_last_one_are_told(
    frame: bytes, *, is_fragment: bool, has_more: bool
) -> None:
    found = segments.fragment(frame)
    assert (found is not None) is is_fragment
    assert (found is not None and found.has_more) is has_more


@pytest.mark.parametrize("compose", [fragment4, fragment6])
def test_the_fragments_of_one_packet_are_told_from_those_of_another(
    compose: Callable[[int], bytes],
) -> None:
    first, last = segments.fragment(compose(0x2001)), segments.fragment(compose(0x0010))
    assert first
    assert last
    assert first.packet == last.packet
    others = []
    # One octet of the identification is another one, or one of an address.
    for octet in (19, 26) if compose is fragment4 else (69, 22):
        frame = bytearray(compose(0x0010))
        frame[octet] ^= 1
        others.append(segments.fragment(bytes(frame)))
    assert all(other and other.packet != last.packet for other in others)


def test_a_fragments_header_that_does_not_fit_has_no_more() -> None:
    fixed = struct.pack("!IHBB", 6 << 28, 4, 44, 64) + bytes(32)
    frame = bytes(12) + b"\x86\xdd" + fixed + bytes(4)
    found = segments.fragment(frame)
    assert found
    assert not found.has_more
