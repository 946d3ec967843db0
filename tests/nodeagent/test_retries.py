"""When what failed is tried again."""

from handover_nodeagent.retry import FIRST_PATIENCE, LAST_PATIENCE, Retries


def test_nothing_is_due_before_something_failed() -> None:
    assert Retries[str]().due is None
    assert Retries[str]().take(1000.0) == frozenset()


def test_patience_doubles_up_to_a_minute() -> None:
    retries = Retries[str]()
    retries.failed(["a"], 0.0)
    waits: list[float] = []
    last = 0.0
    while len(waits) < 12:
        due = retries.due
        assert due is not None
        assert retries.take(due) == {"a"}
        waits.append(round(due - last, 6))
        last = due
    assert waits[:4] == [FIRST_PATIENCE, 0.2, 0.4, 0.8]
    assert waits[-1] == LAST_PATIENCE


def test_what_fails_first_does_not_wait_for_what_fails_for_ever() -> None:
    retries = Retries[str]()
    retries.failed(["old"], 0.0)
    for now in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0):
        retries.take(now)
    retries.failed(["new"], 65.0)
    assert retries.due == 65.0 + FIRST_PATIENCE
    assert retries.take(65.0 + FIRST_PATIENCE) == {"new"}


def test_a_failure_between_two_attempts_changes_nothing() -> None:
    retries = Retries[str]()
    retries.failed(["a"], 0.0)
    retries.failed(["a"], 0.05)
    assert retries.due == FIRST_PATIENCE


def test_what_is_mended_begins_anew() -> None:
    retries = Retries[str]()
    retries.failed(["a"], 0.0)
    retries.take(0.1)
    retries.mended(["a", "never seen"])
    assert retries.due is None
    retries.failed(["a"], 10.0)
    assert retries.due == 10.0 + FIRST_PATIENCE


def test_what_has_waited_longest_is_taken_first() -> None:
    retries = Retries[str]()
    for number, thing in enumerate("cab"):
        retries.failed([thing], float(number))
    assert retries.take(100.0, 2) == {"c", "a"}
    assert retries.take(100.0, 2) == {"b"}
