"""The wire formats: frames by two other authors (QEMU's bytes, scapy's) and broken ones."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.config import conf

conf.route_autoload = conf.route6_autoload = False

from scapy.layers.inet6 import (  # noqa: E402  # only after the routes are switched off
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether  # noqa: E402
from scapy.packet import Packet, Raw  # noqa: E402
from tests.nodeagent.sniff import conftest as wires  # noqa: E402

from handover_nodeagent.sniff.frames import Frame, Kind, checksum, pack_mac, parse  # noqa: E402

GUEST = "52:54:00:65:00:02"
NODE = "ee:ee:ee:ee:ee:ee"
GATEWAY6 = "fe80::ecee:eeff:feee:eeee"

MAC = bytes.fromhex("525400650002")
IP = bytes([10, 65, 0, 2])
GATEWAY = bytes([169, 254, 1, 1])
IP6 = bytes.fromhex("fd000065 00000000 00000000 00000002")
ASKER6 = bytes.fromhex("fe800000 00000000 eceeeeff feeeeeee")


def ether(kind: int | None = None) -> Packet:
    """Return the Ethernet header of a frame from the guest."""
    packet = Ether(src=GUEST, dst="ff:ff:ff:ff:ff:ff")
    if kind is not None:
        packet.type = kind
    return packet


def arp(**changes: Any) -> Packet:
    """Return a gratuitous ARP of the guest, but for *changes*."""
    fields: dict[str, Any] = {"op": 1, "hwsrc": GUEST, "psrc": "10.65.0.2", "pdst": "10.65.0.2"}
    return ARP(**fields | changes)


def advertisement(
    *options: Packet, src: str = "fd00:65::2", dst: str = "ff02::1", hlim: int = 255, **changes: Any
) -> Packet:
    """Return an NA of the guest for its address."""
    packet = ether() / IPv6(src=src, dst=dst, hlim=hlim)
    fields: dict[str, Any] = {"tgt": "fd00:65::2", "R": 0, "S": 0, "O": 1}
    packet /= ICMPv6ND_NA(**fields | changes)
    for option in options:
        packet /= option
    return packet


def own() -> Packet:
    """Return the option that carries the guest's MAC."""
    return ICMPv6NDOptDstLLAddr(lladdr=GUEST)


GARP = Frame(Kind.GRATUITOUS_ARP, MAC, MAC, IP)
ANSWER = Frame(Kind.ARP_ANSWER, MAC, MAC, IP, GATEWAY)
NA = Frame(Kind.UNSOLICITED_NA, MAC, MAC, IP6)
NA_ANSWER = Frame(Kind.SOLICITED_NA, MAC, MAC, IP6, ASKER6)

MEANT = {
    "QEMU's RARP": (wires.RARP, Frame(Kind.RARP, MAC, MAC)),
    "a guest's gratuitous request": (wires.GARP, GARP),
    "scapy's RARP": (
        ether(0x8035) / ARP(op=3, hwsrc=GUEST, hwdst=GUEST, psrc="0.0.0.0", pdst="0.0.0.0"),
        Frame(Kind.RARP, MAC, MAC),
    ),
    "gratuitous request": (ether() / arp(), GARP),
    "gratuitous reply": (ether() / arp(op=2), GARP),
    "gratuitous, padded": (ether() / arp() / Raw(b"\x5a" * 18), GARP),
    "gratuitous for another's MAC": (
        ether() / arp(hwsrc=NODE),
        GARP._replace(claimed=bytes.fromhex("eeeeeeeeeeee")),
    ),
    "ARP reply": (ether() / arp(op=2, hwdst=NODE, pdst="169.254.1.1"), ANSWER),
    "unsolicited NA": (advertisement(own()), NA),
    "unsolicited NA, padded": (bytes(advertisement(own())) + bytes(10), NA),
    "unsolicited NA without a MAC": (advertisement(), NA._replace(claimed=b"")),
    "unsolicited NA with its MAC last": (
        advertisement(ICMPv6NDOptUnknown(type=253, len=1, data=b"\0" * 6), own()),
        NA,
    ),
    "unsolicited NA with two MACs": (
        advertisement(own(), ICMPv6NDOptDstLLAddr(lladdr=NODE)),
        NA,
    ),
    "unsolicited NA with the wrong option": (
        advertisement(ICMPv6NDOptSrcLLAddr(lladdr=GUEST)),
        NA._replace(claimed=b""),
    ),
    "solicited NA": (advertisement(own(), dst=GATEWAY6, S=1), NA_ANSWER),
}

PRIORITY = {
    "of ARP": (ether() / Dot1Q(vlan=0) / arp(), wires.GARP),
    "with a priority": (ether() / Dot1Q(vlan=0, prio=7, dei=1) / arp(), wires.GARP),
    "of RARP": (ether() / Dot1Q(vlan=0, type=0x8035) / arp(op=3), bytes(ether(0x8035) / arp(op=3))),
    "of an NA": (ether() / Dot1Q(vlan=0) / advertisement(own())[IPv6], bytes(advertisement(own()))),
    "of a provider": (ether() / Dot1AD(vlan=0) / arp(), wires.GARP),
}


@pytest.mark.parametrize(("written", "untagged"), PRIORITY.values(), ids=PRIORITY.keys())
def test_a_tag_of_vlan_0_is_none(written: Packet, untagged: bytes) -> None:
    assert parse(untagged) is not None
    assert parse(bytes(written)) == parse(untagged)
    assert parse(memoryview(bytes(written))) == parse(untagged)


