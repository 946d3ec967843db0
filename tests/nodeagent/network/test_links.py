"""What becomes of the node's links with each notification, as a value."""

import dataclasses
from ipaddress import ip_address

import pytest

from handover_nodeagent.network.links import (
    AddressChanged,
    LinkChanged,
    LinkDiff,
    LinkRemoved,
    Links,
)
from handover_nodeagent.network.model import Link

OWN = ip_address("192.0.2.1")
GATEWAY = ip_address("169.254.1.1")
TAP = Link(7, "tap0", "02:00:00:00:00:07", up=True, addresses=frozenset({OWN}), default_route=True)
VETH = Link(8, "veth0", "02:00:00:00:00:08", up=False)
RENAMED = dataclasses.replace(TAP, name="tap9")
DOWN = dataclasses.replace(TAP, up=False)


def links(*known: Link) -> Links:
    """Return the node's links."""
    made = Links()
    made.replace_all({link.index: link for link in known})
    return made


def changed(link: Link) -> LinkChanged:
    """Return what the kernel tells of *link*: nothing of its addresses and routes."""
    return LinkChanged(link.index, link.name, link.mac, link.up, carrier=link.carrier)


def test_all_links_anew_are_told_by_what_differs() -> None:
    known = links(TAP, VETH)
    after = Link(9, "tap1", "02:00:00:00:00:09", up=True)
    found = known.replace_all({7: DOWN, 9: after})
    assert found == (LinkDiff(TAP, DOWN), LinkDiff(VETH, None), LinkDiff(None, after))
    assert (known.by_index, known.by_name) == ({7: DOWN, 9: after}, {"tap0": DOWN, "tap1": after})
    assert known.replace_all({7: DOWN, 9: after}) == ()


def test_a_link_that_changes_keeps_its_addresses_and_its_default_route() -> None:
    assert links(TAP).change(changed(DOWN)) == LinkDiff(TAP, DOWN)


def test_a_new_link_is_known_by_index_and_name() -> None:
    known = links(TAP)
    assert known.change(changed(VETH)) == LinkDiff(None, VETH)
    assert (known.by_index[8], known.by_name["veth0"]) == (VETH, VETH)


def test_what_says_nothing_new_is_no_difference() -> None:
    known = links(TAP)
    assert known.change(changed(TAP)) is None
    assert known.remove(LinkRemoved(99, "never-there")) is None
    assert known.readdress(AddressChanged(99, OWN, present=True)) is None
    assert known.readdress(AddressChanged(7, OWN, present=True)) is None
    assert known.by_index == {7: TAP}


def test_a_renamed_link_has_its_new_name_alone() -> None:
    known = links(TAP)
    diff = known.change(changed(RENAMED))
    assert diff is not None
    assert diff.names == {"tap0", "tap9"}
    assert known.by_name == {"tap9": RENAMED}


def test_a_name_that_another_link_has_by_now_stays_that_ones() -> None:
    successor = dataclasses.replace(VETH, name="tap0")
    known = links(TAP)
    known.change(changed(successor))
    known.change(changed(RENAMED))
    assert known.by_name == {"tap0": successor, "tap9": RENAMED}
    known.change(changed(dataclasses.replace(successor, name="tap9")))
    known.remove(LinkRemoved(7, "tap9"))
    assert {name: link.index for name, link in known.by_name.items()} == {"tap9": 8}


def test_a_link_that_is_gone_is_forgotten() -> None:
    known = links(TAP, VETH)
    assert known.remove(LinkRemoved(7, "tap0")) == LinkDiff(TAP, None)
    assert (known.by_index, known.by_name) == ({8: VETH}, {"veth0": VETH})
    assert known.addresses == frozenset()


def test_addresses_come_and_go_with_their_networks() -> None:
    known = links(VETH)
    known.readdress(AddressChanged(8, GATEWAY, present=True, is_host=True))
    known.readdress(AddressChanged(8, OWN, present=True))
    assert known.addresses == {OWN, GATEWAY}
    assert known.by_name["veth0"].hosts == {GATEWAY}
    # The same address, now with a network.
    known.readdress(AddressChanged(8, GATEWAY, present=True))
    assert known.by_name["veth0"].hosts == frozenset()
    known.readdress(AddressChanged(8, OWN, present=False))
    assert known.addresses == {GATEWAY}


@pytest.mark.parametrize(
    ("before", "after", "lost_routes", "came_up"),
    [
        (None, TAP, False, True),
        (None, DOWN, False, False),
        (DOWN, TAP, False, True),
        (TAP, DOWN, True, False),
        (TAP, None, True, False),
        (DOWN, None, False, False),
        (TAP, RENAMED, False, False),
    ],
)
def test_a_difference_tells_what_became_of_the_routes(
    before: Link | None, after: Link | None, *, lost_routes: bool, came_up: bool
) -> None:
    diff = LinkDiff(before, after)
    assert (diff.lost_routes, diff.came_up) == (lost_routes, came_up)
