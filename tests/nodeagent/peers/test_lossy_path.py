"""Two agents and a path that loses, doubles and reorders: in the end both know the last word.

A third hand replays what it has seen, at any time. Nothing is ever acted upon twice, nothing older
than what was acted upon before, and the work is bounded.
"""

from ipaddress import ip_address
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.nodeagent.peers import speakers

from handover_nodeagent.peers import keys, messages
from handover_nodeagent.peers.messages import Kind, Signed, Times
from handover_nodeagent.peers.relations import Relations
from handover_nodeagent.peers.repeats import GIVE_UP, STATEMENT, Repeats
from handover_nodeagent.peers.trust import Accepted, Question, Trust

AT_A, AT_B = ip_address("10.0.0.1"), ip_address("10.0.0.2")
MOST_DATAGRAMS = 2 * len(STATEMENT)


class LossyPath(RuleBasedStateMachine):
    """The target's agent says HAVE and RELEASED in turn; the source's follows."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 10.0
        self.here, self.there = speakers.source(), speakers.target()
        relations, theirs = Relations(), Relations()
        relations.know_peers(self.here.endpoint, [self.there.relation_to(self.here)])
        theirs.know_peers(self.there.endpoint, [self.here.relation_to(self.there)])
        self.trust = Trust(relations, keys.verify)
        self.their_trust = Trust(theirs, keys.verify)
        self.relation = self.here.relation_to(self.there)
        self.path: list[tuple[bool, bytes]] = []
        self.seen: list[bytes] = []
        self.delivery: Repeats[str] | None = None
        self.datagram, self.nonce, self.last = b"", b"", 0
        self.acted: list[int] = []
        self.sent = self.statements = 0

    @rule(kind=st.sampled_from([Kind.HAVE, Kind.RELEASED]))
    def say(self, kind: Kind) -> None:
        """A new statement replaces the one before, wherever that is."""
        self.their_trust.expect_no_more(self.nonce)
        self.statements += 1
        self.nonce = self.statements.to_bytes(16, "big")
        self.datagram = self.there.say(kind, nonce=self.nonce)
        self.last = self.there.sequence
        self.delivery = Repeats(["here"], self.now, STATEMENT)
        self.their_trust.expect(
            self.nonce, Question(kind, self.relation.own_subject, (self.relation,))
        )
        self.send()

    @rule(ms=st.integers(1, 700))
    def wait(self, ms: int) -> None:
        """Time passes, and what is due is sent."""
        self.now += ms / 1000
        self.send()

    def send(self) -> None:
        if self.delivery and self.delivery.take(self.now):
            self.path.append((True, self.datagram))
            self.seen.append(self.datagram)
            self.sent += 1

    @precondition(lambda self: self.path)
    @rule(data=st.data(), fate=st.sampled_from(["arrives", "arrives", "is lost", "is doubled"]))
    def carry(self, data: Any, fate: str) -> None:
        """The path does with any of its datagrams what paths do."""
        at = data.draw(st.integers(0, len(self.path) - 1))
        to_here, datagram = self.path[at] if fate == "is doubled" else self.path.pop(at)
        if fate == "is lost":
            return
        self.arrive(datagram) if to_here else self.return_ack(datagram)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def replay(self, data: Any) -> None:
        """Somebody sends again what he has seen, under the peer's address."""
        self.arrive(data.draw(st.sampled_from(self.seen)))

    def arrive(self, datagram: bytes) -> None:
        judgment = self.trust.judge(datagram, AT_B, self.now)
        if not isinstance(judgment, Accepted):
            return
        assert isinstance(judgment.message, Signed)
        header = judgment.message.header
        if not judgment.is_repeat:
            self.acted.append(header.sequence)
        ours = messages.subject(self.there.endpoint, speakers.UID)
        ack = self.here.say(Kind.ACK, Times(1, 2), nonce=header.nonce, subject=ours)
        self.path.append((False, ack))

    def return_ack(self, datagram: bytes) -> None:
        judgment = self.their_trust.judge(datagram, AT_A, self.now)
        if isinstance(judgment, Accepted) and self.delivery:
            self.delivery.acknowledge("here")
            self.their_trust.expect_no_more(self.nonce)

    @invariant()
    def nothing_is_replayed_or_older(self) -> None:
        assert self.acted == sorted(set(self.acted))

    @invariant()
    def the_work_is_bounded(self) -> None:
        assert self.sent <= self.statements * len(STATEMENT)

    @invariant()
    def who_hears_an_ack_is_right(self) -> None:
        if self.delivery and not self.delivery.silent:
            assert self.acted[-1] == self.last

    def teardown(self) -> None:
        """From now on the path is good: the last word comes through, and its ACK comes back."""
        if self.delivery is None:
            return
        path, self.path = self.path, []
        for to_here, datagram in path:
            self.arrive(datagram) if to_here else self.return_ack(datagram)
        while not self.delivery.is_over(self.now) and self.delivery.due is not None:
            self.now = max(self.now, self.delivery.due)
            self.send()
            while self.path:
                to_here, datagram = self.path.pop(0)
                self.arrive(datagram) if to_here else self.return_ack(datagram)
        if not self.delivery.silent:
            assert self.acted[-1] == self.last


LossyPath.TestCase.settings = hypothesis.settings(
    max_examples=hypothesis.settings().max_examples * 3 // 5, stateful_step_count=30
)
TestLossyPath = LossyPath.TestCase


def test_each_of_the_datagrams_alone_is_enough() -> None:
    """Whichever one of them gets through, and whichever ACK, both know."""
    for arriving in range(len(STATEMENT)):
        machine = LossyPath()
        machine.say(Kind.HAVE)
        for number, moment in enumerate(STATEMENT):
            machine.now = 10.0 + moment
            machine.send()
            datagrams, machine.path = machine.path, []
            if number == arriving:
                machine.arrive(datagrams[-1][1])
                machine.return_ack(machine.path.pop()[1])
        assert machine.acted == [1]
        assert machine.delivery is not None
        assert machine.delivery.is_over(machine.now)
        assert machine.now < 10.0 + GIVE_UP
