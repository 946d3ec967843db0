"""The incremental resolver: objects in, verdicts out, at a cost proportional to what changed.

A change marks the migrations and endpoints that it can affect; ``resolve`` looks at those alone.
Verdicts depend on what was observed only, never on other verdicts, so one pass is enough.
Nothing here reads a clock or the API.
"""

import dataclasses
import datetime as dt
from dataclasses import dataclass
from typing import Final

from handover_api.livemigration import LiveMigration, Outcome
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role
from handover_operator import conditions, outcome, roles, standing
from handover_operator.facts import Endpoint
from handover_operator.index import Course, Index, carried, course_of
from handover_operator.outcome import Driver, Undecided, View
from handover_operator.roles import Claim, Holder, Verdict
from handover_operator.standing import Standing

SOURCE_GONE_FOR: Final = dt.timedelta(seconds=5)
"""So long a live target's source must be gone before an undriven migration counts as done."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and the undecided migrations that had a claim."""

    verdict: Verdict
    claimants: frozenset[ObjectKey]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What to look at now; ``wake`` is when to resolve again though nothing changed."""

    endpoints: frozenset[ObjectKey]
    migrations: frozenset[ObjectKey]
    wake: dt.datetime | None


class Resolver:
    """Keeps all LiveMigrations and endpoints, and for each endpoint its verdict.

    ``driver`` is asked how a migration ended whose LiveMigration is gone.
    """

    def __init__(self) -> None:
        self.index = Index()
        self.driver: Driver = lambda _: None
        self._views: dict[ObjectKey, View] = {}
        self._judgements: dict[ObjectKey, Judgement] = {}
        self._unreadable: dict[ObjectKey, Course] = {}
        self._resolved: set[ObjectKey] = set()
        self._gone_since: dict[ObjectKey, dt.datetime] = {}
        self._succeeded: set[ObjectKey] = set()
        self._stale_endpoints: set[ObjectKey] = set()
        self._stale_migrations: set[ObjectKey] = set()

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """Take in *endpoint*, new or changed; an equal one marks nothing."""
        before = self.index.endpoints.get(endpoint.key)
        if before == endpoint:
            self.index.put_endpoint(endpoint)
            return
        if before is not None:
            self._mark_around(before)
        self.index.put_endpoint(endpoint)
        self._mark_around(endpoint)

    def drop_endpoint(self, key: ObjectKey) -> None:
        """Forget an endpoint; one that is unknown is fine."""
        endpoint = self.index.endpoints.get(key)
        if endpoint is not None:
            self._mark_around(endpoint)
            self.index.drop_endpoint(endpoint)
            self._judgements.pop(key, None)

    def put_migration(self, migration: LiveMigration) -> None:
        """Take in *migration*, new or changed; made anew under its name it is another one."""
        key = migration.key
        before = self.index.migrations.get(key)
        if before is not None and before.metadata.uid != migration.metadata.uid:
            self.drop_migration(key)
            before = None
        self._forgive(key)
        if before is None and conditions.has_resolved_source(migration):
            self._resolved.add(key)
        if before is not None and before.spec.source != migration.spec.source:
            self._resolved.discard(key)
        self._stale_migrations.add(key)
        if before is not None and before.spec == migration.spec:
            self.index.put_migration(migration)
            return
        self._mark_members(key)
        self.index.put_migration(migration)
        self._mark_members(key)

    def drop_migration(self, key: ObjectKey) -> None:
        """Forget a LiveMigration; one that is unknown is fine."""
        self._forgive(key)
        migration = self.index.migrations.get(key)
        if migration is None:
            return
        self._mark_members(key)
        self.index.drop_migration(migration)
        self._stale_migrations.discard(key)
        self._views.pop(key, None)
        self._resolved.discard(key)
        self._succeeded.discard(key)
        self._gone_since.pop(key, None)

    def put_unreadable(self, key: ObjectKey, migration_uid: str) -> None:
        """Note a LiveMigration that nobody can read: it gives no role and ends none.

        Where an older version was readable, that one stays in force.
        """
        if key not in self.index.migrations:
            self._forgive(key)
            self._unreadable[key] = (key.namespace, migration_uid)

    def doubt(self, course: Course) -> None:
        """Take in that the driver of a migration may say something else now."""
        if not self.index.named(course):
            self._stale_endpoints |= self.index.carriers(course)

    def doubt_all(self) -> None:
        """Take in that the driver knows other migrations now, or none any more."""
        self._stale_endpoints |= {
            key
            for key, endpoint in self.index.endpoints.items()
            if endpoint.assignment.role is not None
        }

    def resolve(self, now: dt.datetime) -> Resolution:
        """Bring the verdicts of everything that changed up to date."""
        due = {key for key, since in self._gone_since.items() if now - since >= SOURCE_GONE_FOR}
        migrations = self._stale_migrations | due
        self._stale_migrations = set()
        for key in migrations:
            self._review(key, now)
        endpoints = self._stale_endpoints & self.index.endpoints.keys()
        self._stale_endpoints = set()
        for key in endpoints:
            migrations |= self._judge(self.index.endpoints[key])
        return Resolution(
            endpoints=frozenset(endpoints),
            migrations=frozenset(migrations & self.index.migrations.keys()),
            wake=min(
                (since + SOURCE_GONE_FOR for since in self._gone_since.values()), default=None
            ),
        )

    def verdict(self, key: ObjectKey) -> Verdict | None:
        """Return what was last resolved for an endpoint; None when it is unknown."""
        judgement = self._judgements.get(key)
        return None if judgement is None else judgement.verdict

    def standing(self, key: ObjectKey) -> Standing:
        """Return how a known migration stands, for its status."""
        return standing.stand(
            self.index,
            self.index.migrations[key],
            self._views,
            was_resolved=key in self._resolved,
        )

    def _review(self, key: ObjectKey, now: dt.datetime) -> None:
        """Sum up one migration anew, and mark its endpoints if that makes a difference."""
        migration = self.index.migrations[key]
        decided = outcome.decision(migration)
        if decided is None and key in self._succeeded:
            decided = Outcome.SUCCEEDED
        if any(found.role is Role.SOURCE for found in self.index.members(key).values()):
            self._resolved.add(key)
        sides = outcome.sides(self.index, course_of(migration), key)
        view = outcome.view(migration.migration_uid, *sides, decided)
        if not outcome.has_lost_source(migration, view, was_resolved=key in self._resolved):
            self._gone_since.pop(key, None)
        elif now - self._gone_since.setdefault(key, now) >= SOURCE_GONE_FOR:
            del self._gone_since[key]
            self._succeeded.add(key)
            view = dataclasses.replace(view, decision=Outcome.SUCCEEDED)
        if view != self._views.get(key):
            self._views[key] = view
            self._mark_members(key)

    def _judge(self, endpoint: Endpoint) -> frozenset[ObjectKey]:
        """Apply the rules to one endpoint; return the migrations that its claimants concern."""
        claims = [
            Claim(self.index.migrations[key], found, self._views[key])
            for key, found in self.index.claims(endpoint.key).items()
            if self._views[key].decision is None
        ]
        verdict = roles.assign(endpoint, claims, self._holder(endpoint), self._settled(endpoint))
        judgement = Judgement(verdict, frozenset(claim.migration.key for claim in claims))
        before = self._judgements.get(endpoint.key)
        self._judgements[endpoint.key] = judgement
        if before is None:
            return judgement.claimants
        if before.claimants == judgement.claimants:
            return frozenset()
        return before.claimants | judgement.claimants

    def _holder(self, endpoint: Endpoint) -> Holder | None:
        """Return who may end the role that *endpoint* carries; None: nobody may."""
        if endpoint.assignment.role is None:
            return None
        course = carried(endpoint)
        if course is None:
            return Holder(None, View(decision=Outcome.ABORTED))
        named = self.index.named(course)
        if named:
            by_name = ObjectKey(course[0], endpoint.assignment.migration or "")
            key = by_name if by_name in named else max(named, key=self._age)
            return Holder(self.index.migrations[key], self._views[key])
        if course in self._unreadable.values():
            return None
        driven = self.driver(course[1])
        if isinstance(driven, Undecided):
            return None
        carriers = [self.index.endpoints[key] for key in self.index.carriers(course)]
        sides = outcome.sides(self.index, course, None)
        decided = driven or outcome.orphaned(course[1], carriers)
        return Holder(None, outcome.view(course[1], *sides, decided))

    def _settled(self, endpoint: Endpoint) -> roles.Age | None:
        """Return the age of the migration that *endpoint* speaks of, if it has succeeded."""
        course = carried(endpoint)
        if course is None:
            return None
        is_told = endpoint.assignment.outcome is Outcome.SUCCEEDED
        ages = (
            self._age(key)
            for key in self.index.named(course)
            if is_told or self._views[key].decision is Outcome.SUCCEEDED
        )
        return max(ages, default=None)

    def _age(self, key: ObjectKey) -> roles.Age:
        return roles.age(self.index.migrations[key])

    def _mark_around(self, endpoint: Endpoint) -> None:
        """Mark what a change of *endpoint* can affect."""
        self._stale_endpoints.add(endpoint.key)
        self._stale_migrations |= self.index.claims(endpoint.key).keys()
        course = carried(endpoint)
        if course is not None:
            named = self.index.named(course)
            self._stale_migrations |= named
            if not named:
                self._stale_endpoints |= self.index.carriers(course)

    def _mark_members(self, key: ObjectKey) -> None:
        """Mark the endpoints that a change of a migration can affect."""
        migration = self.index.migrations.get(key)
        if migration is not None:
            self._stale_endpoints |= self.index.members(key).keys()
            self._stale_endpoints |= self.index.carriers(course_of(migration))

    def _forgive(self, key: ObjectKey) -> None:
        course = self._unreadable.pop(key, None)
        if course is not None:
            self._stale_endpoints |= self.index.carriers(course)
