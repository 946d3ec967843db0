"""What is said, in which numbers, to whom, and until when."""

import itertools
from ipaddress import ip_address

import pytest
from tests.nodeagent.peers import speakers
from tests.nodeagent.peers.speakers import SOURCE, TARGET, UID

from handover_nodeagent.peers import keys, messages
from handover_nodeagent.peers.keys import Signer
from handover_nodeagent.peers.messages import Kind, Signed
from handover_nodeagent.peers.relations import Relation, Relations
from handover_nodeagent.peers.repeats import GIVE_UP, STATEMENT
from handover_nodeagent.peers.statements import Delivery, Destination, Recipient, Statements, Topic
from handover_nodeagent.peers.trust import Question, Trust

NOW = 7.0
TOPIC = (TARGET, UID)
ABOUT = messages.subject(*TOPIC)
AT_A, AT_C = (Destination.at(ip_address(f"10.0.0.{n}"), 7473) for n in (1, 3))


class It:
    """The statements of a target."""

    def __init__(self) -> None:
        self.signed: list[int] = []
        self.trust = Trust(Relations(), keys.verify)
        self.speaker = speakers.target()
        signer = Signer(self.speaker.key, 1)
        counter = itertools.count(1)

        def sign(*what: object) -> tuple[int, bytes]:
            signed = signer.sign(*what)  # type: ignore[arg-type]
            self.signed.append(signed[0])
            return signed

        self.statements = Statements(sign, lambda: next(counter).to_bytes(16, "big"), self.trust)
        self.relation = speakers.source().relation_to(self.speaker)
        self.peer = Recipient("a", (AT_A,), self.relation)
        self.node = Recipient("c", (AT_C,))

    def begin(self, kind: Kind = Kind.HAVE, *recipients: Recipient) -> Delivery:
        return self.begin_on(TOPIC, kind, recipients or (self.peer,))

    def begin_on(self, topic: Topic, kind: Kind, recipients: tuple[Recipient, ...]) -> Delivery:
        said = self.statements.say(kind, topic)
        return self.statements.begin(kind, topic, said, recipients, (NOW, 99))

    def question(self, delivery: Delivery) -> Question | None:
        return self.trust._questions.get(delivery.nonce)

    def acknowledge(
        self, delivery: Delivery, relation: Relation | None, source: Destination = AT_A
    ) -> str | None:
        found = self.statements.acknowledge(delivery.nonce, relation, source.address, NOW)
        return found[1].node if found else None


def header(datagram: bytes) -> messages.Header:
    read = messages.read(datagram)
    assert isinstance(read, Signed)
    return read.header


def test_a_prepared_have_is_sent_as_it_was_signed() -> None:
    it = It()
    it.statements.prepare(*TOPIC)
    it.statements.prepare(*TOPIC)
    assert it.signed == [1], "once"
    delivery = it.begin()
    assert it.signed == [1], "nothing is signed at the switch"
    assert it.statements.take(NOW) == [(delivery.datagram, it.peer)]
    assert header(delivery.datagram)[3:] == (1, messages.subject(*TOPIC), delivery.nonce)
    assert delivery.sent_ns == 99


def test_without_preparation_it_is_signed_now() -> None:
    it = It()
    assert header(it.begin().datagram).kind is Kind.HAVE
    assert it.statements.said(*TOPIC) == 1


def test_what_was_prepared_before_something_newer_is_void() -> None:
    it = It()
    it.statements.prepare(*TOPIC)
    released = it.begin(Kind.RELEASED)
    assert header(released.datagram)[:4:3] == (Kind.RELEASED, 2)
    assert header(it.begin().datagram).sequence == 3


def test_it_is_prepared_anew_after_something_newer() -> None:
    it = It()
    it.statements.prepare(*TOPIC)
    it.begin(Kind.RELEASED)
    it.statements.prepare(*TOPIC)
    assert it.signed == [1, 2, 3]
    assert header(it.begin().datagram).sequence == 3


def test_topics_have_their_own() -> None:
    it = It()
    it.statements.prepare(*TOPIC)
    it.statements.prepare(SOURCE, UID)
    it.begin_on((SOURCE, UID), Kind.HAVE, (it.peer,))
    assert header(it.begin().datagram).sequence == 1
    assert (it.statements.said(*TOPIC), it.statements.said(SOURCE, UID)) == (1, 2)
    assert it.statements.said(SOURCE, "other") == messages.NEVER


