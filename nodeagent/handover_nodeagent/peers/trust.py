"""PURE: who may say what. A datagram is judged by what the API said of its sender, cheapest first.

The order is that of the cost, and each step needs only what the one before has left: size; a source
address that anybody who may speak has; how much came from there; version and kind; a key id that
somebody has; an endpoint of ours, a role and an address that fit; the sequence; and only then the
signature, which takes as long as thirty of all the rest together. What a signature may cost is
bounded for each source and for all, so that a flood takes a share of the loop that is known.

A flood is not read: its source is muted, in the kernel, for a time that doubles (``Refused.FLOOD``
tells the caller). Strangers share one such budget. Whoever forges the address of a peer can so
silence it; the API repairs that, and nobody else is touched.
"""

import enum
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers import messages
from handover_nodeagent.peers.messages import BystanderAck, Kind, Malformed, Message, Signed, Way
from handover_nodeagent.peers.relations import Relation, Relations
from handover_nodeagent.retry.buckets import Bucket, Buckets

Source = IPAddress | None
"""Where a datagram came from: None is the tunnel, in which all senders have one address."""
Verify = Callable[[bytes, bytes, bytes], bool]
"""Public key, text, signature: whether they belong together."""

# A drain makes some ten messages for each of its VMs, and moves a handful of them at a time. A
# datagram costs 5 to 10 µs, a signature 90: a source has at most a hundredth of a processor.
ARRIVALS: Final = (1000.0, 256)
"""Datagrams of one source that are looked at: a second, and at once."""
STRANGERS: Final = (100.0, 64)
"""The same for all whom nobody knows: enough to be counted, and so to be found."""
SIGNATURES: Final = (100.0, 64)
"""Signatures of one source that are verified: a second, and at once."""
SIGNATURES_OF_PEERS: Final = (400.0, 256)
"""The same for all peers of our own endpoints: 4 % of a processor."""
SIGNATURES_OF_BYSTANDERS: Final = (200.0, 256)
"""The same for all who speak of other nodes' endpoints: they take nothing from the peers."""
HELLOS: Final = (200.0, 256)
"""HELLOs and their answers of one source that are verified. Apart from all else: twenty guests that
go from node to node at once ask a hundred times, and must not keep a HAVE from being believed."""
HELLOS_OF_ALL: Final = (400.0, 512)
"""The same for all sources."""
REMEMBERED: Final = 2048
"""Sequences that are kept: of a peer that is forgotten, too, since the API may name it again."""
_ANSWERS: Final = frozenset({Kind.ACK, Kind.HELLO_ANSWER})


class Refused(enum.Enum):
    """Why a datagram changes nothing; the values are a metric's, besides those of Malformed."""

    SOURCE = "Source"
    FLOOD = "Flood"
    KEY = "Key"
    ENDPOINT = "Endpoint"
    ROLE = "Role"
    SEQUENCE = "Sequence"
    BUDGET = "Budget"
    SIGNATURE = "Signature"
    NONCE = "Nonce"


Refusal = Refused | Malformed


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that may be acted upon, and the endpoints that it concerns.

    ``is_repeat``: the same datagram was accepted before. An unsigned ACK concerns no endpoint.
    """

    message: Message
    relations: tuple[Relation, ...]
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A message of ours that may be answered: by whom, or from where if that is not signed."""

    kind: Kind
    subject: bytes
    relations: tuple[Relation, ...]
    addresses: frozenset[IPAddress] = frozenset()


_Place = tuple[bytes, bytes, Way | None]
"""Key, subject, and the way of a HELLO or None for statements: each of the three has an order of
its own, since a HAVE got its number when it was prepared, and the tunnel takes longer."""


@dataclass(frozen=True, slots=True)
class _Latest:
    """The newest that a key has said on a subject; ``datagram`` is b"" where another told so."""

    order: tuple[int, int]
    datagram: bytes = b""


