"""The ACK of what was heard: one for each statement, whenever it is done."""

from ipaddress import ip_address

from tests.nodeagent.peers import speakers
from tests.nodeagent.peers.speakers import SOURCE, UID

from handover_nodeagent.peers import messages
from handover_nodeagent.peers.answers import Answers
from handover_nodeagent.peers.keys import Signer
from handover_nodeagent.peers.messages import BystanderAck, Kind, Signed, Times
from handover_nodeagent.peers.sink import Done
from handover_nodeagent.peers.statements import Destination

TO = Destination.at(ip_address("10.0.0.2"), 7473)
FIRST, SECOND = bytes(16), bytes([1] * 16)
DONE = Done(20, 5, 6)


class It:
    """What the source's agent has heard of the target's."""

    def __init__(self) -> None:
        self.ours, self.peer = speakers.source(), speakers.target()
        self.relation = self.peer.relation_to(self.ours)
        self.answers = Answers(Signer(self.ours.key, 1).sign)


def test_an_ack_names_what_it_answers() -> None:
    it = It()
    it.answers.hear(it.relation, FIRST, 10, TO)
    ack = it.answers.compose(it.relation, FIRST, DONE)
    assert ack is not None
    read = messages.read(ack)
    assert isinstance(read, Signed)
    assert read.header.kind is Kind.ACK
    assert (read.header.nonce, read.header.subject) == (FIRST, it.relation.subject)
    assert read.body == Times(10, 20, 5, 6)


def test_a_bystanders_ack_is_unsigned() -> None:
    it = It()
    advertised = it.peer.advertised()
    it.answers.hear(advertised, FIRST, 10, TO)
    ack = it.answers.compose(advertised, FIRST, DONE)
    assert ack is not None
    assert messages.read(ack) == BystanderAck(FIRST, Times(10, 20))


def test_a_repetition_gets_the_same_ack_and_keeps_the_first_time() -> None:
    it = It()
    it.answers.hear(it.relation, FIRST, 10, TO)
    assert it.answers.known(it.relation, FIRST) is None
    it.answers.hear(it.relation, FIRST, 11, TO)
    ack = it.answers.compose(it.relation, FIRST, DONE)
    assert ack is not None
    assert it.answers.known(it.relation, FIRST) == ack
    read = messages.read(ack)
    assert isinstance(read, Signed)
    assert isinstance(read.body, Times)
    assert read.body.received_ns == 10


def test_a_newer_statement_has_no_ack_so_far() -> None:
    it = It()
    it.answers.hear(it.relation, FIRST, 10, TO)
    it.answers.compose(it.relation, FIRST, DONE)
    it.answers.hear(it.relation, SECOND, 12, TO)
    assert it.answers.known(it.relation, SECOND) is None
    assert it.answers.known(it.relation, FIRST) is None
    assert it.answers.compose(it.relation, FIRST, DONE) is None


def test_what_was_done_later_is_acknowledged_then_once() -> None:
    it = It()
    it.answers.hear(it.relation, FIRST, 10, TO)
    assert list(it.answers.later(SOURCE, "other", DONE)) == []
    ((octets, destination),) = it.answers.later(SOURCE, UID, DONE)
    assert destination == TO
    assert it.answers.known(it.relation, FIRST) == octets
    assert list(it.answers.later(SOURCE, UID, DONE)) == []


def test_whoever_speaks_no_more_has_nothing_to_be_acknowledged() -> None:
    it = It()
    it.answers.hear(it.relation, FIRST, 10, TO)
    it.answers.forget([it.relation])
    assert it.answers.compose(it.relation, FIRST, DONE) is None
    assert list(it.answers.later(SOURCE, UID, DONE)) == []
