"""How a migration ends, and in which order its endpoints are told.

Success is told to the source first. A target returns to the normal priority when it is told, and
beside a source that still has routes of that priority half of the cluster would go back there.
Failure is told to all at once: a target is asked for life before it gives up a route.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from handover_api.assignment import Assignment
from handover_api.conditions import MigrationCondition, MigrationReason
from handover_api.livemigration import LiveMigration, Outcome, Phase
from handover_api.workloadendpoint import Role
from handover_operator.roles import counts
from handover_operator.roles.counts import Trait, Traits
from handover_operator.roles.index import Index, migration_id
from handover_operator.roles.model import Endpoint

_DECIDED: Final[Mapping[Phase | None, Outcome]] = {
    Phase.CONVERGING: Outcome.SUCCEEDED,
    Phase.SUCCEEDED: Outcome.SUCCEEDED,
    Phase.NOT_FOLLOWED: Outcome.SUCCEEDED,
    Phase.ABORTED: Outcome.ABORTED,
}


class Undecided(enum.Enum):
    """What a driver says of a migration that goes on: nobody else may end it."""

    UNDER_WAY = "UnderWay"


Driver = Callable[[str], Outcome | Undecided | None]
"""Says how the migration of a uid ended, or that it has not; None: it is none of its own."""


def no_driver(_: str) -> None:
    """Know of no migration: who makes LiveMigrations by hand tells their ends in them."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How one migration was decided, and what its endpoints make of it."""

    decision: Outcome | None = None
    traits: Traits = counts.NONE

    @property
    def alive(self) -> bool:
        """A target has shown life."""
        return Trait.ALIVE in self.traits

    @property
    def routed(self) -> bool:
        """A source has routes."""
        return Trait.ROUTED in self.traits

    @property
    def is_lingering(self) -> bool:
        """A source keeps the targets from being told of a success."""
        return not self.traits.isdisjoint({Trait.UNTOLD, Trait.ROUTED})


def decision(migration: LiveMigration) -> Outcome | None:
    """Return how *migration* ended by its own word, or by the phase that we gave it."""
    return migration.spec.outcome or _DECIDED.get(migration.status.phase)


def sources(index: Index, migration: LiveMigration) -> Sequence[Endpoint]:
    """Return the sources of *migration*, by its spec and by what their annotations carry.

    One that was told Aborted and no longer matches has left the migration.
    """
    uid = migration.migration_uid
    members = index.members(migration.key)
    found: list[Endpoint] = []
    for key in sorted({*members, *index.carriers(migration_id(migration))}):
        endpoint = index.endpoints[key]
        if (
            (key in members and members[key].role is Role.SOURCE)
            or endpoint.is_carrying(Role.SOURCE, uid)
            or endpoint.has_ended(Role.SOURCE, uid, Outcome.SUCCEEDED)
        ):
            found.append(endpoint)
    return found


def orphaned(traits: Traits) -> Outcome:
    """Decide a migration whose object is gone, from what was told so far and from life.

    What the sources were told stands, so that a restart in the middle changes nothing.
    """
    # Whoever was told of it, source or target, proves that it was decided so.
    if Trait.TOLD_OF_SUCCESS in traits:
        return Outcome.SUCCEEDED
    # An abort is told to all at once, but a source also loses its role when a spec changes: only
    # when no source still carries one was it the end.
    if Trait.SOURCE_TOLD_OF_ABORT in traits and Trait.UNTOLD not in traits:
        return Outcome.ABORTED
    return Outcome.SUCCEEDED if Trait.ARRIVED in traits else Outcome.ABORTED


def had_source(migration: LiveMigration) -> bool:
    """Its status says that its source once had an endpoint; a restart forgets nothing."""
    resolved = migration.status.condition(MigrationCondition.SOURCE_RESOLVED)
    return resolved is not None and (
        resolved.status == "True" or resolved.reason == MigrationReason.GONE
    )


def has_lost_source(migration: LiveMigration, summary: Summary, *, had_source: bool) -> bool:
    """Nobody drives *migration*, its guest is on the target, and its source is no more."""
    return (
        summary.decision is None
        and summary.alive
        and had_source
        and Trait.SOURCE not in summary.traits
        and not migration.is_controlled
    )


def finish(endpoint: Endpoint, summary: Summary) -> Assignment:
    """Return what *endpoint* is told now that nobody gives its role any more.

    An undecided migration has lost it by a change of spec or labels: the role is aborted. Where
    one target is alive, the others are told Aborted: the guest is not there.
    """
    said = endpoint.assignment
    told = summary.decision or Outcome.ABORTED
    if told is Outcome.SUCCEEDED and said.role is Role.TARGET:
        # The source goes first: beside its routes a target of normal priority would get half the
        # traffic.
        if summary.is_lingering:
            return said
        # Of several targets the guest runs on one; a route on another would answer for nobody.
        if summary.alive and not endpoint.is_alive_for(said.migration_uid or ""):
            told = Outcome.ABORTED
    return dataclasses.replace(
        said,
        role=None,
        outcome=told,
        ended_role=said.role,
        # Of a target whose migration failed the pod's own kernel may answer yet: there no answer
        # but a RARP may give a route. Everywhere else the word has done its work.
        armed=said.armed or told is Outcome.SUCCEEDED or said.role is not Role.TARGET,
    )


def corrected(endpoint: Endpoint, traits: Traits) -> Assignment:
    """Return what *endpoint* is told once its guest has contradicted an abort.

    Packets go before the word: the guest runs on a target that was told of an abort. The source is
    told that it left, and asks its guest first; the target keeps its elevated routes until no
    source can serve any more. *traits*: of all endpoints of this migration.
    """
    said = endpoint.assignment
    # Only an abort can be contradicted: after a success the source was told to let go already.
    if said.outcome is not Outcome.ABORTED or Trait.CONTRADICTING not in traits:
        return said
    is_followed = endpoint.is_contradicting() and Trait.SERVING not in traits
    if said.ended_role is Role.SOURCE or is_followed:
        return dataclasses.replace(said, outcome=Outcome.SUCCEEDED, armed=True)
    return said
