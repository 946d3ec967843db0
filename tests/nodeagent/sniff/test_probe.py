"""When a guest is asked, and how often at most."""

import datetime as dt
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_api.workloadendpoint import State
from handover_nodeagent.sniff.arp_nd_questions import Questions
from handover_nodeagent.sniff.probe import LIMIT, ProbeSeries, interval

DUAL = Questions(ipv4=(b"4",), ipv6=(b"6",))
MANY = Questions(ipv4=tuple(b"4%d" % n for n in range(8)), ipv6=tuple(b"6%d" % n for n in range(8)))
SINGLE = Questions(ipv4=(b"4",))
ZERO, USUAL = dt.timedelta(), dt.timedelta(milliseconds=200)


def play(series: ProbeSeries, rounds: int = 1000) -> tuple[ProbeSeries, list[float], list[bytes]]:
    """Take at each due time; return the last series, the times and the frames."""
    times: list[float] = []
    frames: list[bytes] = []
    while series.due is not None and len(times) < rounds:
        times.append(series.due)
        series, taken = series.take(series.due)
        frames += taken
    return series, times, frames


INTERVALS = [
    (State.TARGET, USUAL, True, 0.2),
    (State.TARGET, ZERO, True, 0.0),
    (State.TARGET, USUAL, False, 0.0),
    (State.WITHDRAWN, USUAL, True, 0.2),
    (State.WITHDRAWN, ZERO, True, 0.2),
    (State.WITHDRAWN, ZERO, False, 0.0),
    (State.ASKING, USUAL, True, 0.0),
    (State.BASE, USUAL, True, 0.0),
    (State.LIVE, USUAL, True, 0.0),
    (State.TIME_WAIT, USUAL, True, 0.0),
]


@pytest.mark.parametrize(("state", "setting", "armed", "expected"), INTERVALS)
def test_the_interval_follows_state_setting_and_arming(
    state: State, setting: dt.timedelta, *, armed: bool, expected: float
) -> None:
    assert interval(state, setting, armed=armed) == expected


def test_a_new_series_asks_nothing() -> None:
    series = ProbeSeries(DUAL)
    assert series.take(1e9) == (series, ())
    assert not series.has_asked


def test_the_fast_series_doubles_after_five_up_to_a_minute() -> None:
    _, times, _ = play(ProbeSeries(SINGLE).start(0.2, 100.0), 16)
    gaps = [round(b - a, 6) for a, b in itertools.pairwise(times)]
    assert times[0] == 100.0
    assert gaps == [0.2, 0.2, 0.2, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60, 60]


def test_an_interval_above_a_minute_stays_as_it_is() -> None:
    _, times, _ = play(ProbeSeries(SINGLE).start(90.0, 0.0), 12)
    assert times == [90.0 * n for n in range(12)]


def test_nothing_is_sent_before_it_is_due() -> None:
    series, first = ProbeSeries(DUAL).start(0.2, 100.0).take(100.0)
    assert first == (b"4", b"6")
    assert series.take(100.19) == (series, ())
    assert series.take(100.2)[1] == (b"4", b"6")


def test_asking_is_three_rounds_20_ms_apart_whatever_the_setting() -> None:
    series, times, frames = play(ProbeSeries(DUAL).ask(5.0))
    assert times == pytest.approx([5.0, 5.02, 5.04])
    assert frames == [b"4", b"6"] * 3
    assert series.has_asked


def test_asking_asks_for_every_address() -> None:
    _, _, frames = play(ProbeSeries(MANY).ask(0.0))
    assert frames == [*MANY.all] * 3


def test_the_series_goes_on_after_an_asking() -> None:
    series, _ = ProbeSeries(SINGLE).start(0.2, 0.0).take(0.0)
    _, times, _ = play(series.ask(0.1), 6)
    assert times == pytest.approx([0.1, 0.12, 0.14, 0.34, 0.54, 0.74])


def test_a_start_makes_a_slow_series_fast_again() -> None:
    series, times, _ = play(ProbeSeries(SINGLE).start(0.2, 0.0), 12)
    _, again, _ = play(series.start(0.2, times[-1] + 1), 3)
    assert [b - a for a, b in itertools.pairwise(again)] == pytest.approx([0.2, 0.2])


def test_an_interval_of_zero_ends_the_series_but_not_an_asking() -> None:
    series, _ = ProbeSeries(SINGLE).start(0.2, 0.0).take(0.0)
    assert series.start(0.0, 0.1).due is None
    _, times, _ = play(series.ask(0.1).start(0.0, 0.1))
    assert times == pytest.approx([0.1, 0.12, 0.14])


