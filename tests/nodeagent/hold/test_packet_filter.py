"""Which frames are held, run by an interpreter: what goes to the guest alone, and is IP."""

import struct
from ipaddress import ip_address
from typing import Final

import pytest
from tests.nodeagent import classic_bpf

from handover_nodeagent.hold import packet_filter
from handover_nodeagent.kernel import bpf
from handover_nodeagent.network.model import IPAddress

OWN: Final = tuple(map(ip_address, ("10.65.0.2", "10.65.0.7", "fd00:65::2", "fd00:65::7:1")))
PROGRAM: Final = packet_filter.compile_filter(OWN)

# linux/filter.h and linux/if_packet.h.
SKF_AD_PKTTYPE, SKF_AD_MARK = 4, 20
PACKET_HOST, PACKET_BROADCAST, PACKET_MULTICAST, PACKET_OTHERHOST, PACKET_OUTGOING = range(5)
TUNNELED: Final = 0x2000
"""Part of what an agent of any version says to one of any other."""

GUEST: Final = bytes.fromhex("525400650002")
GATEWAY: Final = bytes.fromhex("eeeeeeeeeeee")
TCP, UDP, ICMPV6, FRAGMENT = 6, 17, 58, 44


def ipv4(receiver: str = "10.65.0.2", *, fragment: int = 0x4000, mac: bytes = GUEST) -> bytes:
    words = struct.pack("!BBHHHBBH", 0x45, 0, 28, 1, fragment, 64, UDP, 0)
    packet = words + ip_address("10.65.0.2").packed + ip_address(receiver).packed + bytes(8)
    return mac + GATEWAY + b"\x08\x00" + packet


def ipv6(
    receiver: str = "fd00:65::2", protocol: int = TCP, first: int = 0, mac: bytes = GUEST
) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, 8, protocol, 64)
    packet = header + ip_address("fd00:65::2").packed + ip_address(receiver).packed
    return mac + GATEWAY + b"\x86\xdd" + packet + bytes([first]) + bytes(7)


def arp(receiver: str = "10.65.0.2") -> bytes:
    head = GUEST + GATEWAY + b"\x08\x06" + bytes.fromhex("0001 0800 06 04 0001") + GATEWAY
    # So long that the address stands where an IPv4 packet has its receiver, too.
    return head + ip_address(receiver).packed * 10


def icmpv6(kind: int, receiver: str = "fd00:65::2") -> bytes:
    return ipv6(receiver, ICMPV6, kind)


def kept(octets: bytes, kind: int = PACKET_OUTGOING, mark: int = 0) -> int:
    return classic_bpf.run(PROGRAM, octets, {SKF_AD_PKTTYPE: kind, SKF_AD_MARK: mark})


@pytest.mark.parametrize("own", [str(one) for one in OWN])
def test_what_goes_to_each_address_is_kept_whole(own: str) -> None:
    octets = ipv6(own) if ":" in own else ipv4(own)
    assert kept(octets) == bpf.EVERYTHING


KEPT: Final = {
    "the first fragment": ipv4(fragment=0x2000),
    "another fragment": ipv4(fragment=0x2010),
    "a fragment of IPv6": ipv6(protocol=FRAGMENT, first=ICMPV6),
    "an echo request": icmpv6(128),
    "an echo reply": icmpv6(129),
    "a packet that is too big": icmpv6(2),
    "a type before those of Neighbor Discovery": icmpv6(132),
    "a type behind those of Neighbor Discovery": icmpv6(138),
    "a UDP packet whose port begins like a Neighbor Solicitation": ipv6(protocol=UDP, first=135),
}
DROPPED: Final = {
    "IPv4 to another": ipv4("10.65.0.3"),
    "IPv6 to another": ipv6("fd00:65::3"),
    "IPv6 to one that begins alike": ipv6("fd00:65::7:2"),
    "IPv6 to one that ends alike": ipv6("fd00:66::2"),
    "IPv4 broadcast": ipv4("255.255.255.255", mac=b"\xff" * 6),
    "IPv4 to its address by a broadcast": ipv4(mac=b"\xff" * 6),
    "IPv4 multicast": ipv4("224.0.0.1", mac=bytes.fromhex("01005e000001")),
    "IPv4 to its address by a multicast": ipv4(mac=bytes.fromhex("01005e000001")),
    "IPv6 to its address by a multicast": ipv6(mac=bytes.fromhex("333300000001")),
    "ARP": arp(),
    "ARP to another": arp("10.65.0.3"),
    "an EtherType between": GUEST + GATEWAY + b"\x86\xdc" + ipv6()[14:],
    "another EtherType": GUEST + GATEWAY + b"\x88\xb5" + ipv4()[14:],
    "IPv4 that is cut": ipv4()[:33],
    "IPv6 that is cut": ipv6()[:53],
    "nothing": b"",
} | {f"Neighbor Discovery, type {kind}": icmpv6(kind) for kind in range(133, 138)}


