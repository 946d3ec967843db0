"""How far one migration is: all that its status is made of, taken from the resolver's index.

Roles are decided without it (``roles`` knows nothing of ``status``); it is taken anew for each
status, so that nothing of it can be out of date.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from handover_api.livemigration import LiveMigration, Outcome
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role
from handover_operator.roles import outcome
from handover_operator.roles.index import Index, migration_id
from handover_operator.roles.model import Endpoint
from handover_operator.roles.resolver import Resolver
from handover_operator.status import conflicts
from handover_operator.status.conflicts import Conflict


@dataclass(frozen=True, slots=True)
class Progress:
    """One migration's endpoints and what became of it so far.

    ``untold``: an endpoint still carries a role of it. ``lingering``: sources that keep the
    targets waiting. ``absent``: endpoints that its status names and that exist no more.
    ``superseded``: endpoints that a newer migration has moved since. ``heard``: a target that the
    spec matches has measured the cutover, whatever became of it since. ``contradicting``: targets
    whose guest runs there although it was aborted; ``serving``: sources that may serve it
    meanwhile.
    """

    decision: Outcome | None = None
    sources: tuple[Endpoint, ...] = ()
    targets: tuple[Endpoint, ...] = ()
    had_source: bool = False
    untold: bool = False
    lingering: tuple[Endpoint, ...] = ()
    absent: frozenset[str] = frozenset()
    superseded: frozenset[ObjectKey] = frozenset()
    conflict: Conflict | None = None
    heard: bool = False
    contradicting: tuple[Endpoint, ...] = ()
    serving: tuple[Endpoint, ...] = ()


def describe(resolver: Resolver, key: ObjectKey) -> Progress:
    """Return how far a migration is that was resolved.

    While it is undecided its endpoints are those that its spec matches, whoever wins them; then
    those that were told of it.
    """
    index = resolver.index
    migration, decided = index.migrations[key], resolver.decision(key)
    carriers = [index.endpoints[each] for each in sorted(index.carriers(migration_id(migration)))]
    progress = Progress(
        decision=decided,
        had_source=resolver.had_source(key),
        untold=any(carrier.assignment.role is not None for carrier in carriers),
        absent=_absent(index, migration),
    )
    if decided is None:
        return _undecided(progress, resolver, migration)
    uid = migration.migration_uid
    held = any(carrier.is_carrying(Role.TARGET, uid) for carrier in carriers)
    # Without a target that waits nobody is hurt by a source that lingers.
    is_waiting = decided is Outcome.SUCCEEDED and held
    sources, targets = (_told(carriers, role) for role in Role)
    return dataclasses.replace(
        progress,
        sources=sources,
        targets=targets,
        lingering=_lingering(index, migration) if is_waiting else (),
        # By the spec, not by what they carry: the next migration may have taken the target since.
        heard=_is_heard(index, migration),
        # Of a decided migration only: until then every target that lives is welcome.
        contradicting=tuple(target for target in targets if target.is_contradicting()),
        serving=tuple(
            source
            for source in sources
            if source.routed or not source.has_ended(Role.SOURCE, uid, Outcome.SUCCEEDED)
        ),
    )


def _undecided(progress: Progress, resolver: Resolver, migration: LiveMigration) -> Progress:
    index = resolver.index
    # Sorted, as the carriers are: one order gives one message, and an equal status is not written.
    members = sorted(index.members(migration.key).items())
    sources, targets = (
        tuple(index.endpoints[key] for key, found in members if found.role is role) for role in Role
    )
    # An endpoint that no turn of the resolver has reached so far is in nobody's way yet.
    judged = {
        key: verdict for key, _ in members if (verdict := resolver.last_verdict(key)) is not None
    }
    superseded = frozenset(key for key, each in judged.items() if migration.key in each.superseded)
    return dataclasses.replace(
        progress,
        sources=sources,
        targets=targets,
        superseded=superseded,
        conflict=conflicts.find(index, migration, targets, superseded, judged),
    )


def _is_heard(index: Index, migration: LiveMigration) -> bool:
    """A target has heard the guest, also one that the next migration has taken since."""
    members = index.members(migration.key)
    matched = (index.endpoints[key] for key in members if members[key].role is Role.TARGET)
    uid = migration.migration_uid
    return any(each.cutover is not None and each.cutover.migration_uid == uid for each in matched)


def _lingering(index: Index, migration: LiveMigration) -> tuple[Endpoint, ...]:
    uid = migration.migration_uid
    sources = outcome.sources(index, migration)
    return tuple(
        source for source in sources if source.routed or source.is_carrying(Role.SOURCE, uid)
    )


def _told(carriers: Sequence[Endpoint], role: Role) -> tuple[Endpoint, ...]:
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
