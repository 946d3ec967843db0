"""What a flow felt of a switchover, from packets and instants alone."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_lab.network import measure
from handover_lab.network.measure import Loss, Packet, Progress, Switchover

MS = 10**6
SWITCHOVER = Switchover(began_ns=-300 * MS, stopped_ns=0, resumed_ns=10 * MS)


def flow(*packets: tuple[int, int | None]) -> tuple[Packet, ...]:
    """Packets from (sent, answered), both in ms after STOP."""
    return tuple(Packet(s * MS, None if a is None else a * MS) for s, a in packets)


CASES = {
    "nothing is lost": (flow((-1, 0), (1, 12), (13, 14)), Loss(3, 0, 0, 12.0)),
    "lost while the guest stood still": (
        flow((-2, -1), (1, None), (5, None), (12, 30)),
        Loss(4, 2, 0, 31.0),
    ),
    "lost long before, to something else": (
        flow((-4000, None), (-51, None), (-1, 0), (1, 12), (13, 14)),
        Loss(5, 0, 0, 12.0),
    ),
    "lost when it ran again": (
        flow((-2, -1), (9, None), (10, None), (11, 40)),
        Loss(4, 2, 1, 41.0),
    ),
    "a ping from the guest's own queue ends no outage": (
        flow((-2, -1), (-1, 15), (20, None), (500, 1015)),
        Loss(4, 1, 1, 1000.0),
    ),
    "a silence before STOP is another matter": (
        flow((-900, -800), (-2, -1), (12, 20)),
        Loss(3, 0, 0, 21.0),
    ),
    "it never came back": (flow((-2, -1), (5, None), (20, None)), Loss(3, 2, 1, None)),
    "it was never there": (flow((5, None)), Loss(1, 1, 0, None)),
    "nobody asked": ((), Loss(0, 0, 0, None)),
    "the only answer is late": (flow((5, 40)), Loss(1, 0, 0, 0.0)),
}


@pytest.mark.parametrize(
    ("answers", "moment", "expected"),
    [
        ((-5, 60, 61, 200), 10, 65.0),
        ((60, -5, 61), 10, 65.0),
        ((-5, 60), 60, None),
        ((-5,), 10, None),
        ((60, 70), 10, None),
        ((), 10, None),
    ],
)
def test_a_moment_is_in_one_silence(
    answers: tuple[int, ...], moment: int, expected: float | None
) -> None:
    packets = flow(*((-9, answered) for answered in answers), (-9, None))
    assert measure.silence_at(packets, moment * MS) == expected


@pytest.mark.parametrize(("packets", "expected"), CASES.values(), ids=CASES)
def test_loss_of(packets: tuple[Packet, ...], expected: Loss) -> None:
    assert expected == measure.loss(packets, SWITCHOVER)


def test_late_is_what_was_sent_before_the_guest_ran_again_and_answered_after_that() -> None:
    packets = flow((-5, -4), (-2, 12), (3, None), (9, 10), (10, 11))

    assert measure.late(packets, SWITCHOVER.resumed_ns) == flow((-2, 12), (9, 10))


def test_the_pause_is_from_stop_to_resume() -> None:
    assert SWITCHOVER.pause_ms == 10.0


def test_a_window_has_its_start_and_not_its_end() -> None:
    packets = flow((1, None), (2, None), (3, None))

    assert packets[:2] == measure.between(packets, 1 * MS, 3 * MS)


@pytest.mark.parametrize(
    ("session", "broken", "expected"),
    [
        (flow((1, 5), (20, 25)), False, True),
        (flow((1, 5), (20, 25)), True, False),
        (flow((1, 25)), False, False),
        (flow((1, 5), (20, None)), False, False),
        ((), False, False),
    ],
    ids=[
        "answered afterwards",
        "reset afterwards",
        "only an old request was answered",
        "silent since",
        "never there",
    ],
)
def test_a_session_survives_when(
    session: tuple[Packet, ...], *, broken: bool, expected: bool
) -> None:
    assert expected == measure.survived(session, broken=broken, resumed_ns=10 * MS)


packets = st.lists(
    st.builds(
        lambda sent, trip: Packet(sent, None if trip is None else sent + trip),
        st.integers(-(10**9), 2 * 10**9),
        st.none() | st.integers(0, 10**9),
    ),
    max_size=40,
)


@given(packets)
def test_losses_are_parts_of_each_other(some: list[Packet]) -> None:
    loss = measure.loss(some, SWITCHOVER)

    assert 0 <= loss.lost_after_switch <= loss.lost <= loss.sent == len(some)


@given(packets, st.integers(-(10**15), 10**15))
def test_only_differences_of_time_matter(some: list[Packet], shift: int) -> None:
    moved = [
        Packet(p.sent_ns + shift, None if p.answered_ns is None else p.answered_ns + shift)
        for p in some
    ]
    later = Switchover(0, SWITCHOVER.stopped_ns + shift, SWITCHOVER.resumed_ns + shift)

    assert measure.loss(some, SWITCHOVER) == measure.loss(moved, later)


@given(packets, st.randoms())
def test_the_order_of_packets_does_not_matter(some: list[Packet], random: Random) -> None:
    shuffled = list(some)
    random.shuffle(shuffled)

    assert measure.loss(some, SWITCHOVER) == measure.loss(shuffled, SWITCHOVER)


@given(packets)
def test_an_answer_more_never_makes_it_worse(some: list[Packet]) -> None:
    before = measure.loss(some, SWITCHOVER)
    better = [p if p.answered_ns is not None else Packet(p.sent_ns, p.sent_ns + 1) for p in some]
    after = measure.loss(better, SWITCHOVER)

    assert after.lost == after.lost_after_switch == 0
    # Without an answer before STOP and one after RESUME there is no silence to measure.
    stopped = SWITCHOVER.stopped_ns
    had_some = any(p.answered_ns is not None and p.answered_ns <= stopped for p in some)
    if had_some and before.outage_ms is not None and max(p.sent_ns for p in some) < stopped:
        assert after.outage_ms is not None
        assert after.outage_ms <= before.outage_ms


def test_a_rate_is_of_what_got_through_in_between() -> None:
    progress = [Progress(at_ms * MS, total) for at_ms, total in ((0, 100), (500, 700), (900, 900))]

    assert measure.rate(progress, 0, 1000 * MS) == 800
    assert measure.rate(progress, 500 * MS, 900 * MS) == 500
    assert measure.rate(progress, -1000 * MS, 0) == 100
    assert measure.rate([], 0, MS) == 0


def test_answers_count_when_they_arrive() -> None:
    packets = flow((0, 1), (1, None), (2, 499), (3, 500))

    assert measure.answer_rate(packets, 0, 500 * MS) == 4
