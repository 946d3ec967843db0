"""Which addresses several nodes serve at once without a migration between them.

Each of the two agents sees nothing wrong: it has the route of a guest of its own. Only who sees
both can say that half of the cluster's packets go to a node that may not have the guest.
"""

import datetime as dt
from collections.abc import Iterator
from typing import Final

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_operator.roles.model import Address, Endpoint
from handover_operator.roles.multimap import Multimap

SHARED_FOR: Final = dt.timedelta(seconds=10)
"""So long it must last: reports come one after the other, and an address of a pod that has ended
may belong to the next one before its endpoint is gone."""

Rival = tuple[Address, ObjectKey]


class Sharing:
    """Keeps who serves what; the cost of a change is that of the addresses that it touches."""

    def __init__(self) -> None:
        self._serving: dict[ObjectKey, Endpoint] = {}
        self._servers: Multimap[Address, ObjectKey] = Multimap()
        self._rivals: dict[ObjectKey, Rival] = {}
        self._since: dict[ObjectKey, dt.datetime] = {}
        self._waiting: set[ObjectKey] = set()
        self._stale: set[ObjectKey] = set()

    def __len__(self) -> int:
        """Count the endpoints that share an address, also those of a moment ago."""
        return len(self._rivals)

    def put(self, endpoint: Endpoint) -> None:
        """Take in an endpoint, new or changed."""
        before = self._serving.get(endpoint.key)
        # Without a route its node attracts nothing, whatever its spec names; and one that sends on
        # what it attracts serves nobody.
        serves = endpoint.routed and endpoint.state is not State.REDIRECTED
        after = endpoint if serves else None
        if before is None and after is None:
            return
        # Most reports change none of these; what is said of the others stays as it is.
        if before is not None and after is not None and _compared(before) == _compared(after):
            self._serving[endpoint.key] = endpoint
            return
        self.drop(endpoint.key)
        if after is not None:
            self._serving[endpoint.key] = after
            for address in after.ips:
                self._stale |= self._servers[address]
                self._servers.add(address, endpoint.key)
            self._stale.add(endpoint.key)

    def drop(self, key: ObjectKey) -> None:
        """Forget an endpoint; one that is unknown is fine."""
        before = self._serving.pop(key, None)
        if before is None:
            return
        for address in before.ips:
            self._servers.remove(address, key)
            self._stale |= self._servers[address]
        self._stale.add(key)

    def settle(self, now: dt.datetime) -> frozenset[ObjectKey]:
        """Look at what changed; return those of which something else may be said now."""
        looked_at = self._stale
        self._stale = set()
        for key in looked_at:
            rival = self._rival(key)
            if rival is None:
                self._rivals.pop(key, None)
                self._since.pop(key, None)
                self._waiting.discard(key)
                continue
            self._rivals[key] = rival
            # The clock runs from the first rival on, whoever takes its place meanwhile.
            if key not in self._since:
                self._since[key] = now
                self._waiting.add(key)
        # Nothing changes when their time has come, so nobody else would look at them.
        ripe = {key for key in self._waiting if now - self._since[key] >= SHARED_FOR}
        self._waiting -= ripe
        return frozenset(looked_at | ripe)

    def wake(self, now: dt.datetime) -> dt.datetime | None:
        """Return when to settle again though nothing changed; never a time that is past."""
        due = (self._since[key] + SHARED_FOR for key in self._waiting)
        return min((moment for moment in due if moment > now), default=None)

    def message(self, key: ObjectKey, now: dt.datetime) -> str:
        """Return what must be said of an endpoint; nothing where it has its addresses alone."""
        since = self._since.get(key)
        if since is None or now - since < SHARED_FOR:
            return ""
        address, rival = self._rivals[key]
        other = self._serving.get(rival)
        return "" if other is None else f"{address} is also served by {rival} on {other.node}"

    def _rival(self, key: ObjectKey) -> Rival | None:
        """Return one that serves the same address; the one that was named before, if it may be."""
        endpoint = self._serving.get(key)
        if endpoint is None:
            return None
        named = self._rivals.get(key)
        # Another name in each report would be another message, and a write, each time.
        if named is not None and self._is_named(endpoint, *named):
            return named
        return next(self._others(endpoint), None)

    def _is_named(self, endpoint: Endpoint, address: Address, rival: ObjectKey) -> bool:
        both_serve = address in endpoint.ips and rival in self._servers[address]
        return both_serve and self._is_rival(endpoint, rival)

    def _others(self, endpoint: Endpoint) -> Iterator[Rival]:
        for address in endpoint.ips:
            for key in self._servers[address]:
                if self._is_rival(endpoint, key):
                    yield address, key

    def _is_rival(self, endpoint: Endpoint, key: ObjectKey) -> bool:
        other = self._serving.get(key)
        return (
            other is not None
            # One kernel has one route to an address, whoever has it there.
            and other.node != endpoint.node
            and not _has_migration(endpoint, other)
        )


def _compared(endpoint: Endpoint) -> tuple[object, ...]:
    said = endpoint.assignment
    return endpoint.node, endpoint.ips, endpoint.state, said.migration_uid, said.role


def _has_migration(one: Endpoint, other: Endpoint) -> bool:
    """A migration moves the guest from one to the other; two that are back in Base have none."""
    uids = {one.assignment.migration_uid, other.assignment.migration_uid}
    # What two different migrations, or none, make of them explains nothing.
    if None in uids or len(uids) > 1:
        return False
    has_role = one.assignment.role is not None or other.assignment.role is not None
    return has_role or {one.state, other.state} != {State.BASE}
