"""PURE: which statements of others were heard, and the ACK that each has got.

A peer whose ACK was lost says it again, and gets the same one: nothing is done twice. What could
not be done at once is acknowledged when it is.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from handover_api.names import ObjectKey
from handover_nodeagent.peers import messages
from handover_nodeagent.peers.messages import Kind, Times
from handover_nodeagent.peers.relations import Relation
from handover_nodeagent.peers.sink import Done
from handover_nodeagent.peers.statements import Destination, Sign


@dataclass(slots=True)
class _Heard:
    nonce: bytes
    received_ns: int
    destination: Destination
    ack: bytes | None = None


class Answers:
    """The last statement of each relation, and its ACK."""

    def __init__(self, sign: Sign) -> None:
        self._sign = sign
        self._heard: dict[Relation, _Heard] = {}

    def known(self, relation: Relation, nonce: bytes) -> bytes | None:
        """Return the ACK that a statement has got; None where it is not done so far."""
        heard = self._heard.get(relation)
        return heard.ack if heard and heard.nonce == nonce else None

    def hear(
        self, relation: Relation, nonce: bytes, received_ns: int, destination: Destination
    ) -> None:
        """Remember a statement; its first datagram says when it came."""
        heard = self._heard.get(relation)
        if heard is None or heard.nonce != nonce:
            self._heard[relation] = _Heard(nonce, received_ns, destination)

    def compose(self, relation: Relation, nonce: bytes, done: Done) -> bytes | None:
        """Return the ACK of what is done, and remember it; None where a newer one was heard."""
        heard = self._heard.get(relation)
        if heard is None or heard.nonce != nonce:
            return None
        return self._acknowledge(relation, heard, done)

    def later(self, key: ObjectKey, uid: str, done: Done) -> Iterator[tuple[bytes, Destination]]:
        """Yield the ACKs of what was heard on *key* and *uid*, and was not done then."""
        for relation, heard in self._heard.items():
            if (relation.key, relation.uid) == (key, uid) and heard.ack is None:
                yield self._acknowledge(relation, heard, done), heard.destination

    def forget(self, relations: Collection[Relation]) -> None:
        """Know that nobody speaks by these any more."""
        for relation in relations:
            self._heard.pop(relation, None)

    def _acknowledge(self, relation: Relation, heard: _Heard, done: Done) -> bytes:
        times = Times(heard.received_ns, *done)
        if relation.is_bystanders:
            heard.ack = messages.compose_bystander_ack(heard.nonce, times)
        else:
            _, heard.ack = self._sign(Kind.ACK, times, relation.subject, heard.nonce)
        return heard.ack
