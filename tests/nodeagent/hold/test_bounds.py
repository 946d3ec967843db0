"""How much is held of one guest and of all, and what goes first where that is too much."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.hold import bounds
from handover_nodeagent.hold.bounds import Release
from handover_nodeagent.sniff.ring_blocks import Block

MS: Final = 1_000_000
NOW: Final = 5_000 * MS
NOTHING: Final = Release(0, 0)


def test_a_guest_has_8_mib_and_a_node_64() -> None:
    assert bounds.MOST_BLOCKS * bounds.BLOCK_SIZE == 8 << 20
    assert bounds.NODE_BLOCKS * bounds.BLOCK_SIZE == 64 << 20
    assert bounds.geometry(4) == (128 * 1024, 4, 150)


def test_the_first_ring_is_the_largest_and_at_least_twenty_fit() -> None:
    given_out: list[int] = []
    while (blocks := bounds.allot(sum(given_out))) and len(given_out) < bounds.NODE_BLOCKS:
        given_out.append(blocks)
    assert given_out[0] == bounds.MOST_BLOCKS
    assert given_out == sorted(given_out, reverse=True)
    assert len(given_out) >= 20
    assert 0 <= bounds.NODE_BLOCKS - sum(given_out) < bounds.LEAST_BLOCKS


@pytest.mark.parametrize(
    ("used", "expected"),
    [(0, 64), (1, 63), (64, 56), (472, 5), (479, 4), (508, 4), (509, 0), (512, 0)],
)
def test_a_ring_has_an_eighth_of_what_is_free_within_its_bounds(used: int, expected: int) -> None:
    assert bounds.allot(used) == expected


@given(st.lists(st.one_of(st.none(), st.integers(0, 200)), max_size=120))
def test_a_node_never_holds_more_than_its_bound(requests: list[int | None]) -> None:
    """None asks for a ring, and a number ends one of those that there are."""
    rings: list[int] = []
    for request in requests:
        if request is None:
            blocks = bounds.allot(sum(rings))
            assert blocks == 0 or bounds.LEAST_BLOCKS <= blocks <= bounds.MOST_BLOCKS
            # One that is refused is refused since there is no room for the smallest.
            assert blocks or bounds.NODE_BLOCKS - sum(rings) < bounds.LEAST_BLOCKS
            rings += [blocks] if blocks else []
        elif rings:
            rings.pop(request % len(rings))
        assert sum(rings) <= bounds.NODE_BLOCKS


def block(opened_ms: int, last_ms: int) -> Block:
    """Return a block of packets that came between so many ms before now."""
    return Block(0, 1, 10, 48, NOW - opened_ms * MS, NOW - last_ms * MS)


RECENT: Final = (block(300, 201), block(200, 101), block(100, 1))


@pytest.mark.parametrize(
    ("retired", "taken_until_ms", "blocks", "expected"),
    [
        pytest.param((), 0, 4, NOTHING, id="nothing of nothing"),
        pytest.param(RECENT[1:], 5000, 4, NOTHING, id="nothing of what nobody knows to be taken"),
        pytest.param(RECENT, 202, 5, NOTHING, id="no block of which something may be missing"),
        pytest.param(RECENT, 201, 5, NOTHING, id="nor one whose last came at that very time"),
        pytest.param(RECENT, 200, 4, Release(1, 0), id="what was taken"),
        pytest.param(RECENT, 0, 4, Release(3, 0), id="all of it"),
        pytest.param(RECENT, 5000, 4, Release(0, 1), id="so many that a quarter is free"),
        pytest.param((*RECENT, block(1, 1)), 200, 4, Release(1, 1), id="or was given back"),
        pytest.param((block(1, 1),) * 8, 5000, 8, Release(0, 3), id="a quarter of eight"),
        pytest.param((block(1, 1),) * 5, 5000, 5, Release(0, 2), id="a quarter, rounded down"),
        pytest.param(
            (block(1001, 999), *RECENT[:1]), 5000, 4, Release(0, 1), id="what began too long ago"
        ),
        pytest.param((block(1000, 900),), 5000, 4, NOTHING, id="a whole second is held"),
        pytest.param(
            (block(1300, 1200), block(1200, 1001), block(1001, 900)),
            *(1100, 4),
            Release(1, 2),
            id="what is too old behind what was taken",
        ),
        pytest.param(
            (block(1300, 1200),) * 2 + (block(10, 1),) * 6,
            *(5000, 8),
            Release(0, 3),
            id="the more of both",
        ),
    ],
)
def test_a_release_gives_back(
    retired: tuple[Block, ...], taken_until_ms: int, blocks: int, expected: Release
) -> None:
    assert bounds.release(retired, NOW - taken_until_ms * MS, NOW, blocks) == expected


@given(
    st.lists(st.integers(0, 1500), max_size=80),
    st.integers(0, 1500),
    st.integers(bounds.LEAST_BLOCKS, bounds.MOST_BLOCKS),
)
def test_what_stays_is_within_the_bounds_and_what_goes_is_not(
    ages: list[int], taken_until_ms: int, blocks: int
) -> None:
    retired = [block(age + 20, age) for age in sorted(ages, reverse=True)]
    taken_until = NOW - taken_until_ms * MS
    taken, dropped = bounds.release(retired, taken_until, NOW, blocks)
    gone, left = retired[: taken + dropped], retired[taken + dropped :]
    assert all(one.last_ns < taken_until for one in gone[:taken])
    assert all(one.last_ns >= taken_until for one in retired[taken:])
    assert all(one.opened_ns >= NOW - bounds.LONGEST_NS for one in left)
    # One more is being filled.
    most = blocks - blocks // 4 - 1
    assert len(left) <= most
    if dropped:
        last = gone[-1]
        is_full = len(left) == most
        assert is_full or last.opened_ns < NOW - bounds.LONGEST_NS


@pytest.mark.parametrize(
    ("come", "blocks", "elapsed", "expected"),
    [
        pytest.param(0, 64, 0.02, 0.02, id="seldom where nothing comes"),
        pytest.param(0, 64, 0.0, 0.02, id="seldom, however soon after the last look"),
        pytest.param(-3, 64, 0.02, 0.002, id="often where blocks went that nobody knew of"),
        pytest.param(1, 64, 0.02, 0.02, id="seldom where an eighth is not filled until then"),
        pytest.param(16, 64, 0.02, 0.01, id="as soon as an eighth is filled"),
        pytest.param(1, 4, 0.02, 0.01, id="sooner where the ring is small"),
        pytest.param(60, 64, 0.002, 0.002, id="no sooner than what the loop can bear"),
    ],
)
def test_a_ring_is_looked_at(come: int, blocks: int, elapsed: float, expected: float) -> None:
    assert bounds.until_next_look(come, blocks, elapsed) == pytest.approx(expected)


@given(st.integers(1, 64), st.integers(4, 64), st.floats(0.002, 0.02))
def test_at_the_same_rate_no_more_than_an_eighth_is_filled_until_the_next_look(
    come: int, blocks: int, elapsed: float
) -> None:
    delay = bounds.until_next_look(come, blocks, elapsed)
    assert bounds.FASTEST_LOOK <= delay <= bounds.SLOWEST_LOOK
    filled = come / elapsed * delay
    assert filled <= blocks / 8 * 1.001 or delay == bounds.FASTEST_LOOK
