"""Which endpoints have which link, and whom a change of a link concerns: those and nobody else."""

import dataclasses

import pytest

from handover_api.names import ObjectKey
from handover_nodeagent.network.links import LinkDiff
from handover_nodeagent.network.model import Link
from handover_nodeagent.reconcile.link_index import LinkIndex

ONE, TWO, THREE = (ObjectKey("default", name) for name in ("one", "two", "three"))
TAP = Link(7, "tap0", "02:00:00:00:00:07", up=True)
VETH = Link(8, "veth0", "02:00:00:00:00:08", up=True)


@pytest.fixture
def index() -> LinkIndex:
    """Return an index of an endpoint that has tap0, and of one that would know late0 as its own."""
    made = LinkIndex()
    made.put(ONE, ["tap0"], TAP)
    made.put(TWO, ["late0", "late1"], None)
    return made


def test_each_has_its_link_or_none(index: LinkIndex) -> None:
    assert [index.of(key) for key in (ONE, TWO, THREE)] == [7, None, None]
    assert index.unplaced() == {TWO}
    assert set(index.devices) == {7}


def test_one_that_moves_leaves_its_former_link_and_name(index: LinkIndex) -> None:
    index.put(ONE, ["veth0"], VETH)
    assert index.of(ONE) == 8
    assert set(index.devices) == {8}
    assert index.concerned(LinkDiff(TAP, None)) == frozenset()
    assert index.concerned(LinkDiff(None, VETH)) == {ONE}


def test_one_that_loses_its_link_waits_for_one(index: LinkIndex) -> None:
    index.put(ONE, ["tap0"], None)
    assert index.unplaced() == {ONE, TWO}
    assert set(index.devices) == set()
    index.put(ONE, ["tap0"], TAP)
    assert index.unplaced() == {TWO}


def test_what_was_removed_is_gone_from_every_index(index: LinkIndex) -> None:
    for key in (ONE, TWO, THREE):
        index.remove(key)
    assert (index.of(ONE), index.unplaced(), set(index.devices)) == (None, frozenset(), set())
    assert index.concerned(LinkDiff(TAP, dataclasses.replace(TAP, name="late0"))) == frozenset()
    # No trace of any name or link: pods come and go for years.
    assert (index._by_link, index._by_name, index._entries) == ({}, {}, {})


def test_one_of_two_on_a_link_may_go(index: LinkIndex) -> None:
    index.put(TWO, ["tap0"], TAP)
    index.remove(ONE)
    assert set(index.devices) == {7}
    assert index.concerned(LinkDiff(TAP, None)) == {TWO}


@pytest.mark.parametrize(
    ("diff", "expected"),
    [
        (LinkDiff(TAP, dataclasses.replace(TAP, up=False)), {ONE}),
        (LinkDiff(TAP, None), {ONE}),
        # By its index: whoever has it follows it to any name.
        (LinkDiff(TAP, dataclasses.replace(TAP, name="other")), {ONE}),
        # By its name: whoever waits for that one, also where it comes by a rename.
        (LinkDiff(None, dataclasses.replace(VETH, name="late1")), {TWO}),
        (LinkDiff(TAP, dataclasses.replace(TAP, name="late0")), {ONE, TWO}),
        (LinkDiff(dataclasses.replace(VETH, name="late0"), VETH), {TWO}),
        # Another link that gets the name of one's own: it may be that one now.
        (LinkDiff(None, dataclasses.replace(VETH, name="tap0")), {ONE}),
        (LinkDiff(VETH, None), set()),
    ],
)
def test_a_link_concerns_who_has_it_or_would_know_it_by_name(
    index: LinkIndex, diff: LinkDiff, expected: set[ObjectKey]
) -> None:
    assert index.concerned(diff) == expected


def test_a_link_is_others_where_somebody_else_has_it(index: LinkIndex) -> None:
    """The asker's own link is others' only where there are two of them on it."""
    assert index.is_others(7, None)
    assert index.is_others(7, 8)
    assert not index.is_others(7, 7)
    assert not index.is_others(8, 7)
    assert not index.is_others(8, None)
    index.put(TWO, ["tap0"], TAP)
    assert index.is_others(7, 7)