@pytest.mark.parametrize("octets", KEPT.values(), ids=KEPT.keys())
def test_what_is_the_guests_alone_is_kept(octets: bytes) -> None:
    assert kept(octets) == bpf.EVERYTHING


@pytest.mark.parametrize("octets", DROPPED.values(), ids=DROPPED.keys())
def test_what_is_not_is_dropped(octets: bytes) -> None:
    assert kept(octets) == 0


@pytest.mark.parametrize("octets", [ipv4(), ipv6()], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    "kind", [PACKET_HOST, PACKET_BROADCAST, PACKET_MULTICAST, PACKET_OTHERHOST]
)
def test_what_comes_from_the_guest_is_dropped(octets: bytes, kind: int) -> None:
    assert kept(octets, kind) == 0


@pytest.mark.parametrize("octets", [ipv4(), ipv6()], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    ("mark", "is_kept"),
    [
        pytest.param(TUNNELED, False, id="that mark"),
        pytest.param(0xFFFFFFFF, False, id="that mark among all"),
        pytest.param(0xFFFFFFFF ^ TUNNELED, True, id="all but that mark"),
    ],
)
def test_what_came_by_a_redirect_is_dropped(octets: bytes, mark: int, *, is_kept: bool) -> None:
    assert bool(kept(octets, mark=mark)) == is_kept


def differing(packed: bytes) -> list[bytes]:
    """Return what differs from *packed* by one bit, in each of its octets."""
    return [
        packed[:at] + bytes([packed[at] ^ 0x10]) + packed[at + 1 :] for at in range(len(packed))
    ]


@pytest.mark.parametrize("text", ["198.51.100.7", "2001:db8:3:4:5:6:7:8"])
def test_every_octet_of_an_address_counts(text: str) -> None:
    own = ip_address(text)
    program = packet_filter.compile_filter([own])
    ancillary = {SKF_AD_PKTTYPE: PACKET_OUTGOING, SKF_AD_MARK: 0}
    right = ipv6(text) if own.version == 6 else ipv4(text)
    assert classic_bpf.run(program, right, ancillary)
    for other in differing(own.packed):
        assert not classic_bpf.run(program, right.replace(own.packed, other), ancillary)


MANY_V4: Final = [ip_address(f"10.{number}.1.2") for number in range(16)]
MANY_V6: Final = [ip_address(f"fd00:{number:x}:1::2") for number in range(16)]


@pytest.mark.parametrize(
    "addresses",
    [MANY_V4, MANY_V6, MANY_V4[:8] + MANY_V6[:8], []],
    ids=["IPv4 alone", "IPv6 alone", "both", "none"],
)
def test_as_many_addresses_as_an_endpoint_may_have_fit(addresses: list[IPAddress]) -> None:
    """A jump reaches no farther than 255 instructions."""
    program = packet_filter.compile_filter(addresses)
    ancillary = {SKF_AD_PKTTYPE: PACKET_OUTGOING, SKF_AD_MARK: 0}
    found = [
        one
        for one in (*MANY_V4, *MANY_V6)
        if classic_bpf.run(
            program, ipv4(str(one)) if one.version == 4 else ipv6(str(one)), ancillary
        )
    ]
    assert found == addresses


@pytest.mark.parametrize("octets", [ipv4(), ipv6()], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("longer", "is_kept"), [(0, True), (1, False)])
def test_what_is_larger_than_a_link_carries_may_be_left_out(
    octets: bytes, longer: int, *, is_kept: bool
) -> None:
    program = packet_filter.compile_filter(OWN, len(octets))
    ancillary = {SKF_AD_PKTTYPE: PACKET_OUTGOING, SKF_AD_MARK: 0}
    found = classic_bpf.run(program, octets + bytes(longer), ancillary)
    assert found == (bpf.EVERYTHING if is_kept else 0)
