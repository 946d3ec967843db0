"""Who is asked when, who is silent, and what an answer proves."""

import dataclasses
import itertools
from ipaddress import ip_address

from tests.nodeagent.peers import speakers

from handover_nodeagent.peers import keys, messages
from handover_nodeagent.peers.hellos import EVERY, Hellos, Outgoing
from handover_nodeagent.peers.keys import Signer
from handover_nodeagent.peers.messages import Hello, HelloAnswer, Kind, Signed, Way
from handover_nodeagent.peers.relations import Relations
from handover_nodeagent.peers.repeats import GIVE_UP, HELLO
from handover_nodeagent.peers.trust import Question, Trust

NOW = 7.0
PLAIN = (Way.PLAIN,)
A4, A6 = ip_address("10.0.0.1"), ip_address("fd00::1")


NEWS = 5, b"p" * 32
"""The last word of the target, and its promise."""


class It:
    """The HELLOs of a target to its source."""

    def __init__(self) -> None:
        self.trust = Trust(Relations(), keys.verify)
        speaker = speakers.target()
        counter = itertools.count(1)
        self.hellos = Hellos(
            Signer(speaker.key, 1).sign,
            lambda: next(counter).to_bytes(16, "big"),
            lambda *topic: NEWS if topic == (speakers.TARGET, speakers.UID) else (0, b""),
            self.trust,
        )
        self.peer = speakers.source().relation_to(speaker)
        self.hellos.know((), [self.peer], NOW)

    def take(self, now: float = NOW) -> list[Outgoing]:
        return self.hellos.take(now, PLAIN)

    def answer(self, asked: Outgoing, ahead: int = 0) -> bool:
        self.hellos.sent(asked.nonce, 1_000)
        answer = HelloAnswer(asked.way, 0, 2_000 + ahead, 3_000 + ahead)
        return self.hellos.answered(asked.nonce, answer, 4_000) is not None


def test_a_new_peer_is_asked_at_each_address_by_each_way() -> None:
    it = It()
    asked = it.hellos.take(NOW, tuple(Way))
    assert [(one.destination.address, one.way) for one in asked] == [
        (A4, Way.PLAIN),
        (A4, Way.TUNNEL),
        (A6, Way.PLAIN),
        (A6, Way.TUNNEL),
    ]
    assert {one.destination.port for one in asked} == {7473}
    for one in asked:
        read = messages.read(one.datagram)
        assert isinstance(read, Signed)
        assert read.body == Hello(one.way, *NEWS), "what we have said last is told with it"
        assert (read.header.nonce, read.header.subject) == (one.nonce, it.peer.own_subject)
        assert it.trust._questions[one.nonce] == Question(
            Kind.HELLO, it.peer.own_subject, (it.peer,)
        )


def moments(it: It, count: int, *, answered: bool) -> list[float]:
    """Return when it asks so many times; each of the two addresses answers, or none does."""
    times = []
    for _ in range(count):
        due = min(contact.next for contact in it.hellos._contacts.values())
        asked = it.take(due)
        assert len(asked) == 2
        assert it.take(due) == []
        for one in asked if answered else ():
            it.answer(one)
        times.append(round(due - NOW, 6))
    return times


def test_a_few_times_at_once_and_then_every_ten_seconds() -> None:
    times = moments(It(), 6, answered=True)
    assert times == [*HELLO, HELLO[-1] + EVERY, HELLO[-1] + 2 * EVERY]


def test_what_is_not_proved_is_asked_sooner_and_ever_more_rarely() -> None:
    """A firewall that opens a moment later costs no ten seconds."""
    times = moments(It(), 11, answered=False)
    assert times == [*HELLO, 1.0, 2.0, 4.0, 8.0, 16.0, 26.0, 36.0]


def test_another_way_is_asked_as_one_that_is_new() -> None:
    it = It()
    moments(it, 5, answered=True)
    it.hellos.ask_all(NOW + 20)
    times = []
    for _ in range(5):
        (contact,) = it.hellos._contacts.values()
        times.append(round(contact.next - NOW, 6))
        it.hellos.take(contact.next, tuple(Way))
    assert times == [20.0, 20.02, 20.1, 20.5, 21.0]


