"""Neighbor messages as bytes; pyroute2 judges their form (``test_against_pyroute2``)."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.kernel.netlink import codec, ndmsg
from handover_nodeagent.kernel.netlink.ndmsg import Entry
from handover_nodeagent.network.model import IPAddress, Neigh

V4, V6 = ip_address("10.65.0.2"), ip_address("fd00:65::2")
MAC, OTHER = "52:54:00:65:00:02", "02:00:00:00:00:01"
# NUD_ of linux/neighbour.h: whether packets leave by it without a question.
STATES = {0x00: False, 0x01: False, 0x02: True, 0x04: False, 0x08: True}
STATES |= {0x10: True, 0x20: False, 0x40: True, 0x80: True}


def shown(state: int = 0x02, mac: str = MAC, index: int = 7, *more: bytes) -> bytes:
    """Return an entry for V4 as the kernel shows it."""
    body = struct.pack("=BxHiHBB", 2, 0, index, state, 0, 1) + codec.attribute(1, V4.packed)
    if mac:
        body += codec.attribute(2, bytes.fromhex(mac.replace(":", "")))
    return codec.compose(codec.NEWNEIGH, 0, body + b"".join(more))


@pytest.mark.parametrize(("state", "in_force"), STATES.items())
def test_an_entry_is_in_force_by_its_state(state: int, *, in_force: bool) -> None:
    assert ndmsg.decode(shown(state), V4, 7) == Entry(MAC, in_force)


@pytest.mark.parametrize("mac", ["", "00:00:00:00:00:00"])
def test_an_entry_without_a_mac_has_none(mac: str) -> None:
    assert ndmsg.decode(shown(0x01, mac), V4, 7) == Entry("", in_force=False)


@pytest.mark.parametrize(
    ("answer", "address", "oif"),
    [
        (shown(), V4, 8),
        (shown(), V4 + 1, 7),
        (shown(), V6, 7),
        (shown()[:24], V4, 7),
        (shown()[:-8], V4, 7),
        (b"", V4, 7),
    ],
    ids=["device", "address", "family", "cut", "cut MAC", "nothing"],
)
def test_nothing_but_the_entry_that_was_asked_for_is_one(
    answer: bytes, address: IPAddress, oif: int
) -> None:
    assert ndmsg.decode(answer, address, oif) is None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (None, True),
        (Entry(OTHER, in_force=False), True),
        (Entry("", in_force=True), True),
        (Entry(MAC, in_force=True), True),
        (Entry(OTHER, in_force=True), False),
    ],
    ids=["none", "stale", "no MAC", "the same", "another"],
)
def test_what_was_heard_on_the_wire_goes_before_an_objects_word(
    entry: Entry | None, *, expected: bool
) -> None:
    assert ndmsg.is_free(entry, MAC.upper()) == expected


@given(st.ip_addresses(), st.integers(1, 2**31 - 1), st.binary(min_size=6, max_size=6))
def test_a_seed_reads_as_a_reachable_entry(address: IPAddress, oif: int, octets: bytes) -> None:
    mac = octets.hex(":")
    entry = ndmsg.decode(ndmsg.encode_seed(Neigh(address, oif, mac.upper())), address, oif)
    assert entry == Entry(mac if any(octets) else "", in_force=True)
