"""PURE: what peers have promised to say, known by its digest before it comes.

A HAVE is signed before the switch, and its BLAKE2s goes along with the signed HELLOs. So bytes of
that digest have come from the agent that promised them, without their signature's being verified:
at the switch nothing is left but to act. A promise is kept once, and only a newer HELLO makes
another one.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from handover_nodeagent.peers import messages
from handover_nodeagent.peers.messages import Header
from handover_nodeagent.peers.relations import Relation


@dataclass(frozen=True, slots=True)
class _Promise:
    order: tuple[int, int]
    digest: bytes


class Promises:
    """The newest promise of each peer."""

    def __init__(self) -> None:
        self._newest: dict[Relation, _Promise] = {}
        self._open: dict[bytes, tuple[Relation, ...]] = {}

    def learn(self, relations: Iterable[Relation], header: Header, digest: bytes) -> None:
        """Take in what a HELLO, or an answer to one, with this *header* promises to *relations*."""
        order = header.boot, header.sequence
        for one in relations:
            before = self._newest.get(one)
            if one.is_bystanders or (before and order <= before.order):
                continue
            self._newest[one] = _Promise(order, digest)
            if before is None or before.digest != digest:
                self._drop(one, before)
                if digest != messages.NO_PROMISE:
                    self._open[digest] = (*self._open.get(digest, ()), one)

    def redeem(self, datagram: bytes) -> tuple[Relation, ...]:
        """Return to whom *datagram* was promised; it keeps the promise."""
        # As a rule nothing is promised, and nothing needs to be compared.
        return self._open.pop(messages.digest(datagram), ()) if self._open else ()

    def forget(self, relations: Collection[Relation]) -> None:
        """Know that nobody speaks by these any more."""
        for one in relations:
            self._drop(one, self._newest.pop(one, None))

    def _drop(self, relation: Relation, promise: _Promise | None) -> None:
        if promise and promise.digest in self._open:
            rest = tuple(one for one in self._open[promise.digest] if one != relation)
            if rest:
                self._open[promise.digest] = rest
            else:
                del self._open[promise.digest]
