"""The offset of a peer's clock, whose told error always holds."""

import hypothesis
from hypothesis import strategies as st

from handover_nodeagent.peers.clocks import DRIFT, KEPT, Clock, Exchange, Offset

MS = 1_000_000
SECOND = 1000 * MS


def exchange(at: int, ahead: int, out: int, home: int, rest: int = MS) -> Exchange:
    """Return what is measured if the peer's clock is *ahead* and the ways take *out* and *home*."""
    received_there = at + out
    back = received_there + rest + home
    return Exchange(at, received_there + ahead, received_there + rest + ahead, back)


def test_before_any_answer_nothing_is_known() -> None:
    assert Clock().offset(0) is None


def test_equal_ways_give_the_offset_itself() -> None:
    clock = Clock()
    clock.learn(exchange(0, 5 * SECOND, 100, 100))
    assert Offset(5 * SECOND, 101) == clock.offset(200 + MS)


def test_unequal_ways_are_within_the_error() -> None:
    clock = Clock()
    clock.learn(exchange(0, -7 * MS, 0, 2 * MS))
    assert Offset(-8 * MS, MS + 1) == clock.offset(3 * MS)


def test_what_the_peer_took_for_its_answer_is_no_part_of_the_error() -> None:
    clock = Clock()
    clock.learn(exchange(0, 0, 100, 100, rest=SECOND))
    assert clock.offset(SECOND + 200) == Offset(0, 101)


def test_the_shortest_round_trip_counts() -> None:
    clock = Clock()
    for at, way in ((0, 9 * MS), (SECOND, 50_000), (2 * SECOND, 4 * MS)):
        clock.learn(exchange(at, MS, way, way))
    known = clock.offset(2 * SECOND)
    assert known is not None
    assert known.ahead_ns == MS
    assert known.error_ns < 200_000


def test_the_error_grows_with_time() -> None:
    clock = Clock()
    clock.learn(exchange(0, 0, 100, 100, rest=0))
    assert clock.offset(200 + 10 * SECOND) == Offset(0, 101 + int(10 * SECOND * DRIFT))


def test_an_old_good_sample_gives_way_to_a_new_one_in_time() -> None:
    clock = Clock()
    clock.learn(exchange(0, 0, 100, 100))
    clock.learn(exchange(100 * SECOND, 3 * MS, 2 * MS, 2 * MS))
    known = clock.offset(100 * SECOND)
    assert known is not None
    assert (known.ahead_ns, known.error_ns) == (3 * MS, 2 * MS + 1 + int(5 * MS * DRIFT))


def test_a_clock_that_was_set_makes_earlier_samples_void() -> None:
    clock = Clock()
    clock.learn(exchange(0, 0, 100, 100))
    clock.learn(exchange(SECOND, SECOND, 10 * MS, 10 * MS))
    known = clock.offset(SECOND)
    assert known is not None
    assert known.ahead_ns == SECOND


def test_an_impossible_exchange_is_no_sample() -> None:
    clock = Clock()
    clock.learn(Exchange(100, 0, 50, 101))
    assert clock.offset(0) is None


def test_so_many_are_kept() -> None:
    clock = Clock()
    for at in range(KEPT + 1):
        # Too long a way to contradict anything.
        clock.learn(exchange(at * MS, 0, SECOND - at, SECOND - at))
    assert len(clock._samples) == KEPT


@hypothesis.given(
    st.integers(-(10**15), 10**15),
    st.lists(
        st.tuples(st.integers(0, SECOND), st.integers(0, SECOND), st.integers(0, SECOND)),
        min_size=1,
        max_size=12,
    ),
)
def test_the_truth_is_never_farther_than_the_error(
    ahead: int, ways: list[tuple[int, int, int]]
) -> None:
    clock, now = Clock(), 10**18
    for out, home, rest in ways:
        clock.learn(exchange(now, ahead, out, home, rest))
        now += out + home + rest
        known = clock.offset(now)
        assert known is not None
        assert abs(known.ahead_ns - ahead) <= known.error_ns
