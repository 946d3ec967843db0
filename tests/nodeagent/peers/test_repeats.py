"""When a message is said again: each recipient until it answers, nobody for ever."""

import hypothesis
from hypothesis import strategies as st

from handover_nodeagent.peers import repeats
from handover_nodeagent.peers.repeats import GIVE_UP, STATEMENT, Repeats

NOW = 100.0


def made(*recipients: str) -> Repeats[str]:
    return Repeats(recipients, NOW, STATEMENT)


def times(one: Repeats[str]) -> list[int]:
    """Follow its dues to the end; return when something was sent, in ms."""
    sent = []
    while one.due is not None and not one.is_over(one.due):
        now = one.due
        if one.take(now):
            sent.append(round((now - NOW) * 1000))
    return sent


def test_a_statement_is_said_soon_and_then_ever_more_rarely() -> None:
    assert times(made("a")) == [0, 2, 5, 10, 20, 50, 100, 200, 400, 700, 1000, 1400, 1900, 2400]


def test_after_three_seconds_nobody_is_waited_for() -> None:
    one = made("a")
    one.take(NOW + 2.5)
    assert one.due == NOW + GIVE_UP
    assert not one.is_over(NOW + 2.999)
    assert one.is_over(NOW + GIVE_UP)
    assert one.silent == ("a",)


def test_who_has_answered_hears_no_more() -> None:
    one = made("a", "b")
    assert one.take(NOW) == ("a", "b")
    assert one.acknowledge("a")
    assert one.take(NOW + 0.002) == ("b",)
    assert one.acknowledge("b")
    assert one.due is None
    assert one.is_over(NOW + 0.003)


def test_an_answer_of_somebody_else_or_a_second_one_changes_nothing() -> None:
    one = made("a")
    assert not one.acknowledge("b")
    assert one.acknowledge("a")
    assert not one.acknowledge("a")


def test_what_was_missed_is_sent_once() -> None:
    one = made("a")
    assert one.take(NOW + 0.060) == ("a",)
    assert one.take(NOW + 0.061) == ()
    assert one.due == NOW + 0.1


def test_too_early_nothing_is_sent() -> None:
    one = made("a")
    one.take(NOW)
    assert one.take(NOW + 0.0019) == ()


def test_without_recipients_it_is_over_at_once() -> None:
    assert made().is_over(NOW)
    assert made().due is None


def test_a_hello_is_repeated_for_its_samples() -> None:
    one = Repeats(["a"], NOW, repeats.HELLO)
    assert times(one) == [0, 20, 100, 500]


@hypothesis.given(
    st.lists(st.floats(0, 4), max_size=30).map(sorted), st.sets(st.sampled_from("abc"))
)
def test_no_recipient_gets_more_than_its_times_and_none_after_its_answer(
    moments: list[float], answering: set[str]
) -> None:
    one, got = made("a", "b", "c"), dict.fromkeys("abc", 0)
    for moment in moments:
        for recipient in one.take(NOW + moment):
            got[recipient] += 1
            if recipient in answering:
                assert one.acknowledge(recipient)
    assert all(count <= (1 if one in answering else len(STATEMENT)) for one, count in got.items())
