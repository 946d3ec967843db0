"""How long is waited after which failures, and which of them are news."""

import pytest

from handover_operator.kube import backoff
from handover_operator.kube.backoff import FIRST_DELAY, LAST_DELAY, Backoff, Failure
from handover_operator.kube.errors import Denied, Outdated, Temporary, Unavailable, Unprepared


def test_the_pauses_grow_until_a_watch_has_lasted() -> None:
    pause, pauses = FIRST_DELAY, []
    for lasted in (0.2, 0.4, 0.6, 1.0, 1.8, 2.2, 60.0):
        pause = backoff.next_pause(pause, lasted, has_listed=False)
        pauses.append(pause)
    assert pauses == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 0.1]


def test_after_lists_the_pauses_grow_on() -> None:
    """Ten thousand VMs are 300 MB a time, and an API server that has just begun ends watches."""
    pause, begun, passed = FIRST_DELAY, 0, 0.0
    while passed < 60:
        begun += 1
        passed += pause + 0.5
        pause = backoff.next_pause(pause, 0.5, has_listed=True)
    assert pause == backoff.LAST_PAUSE_AFTER_LISTS
    assert begun <= 11


@pytest.mark.parametrize(
    ("failures", "asked", "seconds"),
    [(0, 0.0, 0.1), (3, 0.0, 0.8), (3, 0.5, 0.8), (0, 7.0, 7.0), (20, 0.0, 60.0), (20, 7.0, 60.0)],
)
def test_a_delay_doubles_and_is_never_less_than_the_server_asks_for(
    failures: int, asked: float, seconds: float
) -> None:
    assert backoff.delay(failures, retry_after=asked) == seconds


def test_a_start_that_waits_more_often_has_the_same_patience() -> None:
    """What the server asks for goes before any longest delay: the connection has bounded it."""
    assert backoff.delay(20, last=10.0) == 10.0
    assert backoff.delay(20, last=10.0, retry_after=60.0) == 60.0


@pytest.mark.parametrize(
    ("error", "failure", "delays"),
    [
        (Temporary("no"), Failure.TEMPORARY, [0.1, 0.2, 0.4]),
        (Unavailable("patience", 7), Failure.TEMPORARY, [7, 7, 7]),
        (Outdated("late"), Failure.OUTDATED, [0.01, 0.02, 0.04]),
        (Denied("403"), Failure.DENIED, [1, 2, 4]),
        (ValueError("bug"), Failure.DEFECT, [0.1, 0.2, 0.4]),
    ],
    ids=lambda each: each.value if isinstance(each, Failure) else None,
)
def test_delays_double_from_what_the_failure_is_worth(
    error: Exception, failure: Failure, delays: list[float]
) -> None:
    attempts: Backoff[str] = Backoff()

    retries = [attempts.fail("a", error) for _ in delays]

    assert {each.failure for each in retries} == {failure}
    assert [each.delay for each in retries] == delays


def test_what_another_kind_of_failure_has_made_of_the_delays_counts_no_more() -> None:
    """An API server that is back after a while may refuse at first, or know a newer version."""
    attempts: Backoff[str] = Backoff()
    for _ in range(9):
        attempts.fail("a", Temporary("nobody answers"))

    refused, overtaken = attempts.fail("a", Denied("422")), attempts.fail("a", Outdated("late"))

    assert refused.delay == backoff.DENIED_DELAY
    assert (overtaken.delay, overtaken.is_at_once) == (backoff.CONFLICT_DELAY, True)


def test_an_api_server_that_has_just_begun_is_asked_often() -> None:
    """For half a minute it may refuse each write; roles are not to wait as long once more."""
    attempts: Backoff[str] = Backoff()

    delays = [attempts.fail("a", Unprepared("422")).delay for _ in range(30)]

    assert (delays[0], max(delays)) == (FIRST_DELAY, backoff.LAST_DELAY_OF_A_BEGINNING)


def test_no_delay_is_longer_than_the_last_one() -> None:
    attempts: Backoff[str] = Backoff()

    delays = [attempts.fail("a", Temporary("no")).delay for _ in range(2000)]

    assert (delays[0], max(delays), delays[-1]) == (FIRST_DELAY, LAST_DELAY, LAST_DELAY)


def test_who_was_overtaken_once_tries_again_at_once() -> None:
    attempts: Backoff[str] = Backoff()

    first, second = (attempts.fail("a", Outdated("late")) for _ in range(2))

    assert (first.is_at_once, second.is_at_once) == (True, False)


@pytest.mark.parametrize("kind", [Denied, ValueError])
def test_a_reason_is_news_until_it_was_met(kind: type[Exception]) -> None:
    attempts: Backoff[str] = Backoff()

    said = [attempts.fail("a", kind(reason)).is_news for reason in ("x", "x", "y", "x")]

    assert said == [True, False, True, True]


def test_a_refusal_is_noted_until_another_answer_comes() -> None:
    attempts: Backoff[str] = Backoff()

    counts = []
    for error in (Denied("403"), Denied("403"), Temporary("503"), Denied("403")):
        attempts.fail("a", error)
        counts.append(attempts.denied())

    assert counts == [1, 1, 0, 1]


def test_a_success_forgets_what_was_before_it() -> None:
    attempts: Backoff[str] = Backoff()
    attempts.fail("a", Denied("403"))
    attempts.fail("b", ValueError("bug"))
    before = set(attempts.failed()), attempts.denied()

    attempts.succeed("a")

    assert before == ({"a", "b"}, 1)
    assert (set(attempts.failed()), attempts.denied()) == ({"b"}, 0)
    assert attempts.fail("a", Denied("403")).delay == backoff.DENIED_DELAY
    attempts.clear()
    assert not attempts.failed()


def test_a_long_reason_is_cut() -> None:
    attempts: Backoff[str] = Backoff()

    for error in (Temporary("x" * 9999), Denied("x" * 9999), ValueError("x" * 9999)):
        assert len(attempts.fail("a", error).reason) == backoff.REASON_LIMIT
