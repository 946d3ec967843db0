"""The incremental resolver: objects in, verdicts out, at a cost proportional to what changed.

A change marks the migrations and endpoints that it can affect; ``resolve`` looks at those alone.
Verdicts depend on what was observed only, never on other verdicts, so one pass is enough.
Nothing here reads a clock or the API.
"""

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
from handover_operator.roles.counts import Traits
from handover_operator.roles.index import Index, MigrationId, carried_id, migration_id
from handover_operator.roles.model import Endpoint
from handover_operator.roles.outcome import Driver, Summary, Undecided
from handover_operator.roles.rules import Claim, Holder, Verdict
from handover_operator.roles.summaries import Summaries

_UNREVIEWED: Final = Summary()
_UNJUDGED: Final = Verdict(Assignment(), rules.Reason.NONE)


@dataclass(frozen=True, slots=True)
class Failure:
    """An object of which an exception kept us from deciding anything; the others were decided."""

    key: ObjectKey
    error: Exception


@dataclass(frozen=True, slots=True)
class Resolution:
    """What to look at now; ``wake`` is when to resolve again though nothing changed.

    ``behind``: the budget did not do for all; resolve again soon. ``asked``: the uids of migrations
    without a LiveMigration of which their driver was asked how they ended.
    """

    endpoints: frozenset[ObjectKey]
    migrations: frozenset[ObjectKey]
    wake: dt.datetime | None
    behind: bool
    failures: tuple[Failure, ...]
    asked: frozenset[str] = frozenset()


