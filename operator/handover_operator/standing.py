"""How one migration stands: everything that its status tells, gathered from the index."""

from collections.abc import Mapping
from dataclasses import dataclass

from handover_api.conditions import MigrationReason
from handover_api.livemigration import LiveMigration, Outcome
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role
from handover_operator import addresses, outcome
from handover_operator.facts import Endpoint
from handover_operator.index import Index, course_of
from handover_operator.outcome import View


@dataclass(frozen=True, slots=True)
class Conflict:
    """Something that a person must look at; it stops no other migration."""

    reason: MigrationReason
    message: str


@dataclass(frozen=True, slots=True)
class Standing:
    """One migration's endpoints and what became of it so far.

    ``untold``: an endpoint still carries a role of it. ``lingering``: sources that keep the
    targets waiting. ``absent``: endpoints that its status names and that exist no more.
    ``obstacle``: why the network cannot follow the guest.
    """

    decision: Outcome | None = None
    sources: tuple[Endpoint, ...] = ()
    targets: tuple[Endpoint, ...] = ()
    source_was_resolved: bool = False
    untold: bool = False
    lingering: tuple[Endpoint, ...] = ()
    absent: frozenset[str] = frozenset()
    conflicts: tuple[Conflict, ...] = ()
    obstacle: Conflict | None = None


def stand(
    index: Index,
    migration: LiveMigration,
    views: Mapping[ObjectKey, View],
    *,
    was_resolved: bool,
) -> Standing:
    """Gather how *migration* stands.

    While it is undecided its endpoints are those that its spec matches, whoever wins them; then
    those that were told of it.
    """
    uid = migration.migration_uid
    carriers = [index.endpoints[key] for key in sorted(index.carriers(course_of(migration)))]
    decided = views[migration.key].decision
    if decided is None:
        sources, targets = (_members(index, migration, role) for role in Role)
        found = addresses.obstacle(migration, sources, targets)
        conflicts = tuple(_conflicts(index, migration, targets, views))
    else:
        sources, targets = (_told(carriers, role) for role in Role)
        conflicts = ()
        found = None
    held = any(carrier.is_carrying(Role.TARGET, uid) for carrier in carriers)
    lingering: tuple[Endpoint, ...] = ()
    if decided is Outcome.SUCCEEDED and held:
        candidates, _ = outcome.sides(index, course_of(migration), migration.key)
        lingering = tuple(
            source for source in candidates if source.routed or source.is_carrying(Role.SOURCE, uid)
        )
    return Standing(
        decision=decided,
        sources=sources,
        targets=targets,
        source_was_resolved=was_resolved,
        untold=any(carrier.assignment.role is not None for carrier in carriers),
        lingering=lingering,
        absent=_absent(index, migration),
        conflicts=conflicts,
        obstacle=None if found is None else Conflict(*found),
    )


def _members(index: Index, migration: LiveMigration, role: Role) -> tuple[Endpoint, ...]:
    members = index.members(migration.key)
    return tuple(index.endpoints[key] for key in sorted(members) if members[key].role is role)


def _told(carriers: list[Endpoint], role: Role) -> tuple[Endpoint, ...]:
    return tuple(
        carrier
        for carrier in carriers
        if role in (carrier.assignment.role, carrier.assignment.ended_role)
    )


def _absent(index: Index, migration: LiveMigration) -> frozenset[str]:
    status = migration.status
    return frozenset(
        side.endpoint
        for side in (*status.source, *status.target)
        if ObjectKey(migration.key.namespace, side.endpoint) not in index.endpoints
    )


def _conflicts(
    index: Index,
    migration: LiveMigration,
    targets: tuple[Endpoint, ...],
    views: Mapping[ObjectKey, View],
) -> list[Conflict]:
    contested = [
        f"endpoint {key.name} is matched as target and named as source: it is source"
        for key, found in sorted(index.members(migration.key).items())
        if found.contested
    ]
    claimed = [
        f"endpoint {key.name} is {found.role} of LiveMigration {other.name} as well"
        for key in sorted(index.members(migration.key))
        for other, found in sorted(index.claims(key).items())
        if other != migration.key and views[other].decision is None
    ]
    nodes = sorted({target.node for target in targets})
    scattered = [f"the targets are on several nodes: {', '.join(nodes)}"] if len(nodes) > 1 else []
    return [
        *(Conflict(MigrationReason.SELECTOR_MATCHES_SOURCE, text) for text in contested),
        *(Conflict(MigrationReason.ENDPOINT_CLAIMED, text) for text in claimed),
        *(Conflict(MigrationReason.TARGETS_ON_TWO_NODES, text) for text in scattered),
    ]
