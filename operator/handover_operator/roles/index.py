"""Who concerns whom: LiveMigrations and endpoints, joined by name, workload and label.

Endpoints offer *handles* (their name, their workload, each label), migrations seek them. Two that
share a handle are candidates, so that a change of one object looks at those few others only.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, Generic, NamedTuple, TypeVar

from handover_api.livemigration import LiveMigration, Source, Target
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role
from handover_operator.roles import counts, selectors
from handover_operator.roles.counts import Tally, Traits
from handover_operator.roles.model import Endpoint

K = TypeVar("K")
V = TypeVar("V")

Handle = tuple[str, ...]
Course = tuple[str, str]
"""Namespace and migration uid: the same migration, also when its object was made anew."""

_NOTHING: Final[Mapping[ObjectKey, "Match"]] = {}


class Match(NamedTuple):
    """What a migration's spec makes of an endpoint.

    ``contested``: the target's side matches an endpoint that the same migration names as source.
    """

    role: Role
    by_selector: bool = False
    contested: bool = False


class Multimap(Generic[K, V]):
    """Sets by key; a key without values takes no room.

    Most keys have one value, such as all that name one VM: a set for each would be most of it all.
    """

    def __init__(self) -> None:
        self._values: dict[K, tuple[V] | set[V]] = {}

    def __getitem__(self, key: K) -> AbstractSet[V]:
        found = self._values.get(key, ())
        return found if isinstance(found, set) else frozenset(found)

    def add(self, key: K, value: V) -> None:
        """Put *value* into the set of *key*."""
        found = self._values.get(key)
        if found is None:
            self._values[key] = (value,)
        elif isinstance(found, set):
            found.add(value)
        elif found != (value,):
            self._values[key] = {*found, value}

    def remove(self, key: K, value: V) -> None:
        """Take *value*, which is there, out of the set of *key*."""
        found = self._values[key]
        if isinstance(found, set) and len(found) > 1:
            found.remove(value)
        elif value in found:
            del self._values[key]
        else:
            raise KeyError(value)


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
        and selectors.is_match(target.selector, endpoint.labels)
    )
    is_target = target is not None and (
        by_selector
        or (target.endpoint is not None and target.endpoint.name == endpoint.key.name)
        or (target.workload is not None and target.workload.name == endpoint.workload)
    )
    if is_source:
        return Match(Role.SOURCE, contested=is_target)
    return Match(Role.TARGET, by_selector=by_selector) if is_target else None


def course_of(migration: LiveMigration) -> Course:
    """Return what stays the same when *migration* is deleted and made anew."""
    return migration.key.namespace, migration.migration_uid


def carried(endpoint: Endpoint) -> Course | None:
    """Return the migration that the annotations of *endpoint* speak of."""
    migration_uid = endpoint.assignment.migration_uid
    return None if migration_uid is None else (endpoint.key.namespace, migration_uid)


def _offers(endpoint: Endpoint) -> Iterator[Handle]:
    namespace, name = endpoint.key
    yield "any", namespace
    yield "endpoint", namespace, name
    yield "workload", namespace, endpoint.workload
    for key, value in endpoint.labels.items():
        yield "label", namespace, key
        yield "label", namespace, key, value


def _seeks(migration: LiveMigration) -> set[Handle]:
    namespace = migration.key.namespace
    handles: set[Handle] = set()
    for side in (migration.spec.source, migration.spec.target):
        if side is not None and side.endpoint is not None:
            handles.add(("endpoint", namespace, side.endpoint.name))
        if side is not None and side.workload is not None:
            handles.add(("workload", namespace, side.workload.name))
    target = migration.spec.target
    if target is not None and target.selector is not None:
        anchors = selectors.anchors(target.selector)
        handles |= {("label", namespace, *anchor) for anchor in anchors} or {("any", namespace)}
    return handles


def _sides(migration: LiveMigration) -> tuple[Source | None, Target | None, str]:
    return migration.spec.source, migration.spec.target, migration.migration_uid


class Index:
    """All objects by key, and for each the few others that it concerns."""

    def __init__(self) -> None:
        self.endpoints: dict[ObjectKey, Endpoint] = {}
        self.migrations: dict[ObjectKey, LiveMigration] = {}
        self._offered: Multimap[Handle, ObjectKey] = Multimap()
        self._sought: Multimap[Handle, ObjectKey] = Multimap()
        self._carriers: Multimap[Course, ObjectKey] = Multimap()
        self._named: Multimap[Course, ObjectKey] = Multimap()
        self._members: dict[ObjectKey, dict[ObjectKey, Match]] = {}
        self._claims: dict[ObjectKey, dict[ObjectKey, Match]] = {}
        self._of_members: Tally[ObjectKey] = Tally()
        self._of_carriers: Tally[Course] = Tally()

    def members(self, migration: ObjectKey) -> Mapping[ObjectKey, Match]:
        """Return the endpoints that the spec of *migration* matches."""
        return self._members.get(migration, _NOTHING)

    def claims(self, endpoint: ObjectKey) -> Mapping[ObjectKey, Match]:
        """Return the migrations whose spec matches *endpoint*."""
        return self._claims.get(endpoint, _NOTHING)

    def carriers(self, course: Course) -> AbstractSet[ObjectKey]:
        """Return the endpoints whose annotations carry this migration's uid."""
        return self._carriers[course]

    def named(self, course: Course) -> AbstractSet[ObjectKey]:
        """Return the LiveMigrations with this uid: mostly one, none when it was deleted."""
        return self._named[course]

    def traits_of_members(self, migration: ObjectKey) -> Traits:
        """Return what is true of any endpoint that the spec of *migration* matches."""
        return self._of_members[migration]

    def traits_of_carriers(self, course: Course) -> Traits:
        """Return what is true of any endpoint whose annotations carry this migration's uid."""
        return self._of_carriers[course]

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """Add *endpoint*, or replace what was known of it."""
        before = self.endpoints.get(endpoint.key)
        self.endpoints[endpoint.key] = endpoint
        if before is not None:
            self._drop(before)
        self._carry(endpoint)
        if before is not None:
            if (before.workload, before.labels) == (endpoint.workload, endpoint.labels):
                self._recount(before, endpoint)
                return
            self._unlink_endpoint(before)
        seekers: set[ObjectKey] = set()
        for handle in _offers(endpoint):
            self._offered.add(handle, endpoint.key)
            seekers |= self._sought[handle]
        for key in seekers:
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
            self._named.remove(course_of(before), before.key)
        self.migrations[migration.key] = migration
        self._named.add(course_of(migration), migration.key)
        if before is not None:
            if _sides(before) == _sides(migration):
                return
            self._unlink_migration(before)
        candidates: set[ObjectKey] = set()
        for handle in _seeks(migration):
            self._sought.add(handle, migration.key)
            candidates |= self._offered[handle]
        for key in candidates:
            self._link(migration, self.endpoints[key])

    def drop_migration(self, migration: LiveMigration) -> None:
        """Forget *migration*, which is known."""
        del self.migrations[migration.key]
        self._named.remove(course_of(migration), migration.key)
        self._unlink_migration(migration)

    def _carry(self, endpoint: Endpoint) -> None:
        course = carried(endpoint)
        if course is not None:
            self._carriers.add(course, endpoint.key)
            self._of_carriers.add(course, counts.of_carrier(endpoint))

    def _drop(self, endpoint: Endpoint) -> None:
        course = carried(endpoint)
        if course is not None:
            self._carriers.remove(course, endpoint.key)
            self._of_carriers.remove(course, counts.of_carrier(endpoint))

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
        for handle in _offers(endpoint):
            self._offered.remove(handle, endpoint.key)
        for key, found in self._claims.pop(endpoint.key, _NOTHING).items():
            del self._members[key][endpoint.key]
            uid = self.migrations[key].migration_uid
            self._of_members.remove(key, counts.of_member(endpoint, found.role, uid))

    def _unlink_migration(self, migration: LiveMigration) -> None:
        for handle in _seeks(migration):
            self._sought.remove(handle, migration.key)
        uid = migration.migration_uid
        for key, found in self._members.pop(migration.key, _NOTHING).items():
            del self._claims[key][migration.key]
            traits = counts.of_member(self.endpoints[key], found.role, uid)
            self._of_members.remove(migration.key, traits)
