"""Which role an endpoint has: the rules, for one endpoint and the migrations that concern it.

Target by selector > target by name > source by name > none. What was held before matters in two
places only: a decided migration gives nothing new, and its targets keep their role until its
sources were told and have no routes.
"""

import dataclasses
import datetime as dt
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from handover_api.assignment import Assignment
from handover_api.conditions import MigrationCondition, MigrationReason
from handover_api.livemigration import LiveMigration, Outcome
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role
from handover_operator.roles import counts, outcome
from handover_operator.roles.counts import Traits
from handover_operator.roles.index import Match
from handover_operator.roles.model import Endpoint
from handover_operator.roles.outcome import View

Age = tuple[dt.datetime, str]

_OLDEST: Final[Age] = (dt.datetime.min.replace(tzinfo=dt.UTC), "")


class Reason(enum.StrEnum):
    """Why an endpoint has the role that it has."""

    TARGET_BY_SELECTOR = "TargetBySelector"
    TARGET_BY_NAME = "TargetByName"
    SOURCE_BY_NAME = "SourceByName"
    HELD = "Held"
    ENDED = "Ended"
    CONTRADICTED = "Contradicted"
    NONE = "None"


@dataclass(frozen=True, slots=True)
class Claim:
    """An undecided migration that matches the endpoint.

    ``superseded``: its status says that a newer one has moved the guest since.
    """

    migration: LiveMigration
    match: Match
    view: View
    superseded: bool


@dataclass(frozen=True, slots=True)
class Holder:
    """The migration of which the endpoint's annotations speak; None: its object is gone."""

    migration: LiveMigration | None
    view: View


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the annotations of an endpoint must say, and by which rule.

    ``superseded``: the claims that come too late.
    """

    assignment: Assignment
    reason: Reason
    superseded: frozenset[ObjectKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and the undecided migrations that had a claim."""

    verdict: Verdict
    claimants: frozenset[ObjectKey]


def age(migration: LiveMigration) -> Age:
    """Sort key: the greater, the newer."""
    created = migration.metadata.creation_timestamp
    return (created or _OLDEST[0], migration.metadata.uid)


def was_superseded(migration: LiveMigration) -> bool:
    """Its status says that a newer migration has moved the guest since."""
    found = migration.status.condition(MigrationCondition.CONFLICTED)
    return (
        found is not None and found.status == "True" and found.reason == MigrationReason.SUPERSEDED
    )


def assign(
    endpoint: Endpoint,
    claims: Sequence[Claim],
    holder: Holder | None,
    settled: Age | None = None,
    seen: Traits = counts.NONE,
) -> Verdict:
    """Apply the rules; without a *holder* nobody may end the role that is there.

    *settled*: the age of the migration that has moved the guest to this endpoint, or away from it,
    for good. What an older one would make of it is over, though that one is told so later.
    *seen*: what is true of the endpoints that were told of the same migration.
    """
    current = [claim for claim in claims if _is_current(claim, endpoint.assignment, settled)]
    verdict = _given(endpoint, current, holder) or _left(endpoint, holder, seen)
    if len(current) == len(claims):
        return verdict
    late = {claim.migration.key for claim in claims} - {claim.migration.key for claim in current}
    return dataclasses.replace(verdict, superseded=frozenset(late))


def _given(endpoint: Endpoint, current: Sequence[Claim], holder: Holder | None) -> Verdict | None:
    """Return the role that somebody gives, or that is kept a while; None: there is none."""
    sources = [claim for claim in current if claim.match.role is Role.SOURCE]
    targets = [
        claim
        for claim in current
        if claim.match.role is Role.TARGET
        and not _is_superseded(
            endpoint, claim.migration.migration_uid, age(claim.migration), claim.view, sources
        )
    ]
    if targets:
        by_selector = any(claim.match.by_selector for claim in targets)
        reason = Reason.TARGET_BY_SELECTOR if by_selector else Reason.TARGET_BY_NAME
        return Verdict(_give(Role.TARGET, targets), reason)
    if _is_held(endpoint, holder, sources):
        return Verdict(endpoint.assignment, Reason.HELD)
    if sources:
        return Verdict(_give(Role.SOURCE, sources), Reason.SOURCE_BY_NAME)
    return None


def _left(endpoint: Endpoint, holder: Holder | None, seen: Traits) -> Verdict:
    """Return what is said of an endpoint to which nobody gives a role."""
    said = endpoint.assignment
    if said.role is None:
        corrected = outcome.corrected(endpoint, seen)
        return Verdict(corrected, Reason.NONE if corrected == said else Reason.CONTRADICTED)
    if holder is None:
        return Verdict(said, Reason.HELD)
    return Verdict(outcome.finish(endpoint, holder.view), Reason.ENDED)


def _is_current(claim: Claim, said: Assignment, settled: Age | None) -> bool:
    """The guest has not been moved since; made anew under its id a migration goes on.

    Times have whole seconds: of two in the same one nobody knows which was the first. Where the
    migration that moved the guest is gone, and its age with it, what was said of the claim stands.
    """
    if claim.migration.migration_uid == said.migration_uid:
        return True
    if settled is None:
        return not (claim.superseded and said.outcome is Outcome.SUCCEEDED)
    return age(claim.migration)[0] >= settled[0]


def _give(role: Role, claims: Sequence[Claim]) -> Assignment:
    newest = max((claim.migration for claim in claims), key=age)
    return Assignment(
        role=role,
        migration=newest.metadata.name,
        migration_uid=newest.migration_uid,
        # It guards what may give a route: a source has its routes.
        armed=newest.spec.armed or role is not Role.TARGET,
    )


def _is_held(endpoint: Endpoint, holder: Holder | None, sources: Sequence[Claim]) -> bool:
    """Its migration is decided, but its time to be told has not come."""
    said = endpoint.assignment
    if said.role is not Role.TARGET or said.migration_uid is None or holder is None:
        return False
    if outcome.finish(endpoint, holder.view) != said:
        return False
    held_since = _OLDEST if holder.migration is None else age(holder.migration)
    return not _is_superseded(endpoint, said.migration_uid, held_since, holder.view, sources)


def _is_superseded(
    endpoint: Endpoint, migration_uid: str, since: Age, seen: View, sources: Sequence[Claim]
) -> bool:
    """The guest that arrived here leaves again, with a newer migration that names us source.

    Until the older migration's source has no routes the endpoint stays target: as a source of
    normal priority it would share the traffic with a node that the guest has left.
    """
    newer = [claim for claim in sources if age(claim.migration) > since]
    return (
        bool(newer)
        and endpoint.is_alive_for(migration_uid)
        and (not seen.routed or any(claim.view.alive for claim in newer))
    )
