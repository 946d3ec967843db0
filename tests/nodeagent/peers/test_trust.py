"""Who may say what: a table of everything that is refused, and by which check."""

import dataclasses
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from tests.nodeagent.peers import speakers
from tests.nodeagent.peers.speakers import NONCE, Speaker

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers import keys, messages, trust
from handover_nodeagent.peers.messages import Hello, HelloAnswer, Kind, Malformed, Times, Way
from handover_nodeagent.peers.relations import Relation, Relations
from handover_nodeagent.peers.trust import Accepted, Question, Refusal, Refused, Trust

AT_B = ip_address("10.0.0.2")
AT_B6 = ip_address("fd00::2")
AT_C = ip_address("10.0.0.3")
NOW = 50.0


class Judge:
    """The agent at the source, which has one peer; counts signatures."""

    def __init__(self, *more: Relation) -> None:
        self.ours = speakers.source()
        self.peer = speakers.target()
        self.relation = self.peer.relation_to(self.ours)
        self.relations = Relations()
        self.relations.know_peers(self.ours.endpoint, [self.relation, *more])
        self.verified = 0
        self.trust = Trust(self.relations, self._verify)

    def _verify(self, public: bytes, text: bytes, signature: bytes) -> bool:
        self.verified += 1
        return keys.verify(public, text, signature)

    def judge(
        self, datagram: bytes, source: IPAddress | None = AT_B, now: float = NOW
    ) -> Accepted | Refusal:
        return self.trust.judge(datagram, source, now)

    def ask(self, kind: Kind = Kind.HAVE, **changes: frozenset[IPAddress]) -> None:
        subject = messages.subject(self.ours.endpoint, speakers.UID)
        self.trust.expect(NONCE, Question(kind, subject, (self.relation,), **changes))

    def answer(self, kind: Kind, speaker: Speaker | None = None) -> bytes:
        subject = messages.subject(self.ours.endpoint, speakers.UID)
        return (speaker or self.peer).say(kind, speakers.BODIES[kind], subject=subject)


def is_accepted(judgment: Accepted | Refusal, *, repeat: bool = False) -> bool:
    return isinstance(judgment, Accepted) and judgment.is_repeat is repeat


@pytest.mark.parametrize("kind", [Kind.HAVE, Kind.RELEASED, Kind.HELLO])
@pytest.mark.parametrize("address", [AT_B, AT_B6])
def test_a_peer_is_believed_by_each_of_its_addresses(kind: Kind, address: IPAddress) -> None:
    it = Judge()
    judgment = it.judge(it.peer.say(kind, speakers.BODIES[kind]), address)
    assert isinstance(judgment, Accepted)
    assert judgment.relations == (it.relation,)


def _flip(datagram: bytes, at: int = -1) -> bytes:
    changed = bytearray(datagram)
    changed[at] ^= 1
    return bytes(changed)


