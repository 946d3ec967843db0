"""A guest's port as the queue that it is: what an answer shows, whatever was lost on the way."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.hold.asked import EAGER, OUTSTANDING, PATIENCE_NS, Asked

MS: Final = 1_000_000
TICK: Final = 5 * MS


def asked_at(*times: int) -> Asked:
    it = Asked()
    for now_ns in times:
        assert it.may_ask(now_ns)
        it.ask(now_ns)
    return it


def asked_all(it: Asked, ticks: int, begin: int = 1) -> list[int]:
    """Ask at each of so many ticks at which it may be; return at which."""
    asked = []
    for number in range(begin, begin + ticks):
        if it.may_ask(number * TICK):
            it.ask(number * TICK)
            asked.append(number)
    return asked


def test_nothing_is_known_of_a_guest_that_was_never_asked() -> None:
    it = Asked()
    assert (it.taken_until_ns, it.waiting_ns) == (0, 0)
    it.answer()
    assert (it.taken_until_ns, it.waiting_ns) == (0, 0)


def test_an_answer_shows_that_the_oldest_question_was_taken() -> None:
    it = asked_at(10, 20, 30)
    assert (it.taken_until_ns, it.waiting_ns) == (0, 10)
    it.answer()
    assert (it.taken_until_ns, it.waiting_ns) == (10, 20)
    it.answer()
    it.answer()
    assert (it.taken_until_ns, it.waiting_ns) == (30, 0)


def test_an_answer_too_many_changes_nothing() -> None:
    it = asked_at(10)
    it.answer()
    it.answer()
    assert (it.taken_until_ns, it.waiting_ns) == (10, 0)
    it.ask(20)
    it.answer()
    assert it.taken_until_ns == 20


def test_a_question_that_did_not_go_out_was_not_asked() -> None:
    it = asked_at(10, 20)
    it.take_back()
    it.answer()
    it.answer()
    assert (it.taken_until_ns, it.waiting_ns) == (10, 0)


def test_a_guest_that_answers_nothing_is_asked_ever_more_seldom_and_then_no_more() -> None:
    it = Asked()
    first = asked_all(it, EAGER)
    assert first == list(range(1, EAGER + 1))
    later = asked_all(it, 150, begin=EAGER + 1)
    assert later == list(range(EAGER + 4, EAGER + 151, 4))


def test_no_more_questions_wait_than_a_queue_has_room_for() -> None:
    it = Asked()
    asked = 0
    # All within the time after which a question is as good as lost.
    for now_ns in range(10_000):
        if it.may_ask(now_ns):
            it.ask(now_ns)
            asked += 1
    assert asked == OUTSTANDING
    it.answer()
    assert sum(bool(it.may_ask(10_000)) for _ in range(4)) == 1


def test_a_question_without_an_answer_for_a_second_is_as_good_as_lost() -> None:
    it = asked_at(10, 20)
    assert it.may_ask(PATIENCE_NS + 10)
    assert it.waiting_ns == 10
    assert it.may_ask(PATIENCE_NS + 11)
    assert it.waiting_ns == 20
    it.answer()
    assert it.taken_until_ns == 20
    it.ask(PATIENCE_NS + 30)
    assert it.may_ask(2 * PATIENCE_NS + 31)
    assert it.waiting_ns == 0


def test_a_guest_that_answers_again_is_asked_each_time_again() -> None:
    it = Asked()
    asked_all(it, 49)
    while it.waiting_ns:
        it.answer()
    assert asked_all(it, EAGER, begin=50) == list(range(50, 50 + EAGER))


@dataclass
class Port:
    """What waits for a guest that takes one after the other, and what it has taken by now."""

    asked: Asked = field(default_factory=Asked)
    waiting: deque[int] = field(default_factory=deque)
    taken_ns: int = 0
    now_ns: int = MS

    def step(self, act: str) -> None:
        """Let time pass, and one thing happen."""
        self.now_ns += MS
        if act in {"asks", "question lost"}:
            if self.asked.may_ask(self.now_ns):
                self.asked.ask(self.now_ns)
                if act == "asks":
                    self.waiting.append(self.now_ns)
        elif self.waiting:
            self.taken_ns = self.waiting.popleft()
            if act == "answers":
                self.asked.answer()


ACTS: Final = ["asks", "question lost", "answers", "answer lost"]


# No case lasts for longer than PATIENCE_NS.
@given(st.lists(st.sampled_from(ACTS), max_size=120))
def test_a_guest_never_counts_as_having_taken_more_than_it_has(acts: list[str]) -> None:
    port = Port()
    for act in acts:
        port.step(act)
        assert port.asked.taken_until_ns <= port.taken_ns


@given(st.lists(st.sampled_from(["asks", "answers"]), max_size=120))
def test_where_nothing_is_lost_all_that_was_taken_is_known(acts: list[str]) -> None:
    port = Port()
    for act in acts:
        port.step(act)
        assert port.asked.taken_until_ns == port.taken_ns
        assert port.asked.waiting_ns == (port.waiting[0] if port.waiting else 0)


@given(st.lists(st.tuples(st.sampled_from(ACTS[:2]), st.integers(0, 300)), max_size=60))
def test_what_was_lost_long_ago_hides_nothing_and_shows_nothing(
    steps: list[tuple[str, int]],
) -> None:
    """Over many times PATIENCE_NS, as long as a guest takes what comes within that time."""
    port = Port()
    for act, rest in steps:
        port.step(act)
        port.now_ns += rest * MS
        if port.waiting:
            port.step("answers" if rest % 2 else "answer lost")
        assert port.asked.taken_until_ns <= port.taken_ns
    port.now_ns += PATIENCE_NS
    port.step("asks")
    port.step("answers")
    assert port.asked.taken_until_ns == port.taken_ns == port.now_ns - MS
