"""Link and address messages as bytes; pyroute2 judges their form (``test_against_pyroute2``)."""

import struct
from ipaddress import ip_address

import pytest

from handover_nodeagent.kernel.netlink import codec, ifinfomsg
from handover_nodeagent.network.model import IPAddress, Link

V4, PEER, V6 = (ip_address(one) for one in ("192.0.2.5", "198.51.100.7", "fd00:66::1"))
MAC = "52:54:00:65:00:02"


def link(index: int, name: bytes = b"tap0", flags: int = 0x10001, mac: str = MAC) -> bytes:
    body = struct.pack("=BxHiII", 0, 1, index, flags, 0) + codec.attribute(3, name + b"\0")
    octets = bytes.fromhex(mac.replace(":", ""))
    return codec.compose(codec.NEWLINK, 0, body + codec.attribute(1, octets))


def own(index: int, address: IPAddress, length: int, peer: IPAddress | None = None) -> bytes:
    """Return an address message; in IPv4 the kernel always names the peer's end, too."""
    body = struct.pack("=BBBBI", codec.family_of(address), length, 0, 0, index)
    body += codec.attribute(1, (peer or address).packed)
    if peer or address.version == 4:
        body += codec.attribute(2, address.packed)
    return codec.compose(codec.NEWADDR, 0, body)


@pytest.mark.parametrize(
    ("flags", "up", "carrier"), [(0x10001, True, True), (1, True, False), (0, False, False)]
)
def test_a_link_is_up_and_has_carrier_by_its_flags(flags: int, *, up: bool, carrier: bool) -> None:
    found = ifinfomsg.decode_link(link(7, flags=flags))
    assert found == Link(7, "tap0", MAC, up, carrier=carrier)


def test_a_name_that_is_no_text_survives() -> None:
    assert ifinfomsg.decode_link(link(7, b"t\xff")).name == "t\udcff"


def test_the_nodes_end_of_a_link_with_a_peer_is_its_own() -> None:
    assert ifinfomsg.decode_address(own(7, V4, 32, PEER)) == (7, V4)
    assert ifinfomsg.decode_address(own(7, V6, 64)) == (7, V6)


@pytest.mark.parametrize(
    ("address", "length", "expected"),
    [(V4, 32, True), (V4, 24, False), (V6, 128, True), (V6, 64, False), (V6, 32, False)],
)
def test_an_address_without_a_network_is_told_by_its_length(
    address: IPAddress, length: int, *, expected: bool
) -> None:
    assert ifinfomsg.is_host(own(7, address, length)) == expected


def test_a_link_has_its_addresses_and_no_other_ones() -> None:
    addresses = [own(7, V4, 32), own(7, V6, 64), own(8, PEER, 24), own(9, V4, 24)]
    found = ifinfomsg.decode_all([link(7), link(8, b"tap1")], addresses, {8, 9})
    first = Link(7, "tap0", MAC, True, frozenset({V4, V6}), hosts=frozenset({V4}))  # noqa: FBT003
    second = Link(8, "tap1", MAC, True, frozenset({PEER}), default_route=True)  # noqa: FBT003
    assert found == {7: first, 8: second}


def test_no_link_at_all_is_no_reading() -> None:
    """Guards: to believe that all are gone would take every endpoint's link away."""
    with pytest.raises(codec.ObservationError, match="no link at all"):
        ifinfomsg.decode_all([], [own(7, V4, 32)], {7})


@pytest.mark.parametrize(
    ("index", "name"), [(0, b"tap0"), (-7, b"tap0"), (2, b""), (2, b"ta\0p0")], ids=repr
)
def test_what_no_kernel_would_say_of_a_link_is_not_believed(index: int, name: bytes) -> None:
    body = struct.pack("=BxHiII", 0, 1, index, 1, 0) + codec.attribute(3, name + b"\0")
    with pytest.raises(codec.MalformedError, match=rf"link {index} has the name"):
        ifinfomsg.decode_link(codec.compose(codec.NEWLINK, 0, body))