class Trust:
    """Judges datagrams. Who calls says what time it is, by the loop's clock."""

    def __init__(self, relations: Relations, verify: Verify) -> None:
        self._relations = relations
        self._verify = verify
        self._questions: dict[bytes, Question] = {}
        self._asked = Counter[IPAddress]()
        self._latest: dict[_Place, _Latest] = {}
        self._arrivals = Buckets[Source](*ARRIVALS)
        self._strangers = Bucket(*STRANGERS)
        self._signatures = Buckets[Source](*SIGNATURES)
        self._hellos = Buckets[Source](*HELLOS)
        self._of_hellos = Bucket(*HELLOS_OF_ALL)
        self._of_peers = Bucket(*SIGNATURES_OF_PEERS)
        self._of_bystanders = Bucket(*SIGNATURES_OF_BYSTANDERS)

    def expect(self, nonce: bytes, question: Question) -> None:
        """Let answers to *nonce* in; those already expected are replaced."""
        self.expect_no_more(nonce)
        self._questions[nonce] = question
        self._asked.update(question.addresses)

    def expect_no_more(self, nonce: bytes) -> None:
        """Let no answer to *nonce* in."""
        question = self._questions.pop(nonce, None)
        if question:
            # Unlike subtract, it keeps no zeros.
            self._asked -= Counter(question.addresses)

    def judge(self, datagram: bytes, source: Source, now: float) -> Accepted | Refusal:
        """Tell whether *datagram* may be acted upon, and remember that it was."""
        if (refused := self._weigh(datagram, source, now)) is not None:
            return refused
        message = messages.read(datagram)
        match message:
            case Malformed():
                return message
            case BystanderAck():
                return self._judge_unsigned(message, source)
        relations = self._speakers(message, source)
        if isinstance(relations, Refused):
            return relations
        if not _has_come_right(message, source):
            return Malformed.WAY
        return self._judge_signed(message, datagram, relations, source, now)

    def _weigh(self, datagram: bytes, source: Source, now: float) -> Refusal | None:
        """Refuse what is not worth reading, and what is too much of it."""
        # A bystander that may answer need not be anybody's peer.
        is_known = source is None or self._relations.has_address(source) or source in self._asked
        budget = self._arrivals.try_take(source, now) if is_known else self._strangers.try_take(now)
        if not budget:
            return Refused.FLOOD
        if len(datagram) > messages.MOST:
            return Malformed.SIZE
        return None if is_known else Refused.SOURCE

    def _judge_unsigned(self, message: BystanderAck, source: Source) -> Accepted | Refusal:
        question = self._questions.get(message.nonce)
        if question is None or question.kind is not Kind.HAVE:
            return Refused.NONCE
        return Accepted(message, ()) if source in question.addresses else Refused.SOURCE

    def _speakers(self, message: Signed, source: Source) -> tuple[Relation, ...] | Refused:
        """Return the relations that the message may speak by, all of one key."""
        header = message.header
        if not self._relations.has_key(header.key_id):
            return Refused.KEY
        if header.kind in _ANSWERS:
            question = self._questions.get(header.nonce)
            if question is None or not _answers(header.kind, question.kind):
                return Refused.NONCE
            is_about = header.subject == question.subject
            spoken = list(question.relations) if is_about else []
        else:
            spoken = list(self._relations.of_subject(header.subject))
        spoken = [one for one in spoken if one.key_id == header.key_id]
        if not spoken:
            return Refused.ENDPOINT
        fitting = [one for one in spoken if one.has_other_side]
        if not fitting:
            return Refused.ROLE
        # Two keys that begin alike would be a forgery of the API's: the first one counts.
        near = [one for one in fitting if source is None or source in one.addresses]
        return tuple(one for one in near if one.public_key == near[0].public_key) or Refused.SOURCE

    def _judge_signed(
        self,
        message: Signed,
        datagram: bytes,
        relations: tuple[Relation, ...],
        source: Source,
        now: float,
    ) -> Accepted | Refusal:
        header = message.header
        way = message.body.way if isinstance(message.body, messages.Hello) else None
        place = (relations[0].public_key, header.subject, way)
        # What answers a question of ours is as new as that: its nonce was never used before.
        is_answer = header.kind in _ANSWERS
        latest = None if is_answer else self._latest.get(place)
        is_repeat = latest is not None and datagram == latest.datagram
        if latest and not is_repeat and (header.boot, header.sequence) <= latest.order:
            return Refused.SEQUENCE
        # A repeat costs its answer, which is no less.
        if not self._may_verify(message, relations, source, now):
            return Refused.BUDGET
        if is_repeat:
            # Its signature was verified with the first of them.
            return Accepted(message, relations, is_repeat=True)
        if not self._verify(relations[0].public_key, message.text, message.signature):
            return Refused.SIGNATURE
        if not is_answer:
            self._remember(place, _Latest((header.boot, header.sequence), datagram))
        self._learn_said(message, relations)
        return Accepted(message, relations)

    def _may_verify(
        self, message: Signed, relations: Iterable[Relation], source: Source, now: float
    ) -> bool:
        # First the source's own, so that one that has spent it takes nothing from the others.
        if isinstance(message.body, messages.Hello | messages.HelloAnswer):
            return self._hellos.try_take(source, now) and self._of_hellos.try_take(now)
        is_bystanders = all(one.is_bystanders for one in relations)
        of_all = self._of_bystanders if is_bystanders else self._of_peers
        return self._signatures.try_take(source, now) and of_all.try_take(now)

    def _learn_said(self, message: Signed, relations: tuple[Relation, ...]) -> None:
        """Know by a HELLO which statements are void, also those from before our own start."""
        match message.body:
            case messages.Hello(said=said) | messages.HelloAnswer(said=said) if said:
                pass
            case _:
                return
        boot = message.header.boot
        for one in relations:
            place = (one.public_key, one.subject, None)
            latest = self._latest.get(place)
            # The newest itself may still be under way.
            if latest is None or latest.order < (boot, said - 1):
                self._remember(place, _Latest((boot, said - 1)))

    def _remember(self, place: _Place, latest: _Latest) -> None:
        # Taken out before, so that those that said nothing for longest stand in front.
        self._latest.pop(place, None)
        self._latest[place] = latest
        if len(self._latest) > REMEMBERED:
            unused = (old for old in self._latest if not self._relations.of_subject(old[1]))
            if oldest := next(unused, None):
                del self._latest[oldest]


def _answers(answer: Kind, question: Kind) -> bool:
    is_ack = answer is Kind.ACK
    return question in messages.STATEMENTS if is_ack else question is Kind.HELLO


def _has_come_right(message: Signed, source: Source) -> bool:
    """Tell whether a HELLO has come by the way that it names; through the tunnel come no others."""
    if isinstance(message.body, messages.Hello):
        return (message.body.way is Way.TUNNEL) == (source is None)
    return source is not None