MEANINGLESS = {
    "an ordinary ARP request": ether() / arp(pdst="169.254.1.1"),
    "0.0.0.0 for 0.0.0.0": ether() / arp(psrc="0.0.0.0", pdst="0.0.0.0"),
    "an address probe (RFC 5227)": ether() / arp(psrc="0.0.0.0"),
    "a reply of 0.0.0.0": ether() / arp(op=2, psrc="0.0.0.0", pdst="169.254.1.1"),
    "ARP with RARP's operation": ether() / arp(op=3),
    "RARP with ARP's operation": ether(0x8035) / arp(op=1),
    "RARP reply": ether(0x8035) / arp(op=4),
    "ARP of another hardware": ether() / arp(hwtype=6),
    "ARP for another protocol": ether() / arp(ptype=0x86DD),
    "ARP with long hardware addresses": ether() / arp(hwlen=8),
    "ARP with long protocol addresses": ether() / arp(plen=16),
    "VLAN-tagged ARP": ether() / Dot1Q(vlan=7) / arp(),
    "VLAN-tagged RARP": ether() / Dot1Q(vlan=7, type=0x8035) / arp(op=3),
    "VLAN-tagged NA": ether() / Dot1Q(vlan=7) / advertisement(own())[IPv6],
    "ARP of VLAN 256": ether() / Dot1Q(vlan=256) / arp(),
    "ARP in a VLAN in a priority tag": ether() / Dot1Q(vlan=0) / Dot1Q(vlan=7) / arp(),
    "ARP in two priority tags": ether() / Dot1Q(vlan=0) / Dot1Q(vlan=0) / arp(),
    "ARP behind a tag of another kind": ether(0x9100) / Raw(bytes(2) + b"\x08\x06") / arp(),
    "a priority tag and nothing else": ether() / Dot1Q(vlan=0),
    "IPv4": ether(0x0800) / Raw(b"\x45" + b"\0" * 60),
    "NS": ether() / IPv6(hlim=255) / ICMPv6ND_NS(tgt="fd00:65::2") / own(),
    "NA from afar": advertisement(own(), hlim=254),
    "NA with a code": advertisement(own(), code=1),
    "NA for a multicast address": advertisement(own(), tgt="ff02::1"),
    "solicited NA to all": advertisement(own(), S=1),
    "NA with a wrong checksum": advertisement(own(), cksum=0x1234),
    "NA with an option of no length": advertisement() / Raw(b"\x02\x00\0\0\0\0\0\0"),
    "NA with half an option": advertisement() / Raw(b"\x02"),
    "NA with an option that is too long": advertisement() / Raw(b"\x02\x02\0\0\0\0\0\0"),
}


@pytest.mark.parametrize(("written", "expected"), MEANT.values(), ids=MEANT.keys())
def test_what_means_something_is_read(written: bytes | Packet, expected: Frame) -> None:
    assert parse(bytes(written)) == expected
    assert parse(memoryview(bytes(written))) == expected


@pytest.mark.parametrize("written", MEANINGLESS.values(), ids=MEANINGLESS.keys())
def test_what_means_nothing_is_none(written: Packet) -> None:
    assert parse(bytes(written)) is None


@pytest.mark.parametrize(
    "octets",
    [wires.RARP[:42], wires.GARP, bytes(advertisement(own()))],
    ids=["RARP", "ARP", "NA"],
)
def test_a_frame_cut_anywhere_is_none(octets: bytes) -> None:
    assert parse(octets) is not None
    assert {parse(octets[:end]) for end in range(len(octets))} == {None}


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (14, 0x40),  # IP version 4
        (20, 17),  # next header UDP
        (19, 8),  # payload length below an NA's
        (19, 200),  # payload length behind the end
    ],
)
def test_an_na_in_a_broken_ipv6_header_is_none(at: int, value: int) -> None:
    octets = bytearray(bytes(advertisement(own())))
    octets[at] = value
    assert parse(bytes(octets)) is None


def test_the_checksum_pads_an_odd_payload() -> None:
    addresses = bytes(32)
    even = checksum(addresses, b"\x12\x00")
    odd = checksum(addresses, b"\x12")
    # One byte less in the pseudo header's length, the same words otherwise.
    assert odd == even + 1


def test_a_right_checksum_verifies() -> None:
    addresses, payload = IP6 + ASKER6, b"\x88\0\0\0abcdef"
    value = checksum(addresses, payload)
    whole = payload[:2] + struct.pack("!H", value) + payload[4:]
    assert checksum(addresses, whole) == 0


@given(st.binary(max_size=200))
def test_no_bytes_raise(octets: bytes) -> None:
    parse(octets)


@given(st.binary(max_size=100), st.sampled_from([b"\x08\x06", b"\x80\x35", b"\x86\xdd"]))
def test_no_bytes_behind_a_listened_ethertype_raise(rest: bytes, ethertype: bytes) -> None:
    parse(MAC + MAC + ethertype + rest)


def test_a_mac_is_packed() -> None:
    assert pack_mac("52:54:00:65:00:02") == MAC


@pytest.mark.parametrize("text", ["", "52:54", "52:54:00:65:00:02:03", "52:54:00:65:00:0g"])
def test_what_is_no_mac_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        pack_mac(text)
