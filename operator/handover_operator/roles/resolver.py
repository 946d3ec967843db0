"""The incremental resolver: objects in, verdicts out, at a cost proportional to what changed.

A change marks the migrations and endpoints that it can affect; ``resolve`` looks at those alone.
Verdicts depend on what was observed only, never on other verdicts, so one pass is enough.
Nothing here reads a clock or the API.
"""

import dataclasses
import datetime as dt
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from handover_api.assignment import Assignment
from handover_api.livemigration import LiveMigration, Outcome
from handover_api.names import ObjectKey
from handover_operator.roles import counts, outcome, rules
from handover_operator.roles.counts import Trait, Traits
from handover_operator.roles.index import Course, Index, carried, course_of
from handover_operator.roles.model import Endpoint
from handover_operator.roles.outcome import Driver, Undecided, View
from handover_operator.roles.rules import Claim, Holder, Judgement, Verdict

SOURCE_GONE_FOR: Final = dt.timedelta(seconds=5)
"""So long a live target's source must be gone before an undriven migration counts as done."""

_UNSEEN: Final = View()
_UNJUDGED: Final = Judgement(Verdict(Assignment(), rules.Reason.NONE), frozenset())


@dataclass(frozen=True, slots=True)
class Failure:
    """An object of which an exception kept us from deciding anything; the others were decided."""

    key: ObjectKey
    error: Exception