REFUSED: dict[str, tuple[Callable[[Judge], bytes], IPAddress | None, Refusal]] = {
    "empty": (lambda _: b"", AT_B, Malformed.SIZE),
    "oversize": (lambda it: it.peer.say(Kind.HAVE) + bytes(100), AT_B, Malformed.SIZE),
    "cut short": (lambda it: it.peer.say(Kind.HAVE)[:-1], AT_B, Malformed.SIZE),
    "newer version": (lambda it: b"\2" + it.peer.say(Kind.HAVE)[1:], AT_B, Malformed.VERSION),
    "newer kind": (lambda it: b"\1\x09" + it.peer.say(Kind.HAVE)[2:], AT_B, Malformed.KIND),
    "from nobody's address, as behind a NAT": (
        lambda it: it.peer.say(Kind.HAVE),
        AT_C,
        Refused.SOURCE,
    ),
    "foreign key": (lambda _: speakers.target().say(Kind.HAVE), AT_B, Refused.KEY),
    "foreign signature under the peer's key id": (
        lambda it: it.peer.say(Kind.HAVE)[:-64] + speakers.target().say(Kind.HAVE)[-64:],
        AT_B,
        Refused.SIGNATURE,
    ),
    "a bit of the text": (lambda it: _flip(it.peer.say(Kind.HAVE), 20), AT_B, Refused.SIGNATURE),
    "a bit of the signature": (lambda it: _flip(it.peer.say(Kind.HAVE)), AT_B, Refused.SIGNATURE),
    "HAVE turned into RELEASED": (
        lambda it: b"\1\4" + it.peer.say(Kind.HAVE)[2:],
        AT_B,
        Refused.SIGNATURE,
    ),
    "another uid": (
        lambda it: it.peer.say(
            Kind.HAVE, subject=messages.subject(it.peer.endpoint, speakers.OTHER_UID)
        ),
        AT_B,
        Refused.ENDPOINT,
    ),
    "another endpoint of the same node": (
        lambda it: it.peer.say(
            Kind.HAVE, subject=messages.subject(ObjectKey("shop", "vm-2"), speakers.UID)
        ),
        AT_B,
        Refused.ENDPOINT,
    ),
    "the same name in another namespace": (
        lambda it: it.peer.say(
            Kind.HAVE, subject=messages.subject(ObjectKey("bank", "vm-target"), speakers.UID)
        ),
        AT_B,
        Refused.ENDPOINT,
    ),
    "an answer that nobody asked for": (lambda it: it.answer(Kind.ACK), AT_B, Refused.NONCE),
    "a HELLO's answer that nobody asked for": (
        lambda it: it.answer(Kind.HELLO_ANSWER),
        AT_B,
        Refused.NONCE,
    ),
    "an unsigned ACK that nobody asked for": (
        lambda _: messages.compose_bystander_ack(NONCE, Times(1, 2)),
        AT_B,
        Refused.NONCE,
    ),
    "HAVE through the tunnel": (lambda it: it.peer.say(Kind.HAVE), None, Malformed.WAY),
    "a plain HELLO through the tunnel": (
        lambda it: it.peer.say(Kind.HELLO, Hello(Way.PLAIN, 0)),
        None,
        Malformed.WAY,
    ),
    "the tunnel's HELLO on the plain path": (
        lambda it: it.peer.say(Kind.HELLO, Hello(Way.TUNNEL, 0)),
        AT_B,
        Malformed.WAY,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    compose, source, reason = REFUSED[name]
    it = Judge()
    assert it.judge(compose(it), source) is reason
    assert it.verified == (reason is Refused.SIGNATURE), "no signature is verified before"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_no_trace(name: str) -> None:
    compose, source, _ = REFUSED[name]
    it = Judge()
    it.judge(compose(it), source)
    it.peer.sequence = 0
    assert is_accepted(it.judge(it.peer.say(Kind.HAVE)))


def test_the_true_key_of_another_node_speaks_for_none_but_its_own_endpoint() -> None:
    """A node that is taken over: the API knows it, as the peer of another migration."""
    it = Judge()
    taken = speakers.target(endpoint=ObjectKey("shop", "other-target"), addresses=("10.0.0.3",))
    other = speakers.source(endpoint=ObjectKey("shop", "other-source"))
    it.relations.know_peers(other.endpoint, [taken.relation_to(other)])
    theirs = messages.subject(it.peer.endpoint, speakers.UID)
    for source in (AT_C, AT_B):
        assert it.judge(taken.say(Kind.HAVE, subject=theirs), source) is Refused.ENDPOINT
    assert it.judge(taken.say(Kind.HAVE), AT_B) is Refused.SOURCE
    judgment = it.judge(taken.say(Kind.HAVE), AT_C)
    assert isinstance(judgment, Accepted)
    assert [one.key for one in judgment.relations] == [other.endpoint], "its own, and no other"


def test_nobody_of_our_own_side_has_anything_to_say() -> None:
    it = Judge()
    twin = speakers.target(role=Role.SOURCE)
    it.relations.know_peers(it.ours.endpoint, [twin.relation_to(it.ours)])
    assert it.judge(twin.say(Kind.HAVE)) is Refused.ROLE


def test_a_former_source_hears_of_the_next_migration() -> None:
    it = Judge()
    newest = speakers.target(endpoint=ObjectKey("shop", "vm-third"), addresses=("10.0.0.3",))
    it.relations.know_peers(
        it.ours.endpoint, [it.relation, newest.relation_to(it.ours, speakers.OTHER_UID)]
    )
    spoken = messages.subject(newest.endpoint, speakers.OTHER_UID)
    judgment = it.judge(newest.say(Kind.HAVE, subject=spoken), AT_C)
    assert isinstance(judgment, Accepted)
    assert [one.uid for one in judgment.relations] == [speakers.OTHER_UID]


def test_a_former_source_believes_the_next_ones_source_after_a_roll_back() -> None:
    it = Judge()
    second = speakers.source(endpoint=ObjectKey("shop", "vm-second"), addresses=("10.0.0.3",))
    it.relations.know_peers(it.ours.endpoint, [second.relation_to(it.ours, speakers.OTHER_UID)])
    spoken = messages.subject(second.endpoint, speakers.OTHER_UID)
    assert is_accepted(it.judge(second.say(Kind.HAVE, subject=spoken), AT_C))


def test_the_same_datagram_again_is_a_repeat_and_costs_no_signature() -> None:
    it = Judge()
    have = it.peer.say(Kind.HAVE)
    assert is_accepted(it.judge(have))
    assert is_accepted(it.judge(have), repeat=True)
    assert it.verified == 1


def test_a_replay_of_what_was_said_before_is_refused() -> None:
    it = Judge()
    have = it.peer.say(Kind.HAVE)
    it.judge(have)
    assert is_accepted(it.judge(it.peer.say(Kind.RELEASED)))
    assert it.judge(have) is Refused.SEQUENCE


def test_of_two_that_overtake_each_other_the_newer_one_stays() -> None:
    it = Judge()
    have, released = it.peer.say(Kind.HAVE), it.peer.say(Kind.RELEASED)
    assert is_accepted(it.judge(released))
    assert it.judge(have) is Refused.SEQUENCE


def test_a_have_that_was_numbered_before_later_hellos_counts() -> None:
    it = Judge()
    have = it.peer.say(Kind.HAVE)
    for way, source in ((Way.PLAIN, AT_B), (Way.TUNNEL, None)):
        assert is_accepted(it.judge(it.peer.say(Kind.HELLO, Hello(way, 0)), source))
    assert is_accepted(it.judge(have))


def test_hellos_by_two_ways_overtake_each_other() -> None:
    it = Judge()
    slow = it.peer.say(Kind.HELLO, Hello(Way.TUNNEL, 0))
    quick = it.peer.say(Kind.HELLO, Hello(Way.PLAIN, 0))
    assert is_accepted(it.judge(quick))
    assert is_accepted(it.judge(slow, None))
    assert it.judge(it.peer.say(Kind.HELLO, Hello(Way.PLAIN, 0), sequence=1)) is Refused.SEQUENCE


def test_an_older_boot_is_older_whatever_its_sequence() -> None:
    it = Judge()
    it.judge(it.peer.say(Kind.HAVE))
    before = dataclasses.replace(it.peer, boot=it.peer.boot - 1, sequence=1_000)
    assert it.judge(before.say(Kind.HAVE)) is Refused.SEQUENCE
    after = dataclasses.replace(it.peer, boot=it.peer.boot + 1, sequence=0)
    assert is_accepted(it.judge(after.say(Kind.HAVE)))


def test_a_peer_that_is_named_again_cannot_be_replayed() -> None:
    it = Judge()
    have = it.peer.say(Kind.HAVE)
    it.judge(have)
    it.judge(it.peer.say(Kind.RELEASED))
    it.relations.know_peers(it.ours.endpoint, [])
    assert it.judge(have) is Refused.SOURCE
    it.relations.know_peers(it.ours.endpoint, [it.relation])
    assert it.judge(have) is Refused.SEQUENCE


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.HELLO_ANSWER])
def test_after_a_restart_of_ours_a_hello_tells_what_is_void(kind: Kind) -> None:
    it = Judge()
    have, released = it.peer.say(Kind.HAVE), it.peer.say(Kind.RELEASED)
    if kind is Kind.HELLO:
        it.judge(it.peer.say(kind, Hello(Way.PLAIN, said=2)))
    else:
        it.ask(Kind.HELLO)
        ours = messages.subject(it.ours.endpoint, speakers.UID)
        it.judge(it.peer.say(kind, HelloAnswer(Way.PLAIN, 2, 1, 1), subject=ours))
    assert it.judge(have) is Refused.SEQUENCE
    assert is_accepted(it.judge(released)), "the newest may still be under way"