class Resolver:
    """Keeps all LiveMigrations and endpoints, and for each endpoint its verdict.

    *driver* is asked how a migration ended whose LiveMigration is gone.
    """

    def __init__(self, driver: Driver = outcome.no_driver) -> None:
        self.index = Index()
        self._driver = driver
        self._summaries = Summaries(self.index)
        self._verdicts: dict[ObjectKey, Verdict] = {}
        self._unreadable: dict[ObjectKey, MigrationId] = {}
        # In the order in which they were marked, so that nobody is overtaken for ever.
        self._stale_endpoints: OrderedDict[ObjectKey, None] = OrderedDict()
        self._stale_migrations: set[ObjectKey] = set()
        self._asked: set[str] = set()

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """Take in *endpoint*, new or changed; an equal one marks nothing."""
        before = self.index.endpoints.get(endpoint.key)
        # Only the resource version differs, which the next write is based on.
        if before == endpoint:
            self.index.put_endpoint(endpoint)
            return
        # The counts of before are needed to see whether they change; ``_mark_carriers`` compares.
        ids = {carried_id(endpoint), None if before is None else carried_id(before)}
        traits = self._traits(ids)
        if before is not None:
            self._mark_claims(before)
        self.index.put_endpoint(endpoint)
        self._mark_claims(endpoint)
        self._stale_endpoints[endpoint.key] = None
        self._mark_carriers(traits)

    def drop_endpoint(self, key: ObjectKey) -> None:
        """Forget an endpoint; one that is unknown is fine."""
        endpoint = self.index.endpoints.get(key)
        if endpoint is not None:
            traits = self._traits({carried_id(endpoint)})
            self._mark_claims(endpoint)
            self.index.drop_endpoint(endpoint)
            self._mark_carriers(traits)
            self._verdicts.pop(key, None)
            self._stale_endpoints.pop(key, None)

    def put_migration(self, migration: LiveMigration) -> None:
        """Take in *migration*, new or changed; made anew under its name it is another one."""
        key = migration.key
        before = self.index.migrations.get(key)
        # What was remembered of the earlier one (its source, its success) says nothing of this one.
        if before is not None and before.metadata.uid != migration.metadata.uid:
            self.drop_migration(key)
            before = None
        self._forgive(key)
        self._summaries.put(migration, before)
        self._stale_migrations.add(key)
        # Its status is ours: it may change how the migration is decided, but not whom it matches.
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
        self._summaries.drop(key)

    def put_unreadable(self, key: ObjectKey, migration_uid: str) -> None:
        """Note a LiveMigration that nobody can read: it gives no role and ends none.

        Where an older version was readable, that one stays in force.
        """
        # Or a typing error in a running migration would abort it.
        if key not in self.index.migrations:
            self._forgive(key)
            self._unreadable[key] = (key.namespace, migration_uid)

    def mark_ended(self, identity: MigrationId) -> None:
        """Take in that the driver of a migration may say something else now."""
        if not self.index.with_id(identity):
            self._mark(self.index.carriers(identity))

    def mark_all_roles(self) -> None:
        """Take in that the driver knows other migrations now, or none any more."""
        self._mark(
            key
            for key, endpoint in self.index.endpoints.items()
            if endpoint.assignment.role is not None
        )

    def mark_all(self) -> None:
        """Mark everything: what was missed, by whatever defect, is found by looking again."""
        self._mark(self.index.endpoints)
        self._stale_migrations |= self.index.migrations.keys()

    def resolve(self, now: dt.datetime, budget: float = math.inf) -> Resolution:
        """Bring the verdicts of what changed up to date, for about so many claims.

        A fault with one object is noted, and the others go on.
        """
        failures: list[Failure] = []
        # Migrations first: what they sum up may mark endpoints, and no verdict marks a migration.
        migrations = self._stale_migrations | self._summaries.due(now)
        self._stale_migrations = set()
        for key in migrations:
            try:
                if self._summaries.review(key, now):
                    self._mark_members(key)
            except Exception as error:  # noqa: BLE001  one object's fault stays its own
                failures.append(Failure(key, error))
        endpoints: list[ObjectKey] = []
        while self._stale_endpoints and budget > 0:
            key, _ = self._stale_endpoints.popitem(last=False)
            endpoints.append(key)
            # By claims, not by endpoints: one endpoint may be claimed by all migrations of its
            # namespace.
            budget -= 1 + len(self.index.claims(key))
            try:
                migrations |= self._judge(self.index.endpoints[key])
            except Exception as error:  # noqa: BLE001  as above
                failures.append(Failure(key, error))
        asked, self._asked = frozenset(self._asked), set()
        return Resolution(
            endpoints=frozenset(endpoints),
            migrations=frozenset(migrations & self.index.migrations.keys()),
            wake=self._summaries.wake(),
            behind=bool(self._stale_endpoints),
            failures=tuple(failures),
            asked=asked,
        )

    def verdict(self, key: ObjectKey) -> Verdict | None:
        """Return what was resolved for an endpoint; None while that is not known."""
        return None if key in self._stale_endpoints else self._verdicts.get(key)

    def last_verdict(self, key: ObjectKey) -> Verdict | None:
        """Return what was last resolved for an endpoint, though it may be judged anew soon."""
        return self._verdicts.get(key)

    def decision(self, migration: ObjectKey) -> Outcome | None:
        """Return how a migration ended; it was resolved once."""
        return self._summaries[migration].decision

    def had_source(self, migration: ObjectKey) -> bool:
        """Its source had an endpoint at some time."""
        return self._summaries.had_source(migration)

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
        before = self._verdicts.get(endpoint.key, _UNJUDGED)
        self._verdicts[endpoint.key] = verdict
        concerned = before.superseded ^ verdict.superseded
        if before.claimants != verdict.claimants:
            concerned |= before.claimants | verdict.claimants
        return concerned

    def _undecided(self, endpoint: ObjectKey) -> Iterator[Claim]:
        """Yield the claims of migrations that go on; one that nobody could review has none yet."""
        for key, found in self.index.claims(endpoint).items():
            summary = self._summaries.get(key)
            if summary is not None and summary.decision is None:
                migration = self.index.migrations[key]
                yield Claim(migration, found, summary, rules.was_superseded(migration))

    def _aftermath(self, endpoint: Endpoint) -> Traits:
        """Return what is true of all endpoints of a migration that failed for *endpoint*."""
        identity = carried_id(endpoint)
        if identity is None or endpoint.assignment.outcome is not Outcome.ABORTED:
            return counts.NONE
        traits = map(self.index.traits_of_members, self.index.with_id(identity))
        return self.index.traits_of_carriers(identity).union(*traits)

    def _holder(self, endpoint: Endpoint) -> Holder | None:
        """Return who may end the role that *endpoint* carries; None: nobody may."""
        if endpoint.assignment.role is None:
            return None
        identity = carried_id(endpoint)
        if identity is None:
            # A role without a uid was written by somebody else; no migration can ever end it.
            return Holder(None, Summary(decision=Outcome.ABORTED))
        named = self.index.with_id(identity)
        if named:
            # Several LiveMigrations may carry one spec.id; the one that gave the role goes first.
            by_name = ObjectKey(identity[0], endpoint.assignment.migration or "")
            key = by_name if by_name in named else max(named, key=self._age)
            summary = self._summaries.get(key)
            return None if summary is None else Holder(self.index.migrations[key], summary)
        # Its LiveMigration exists, though nobody can read it: that is no deletion.
        if identity in self._unreadable.values():
            return None
        self._asked.add(identity[1])
        driven = self._driver(identity[1])
        # The driver knows it, and will say how it ends: until then nobody else ends it.
        if isinstance(driven, Undecided):
            return None
        traits = self.index.traits_of_carriers(identity)
        return Holder(None, Summary(driven or outcome.orphaned(traits), traits))

    def _settled(self, endpoint: Endpoint) -> rules.Age | None:
        """Return the age of the migration that *endpoint* speaks of, if it has succeeded."""
        identity = carried_id(endpoint)
        if identity is None:
            return None
        # What the endpoint was told stands, also where the LiveMigration was made anew without its
        # outcome.
        is_told = endpoint.assignment.outcome is Outcome.SUCCEEDED
        ages = (
            self._age(key)
            for key in self.index.with_id(identity)
            if is_told or (self._summaries.get(key) or _UNREVIEWED).decision is Outcome.SUCCEEDED
        )
        return max(ages, default=None)

    def _age(self, key: ObjectKey) -> rules.Age:
        return rules.age(self.index.migrations[key])

    def _mark(self, keys: Iterable[ObjectKey]) -> None:
        self._stale_endpoints.update(dict.fromkeys(keys))

    def _mark_claims(self, endpoint: Endpoint) -> None:
        """Mark the migrations that a change of *endpoint* can affect."""
        self._stale_migrations |= self.index.claims(endpoint.key).keys()
        identity = carried_id(endpoint)
        if identity is not None:
            self._stale_migrations |= self.index.with_id(identity)

    def _traits(self, ids: Iterable[MigrationId | None]) -> dict[MigrationId, Traits]:
        """Note what is true of the endpoints that carry these uids."""
        return {
            identity: self.index.traits_of_carriers(identity)
            for identity in ids
            if identity is not None
        }

    def _mark_carriers(self, before: Mapping[MigrationId, Traits]) -> None:
        """Mark those that carry the uid of a migration without an object, if that matters."""
        for identity, traits in before.items():
            if (
                not self.index.with_id(identity)
                and self.index.traits_of_carriers(identity) != traits
            ):
                self._mark(self.index.carriers(identity))

    def _mark_members(self, key: ObjectKey) -> None:
        """Mark the endpoints that a change of a migration can affect."""
        migration = self.index.migrations.get(key)
        if migration is not None:
            self._mark(self.index.members(key))
            self._mark(self.index.carriers(migration_id(migration)))

    def _forgive(self, key: ObjectKey) -> None:
        identity = self._unreadable.pop(key, None)
        if identity is not None:
            self._mark(self.index.carriers(identity))
