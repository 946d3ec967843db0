"""Whom each endpoint's agent may believe about its guest, and which of them has it by our word.

Agents tell each other of a switchover without the API, but only those that were named to each other
before: the endpoints of both sides of a migration, and a former source that still sends on what
arrives for its guest, to which the next migration matters as well. What the agents could not tell
each other is seen here, by what each of them has measured.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from handover_api import peer
from handover_api.livemigration import LiveMigration
from handover_api.names import ObjectKey
from handover_api.peer import Peer
from handover_api.workloadendpoint import AgentAddress, Role, State
from handover_operator.roles.index import Index, MigrationId, migration_id
from handover_operator.roles.model import Address, Endpoint
from handover_operator.roles.multimap import Multimap

CROWD: Final = 64
"""Endpoints of one migration, or with one address, above which none of them has peers: a VM has as
many as it has interfaces, and who makes thousands must not stop the operator for all."""

_OPEN: Final = frozenset({State.LIVE, State.TIME_WAIT, State.REDIRECTED})
"""States that last beyond a role and in which others' packets depend on where the guest is. Asking
is none: an agent comes by it once a minute, and each time would be two writes."""
_AWAY: Final = frozenset({State.REDIRECTED, State.WITHDRAWN})
"""States in which the endpoint's own agent says that the guest is not there."""
_LONG_AGO: Final = dt.datetime.min.replace(tzinfo=dt.UTC)


class Told(NamedTuple):
    """What an endpoint's annotations are to say: of its peers, and which migration's has the guest.

    ``live``: the first of the peers with this migration's uid has it. Empty: nothing.
    """

    peers: str = ""
    live: str = ""


NOTHING: Final = Told()


class Peers:
    """Keeps what is to be said; the cost of a change is that of the endpoints that it touches."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._known: dict[ObjectKey, Endpoint] = {}
        self._with_address: Multimap[tuple[str, Address], ObjectKey] = Multimap()
        self._told: dict[ObjectKey, Told] = {}
        self._stale: set[ObjectKey] = set()

    def put(self, endpoint: Endpoint) -> None:
        """Take in an endpoint, new or changed, that the index knows by now."""
        before = self._known.get(endpoint.key)
        after = endpoint if endpoint.assignment.migration_uid is not None else None
        if before is not None and after is not None and _compared(before) == _compared(after):
            self._known[endpoint.key] = after
            return
        self.drop(endpoint.key)
        if after is not None:
            self._known[endpoint.key] = after
            for address in after.ips:
                self._with_address.add((after.key.namespace, address), after.key)
            self._mark(after)
        # Also one that takes part in nothing: somebody may have written upon it what was never so.
        if endpoint.peers or endpoint.peer_live:
            self._stale.add(endpoint.key)

    def drop(self, key: ObjectKey) -> None:
        """Forget an endpoint, which the index may have forgotten; one that is unknown is fine."""
        before = self._known.pop(key, None)
        if before is None:
            return
        self._mark(before)
        for address in before.ips:
            self._with_address.remove((key.namespace, address), key)

    def mark(self, migration: LiveMigration) -> None:
        """Take in that a LiveMigration has come or gone: which one is the newest depends on it."""
        for key in self._index.carriers(migration_id(migration)) & self._known.keys():
            self._mark(self._known[key])

    def settle(self) -> frozenset[ObjectKey]:
        """Look at what changed; return those of which something else may be to be said now."""
        looked_at, self._stale = frozenset(self._stale), set()
        for key in looked_at:
            told = self._tell(key)
            if told == NOTHING:
                self._told.pop(key, None)
            else:
                self._told[key] = told
        return looked_at

    def told(self, key: ObjectKey) -> Told:
        """Return what is to be said of an endpoint."""
        return self._told.get(key, NOTHING)

    def _mark(self, endpoint: Endpoint) -> None:
        """Mark all to whom *endpoint* may matter: those of its migration and of its addresses."""
        self._stale.add(endpoint.key)
        for group in self._groups(endpoint):
            # One more than may be: those that were told before it became a crowd have to be told.
            if len(group) <= CROWD + 1:
                self._stale |= group

    def _groups(self, endpoint: Endpoint) -> Iterator[AbstractSet[ObjectKey]]:
        yield self._index.carriers(_identity(endpoint))
        for address in endpoint.ips:
            yield self._with_address[endpoint.key.namespace, address]

    def _tell(self, key: ObjectKey) -> Told:
        endpoint = self._known.get(key)
        if endpoint is None or any(len(group) > CROWD for group in self._groups(endpoint)):
            return NOTHING
        others = self._others(endpoint)
        holder = self._holder(endpoint, others)
        if holder is not None:
            others = [holder, *(each for each in others if each is not holder)]
        text = peer.peers_to_annotation(map(_entry, others))
        return Told(text or "", _uid(holder) if holder is not None else "")

    def _others(self, endpoint: Endpoint) -> list[Endpoint]:
        """Return the peers: of newer migrations first, each in one order always."""
        sharing = {
            key
            for address in endpoint.ips
            for key in self._with_address[endpoint.key.namespace, address]
        }
        is_open = self._is_open(endpoint)
        found = [
            other
            for other in (self._known[key] for key in sorted(sharing))
            # An agent needs nobody to tell it what it does itself.
            if other.agent is not None
            and other.node != endpoint.node
            and _side(other) is not None
            and self._are_peers(endpoint, other, is_open=is_open)
        ]
        # Stable: among those of one migration the order is that of their names.
        return sorted(found, key=self._since, reverse=True)

    def _are_peers(self, one: Endpoint, other: Endpoint, *, is_open: bool) -> bool:
        """*is_open*: the migration of the first goes on, or somebody still depends on it."""
        if _identity(one) == _identity(other):
            return is_open and _side(one) is not _side(other)
        return self._is_former(one, other) or self._is_former(other, one)

    def _is_former(self, source: Endpoint, other: Endpoint) -> bool:
        """*source* sends on to where the guest of *other*'s newer migration was before."""
        if source.state is not State.REDIRECTED or _side(source) is not Role.SOURCE:
            return False
        since, later = self._since(source), self._since(other)
        # Times have whole seconds, and of what is deleted there is none: then one that has the
        # guest sent on as well is no newer one.
        is_newer = later > since or (later == since and other.state is not State.REDIRECTED)
        return is_newer and _is_concerned(other)

    def _holder(self, endpoint: Endpoint, others: Sequence[Endpoint]) -> Endpoint | None:
        """Return the one of *others* that has the guest, as far as the agents have told us."""
        newer = [each for each in others if self._is_former(endpoint, each)]
        newest = _uid(newer[0] if newer else endpoint)
        heard = [
            each
            for each in (endpoint, *others)
            if _uid(each) == newest and _was_heard(each, newest) and each.state not in _AWAY
        ]
        if heard:
            last = max(heard, key=_last_heard)
            return None if last is endpoint else last
        # Nobody was heard in the newer migration so far, and the guest is where it had gone to.
        uid = _uid(endpoint)
        arrived = (each for each in newer if _was_heard(each, uid) and each.state not in _AWAY)
        return next(arrived, None)

    def _is_open(self, endpoint: Endpoint) -> bool:
        carriers = self._index.carriers(_identity(endpoint))
        return any(_is_concerned(self._index.endpoints[key]) for key in carriers)

    def _since(self, endpoint: Endpoint) -> dt.datetime:
        """Return when the migration was made that *endpoint* speaks of."""
        named = self._index.with_id(_identity(endpoint))
        made = (self._index.migrations[key].metadata.creation_timestamp for key in named)
        return max((each for each in made if each is not None), default=_LONG_AGO)