def test_a_hello_never_makes_an_earlier_statement_count_again() -> None:
    it = Judge()
    have = it.peer.say(Kind.HAVE)
    it.judge(it.peer.say(Kind.RELEASED))
    it.judge(it.peer.say(Kind.HELLO, Hello(Way.PLAIN, said=1)))
    assert it.judge(have) is Refused.SEQUENCE


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (Kind.HAVE, Kind.ACK),
        (Kind.RELEASED, Kind.ACK),
        (Kind.HELLO, Kind.HELLO_ANSWER),
    ],
)
def test_an_answer_to_a_question_of_ours_is_let_in(asked: Kind, kind: Kind) -> None:
    it = Judge()
    it.ask(asked)
    assert is_accepted(it.judge(it.answer(kind)))
    it.trust.expect_no_more(NONCE)
    assert it.judge(it.answer(kind)) is Refused.NONCE


def test_an_answer_of_another_kind_answers_nothing() -> None:
    it = Judge()
    it.ask(Kind.HELLO)
    assert it.judge(it.answer(Kind.ACK)) is Refused.NONCE
    it.ask(Kind.HAVE)
    assert it.judge(it.answer(Kind.HELLO_ANSWER)) is Refused.NONCE


def test_a_statement_with_a_nonce_of_ours_is_no_answer() -> None:
    """Whoever has seen a nonce of ours could else say old things anew."""
    it = Judge()
    it.ask(Kind.HAVE)
    have = it.peer.say(Kind.HAVE)
    it.judge(it.peer.say(Kind.RELEASED))
    assert it.judge(have) is Refused.SEQUENCE