def test_a_newer_one_takes_the_place_of_one_on_its_way() -> None:
    it = It()
    older = it.begin()
    newer = it.begin(Kind.RELEASED)
    assert it.question(older) is None
    assert it.acknowledge(older, it.relation) is None
    assert it.statements.take(NOW) == [(newer.datagram, it.peer)]


def test_it_is_repeated_to_those_who_have_not_answered_and_only_their_acks_are_let_in() -> None:
    it = It()
    delivery = it.begin(Kind.HAVE, it.peer, it.node)
    assert [to for _, to in it.statements.take(NOW)] == [it.peer, it.node]
    assert it.question(delivery) == Question(
        Kind.HAVE, ABOUT, (it.relation,), frozenset({AT_C.address})
    )
    assert it.acknowledge(delivery, it.relation) == "a"
    assert it.question(delivery) == Question(Kind.HAVE, ABOUT, (), frozenset({AT_C.address}))
    assert it.acknowledge(delivery, it.relation) is None, "a second one"
    assert it.statements.due == NOW + STATEMENT[1]
    assert [to for _, to in it.statements.take(NOW + STATEMENT[1])] == [it.node]
    assert it.acknowledge(delivery, None, AT_A) is None, "a peer answers with its key"
    assert it.acknowledge(delivery, None, AT_C) == "c"
    assert it.question(delivery) is None
    assert it.statements.take(NOW + 1) == []
    assert [it.statements.due] == [None]


def test_acks_of_many_nodes_cost_no_more_than_those_of_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All come within milliseconds, and a guest that announces itself waits behind them."""
    it, expected = It(), list[bytes]()
    expect = it.trust.expect

    def counted(nonce: bytes, question: Question) -> None:
        expected.append(nonce)
        expect(nonce, question)

    monkeypatch.setattr(it.trust, "expect", counted)
    places = [Destination.at(ip_address(f"10.1.0.{number}"), 7473) for number in range(200)]
    nodes = tuple(Recipient(str(to.address), (to,)) for to in places)
    delivery = it.begin(Kind.HAVE, *nodes)
    for to in places:
        assert it.acknowledge(delivery, None, to) == str(to.address)
    assert expected == [delivery.nonce]
    assert it.question(delivery) is None


def test_what_was_sent_by_who_began_it_is_not_sent_at_once_again() -> None:
    it = It()
    delivery = it.begin()
    it.statements.told(TOPIC, NOW)
    assert it.statements.take(NOW) == []
    assert it.statements.take(NOW + STATEMENT[1]) == [(delivery.datagram, it.peer)]


def test_two_peers_on_one_node_answer_each_for_itself() -> None:
    it = It()
    second = speakers.source(endpoint=SOURCE._replace(name="second")).relation_to(it.speaker)
    delivery = it.begin(Kind.HAVE, it.peer, Recipient("a", (AT_A,), second))
    assert it.acknowledge(delivery, second) == "a"
    assert it.question(delivery) == Question(Kind.HAVE, ABOUT, (it.relation,))


def test_what_nobody_acknowledges_is_given_up() -> None:
    it = It()
    delivery = it.begin()
    it.statements.take(NOW + 2.5)
    assert it.statements.due == NOW + GIVE_UP
    assert it.statements.take(NOW + GIVE_UP) == []
    assert [it.statements.due, it.question(delivery)] == [None, None]


def test_without_recipients_nothing_is_waited_for() -> None:
    it = It()
    it.begin_on(TOPIC, Kind.HAVE, ())
    assert it.statements.due is None
    assert it.statements.take(NOW) == []
    assert it.statements.said(*TOPIC) == 1


def test_of_what_is_gone_nothing_is_left() -> None:
    it = It()
    it.statements.prepare(SOURCE, UID)
    kept = it.begin_on((SOURCE, UID), Kind.HAVE, (it.peer,))
    it.begin()
    it.statements.prepare(*TOPIC)
    it.statements.forget({TARGET})
    assert it.statements.take(NOW) == [(kept.datagram, it.peer)]
    assert it.statements.said(*TOPIC) == messages.NEVER
    assert {topic for topic, _ in it.statements._prepared.items()} == set()