def _compared(endpoint: Endpoint) -> tuple[object, ...]:
    """Return what matters here: most reports change none of it."""
    said, cutover = endpoint.assignment, endpoint.cutover
    return (
        *(endpoint.node, endpoint.ips, endpoint.agent, endpoint.peers, endpoint.peer_live),
        *(said.migration_uid, said.role, said.ended_role),
        *(endpoint.state in _OPEN, endpoint.state in _AWAY),
        None if cutover is None else (cutover.migration_uid, cutover.time),
    )


def _is_concerned(endpoint: Endpoint) -> bool:
    """It has a role, or its packets still depend on where its guest is."""
    return endpoint.assignment.role is not None or endpoint.state in _OPEN


def _side(endpoint: Endpoint) -> Role | None:
    return endpoint.assignment.role or endpoint.assignment.ended_role


def _identity(endpoint: Endpoint) -> MigrationId:
    return endpoint.key.namespace, _uid(endpoint)


def _uid(endpoint: Endpoint) -> str:
    return endpoint.assignment.migration_uid or ""


def _was_heard(endpoint: Endpoint, uid: str) -> bool:
    return endpoint.cutover is not None and endpoint.cutover.migration_uid == uid


def _last_heard(endpoint: Endpoint) -> dt.datetime:
    return _LONG_AGO if endpoint.cutover is None else endpoint.cutover.time


def _entry(other: Endpoint) -> Peer:
    """Name one whose agent and side are known."""
    agent: AgentAddress | None = other.agent
    side = _side(other)
    assert agent is not None
    assert side is not None
    return Peer(
        uid=_uid(other),
        endpoint=other.key.name,
        node=other.node,
        role=side,
        public_key=agent.public_key,
        addresses=agent.addresses,
        port=agent.port,
    )