def test_only_who_was_asked_may_answer() -> None:
    other = speakers.target(endpoint=ObjectKey("shop", "vm-2"), addresses=("10.0.0.3",))
    it = Judge()
    it.relations.know_peers(it.ours.endpoint, [it.relation, other.relation_to(it.ours)])
    it.ask()
    assert it.judge(it.answer(Kind.ACK, other), AT_C) is Refused.ENDPOINT


def test_an_answer_on_another_subject_answers_nothing() -> None:
    it = Judge()
    it.ask()
    assert it.judge(it.peer.say(Kind.ACK, Times(1, 2))) is Refused.ENDPOINT


def test_a_bystander_that_was_told_may_answer_unsigned() -> None:
    it = Judge()
    ack = messages.compose_bystander_ack(NONCE, Times(1, 2))
    it.ask(addresses=frozenset({AT_C}))
    assert is_accepted(it.judge(ack, AT_C))
    assert it.judge(ack, AT_B) is Refused.SOURCE
    assert it.judge(ack, ip_address("10.0.0.9")) is Refused.SOURCE
    it.trust.expect_no_more(NONCE)
    assert it.judge(ack, AT_C) is Refused.SOURCE, "not even its address counts any more"


def test_an_unsigned_ack_answers_no_hello() -> None:
    it = Judge()
    it.ask(Kind.HELLO, addresses=frozenset({AT_B}))
    assert it.judge(messages.compose_bystander_ack(NONCE, Times(1, 2))) is Refused.NONCE


def test_a_bystander_believes_the_key_of_the_advertised_endpoint() -> None:
    it = Judge()
    hosting = speakers.target(endpoint=ObjectKey("bank", "vm"), addresses=("10.0.0.3",))
    it.relations.know_advertised(hosting.endpoint, [hosting.advertised()])
    judgment = it.judge(hosting.say(Kind.HAVE), AT_C)
    assert isinstance(judgment, Accepted)
    assert [one.is_bystanders for one in judgment.relations] == [True]
    assert it.judge(hosting.say(Kind.HAVE), AT_B) is Refused.SOURCE


def test_a_source_that_sends_too_much_is_a_flood_and_others_are_heard() -> None:
    other = speakers.target(endpoint=ObjectKey("shop", "vm-2"), addresses=("10.0.0.3",))
    it = Judge()
    it.relations.know_peers(it.ours.endpoint, [it.relation, other.relation_to(it.ours)])
    junk = [it.judge(b"", AT_B) for _ in range(1000)]
    assert junk.count(Malformed.SIZE) == trust.ARRIVALS[1]
    assert set(junk[trust.ARRIVALS[1] :]) == {Refused.FLOOD}
    assert it.judge(it.peer.say(Kind.HAVE)) is Refused.FLOOD
    assert is_accepted(it.judge(other.say(Kind.HAVE), AT_C))
    assert is_accepted(it.judge(it.peer.say(Kind.HAVE), now=NOW + 1)), "it may go on afterwards"


def test_all_strangers_together_have_one_budget() -> None:
    it = Judge()
    junk = [it.judge(b"", ip_address(f"192.0.2.{n % 250}")) for n in range(200)]
    assert junk.count(Refused.SOURCE) == trust.STRANGERS[1]
    assert is_accepted(it.judge(it.peer.say(Kind.HAVE)))


