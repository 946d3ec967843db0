"""PURE: what this agent has to say of its guests: prepared, on its way, acknowledged.

A HAVE is numbered and signed when its endpoint becomes a target, so that at the switch nothing is
left but to send it. One datagram goes to all: to the peers, who answer with a signature, and to the
other nodes where those need a route of their own. A newer statement on the same endpoint and
migration takes the place of the one before, also on its way.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from handover_api.names import ObjectKey
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers import messages, repeats
from handover_nodeagent.peers.messages import Body, Kind, Statement
from handover_nodeagent.peers.relations import Relation
from handover_nodeagent.peers.repeats import Repeats
from handover_nodeagent.peers.trust import Question, Trust

Sign = Callable[[Kind, Body, bytes, bytes], tuple[int, bytes]]
"""Signer.sign."""
Topic = tuple[ObjectKey, str]
"""An endpoint of ours and the uid of its migration."""

_STATEMENT: Final = Statement()


class Destination(NamedTuple):
    """Where a datagram goes; ``host`` is the address as text, which is slow to write."""

    address: IPAddress
    port: int
    host: str

    @classmethod
    def at(cls, address: IPAddress, port: int) -> Self:
        """Name a port of a node."""
        return cls(address, port, str(address))


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who is told: a peer, or a node that is none of this migration's (without a relation)."""

    node: str
    destinations: tuple[Destination, ...]
    relation: Relation | None = None


class Said(NamedTuple):
    """A statement that is signed: what to send, and what its ACK will name."""

    sequence: int
    nonce: bytes
    datagram: bytes


@dataclass(slots=True)
class Delivery:
    """One statement on its way."""

    topic: Topic
    kind: Kind
    nonce: bytes
    datagram: bytes
    sent_ns: int
    recipients: dict[str, Recipient]
    repeats: Repeats[str]
    names: dict[Relation | IPAddress, str]
    """By what an ACK is known to be of whom: a peer's signature, or where another node sends from.

    A thousand of them come within milliseconds, and each is to cost as little as the first."""