def test_what_was_missed_is_asked_once() -> None:
    it = It()
    assert len(it.take(NOW + 5)) == 2
    assert it.hellos._contacts[it.peer].next == NOW + 5


def test_an_answer_proves_its_address_once_and_compares_the_clocks() -> None:
    it = It()
    first, second = it.take()
    assert it.hellos.offset(it.peer.public_key, 0) is None
    assert it.answer(first, ahead=50)
    contact = it.hellos.contact(it.peer)
    assert contact is not None
    assert contact.proved == {(A4, Way.PLAIN)}
    offset = it.hellos.offset(it.peer.public_key, 4_000)
    assert offset is not None
    assert offset.ahead_ns == 50
    assert it.answer(second)
    again, _ = it.take(NOW + 1)
    assert not it.answer(again), "known already"


def test_an_answer_is_taken_once() -> None:
    it = It()
    first, _ = it.take()
    it.answer(first)
    assert first.nonce not in it.trust._questions
    assert not it.answer(first)


def test_the_tunnels_answer_tells_nothing_of_the_clock() -> None:
    it = It()
    asked = it.hellos.take(NOW, (Way.TUNNEL,))
    assert it.answer(asked[0], ahead=50)
    assert it.hellos.offset(it.peer.public_key, 4_000) is None
    contact = it.hellos.contact(it.peer)
    assert contact is not None
    assert contact.proved == {(A4, Way.TUNNEL)}


def test_who_answers_nothing_is_silent_once() -> None:
    it = It()
    it.take()
    assert it.hellos.silent(NOW + GIVE_UP - 0.001) == []
    assert it.hellos.silent(NOW + GIVE_UP) == [it.peer]
    assert it.hellos.silent(NOW + GIVE_UP) == []
    contact = it.hellos.contact(it.peer)
    assert contact is not None
    assert contact.is_silent


def test_the_silent_one_that_answers_is_so_no_more() -> None:
    it = It()
    it.hellos.silent(NOW + GIVE_UP)
    it.answer(it.take(NOW + GIVE_UP)[0])
    contact = it.hellos.contact(it.peer)
    assert contact is not None
    assert not contact.is_silent
    assert it.hellos.silent(NOW + 2 * GIVE_UP) == []


def test_the_alarm_is_for_the_next_hello_or_the_silence() -> None:
    it = It()
    assert it.hellos.due == NOW
    for moment in (*HELLO, 1.0, 2.0):
        it.take(NOW + moment)
    assert it.hellos.due == NOW + GIVE_UP
    it.hellos.silent(NOW + GIVE_UP)
    assert it.hellos.due == NOW + 4.0


def test_a_question_that_nobody_answered_is_forgotten() -> None:
    it = It()
    asked = it.take()
    it.take(NOW + GIVE_UP)
    assert asked[0].nonce not in it.trust._questions
    assert not it.answer(asked[0])


def test_who_asks_us_and_is_not_proved_is_asked_at_once() -> None:
    it = It()
    for moment in HELLO:
        it.take(NOW + moment)
    it.hellos.heard(it.peer, NOW + 0.7)
    asked = it.take(NOW + 0.7)
    assert len(asked) == 2
    it.answer(asked[0])
    it.hellos.heard(it.peer, NOW + 0.8)
    assert it.take(NOW + 0.8) == []


def test_who_is_gone_is_asked_no_more_and_its_clock_is_forgotten() -> None:
    it = It()
    first, second = it.take()
    it.answer(first)
    it.hellos.know([it.peer], [], NOW + 1)
    assert it.hellos.contact(it.peer) is None
    assert second.nonce not in it.trust._questions
    assert it.hellos.due is None
    assert it.hellos.offset(it.peer.public_key, 4_000) is None
    it.hellos.heard(it.peer, NOW)
    it.hellos.sent(first.nonce, 5)
    assert it.take(NOW + 2) == []


def test_a_clock_stays_while_another_endpoint_of_that_agent_is_a_peer() -> None:
    it = It()
    other = dataclasses.replace(it.peer, endpoint="other")
    it.hellos.know((), [other], NOW)
    first = it.take()[0]
    it.answer(first)
    it.hellos.know([it.peer], [], NOW)
    assert it.hellos.offset(it.peer.public_key, 4_000) is not None