@dataclass(frozen=True, slots=True)
class Resolution:
    """What to look at now; ``wake`` is when to resolve again though nothing changed.

    ``behind``: the budget did not do for all; resolve again soon.
    """

    endpoints: frozenset[ObjectKey]
    migrations: frozenset[ObjectKey]
    wake: dt.datetime | None
    behind: bool
    failures: tuple[Failure, ...]


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
        # In the order in which they were marked, so that nobody is overtaken for ever.
        self._stale_endpoints: OrderedDict[ObjectKey, None] = OrderedDict()
        self._stale_migrations: set[ObjectKey] = set()

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """Take in *endpoint*, new or changed; an equal one marks nothing."""
        before = self.index.endpoints.get(endpoint.key)
        if before == endpoint:
            self.index.put_endpoint(endpoint)
            return
        courses = {carried(endpoint), None if before is None else carried(before)}
        seen = self._seen(courses)
        if before is not None:
            self._mark_claims(before)
        self.index.put_endpoint(endpoint)
        self._mark_claims(endpoint)
        self._stale_endpoints[endpoint.key] = None
        self._mark_courses(seen)

    def drop_endpoint(self, key: ObjectKey) -> None:
        """Forget an endpoint; one that is unknown is fine."""
        endpoint = self.index.endpoints.get(key)
        if endpoint is not None:
            seen = self._seen({carried(endpoint)})
            self._mark_claims(endpoint)
            self.index.drop_endpoint(endpoint)
            self._mark_courses(seen)
            self._judgements.pop(key, None)
            self._stale_endpoints.pop(key, None)

    def put_migration(self, migration: LiveMigration) -> None:
        """Take in *migration*, new or changed; made anew under its name it is another one."""
        key = migration.key
        before = self.index.migrations.get(key)
        if before is not None and before.metadata.uid != migration.metadata.uid:
            self.drop_migration(key)
            before = None
        self._forgive(key)
        if before is None and outcome.had_source(migration):
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
            self._mark(self.index.carriers(course))

    def doubt_all(self) -> None:
        """Take in that the driver knows other migrations now, or none any more."""
        self._mark(
            key
            for key, endpoint in self.index.endpoints.items()
            if endpoint.assignment.role is not None
        )

    def recall(self) -> None:
        """Mark everything: what was missed, by whatever defect, is found by looking again."""
        self._mark(self.index.endpoints)
        self._stale_migrations |= self.index.migrations.keys()

    def resolve(self, now: dt.datetime, budget: float = math.inf) -> Resolution:
        """Bring the verdicts of what changed up to date, for about so many claims.

        A fault with one object is noted, and the others go on.
        """
        failures: list[Failure] = []
        due = {key for key, since in self._gone_since.items() if now - since >= SOURCE_GONE_FOR}
        migrations = self._stale_migrations | due
        self._stale_migrations = set()
        for key in migrations:
            try:
                self._review(key, now)
            except Exception as error:  # noqa: BLE001  one object's fault stays its own
                failures.append(Failure(key, error))
        endpoints: list[ObjectKey] = []
        while self._stale_endpoints and budget > 0:
            key, _ = self._stale_endpoints.popitem(last=False)
            endpoints.append(key)
            budget -= 1 + len(self.index.claims(key))
            try:
                migrations |= self._judge(self.index.endpoints[key])
            except Exception as error:  # noqa: BLE001  as above
                failures.append(Failure(key, error))
        return Resolution(
            endpoints=frozenset(endpoints),
            migrations=frozenset(migrations & self.index.migrations.keys()),
            wake=min(
                (since + SOURCE_GONE_FOR for since in self._gone_since.values()), default=None
            ),
            behind=bool(self._stale_endpoints),
            failures=tuple(failures),
        )

    def verdict(self, key: ObjectKey) -> Verdict | None:
        """Return what was resolved for an endpoint; None while that is not known."""
        judgement = self._judgements.get(key)
        return None if judgement is None or key in self._stale_endpoints else judgement.verdict

    def judgement(self, key: ObjectKey) -> Judgement | None:
        """Return what was last resolved for an endpoint, though it may be judged anew soon."""
        return self._judgements.get(key)

    def decision(self, migration: ObjectKey) -> Outcome | None:
        """Return how a migration ended; it was resolved once."""
        return self._views[migration].decision

    def had_source(self, migration: ObjectKey) -> bool:
        """Its source had an endpoint at some time."""
        return migration in self._resolved

    def _review(self, key: ObjectKey, now: dt.datetime) -> None:
        """Sum up one migration anew, and mark its endpoints if that makes a difference."""
        migration = self.index.migrations[key]
        decided = outcome.decision(migration)
        if decided is None and key in self._succeeded:
            decided = Outcome.SUCCEEDED
        seen = self.index.traits_of_members(key)
        if Trait.SOURCE in seen:
            self._resolved.add(key)
        view = View(decided, seen | self.index.traits_of_carriers(course_of(migration)))
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
        claims = list(self._undecided(endpoint.key))
        verdict = rules.assign(
            endpoint,
            claims,
            self._holder(endpoint),
            self._settled(endpoint),
            self._aftermath(endpoint),
        )
        judgement = Judgement(verdict, frozenset(claim.migration.key for claim in claims))
        before = self._judgements.get(endpoint.key, _UNJUDGED)
        self._judgements[endpoint.key] = judgement
        concerned = before.verdict.superseded ^ verdict.superseded
        if before.claimants != judgement.claimants:
            concerned |= before.claimants | judgement.claimants
        return concerned

    def _undecided(self, endpoint: ObjectKey) -> Iterator[Claim]:
        """Yield the claims of migrations that go on; one that nobody could review has none yet."""
        for key, found in self.index.claims(endpoint).items():
            view = self._views.get(key)
            if view is not None and view.decision is None:
                migration = self.index.migrations[key]
                yield Claim(migration, found, view, rules.was_superseded(migration))

    def _aftermath(self, endpoint: Endpoint) -> Traits:
        """Return what is true of all endpoints of a migration that failed for *endpoint*."""
        course = carried(endpoint)
        if course is None or endpoint.assignment.outcome is not Outcome.ABORTED:
            return counts.NONE
        seen = map(self.index.traits_of_members, self.index.named(course))
        return self.index.traits_of_carriers(course).union(*seen)

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
            view = self._views.get(key)
            return None if view is None else Holder(self.index.migrations[key], view)
        if course in self._unreadable.values():
            return None
        driven = self.driver(course[1])
        if isinstance(driven, Undecided):
            return None
        seen = self.index.traits_of_carriers(course)
        return Holder(None, View(driven or outcome.orphaned(seen), seen))

    def _settled(self, endpoint: Endpoint) -> rules.Age | None:
        """Return the age of the migration that *endpoint* speaks of, if it has succeeded."""
        course = carried(endpoint)
        if course is None:
            return None
        is_told = endpoint.assignment.outcome is Outcome.SUCCEEDED
        ages = (
            self._age(key)
            for key in self.index.named(course)
            if is_told or self._views.get(key, _UNSEEN).decision is Outcome.SUCCEEDED
        )
        return max(ages, default=None)

    def _age(self, key: ObjectKey) -> rules.Age:
        return rules.age(self.index.migrations[key])

    def _mark(self, keys: Iterable[ObjectKey]) -> None:
        self._stale_endpoints.update(dict.fromkeys(keys))

    def _mark_claims(self, endpoint: Endpoint) -> None:
        """Mark the migrations that a change of *endpoint* can affect."""
        self._stale_migrations |= self.index.claims(endpoint.key).keys()
        course = carried(endpoint)
        if course is not None:
            self._stale_migrations |= self.index.named(course)

    def _seen(self, courses: Iterable[Course | None]) -> dict[Course, Traits]:
        """Note what is true of the endpoints that carry these uids."""
        return {
            course: self.index.traits_of_carriers(course)
            for course in courses
            if course is not None
        }

    def _mark_courses(self, before: Mapping[Course, Traits]) -> None:
        """Mark those that carry the uid of a migration without an object, if that matters."""
        for course, seen in before.items():
            if not self.index.named(course) and self.index.traits_of_carriers(course) != seen:
                self._mark(self.index.carriers(course))

    def _mark_members(self, key: ObjectKey) -> None:
        """Mark the endpoints that a change of a migration can affect."""
        migration = self.index.migrations.get(key)
        if migration is not None:
            self._mark(self.index.members(key))
            self._mark(self.index.carriers(course_of(migration)))

    def _forgive(self, key: ObjectKey) -> None:
        course = self._unreadable.pop(key, None)
        if course is not None:
            self._mark(self.index.carriers(course))
