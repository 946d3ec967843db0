"""Which role an endpoint has: the rules, for one endpoint and the migrations that concern it.

Target by selector > target by name > source by name > none. What was held before matters in two
places only: a decided migration gives nothing new, and its targets keep their role until its
sources were told and have no routes. A target's endpoint of a KubeVirt VM is made with the role
that these rules will give it already on it (``kubevirt/vmi.py``), so that its agent loses no time.
"""

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
from handover_operator.roles.outcome import Summary

Age = tuple[dt.datetime, str]
_Given = tuple[Assignment, "Reason"]

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
    summary: Summary
    superseded: bool


@dataclass(frozen=True, slots=True)
class Holder:
    """The migration of which the endpoint's annotations speak; None: its object is gone."""

    migration: LiveMigration | None
    summary: Summary


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the annotations of an endpoint must say, and by which rule.

    ``claimants``: the undecided migrations that match it; ``superseded``: those that come too late.
    """

    assignment: Assignment
    reason: Reason
    claimants: frozenset[ObjectKey] = frozenset()
    superseded: frozenset[ObjectKey] = frozenset()


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
    traits: Traits = counts.NONE,
) -> Verdict:
    """Apply the rules; without a *holder* nobody may end the role that is there.

    *settled*: the age of the migration that has moved the guest to this endpoint, or away from it,
    for good. What an older one would make of it is over, though that one is told so later.
    *traits*: what is true of the endpoints that were told of the same migration.
    """
    # In this order: who comes too late has no say; then who gives a role; only then who ends one.
    current = [claim for claim in claims if _is_current(claim, endpoint.assignment, settled)]
    assignment, reason = _role_given(endpoint, current, holder) or _none_given(
        endpoint, holder, traits
    )
    claimants = frozenset(claim.migration.key for claim in claims)
    late = claimants.difference(claim.migration.key for claim in current)
    return Verdict(assignment, reason, claimants, late)


def _role_given(
    endpoint: Endpoint, current: Sequence[Claim], holder: Holder | None
) -> _Given | None:
    """Return the role that somebody gives, or that is kept a while; None: there is none."""
    sources = [claim for claim in current if claim.match.role is Role.SOURCE]
    targets = [
        claim
        for claim in current
        if claim.match.role is Role.TARGET
        and not _is_superseded(
            endpoint, claim.migration.migration_uid, age(claim.migration), claim.summary, sources
        )
    ]
    # A guest that is on its way goes before one that may leave: both roles are never there at once.
    if targets:
        by_selector = any(claim.match.by_selector for claim in targets)
        reason = Reason.TARGET_BY_SELECTOR if by_selector else Reason.TARGET_BY_NAME
        return _give(Role.TARGET, targets), reason
    if _is_held(endpoint, holder, sources):
        return endpoint.assignment, Reason.HELD
    if sources:
        return _give(Role.SOURCE, sources), Reason.SOURCE_BY_NAME
    return None


def _none_given(endpoint: Endpoint, holder: Holder | None, traits: Traits) -> _Given:
    """Return what is said of an endpoint to which nobody gives a role."""
    said = endpoint.assignment
    # What was told of an end is never taken back, but for packets that contradict an abort.
    if said.role is None:
        corrected = outcome.corrected(endpoint, traits)
        return corrected, Reason.NONE if corrected == said else Reason.CONTRADICTED
    if holder is None:
        return said, Reason.HELD
    return outcome.finish(endpoint, holder.summary), Reason.ENDED


def _is_current(claim: Claim, said: Assignment, settled: Age | None) -> bool:
    """The guest has not been moved since; made anew under its id a migration goes on.

    Times have whole seconds: of two in the same one nobody knows which was the first. Where the
    migration that moved the guest is gone, and its age with it, what was said of the claim stands.
    """
    if claim.migration.migration_uid == said.migration_uid:
        return True
    if settled is None:
        return not (claim.superseded and said.outcome is Outcome.SUCCEEDED)
    # Not by uid, which orders two of one second at random.
    return age(claim.migration)[0] >= settled[0]


def _give(role: Role, claims: Sequence[Claim]) -> Assignment:
    # Of several that give the role the newest is written, and a newer one anew, so that the agent
    # begins a new episode for it.
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
    # Where the end would change nothing yet, the target waits for its sources to be told.
    if outcome.finish(endpoint, holder.summary) != said:
        return False
    # The age of one that is gone is unknown; any migration that is there is taken as newer.
    held_since = _OLDEST if holder.migration is None else age(holder.migration)
    return not _is_superseded(endpoint, said.migration_uid, held_since, holder.summary, sources)


def _is_superseded(
    endpoint: Endpoint, migration_uid: str, since: Age, summary: Summary, sources: Sequence[Claim]
) -> bool:
    """The guest that arrived here leaves again, with a newer migration that names us source.

    Until the older migration's source has no routes the endpoint stays target: as a source of
    normal priority it would share the traffic with a node that the guest has left.
    """
    newer = [claim for claim in sources if age(claim.migration) > since]
    return (
        bool(newer)
        and endpoint.is_alive_for(migration_uid)
        and (not summary.routed or any(claim.summary.alive for claim in newer))
    )
