"""How a migration ends, and in which order its endpoints are told.

Success is told to the source first. A target returns to the normal priority when it is told, and
beside a source that still has routes of that priority half of the cluster would go back there.
Failure is told to all at once: a target is asked for life before it gives up a route.
"""

import dataclasses
import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from handover_api.assignment import Assignment
from handover_api.livemigration import LiveMigration, Outcome, Phase
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role
from handover_operator.facts import Endpoint
from handover_operator.index import Course, Index

_DECIDED: Final = {
    Phase.CONVERGING: Outcome.SUCCEEDED,
    Phase.SUCCEEDED: Outcome.SUCCEEDED,
    Phase.ABORTED: Outcome.ABORTED,
}


class Undecided(enum.Enum):
    """What a driver says of a migration that goes on: nobody else may end it."""

    UNDER_WAY = "UnderWay"


Driver = Callable[[str], Outcome | Undecided | None]
"""Says how the migration of a uid ended, or that it has not; None: it is none of its own."""


@dataclass(frozen=True, slots=True)
class View:
    """What the endpoints of one migration make of it.

    ``alive``: a target has shown life. ``untold``: a source still carries its role. ``routed``: a
    source has routes.
    """

    decision: Outcome | None = None
    alive: bool = False
    source_exists: bool = False
    untold: bool = False
    routed: bool = False

    @property
    def is_lingering(self) -> bool:
        """The targets must not be told of a success yet."""
        return self.untold or self.routed


def decision(migration: LiveMigration) -> Outcome | None:
    """Return how *migration* ended by its own word, or by the phase that we gave it."""
    return migration.spec.outcome or _DECIDED.get(migration.status.phase or Phase.PENDING)


def sides(
    index: Index, course: Course, migration: ObjectKey | None
) -> tuple[Sequence[Endpoint], Sequence[Endpoint]]:
    """Return the sources and the targets, by spec and by what their annotations carry.

    An endpoint that was told Aborted and no longer matches has left the migration.
    """
    uid = course[1]
    members = {} if migration is None else index.members(migration)
    sources: list[Endpoint] = []
    targets: list[Endpoint] = []
    for key in sorted({*members, *index.carriers(course)}):
        endpoint = index.endpoints[key]
        found = members.get(key)
        for role, side in ((Role.SOURCE, sources), (Role.TARGET, targets)):
            if (
                (found is not None and found.role is role)
                or endpoint.is_carrying(role, uid)
                or endpoint.has_ended(role, uid, Outcome.SUCCEEDED)
            ):
                side.append(endpoint)
    return sources, targets


def view(
    migration_uid: str,
    sources: Sequence[Endpoint],
    targets: Sequence[Endpoint],
    decided: Outcome | None,
) -> View:
    """Sum up one migration."""
    return View(
        decision=decided,
        alive=any(target.is_alive_for(migration_uid) for target in targets),
        source_exists=bool(sources),
        untold=any(source.is_carrying(Role.SOURCE, migration_uid) for source in sources),
        routed=any(source.routed for source in sources),
    )


def orphaned(migration_uid: str, carriers: Iterable[Endpoint]) -> Outcome:
    """Decide a migration whose object is gone, from what was told so far and from life.

    What the sources were told stands, so that a restart in the middle changes nothing.
    """
    carriers = list(carriers)
    if any(
        endpoint.has_ended(role, migration_uid, Outcome.SUCCEEDED)
        for endpoint in carriers
        for role in Role
    ):
        return Outcome.SUCCEEDED
    if any(
        endpoint.has_ended(Role.SOURCE, migration_uid, Outcome.ABORTED) for endpoint in carriers
    ) and not any(endpoint.is_carrying(Role.SOURCE, migration_uid) for endpoint in carriers):
        return Outcome.ABORTED
    alive = any(
        endpoint.is_carrying(Role.TARGET, migration_uid) and endpoint.is_alive_for(migration_uid)
        for endpoint in carriers
    )
    return Outcome.SUCCEEDED if alive else Outcome.ABORTED


def has_lost_source(migration: LiveMigration, seen: View, *, was_resolved: bool) -> bool:
    """Nobody drives *migration*, its guest is on the target, and its source is no more."""
    return (
        seen.decision is None
        and seen.alive
        and was_resolved
        and not seen.source_exists
        and not migration.is_controlled
    )


def finish(endpoint: Endpoint, seen: View) -> Assignment:
    """Return what *endpoint* is told now that nobody gives its role any more.

    An undecided migration has lost it by a change of spec or labels: the role is aborted. Where
    one target is alive, the others are told Aborted: the guest is not there.
    """
    said = endpoint.assignment
    told = seen.decision or Outcome.ABORTED
    if told is Outcome.SUCCEEDED and said.role is Role.TARGET:
        if seen.is_lingering:
            return said
        if seen.alive and not endpoint.is_alive_for(said.migration_uid or ""):
            told = Outcome.ABORTED
    return dataclasses.replace(said, role=None, outcome=told, ended_role=said.role)
