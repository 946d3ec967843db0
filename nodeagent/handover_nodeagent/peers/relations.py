"""PURE: whom the API lets speak for which endpoint: an index of what the annotations say.

An endpoint of this node has peers: agents that may say of its guest that they have it. An endpoint
of another node that is advertised has one agent that may say it to all, its own.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers import messages

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Relation:
    """That one agent may speak of one migration to one endpoint.

    ``key``: the endpoint of ours that it concerns; of a bystander, the advertised one itself, and
    then ``own_role`` is None. ``endpoint`` is the one that the agent speaks for, in the same
    namespace, and ``role`` what that is in the migration ``uid``, or was. A source of a migration
    before this one hears of the newest, so ``own_uid`` may be another.
    """

    key: ObjectKey
    own_role: Role | None
    own_uid: str
    uid: str
    endpoint: str
    node: str
    role: Role
    public_key: bytes
    addresses: tuple[IPAddress, ...]
    port: int
    key_id: bytes = field(init=False)
    subject: bytes = field(init=False)
    """Of what the peer says."""
    own_subject: bytes = field(init=False)
    """Of what we say to it."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __hash__(self) -> int:
        """Return what was found once: addresses are slow to hash, and each datagram asks for it."""
        return self._hash

    def __post_init__(self) -> None:
        # Frozen, but for what follows from the other fields and is asked for with each datagram.
        speaker = ObjectKey(self.key.namespace, self.endpoint)
        object.__setattr__(self, "key_id", self.public_key[: messages.KEY_ID])
        object.__setattr__(self, "subject", messages.subject(speaker, self.uid))
        object.__setattr__(self, "own_subject", messages.subject(self.key, self.own_uid))
        names = (self.key, self.own_uid, self.uid, self.endpoint, self.node, self.public_key)
        object.__setattr__(self, "_hash", hash(names))

    @property
    def is_bystanders(self) -> bool:
        """It concerns no endpoint of ours."""
        return self.own_role is None

    @property
    def has_other_side(self) -> bool:
        """Nobody of our own side has anything to say: two targets of one migration are no peers."""
        return self.uid != self.own_uid or self.role is not self.own_role


class Relations:
    """All relations of this node; a change costs what changes."""

    def __init__(self) -> None:
        self._peers: dict[ObjectKey, tuple[Relation, ...]] = {}
        self._advertised: dict[ObjectKey, tuple[Relation, ...]] = {}
        self._by_subject: dict[bytes, tuple[Relation, ...]] = {}
        self._key_ids: Counter[bytes] = Counter()
        self._addresses: Counter[IPAddress] = Counter()
        self._peer_addresses: Counter[IPAddress] = Counter()

    @property
    def peer_addresses(self) -> frozenset[IPAddress]:
        """Where the peers of our own endpoints are."""
        return frozenset(self._peer_addresses)

    @property
    def addresses(self) -> frozenset[IPAddress]:
        """Where anybody is who may speak."""
        return frozenset(self._addresses)

    def peers(self, key: ObjectKey) -> tuple[Relation, ...]:
        """Return who may speak to the endpoint *key* of ours."""
        return self._peers.get(key, ())

    def know_peers(self, key: ObjectKey, relations: Iterable[Relation]) -> tuple[Relation, ...]:
        """Replace the peers of an endpoint of ours, and return those before; none is forgotten."""
        return self._replace(self._peers, key, tuple(relations))

    def know_advertised(
        self, key: ObjectKey, relations: Iterable[Relation]
    ) -> tuple[Relation, ...]:
        """Replace who speaks for another node's endpoint, and return who did before."""
        return self._replace(self._advertised, key, tuple(relations))

    def has_address(self, address: IPAddress) -> bool:
        """Tell whether anybody who may speak is there."""
        return address in self._addresses

    def has_key(self, key_id: bytes) -> bool:
        """Tell whether anybody who may speak has such a key."""
        return key_id in self._key_ids

    def of_subject(self, subject: bytes) -> tuple[Relation, ...]:
        """Return whom a message on *subject* may concern: endpoints of ours before all others."""
        return self._by_subject.get(subject, ())

    def _replace(
        self,
        book: dict[ObjectKey, tuple[Relation, ...]],
        key: ObjectKey,
        relations: tuple[Relation, ...],
    ) -> tuple[Relation, ...]:
        old = book.pop(key, ())
        for one in old:
            self._count(one, -1)
            rest = tuple(other for other in self._by_subject[one.subject] if other is not one)
            self._by_subject[one.subject] = rest
            if not rest:
                del self._by_subject[one.subject]
        for one in relations:
            self._count(one, 1)
            known = (*self._by_subject.get(one.subject, ()), one)
            self._by_subject[one.subject] = tuple(sorted(known, key=_is_bystanders))
        if relations:
            book[key] = relations
        return old

    def _count(self, one: Relation, by: int) -> None:
        for address in one.addresses:
            _add(self._addresses, address, by)
            if not one.is_bystanders:
                _add(self._peer_addresses, address, by)
        _add(self._key_ids, one.key_id, by)


def _add(counter: Counter[_T], counted: _T, by: int) -> None:
    counter[counted] += by
    # What is not there any more would else be remembered for ever.
    if not counter[counted]:
        del counter[counted]


def _is_bystanders(relation: Relation) -> bool:
    return relation.is_bystanders
