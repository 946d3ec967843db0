"""When a guest counts as having stood still: silent and asked for long, then heard again."""

from typing import Final

import pytest

from handover_nodeagent.hold.stall import QUEUED, STILL_NS, Stall

NOW: Final = 100 * STILL_NS
TAKEN: Final = NOW - 3 * STILL_NS
LONG_AGO: Final = NOW - STILL_NS - 1
RECENTLY: Final = NOW - STILL_NS


@pytest.mark.parametrize(
    ("asked_ns", "heard_ns", "expected"),
    [
        pytest.param(LONG_AGO, LONG_AGO, TAKEN, id="silent and asked long ago"),
        pytest.param(LONG_AGO, RECENTLY, None, id="heard since"),
        pytest.param(RECENTLY, LONG_AGO, None, id="not asked for so long"),
        pytest.param(0, LONG_AGO, None, id="all questions answered"),
        pytest.param(0, NOW, None, id="neither"),
    ],
)
def test_a_guest_stands_still_that_is(asked_ns: int, heard_ns: int, expected: int | None) -> None:
    it = Stall()
    assert it.observe(NOW, TAKEN, asked_ns, heard_ns) is None
    assert it.since_ns == expected


def test_a_guest_is_silent_for_50_ms_and_a_tap_keeps_950_packets_for_it() -> None:
    assert (STILL_NS, QUEUED) == (50_000_000, 950)


def still() -> Stall:
    it = Stall()
    it.observe(NOW, TAKEN, LONG_AGO, LONG_AGO)
    return it


def test_it_ends_once_the_guest_is_heard_and_tells_since_when_nothing_was_taken() -> None:
    it = still()
    later = NOW + 5 * STILL_NS
    # Whatever it answers: until it is heard, it stands still.
    assert it.observe(later, later, 0, LONG_AGO) is None
    assert it.since_ns == TAKEN
    assert it.observe(later, later, LONG_AGO, later - STILL_NS) == TAKEN
    assert it.since_ns is None


def test_it_is_told_once() -> None:
    it = still()
    assert it.observe(NOW, NOW, 0, NOW) == TAKEN
    assert it.observe(NOW, NOW, 0, NOW) is None


def test_a_guest_of_which_nothing_was_known_has_taken_nothing() -> None:
    it = Stall()
    it.observe(NOW, 0, LONG_AGO, 0)
    assert it.observe(NOW, 0, LONG_AGO, NOW) == 0