def test_a_confirmation_is_asked_for_at_most_once_a_second() -> None:
    series, times, _ = play(ProbeSeries(SINGLE).confirm(10.0))
    assert times == pytest.approx([10.0, 10.02, 10.04])
    assert series.confirm(10.9) == series
    assert series.confirm(11.0).due == 11.0


@pytest.mark.parametrize("questions", [SINGLE, DUAL, MANY], ids=["single", "dual", "many"])
def test_at_most_a_hundred_frames_stay_unanswered(questions: Questions) -> None:
    series, _, frames = play(ProbeSeries(questions).start(0.2, 0.0))
    assert len(frames) == LIMIT
    assert series.start(0.2, 1e6).due is None
    assert series.ask(1e6).due is None


def test_the_last_round_is_cut_to_the_bound() -> None:
    series, _, frames = play(ProbeSeries(MANY).ask(0.0))
    for now in range(1, 4):
        series, _, more = play(series.ask(now))
        frames += more
    assert len(frames) == LIMIT


def test_a_frame_of_the_guest_lets_a_spent_series_go_on() -> None:
    series, times, _ = play(ProbeSeries(SINGLE).start(0.2, 0.0))
    fresh = series.drained(times[-1] + 1)
    assert fresh.unanswered == 0
    assert fresh.due == times[-1] + 1 + 60
    assert len(play(fresh)[2]) == LIMIT


def test_an_answer_leaves_the_next_round_where_it_is() -> None:
    series, _ = ProbeSeries(SINGLE).start(0.2, 0.0).take(0.0)
    assert series.drained(0.1).due == series.due


def test_an_answer_starts_nothing_where_nothing_was_to_be_asked() -> None:
    assert ProbeSeries(SINGLE).drained(1.0).due is None


def test_frames_that_never_left_are_not_unanswered() -> None:
    series, _ = ProbeSeries(DUAL).start(0.2, 0.0).take(0.0)
    assert series.unanswered == 2
    assert series.unsent(2).unanswered == 0
    assert not series.unsent(2).has_asked


def test_one_frame_of_two_that_left_was_asked() -> None:
    series, _ = ProbeSeries(DUAL).start(0.2, 3.0).take(3.0)
    assert series.unsent(1).has_asked
    assert series.unsent(1).first_asked_at == 3.0


def test_the_time_of_the_first_frame_that_left_is_kept() -> None:
    series, _ = ProbeSeries(SINGLE).ask(3.0).take(3.0)
    series, _ = series.unsent(1).take(3.02)
    assert series.first_asked_at == 3.02
    series, _ = series.take(3.04)
    assert (series.asked, series.first_asked_at) == (2, 3.02)
    assert series.drained(3.05).first_asked_at == 3.02


def test_frames_start_the_series_afresh_at_most_once_a_second() -> None:
    series, _ = ProbeSeries(SINGLE).renew(0.2, 10.0).take(10.0)
    assert series.rounds == 1
    assert series.renew(0.2, 10.99) == series
    renewed = series.renew(0.2, 11.0)
    assert (renewed.rounds, renewed.due) == (0, 11.0)


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=300))
def test_no_flood_of_frames_makes_more_probes_than_the_fast_series(gaps: list[float]) -> None:
    """Each frame drains and renews, and what is due is sent: five a second, one for the start."""
    series, now, times = ProbeSeries(SINGLE), 0.0, list[float]()
    for gap in gaps:
        now += gap
        while series.due is not None and series.due < now:
            times.append(series.due)
            series, _ = series.take(series.due)
        series = series.drained(now).renew(0.2, now)
    for start in times:
        assert sum(start <= time < start + 1 for time in times) <= 6


def test_without_a_mac_nothing_is_asked() -> None:
    assert ProbeSeries(Questions()).start(0.2, 0.0).due is None
    assert ProbeSeries(Questions()).ask(0.0).due is None


STEPS = st.lists(
    st.tuples(st.sampled_from(["start", "ask", "confirm", "renew", "take"]), st.floats(0, 100)),
    max_size=60,
)


@given(STEPS, st.sampled_from([SINGLE, DUAL, MANY]))
def test_no_order_of_triggers_exceeds_the_bound(
    steps: list[tuple[str, float]], questions: Questions
) -> None:
    series, now, sent = ProbeSeries(questions), 0.0, 0
    for step, later in steps:
        now += later
        match step:
            case "start":
                series = series.start(0.2, now)
            case "ask":
                series = series.ask(now)
            case "confirm":
                series = series.confirm(now)
            case "renew":
                series = series.renew(0.2, now)
            case _:
                series, frames = series.take(now)
                sent += len(frames)
    assert sent == series.unanswered <= LIMIT
    assert series.due is None or sent < LIMIT
