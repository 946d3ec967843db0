"""Waits double, each key's by itself, and jitter takes half of one at most."""

from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.retry.backoff import FIRST, LAST, LAST_OF_SHARED, Backoff, Schedule

DOUBLING = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6)


def test_waits_double_up_to_a_minute_and_begin_anew_after_a_success() -> None:
    backoff = Backoff()
    waits = [backoff.next() for _ in range(12)]
    assert waits == [*DOUBLING, 51.2, 60.0, 60.0]
    backoff.reset()
    assert backoff.next() == 0.1


def test_waits_for_what_all_agents_ask_for_are_shorter_and_at_least_half() -> None:
    backoff = Backoff.shared()
    for whole in (*DOUBLING, 30.0, 30.0):
        assert whole / 2 <= backoff.next(0.3) <= whole
    backoff.reset()
    assert backoff.next() <= 0.1


def test_nothing_has_failed_before_the_first_wait() -> None:
    backoff = Backoff()
    seen = [backoff.is_fresh]
    backoff.next()
    seen.append(backoff.is_fresh)
    backoff.reset()
    assert [*seen, backoff.is_fresh] == [True, False, True]


@given(st.floats(0, 1), st.floats(0.001, 100), st.integers(0, 20))
def test_what_is_drawn_shortens_a_wait_by_half_at_most_and_no_later_one(
    drawn: float, first: float, failures: int
) -> None:
    """With jitter the waits go on doubling, whatever was drawn before."""
    lots, plain = Backoff.shared(first), Backoff(first, LAST_OF_SHARED)
    for _ in range(failures):
        lots.next(drawn)
        plain.next()
    assert lots.delay == plain.delay
    assert lots.delay / 2 <= lots.next(drawn) <= plain.next(drawn)


def test_nothing_is_due_before_something_failed() -> None:
    assert Schedule[str]().due is None
    assert Schedule[str]().take(1000.0) == frozenset()


def test_each_attempt_waits_twice_as_long_as_the_one_before() -> None:
    schedule = Schedule[str]()
    schedule.failed(["a"], 0.0)
    waits: list[float] = []
    last = 0.0
    while len(waits) < 12:
        due = schedule.due
        assert due is not None
        assert schedule.take(due) == {"a"}
        waits.append(round(due - last, 6))
        last = due
    assert waits[:4] == [FIRST, 0.2, 0.4, 0.8]
    assert waits[-1] == LAST


def test_what_fails_first_does_not_wait_for_what_fails_for_ever() -> None:
    schedule = Schedule[str]()
    schedule.failed(["old"], 0.0)
    for now in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0):
        schedule.take(now)
    schedule.failed(["new"], 65.0)
    assert schedule.due == 65.0 + FIRST
    assert schedule.take(65.0 + FIRST) == {"new"}


def test_a_failure_between_two_attempts_changes_nothing() -> None:
    schedule = Schedule[str]()
    schedule.failed(["a"], 0.0)
    schedule.failed(["a"], 0.05)
    assert schedule.due == FIRST


def test_what_succeeds_begins_anew() -> None:
    schedule = Schedule[str]()
    schedule.failed(["a"], 0.0)
    schedule.take(0.1)
    schedule.succeeded(["a", "never seen"])
    assert schedule.due is None
    schedule.failed(["a"], 10.0)
    assert schedule.due == 10.0 + FIRST


def test_what_has_waited_longest_is_taken_first() -> None:
    schedule = Schedule[str]()
    for number, key in enumerate("cab"):
        schedule.failed([key], float(number))
    assert schedule.take(100.0, 2) == {"c", "a"}
    assert schedule.take(100.0, 2) == {"b"}
