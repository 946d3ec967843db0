"""What is sent to a guest, read back by scapy."""

from ipaddress import IPv6Address, ip_address

import pytest
from scapy.config import conf

conf.route_autoload = conf.route6_autoload = False

from scapy.layers.inet6 import (  # noqa: E402  # only after the routes are switched off
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether  # noqa: E402

from handover_nodeagent.network.model import IPAddress  # noqa: E402
from handover_nodeagent.sniff.arp_nd_questions import Parties, Questions, compose  # noqa: E402

GUEST = "52:54:00:65:00:02"
NODE = "ee:ee:ee:ee:ee:ee"
PARTIES = Parties(GUEST, NODE)
IP, IP_2 = ip_address("10.65.0.2"), ip_address("10.65.0.3")
IP6, IP6_2 = ip_address("fd00:65::abcd:1"), ip_address("fd00:65::2")
DEFAULT, DERIVED = ip_address("169.254.1.1"), ip_address("fe80::ecee:eeff:feee:eeee")


def test_an_arp_probe_asks_the_guest_alone_in_the_name_of_its_gateway() -> None:
    (octets,) = compose(PARTIES, [IP]).ipv4
    packet = Ether(octets)
    assert (packet.dst, packet.src) == (GUEST, NODE)
    arp = packet[ARP]
    assert (arp.hwtype, arp.ptype, arp.hwlen, arp.plen, arp.op) == (1, 0x0800, 6, 4, 1)
    assert (arp.hwsrc, arp.psrc) == (NODE, "169.254.1.1")
    assert (arp.hwdst, arp.pdst) == ("00:00:00:00:00:00", "10.65.0.2")


def test_a_witness_is_asked_the_same_and_told_nothing() -> None:
    asked = compose(Parties(GUEST, NODE, witness="02:00:00:00:00:99"), [IP, IP_2, IP6], [DEFAULT])
    alone = compose(PARTIES, [IP, IP_2, IP6], [DEFAULT])
    guest, witness = (bytes.fromhex(mac.replace(":", "")) for mac in (GUEST, "02:00:00:00:00:99"))
    for both, one in ((asked.ipv4, alone.ipv4), (asked.ipv6, alone.ipv6)):
        assert set(both) == {*one, *(witness + octets.removeprefix(guest) for octets in one)}
        assert len(both) == 2 * len(one)
    assert (asked.corrections, asked.askers) == (alone.corrections, alone.askers)


def test_a_solicitation_asks_the_guest_alone_from_a_link_local_source() -> None:
    (octets,) = compose(PARTIES, [IP6]).ipv6
    packet = Ether(octets)
    assert (packet.dst, packet.src) == (GUEST, NODE)
    ipv6 = packet[IPv6]
    assert (ipv6.src, ipv6.dst, ipv6.hlim) == (str(DERIVED), "ff02::1:ffcd:1", 255)
    assert packet[ICMPv6ND_NS].tgt == str(IP6)
    assert packet[ICMPv6NDOptSrcLLAddr].lladdr == NODE
    assert checksum_is_right(packet)


def test_the_gateway_says_where_it_is_without_ceasing_to_be_a_router() -> None:
    gateway = ip_address("fe80::1")
    arp, octets = compose(PARTIES, [IP, IP6], [gateway]).corrections
    assert Ether(arp)[ARP].psrc == "169.254.1.1"
    packet = Ether(octets)
    assert (packet.dst, packet[IPv6].src, packet[IPv6].dst) == (GUEST, "fe80::1", "ff02::1")
    na = packet[ICMPv6ND_NA]
    assert (na.tgt, na.R, na.S, na.O) == ("fe80::1", 1, 0, 1)
    assert packet[ICMPv6NDOptDstLLAddr].lladdr == NODE
    assert checksum_is_right(packet)


def checksum_is_right(packet: Ether) -> bool:
    """Let scapy compute the checksum anew."""
    again = packet.copy()
    del again[IPv6].payload.cksum
    return bytes(again) == bytes(packet)


ASKERS: dict[str, tuple[list[IPAddress], IPv6Address | None, set[IPAddress]]] = {
    "the defaults": ([], None, {DEFAULT, DERIVED}),
    "the interface's own link-local": (
        [],
        IPv6Address("fe80::7"),
        {DEFAULT, ip_address("fe80::7")},
    ),
    "the gateways": (
        [ip_address("10.65.0.1"), ip_address("10.65.0.9"), ip_address("fe80::1")],
        None,
        {ip_address("10.65.0.1"), ip_address("fe80::1")},
    ),
    "never a global IPv6 address": ([ip_address("fd00:65::1")], None, {DEFAULT, DERIVED}),
    "never the unspecified addresses": (
        [ip_address("0.0.0.0"), ip_address("::")],
        None,
        {DEFAULT, DERIVED},
    ),
    "never the guest itself": ([IP, IP6], None, {DEFAULT, DERIVED}),
}


@pytest.mark.parametrize(("gateways", "link_local", "askers"), ASKERS.values(), ids=ASKERS.keys())
def test_who_asks(
    gateways: list[IPAddress], link_local: IPv6Address | None, askers: set[IPAddress]
) -> None:
    questions = compose(Parties(GUEST, NODE, link_local), [IP, IP6], gateways)
    assert questions.askers == askers
    asking = {ip_address(Ether(octets)[ARP].psrc) for octets in questions.ipv4}
    asking |= {ip_address(Ether(octets)[IPv6].src) for octets in questions.ipv6}
    assert asking == askers


def test_every_gateway_is_corrected() -> None:
    gateways = [ip_address(a) for a in ("10.65.0.1", "10.65.0.9", "fe80::1", "fd00:65::1")]
    corrections = [Ether(octets) for octets in compose(PARTIES, [IP, IP6], gateways).corrections]
    corrected = [p[ARP].psrc if ARP in p else p[ICMPv6ND_NA].tgt for p in corrections]
    assert corrected == ["10.65.0.1", "10.65.0.9", "fe80::1", "fd00:65::1"]


def test_a_family_that_the_guest_lacks_is_not_corrected() -> None:
    assert compose(PARTIES, [IP]).corrections == compose(PARTIES, [IP]).ipv4
    assert len(compose(PARTIES, [IP6]).corrections) == 1


def test_without_a_mac_there_is_no_question() -> None:
    assert compose(Parties(None, NODE), [IP, IP6]) == Questions()
    assert not Questions()
    assert Questions(ipv6=(b"",))


def test_the_addresses_of_each_family_take_turns() -> None:
    questions = compose(PARTIES, [IP, IP_2, IP6, IP6_2, IP])
    a, b = questions.ipv4
    c, d = questions.ipv6
    assert questions.all == (a, b, c, d)
    assert [questions.turn(n) for n in range(3)] == [(a, c), (b, d), (a, c)]
    assert compose(PARTIES, [IP6]).turn(4) == (c,)
