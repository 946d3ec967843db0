"""Who concerns whom: LiveMigrations and endpoints, joined by name, workload and label.

As an indexer of client-go does, it files endpoints under *keys* (their name, their workload, each
label) and migrations under the keys of what they look for. Two that share a key are candidates, so
that a change of one object looks at those few others only.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from handover_api.livemigration import LiveMigration, Source, Target
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role
from handover_operator.roles import counts, labels
from handover_operator.roles.counts import TraitCounts, Traits
from handover_operator.roles.model import Endpoint
from handover_operator.roles.multimap import Multimap

IndexKey = tuple[str, ...]
MigrationId = tuple[str, str]
"""Namespace and migration uid: the same migration, also when its object was made anew."""

_NOTHING: Final[Mapping[ObjectKey, "Match"]] = {}


class Match(NamedTuple):
    """What a migration's spec makes of an endpoint.

    ``contested``: the target's side matches an endpoint that the same migration names as source.
    """

    role: Role
    by_selector: bool = False
    contested: bool = False


def match(migration: LiveMigration, endpoint: Endpoint) -> Match | None:
    """Return what *migration* makes of *endpoint*, of the same namespace.

    What it names as source is no target of it.
    """
    source, target = migration.spec.source, migration.spec.target
    is_source = source is not None and (
        (source.endpoint is not None and source.endpoint.name == endpoint.key.name)
        or (source.workload is not None and source.workload.name == endpoint.workload)
    )
    by_selector = (
        target is not None
        and target.selector is not None
        and labels.is_match(target.selector, endpoint.labels)
    )
    is_target = target is not None and (
        by_selector
        or (target.endpoint is not None and target.endpoint.name == endpoint.key.name)
        or (target.workload is not None and target.workload.name == endpoint.workload)
    )
    # As target it would take its routes out while the guest still runs there.
    if is_source:
        return Match(Role.SOURCE, contested=is_target)
    return Match(Role.TARGET, by_selector=by_selector) if is_target else None


def migration_id(migration: LiveMigration) -> MigrationId:
    """Return what stays the same when *migration* is deleted and made anew."""
    return migration.key.namespace, migration.migration_uid


def carried_id(endpoint: Endpoint) -> MigrationId | None:
    """Return the migration that the annotations of *endpoint* speak of."""
    migration_uid = endpoint.assignment.migration_uid
    return None if migration_uid is None else (endpoint.key.namespace, migration_uid)


def _keys_of_endpoint(endpoint: Endpoint) -> Iterator[IndexKey]:
    namespace, name = endpoint.key
    # For selectors that name no label which a match must carry: empty ones, NotIn, DoesNotExist.
    yield "any", namespace
    yield "endpoint", namespace, name
    yield "workload", namespace, endpoint.workload
    for key, value in endpoint.labels.items():
        # Both forms, since a selector may ask for a value or only for the key.
        yield "label", namespace, key
        yield "label", namespace, key, value


def _keys_of_migration(migration: LiveMigration) -> set[IndexKey]:
    namespace = migration.key.namespace
    keys: set[IndexKey] = set()
    for side in (migration.spec.source, migration.spec.target):
        if side is not None and side.endpoint is not None:
            keys.add(("endpoint", namespace, side.endpoint.name))
        if side is not None and side.workload is not None:
            keys.add(("workload", namespace, side.workload.name))
    target = migration.spec.target
    if target is not None and target.selector is not None:
        # One of its labels is enough to find the candidates; ``match`` then holds them against the
        # whole selector.
        found = labels.index_labels(target.selector)
        keys |= {("label", namespace, *each) for each in found} or {("any", namespace)}
    return keys


def _sides(migration: LiveMigration) -> tuple[Source | None, Target | None, str]:
    # The uid belongs to them: what an endpoint is for a migration is counted by it.
    return migration.spec.source, migration.spec.target, migration.migration_uid


class Index:
    """All objects by key, and for each the few others that it concerns."""

    def __init__(self) -> None:
        self.endpoints: dict[ObjectKey, Endpoint] = {}
        self.migrations: dict[ObjectKey, LiveMigration] = {}
        self._endpoints_by_key: Multimap[IndexKey, ObjectKey] = Multimap()
        self._migrations_by_key: Multimap[IndexKey, ObjectKey] = Multimap()
        self._carriers: Multimap[MigrationId, ObjectKey] = Multimap()
        self._with_id: Multimap[MigrationId, ObjectKey] = Multimap()
        self._members: dict[ObjectKey, dict[ObjectKey, Match]] = {}
        self._claims: dict[ObjectKey, dict[ObjectKey, Match]] = {}
        self._of_members: TraitCounts[ObjectKey] = TraitCounts()
        self._of_carriers: TraitCounts[MigrationId] = TraitCounts()

    def members(self, migration: ObjectKey) -> Mapping[ObjectKey, Match]:
        """Return the endpoints that the spec of *migration* matches."""
        return self._members.get(migration, _NOTHING)

    def claims(self, endpoint: ObjectKey) -> Mapping[ObjectKey, Match]:
        """Return the migrations whose spec matches *endpoint*."""
        return self._claims.get(endpoint, _NOTHING)

    def carriers(self, identity: MigrationId) -> AbstractSet[ObjectKey]:
        """Return the endpoints whose annotations carry this migration's uid."""
        return self._carriers[identity]

    def with_id(self, identity: MigrationId) -> AbstractSet[ObjectKey]:
        """Return the LiveMigrations with this uid: mostly one, none when it was deleted."""
        return self._with_id[identity]

    def traits_of_members(self, migration: ObjectKey) -> Traits:
        """Return what is true of any endpoint that the spec of *migration* matches."""
        return self._of_members[migration]

    def traits_of_carriers(self, identity: MigrationId) -> Traits:
        """Return what is true of any endpoint whose annotations carry this migration's uid."""
        return self._of_carriers[identity]

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """Add *endpoint*, or replace what was known of it."""
        before = self.endpoints.get(endpoint.key)
        self.endpoints[endpoint.key] = endpoint
        if before is not None:
            self._drop(before)
        self._carry(endpoint)
        if before is not None:
            # Nearly every update is a status report, which no migration matches by: the keys stay,
            # and only what the endpoint is for its migrations is counted anew.
            if (before.workload, before.labels) == (endpoint.workload, endpoint.labels):
                self._recount(before, endpoint)
                return
            # By what it was: counts must fall by exactly what they rose by.
            self._unlink_endpoint(before)
        candidates: set[ObjectKey] = set()
        for index_key in _keys_of_endpoint(endpoint):
            self._endpoints_by_key.add(index_key, endpoint.key)
            candidates |= self._migrations_by_key[index_key]
        for key in candidates:
            self._link(self.migrations[key], endpoint)

    def drop_endpoint(self, endpoint: Endpoint) -> None:
        """Forget *endpoint*, which is known."""
        del self.endpoints[endpoint.key]
        self._drop(endpoint)
        self._unlink_endpoint(endpoint)

    def put_migration(self, migration: LiveMigration) -> None:
        """Add *migration*, or replace what was known of it."""
        before = self.migrations.get(migration.key)
        if before is not None:
            self._with_id.remove(migration_id(before), before.key)
        self.migrations[migration.key] = migration
        self._with_id.add(migration_id(migration), migration.key)
        if before is not None:
            # Our own writes of its status come back as updates, too.
            if _sides(before) == _sides(migration):
                return
            self._unlink_migration(before)
        candidates: set[ObjectKey] = set()
        for index_key in _keys_of_migration(migration):
            self._migrations_by_key.add(index_key, migration.key)
            candidates |= self._endpoints_by_key[index_key]
        for key in candidates:
            self._link(migration, self.endpoints[key])

    def drop_migration(self, migration: LiveMigration) -> None:
        """Forget *migration*, which is known."""
        del self.migrations[migration.key]
        self._with_id.remove(migration_id(migration), migration.key)
        self._unlink_migration(migration)

    def _carry(self, endpoint: Endpoint) -> None:
        identity = carried_id(endpoint)
        if identity is not None:
            self._carriers.add(identity, endpoint.key)
            self._of_carriers.add(identity, counts.of_carrier(endpoint))

    def _drop(self, endpoint: Endpoint) -> None:
        identity = carried_id(endpoint)
        if identity is not None:
            self._carriers.remove(identity, endpoint.key)
            self._of_carriers.remove(identity, counts.of_carrier(endpoint))

    def _recount(self, before: Endpoint, after: Endpoint) -> None:
        """Count anew what *after* is for each migration that matches it, as it did before."""
        for key, found in self.claims(after.key).items():
            uid = self.migrations[key].migration_uid
            self._of_members.remove(key, counts.of_member(before, found.role, uid))
            self._of_members.add(key, counts.of_member(after, found.role, uid))

    def _link(self, migration: LiveMigration, endpoint: Endpoint) -> None:
        found = match(migration, endpoint)
        if found is not None:
            self._members.setdefault(migration.key, {})[endpoint.key] = found
            self._claims.setdefault(endpoint.key, {})[migration.key] = found
            traits = counts.of_member(endpoint, found.role, migration.migration_uid)
            self._of_members.add(migration.key, traits)

    def _unlink_endpoint(self, endpoint: Endpoint) -> None:
        for index_key in _keys_of_endpoint(endpoint):
            self._endpoints_by_key.remove(index_key, endpoint.key)
        for key, found in self._claims.pop(endpoint.key, _NOTHING).items():
            del self._members[key][endpoint.key]
            uid = self.migrations[key].migration_uid
            self._of_members.remove(key, counts.of_member(endpoint, found.role, uid))

    def _unlink_migration(self, migration: LiveMigration) -> None:
        for index_key in _keys_of_migration(migration):
            self._migrations_by_key.remove(index_key, migration.key)
        uid = migration.migration_uid
        for key, found in self._members.pop(migration.key, _NOTHING).items():
            del self._claims[key][migration.key]
            traits = counts.of_member(self.endpoints[key], found.role, uid)
            self._of_members.remove(migration.key, traits)
