"""PURE: which peers hear us, by which of their addresses and ways, and what their clocks say.

A peer that is new is asked a few times at once, at each of its addresses and through the tunnel,
and every ten seconds afterwards: what worked when the migration began may not work when it moves.
Until all of these ways are proved it is asked sooner, ever more rarely: its firewall may open the
tunnel a moment after ours.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from handover_api.names import ObjectKey
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers import repeats
from handover_nodeagent.peers.clocks import Clock, Exchange, Offset
from handover_nodeagent.peers.messages import Hello, HelloAnswer, Kind, Way
from handover_nodeagent.peers.relations import Relation
from handover_nodeagent.peers.statements import Destination, Sign
from handover_nodeagent.peers.trust import Question, Trust

EVERY: Final = 10.0
"""Seconds between two HELLOs to a peer that is known: some hundred bytes, and by then quartz has
drifted by a millisecond at most."""


class Outgoing(NamedTuple):
    """A HELLO to send by its way; ``Hellos.sent`` wants to know when that was."""

    nonce: bytes
    datagram: bytes
    destination: Destination
    way: Way


@dataclass(slots=True)
class _Asked:
    relation: Relation
    address: IPAddress
    way: Way
    until: float
    sent_ns: int = 0


@dataclass(slots=True)
class Contact:
    """What is known of the way to one peer."""

    relation: Relation
    since: float
    next: float
    began: float
    """When the newest series of questions did."""
    number: int = 0
    is_silent: bool = False
    proved: set[tuple[IPAddress, Way]] = field(default_factory=set)


class Hellos:
    """Asks all peers. Times are the loop's, in seconds, but for those in nanoseconds."""

    def __init__(
        self,
        sign: Sign,
        make_nonce: Callable[[], bytes],
        news: Callable[[ObjectKey, str], tuple[int, bytes]],
        trust: Trust,
    ) -> None:
        """*news* returns what a HELLO says beside its way: ``said`` and ``promise``."""
        self._sign = sign
        self._make_nonce = make_nonce
        self._news = news
        self._trust = trust
        self._contacts: dict[Relation, Contact] = {}
        self._asked: dict[bytes, _Asked] = {}
        # By key: an agent that starts again may be on another clock.
        self._clocks: dict[bytes, Clock] = {}

    @property
    def due(self) -> float | None:
        """When somebody is to be asked, or has been silent for too long."""
        dues = [contact.next for contact in self._contacts.values()]
        dues += [
            contact.since + repeats.GIVE_UP
            for contact in self._contacts.values()
            if not contact.proved and not contact.is_silent
        ]
        return min(dues, default=None)

    def know(self, gone: Iterable[Relation], new: Iterable[Relation], now: float) -> None:
        """Ask those that are new, and those that are gone no more."""
        for relation in gone:
            self._contacts.pop(relation, None)
            for nonce in [n for n, asked in self._asked.items() if asked.relation == relation]:
                self._drop(nonce)
        for relation in new:
            self._contacts[relation] = Contact(relation, now, now, now)
        keys = {contact.public_key for contact in self._contacts}
        for key in [key for key in self._clocks if key not in keys]:
            del self._clocks[key]

    def ask_all(self, now: float) -> None:
        """Ask all at once: there is another way to them."""
        for contact in self._contacts.values():
            contact.next = contact.began = now
            contact.number = 0

    def ask_again(self, relations: Iterable[Relation], now: float) -> None:
        """Ask these once more at once: there is something to tell them."""
        for contact in filter(None, map(self._contacts.get, relations)):
            contact.next = now

    def contact(self, relation: Relation) -> Contact | None:
        """Return what is known of the way to a peer."""
        return self._contacts.get(relation)

    def offset(self, public_key: bytes, now_ns: int) -> Offset | None:
        """Return how far the clock of that agent is ahead of ours, as far as that is known."""
        clock = self._clocks.get(public_key)
        return clock.offset(now_ns) if clock else None

    def take(self, now: float, ways: Collection[Way]) -> list[Outgoing]:
        """Return what to send now, by each of *ways*."""
        for nonce in [nonce for nonce, asked in self._asked.items() if asked.until <= now]:
            self._drop(nonce)
        outgoing = []
        for contact in self._contacts.values():
            if contact.next > now:
                continue
            contact.number += 1
            is_series = contact.number < len(repeats.HELLO)
            pause = _pause(contact, ways, now)
            later = contact.began + repeats.HELLO[contact.number] if is_series else now + pause
            # What was missed meanwhile is asked once.
            contact.next = max(later, now)
            outgoing += [
                self._ask(contact.relation, address, way, now)
                for address in contact.relation.addresses
                for way in ways
            ]
        return outgoing

    def silent(self, now: float) -> list[Relation]:
        """Return who has become one that answers nothing."""
        silent = [
            contact
            for contact in self._contacts.values()
            if not contact.proved
            and not contact.is_silent
            and now >= contact.since + repeats.GIVE_UP
        ]
        for contact in silent:
            contact.is_silent = True
        return [contact.relation for contact in silent]

    def heard(self, relation: Relation, now: float) -> None:
        """Ask a peer that asks us, and did not answer so far: it may not have known us then."""
        contact = self._contacts.get(relation)
        if contact and not contact.proved:
            contact.next = now

    def sent(self, nonce: bytes, now_ns: int) -> None:
        """Know when a HELLO was sent: signing it is no part of its way."""
        if nonce in self._asked:
            self._asked[nonce].sent_ns = now_ns

    def answered(
        self, nonce: bytes, answer: HelloAnswer, received_ns: int
    ) -> tuple[Contact, IPAddress, Way] | None:
        """Take an answer in; return whose it is and what it proves, if that was not known."""
        asked = self._asked.get(nonce)
        contact = self._contacts.get(asked.relation) if asked else None
        if asked is None or contact is None:
            return None
        self._drop(nonce)
        # Through the tunnel it has gone one way only, and the two may differ.
        if asked.way is Way.PLAIN:
            clock = self._clocks.setdefault(asked.relation.public_key, Clock())
            times = Exchange(asked.sent_ns, answer.received_ns, answer.sent_ns, received_ns)
            clock.learn(times)
        proof = asked.address, asked.way
        is_new = proof not in contact.proved
        contact.proved.add(proof)
        contact.is_silent = False
        return (contact, *proof) if is_new else None

    def _ask(self, relation: Relation, address: IPAddress, way: Way, now: float) -> Outgoing:
        nonce = self._make_nonce()
        hello = Hello(way, *self._news(relation.key, relation.own_uid))
        _, datagram = self._sign(Kind.HELLO, hello, relation.own_subject, nonce)
        self._asked[nonce] = _Asked(relation, address, way, now + repeats.GIVE_UP)
        self._trust.expect(nonce, Question(Kind.HELLO, relation.own_subject, (relation,)))
        return Outgoing(nonce, datagram, Destination.at(address, relation.port), way)

    def _drop(self, nonce: bytes) -> None:
        del self._asked[nonce]
        self._trust.expect_no_more(nonce)


def _pause(contact: Contact, ways: Collection[Way], now: float) -> float:
    """Return the seconds until the next question after a series."""
    asked = {(address, way) for address in contact.relation.addresses for way in ways}
    if asked <= contact.proved:
        return EVERY
    # As long as it has lasted so far: so the pauses double.
    return min(EVERY, max(repeats.HELLO[-1], now - contact.began))