class Statements:
    """All statements of this agent; times are the loop's, in seconds, but for ``sent_ns``."""

    def __init__(self, sign: Sign, make_nonce: Callable[[], bytes], trust: Trust) -> None:
        self._sign = sign
        self._make_nonce = make_nonce
        self._trust = trust
        self._prepared: dict[Topic, Said] = {}
        self._said: dict[Topic, int] = {}
        self._deliveries: dict[Topic, Delivery] = {}
        self._by_nonce: dict[bytes, Delivery] = {}

    @property
    def due(self) -> float | None:
        """When there is something to send again, or to give up."""
        dues = (delivery.repeats.due for delivery in self._deliveries.values())
        return min((due for due in dues if due is not None), default=None)

    def said(self, key: ObjectKey, uid: str) -> int:
        """Return the sequence of the newest statement; NEVER where there is none."""
        return self._said.get((key, uid), messages.NEVER)

    def news(self, key: ObjectKey, uid: str) -> tuple[int, bytes]:
        """Return what HELLOs tell: the newest statement's sequence, and what is promised."""
        prepared = self._ready((key, uid))
        promise = messages.digest(prepared.datagram) if prepared else messages.NO_PROMISE
        return self.said(key, uid), promise

    def prepare(self, key: ObjectKey, uid: str) -> bool:
        """Have a HAVE ready; False where one is that was not overtaken."""
        topic = key, uid
        if self._ready(topic):
            return False
        self._prepared[topic] = self._compose(Kind.HAVE, topic)
        return True

    def _ready(self, topic: Topic) -> Said | None:
        prepared = self._prepared.get(topic)
        is_overtaken = prepared is None or prepared.sequence < self.said(*topic)
        return None if is_overtaken else prepared

    def forget(self, keys: Collection[ObjectKey]) -> None:
        """Say no more of these endpoints, and nothing again."""
        for topic in [topic for topic in self._deliveries if topic[0] in keys]:
            self._end(topic)
        for of_topics in (self._prepared, self._said):
            for topic in [topic for topic in of_topics if topic[0] in keys]:
                del of_topics[topic]

    def say(self, kind: Kind, topic: Topic) -> Said:
        """Return what to send, which may be prepared: first send it, then ``begin``."""
        prepared = self._prepared.pop(topic, None) if kind is Kind.HAVE else None
        if prepared is None or prepared.sequence < self._said.get(topic, messages.NEVER):
            prepared = self._compose(kind, topic)
        self._said[topic] = prepared.sequence
        return prepared

    def begin(
        self,
        kind: Kind,
        topic: Topic,
        said: Said,
        recipients: Iterable[Recipient],
        times: tuple[float, int],
    ) -> Delivery:
        """Expect the ACKs of what was *said*, and repeat it: ``take`` says when and to whom.

        *times* are those at which it was said, by the loop's clock and by the realtime clock (ns).
        """
        self._end(topic)
        named = {_name(one): one for one in recipients}
        now, now_ns = times
        waiting = Repeats(named, now, repeats.STATEMENT)
        names = {by: name for name, one in named.items() for by in _known_by(one)}
        delivery = Delivery(topic, kind, said.nonce, said.datagram, now_ns, named, waiting, names)
        self._deliveries[topic] = self._by_nonce[delivery.nonce] = delivery
        self._expect(delivery)
        return delivery

    def told(self, topic: Topic, now: float) -> None:
        """Know that all have been sent for the first time what ``begin`` was told of."""
        self._deliveries[topic].repeats.take(now)

    def take(self, now: float) -> list[tuple[bytes, Recipient]]:
        """Return what to send now to whom, and give up what was said in vain for too long."""
        outgoing = []
        for topic, delivery in tuple(self._deliveries.items()):
            if delivery.repeats.is_over(now):
                self._end(topic)
                continue
            names = delivery.repeats.take(now)
            outgoing += [(delivery.datagram, delivery.recipients[name]) for name in names]
        return outgoing

    def acknowledge(
        self, nonce: bytes, relation: Relation | None, source: IPAddress | None, now: float
    ) -> tuple[Delivery, Recipient] | None:
        """Take an ACK in; None where nobody waits for it (any more)."""
        delivery, by = self._by_nonce.get(nonce), relation or source
        name = delivery.names.get(by) if delivery and by else None
        if delivery is None or name is None or not delivery.repeats.acknowledge(name):
            return None
        if delivery.repeats.is_over(now):
            self._end(delivery.topic)
        elif relation:
            # What a node says twice that signs nothing costs nothing.
            self._expect(delivery)
        return delivery, delivery.recipients[name]

    def _compose(self, kind: Kind, topic: Topic) -> Said:
        nonce = self._make_nonce()
        sequence, datagram = self._sign(kind, _STATEMENT, messages.subject(*topic), nonce)
        return Said(sequence, nonce, datagram)

    def _expect(self, delivery: Delivery) -> None:
        """Let the ACKs of those in that are asked; of peers, that have not answered."""
        waited = [delivery.recipients[name] for name in delivery.repeats.silent]
        relations = tuple(one.relation for one in waited if one.relation)
        unsigned = [one for one in waited if not one.relation]
        addresses = frozenset(to.address for one in unsigned for to in one.destinations)
        question = Question(delivery.kind, messages.subject(*delivery.topic), relations, addresses)
        self._trust.expect(delivery.nonce, question)

    def _end(self, topic: Topic) -> None:
        delivery = self._deliveries.pop(topic, None)
        if delivery:
            del self._by_nonce[delivery.nonce]
            self._trust.expect_no_more(delivery.nonce)


def _name(recipient: Recipient) -> str:
    """Of a peer its endpoint, too: two of them may be on one node."""
    relation = recipient.relation
    return f"{recipient.node}/{relation.endpoint}" if relation else recipient.node


def _known_by(recipient: Recipient) -> Iterable[Relation | IPAddress]:
    if recipient.relation:
        return (recipient.relation,)
    return (to.address for to in recipient.destinations)