def test_hellos_have_a_budget_of_their_own() -> None:
    it = Judge()
    for _ in range(200):
        assert is_accepted(it.judge(it.peer.say(Kind.HELLO, Hello(Way.PLAIN, 0))))
    assert is_accepted(it.judge(it.peer.say(Kind.HAVE)))


def test_wrong_hellos_cost_no_more_than_their_budget() -> None:
    it = Judge()
    forged = _flip(it.peer.say(Kind.HELLO, Hello(Way.PLAIN, 0)))
    through = _flip(it.peer.say(Kind.HELLO, Hello(Way.TUNNEL, 0)))
    now = NOW
    for _ in range(1000):
        # No flood, which would not be read.
        now += 0.001
        it.judge(forged, AT_B, now)
        it.judge(forged, AT_B6, now)
        it.judge(through, None, now)
    assert it.verified <= trust.HELLOS_OF_ALL[1] + trust.HELLOS_OF_ALL[0] * (now - NOW)
    assert it.judge(forged, AT_B, now) is Refused.BUDGET
    assert is_accepted(it.judge(it.peer.say(Kind.HAVE), AT_B, now))


def test_repeats_cost_no_more_than_signatures() -> None:
    it = Judge()
    have = it.peer.say(Kind.HAVE)
    judgments = [it.judge(have) for _ in range(200)]
    assert sum(map(is_accepted_at_all, judgments)) == trust.SIGNATURES[1]
    assert judgments[-1] is Refused.BUDGET


def is_accepted_at_all(judgment: Accepted | Refusal) -> bool:
    return isinstance(judgment, Accepted)


def test_wrong_signatures_of_one_source_cost_no_more_than_its_budget() -> None:
    other = speakers.target(endpoint=ObjectKey("shop", "vm-2"), addresses=("10.0.0.3",))
    it = Judge()
    it.relations.know_peers(it.ours.endpoint, [it.relation, other.relation_to(it.ours)])
    forged = _flip(it.peer.say(Kind.HAVE))
    judgments = [it.judge(forged) for _ in range(200)]
    assert it.verified == trust.SIGNATURES[1]
    assert judgments[-1] is Refused.BUDGET
    assert is_accepted(it.judge(other.say(Kind.HAVE), AT_C))


@pytest.mark.parametrize("is_peer", [True, False])
def test_wrong_signatures_of_all_sources_cost_no_more_than_the_budget_of_all(
    is_peer: bool,  # noqa: FBT001
) -> None:
    it = Judge()
    crowd = [
        speakers.target(endpoint=ObjectKey("n", f"t{n}"), addresses=(f"10.1.0.{n}",))
        for n in range(20)
    ]
    for one in crowd:
        if is_peer:
            ours = speakers.source(endpoint=ObjectKey("n", one.endpoint.name + "s"))
            it.relations.know_peers(ours.endpoint, [one.relation_to(ours)])
        else:
            it.relations.know_advertised(one.endpoint, [one.advertised()])
    for one in crowd:
        forged = _flip(one.say(Kind.HAVE))
        for _ in range(60):
            it.judge(forged, ip_address(one.addresses[0]))
    limit = trust.SIGNATURES_OF_PEERS if is_peer else trust.SIGNATURES_OF_BYSTANDERS
    # The bucket's arithmetic may round the last one away.
    assert limit[1] - 1 <= it.verified <= limit[1]
    assert is_accepted(it.judge(it.peer.say(Kind.HAVE))) is not is_peer


def test_what_is_remembered_is_bounded_and_what_is_in_use_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trust, "REMEMBERED", 3)
    it = Judge()
    first = it.peer.say(Kind.HAVE)
    it.judge(first)
    it.judge(it.peer.say(Kind.RELEASED))
    for n in range(6):
        ours = speakers.source(endpoint=ObjectKey("n", f"s{n}"))
        it.relations.know_peers(ours.endpoint, [it.peer.relation_to(ours, f"u{n}")])
        spoken = messages.subject(ObjectKey("n", it.peer.endpoint.name), f"u{n}")
        assert is_accepted(it.judge(it.peer.say(Kind.HAVE, subject=spoken)))
        it.relations.know_peers(ours.endpoint, [])
    assert len(it.trust._latest) == 3
    assert it.judge(first) is Refused.SEQUENCE
