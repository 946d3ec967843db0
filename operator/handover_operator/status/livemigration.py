"""The status of a LiveMigration: phase, conditions, sides and times; and when it changes by itself.

Pure, and the same input gives an equal status: what is equal is not written. Times are set once.
"""

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Final

from handover_api.conditions import MigrationCondition as Type
from handover_api.conditions import MigrationReason as Reason
from handover_api.livemigration import (
    LiveMigration,
    LiveMigrationStatus,
    Outcome,
    Phase,
    SideStatus,
)
from handover_api.model import Condition
from handover_api.workloadendpoint import Cutover, Hold, RedirectStatus
from handover_operator.roles.model import Endpoint
from handover_operator.status import conditions, draft, following, phases
from handover_operator.status.conditions import Context
from handover_operator.status.progress import Progress

SIDES: Final = 64
"""So many endpoints of a side the status lists, as in the CustomResourceDefinition (maxItems): more
are counted. A VM has as many as it has interfaces, and each status is written and stored whole."""


def status(
    migration: LiveMigration,
    progress: Progress,
    now: dt.datetime,
    absent_nodes: frozenset[str] = frozenset(),
) -> LiveMigrationStatus:
    """Return the status that *migration* must have; a finished one keeps what it has.

    Only a guest that contradicts how it ended is told later.

    *absent_nodes*: those of ``silent_nodes`` that are known not to exist.
    """
    before = migration.status
    if before.phase in phases.FINISHED:
        context = Context(migration, progress, before.phase, now)
        return before.model_copy(update={"conditions": _conditions(context)})
    phase = phases.phase(migration, progress, now)
    told = _conditions(Context(migration, progress, phase, now, absent_nodes))
    has_cut_over = any(each.type == Type.CUT_OVER and each.status == "True" for each in told)
    sources = _side(migration, progress, before.source, progress.sources)
    targets = _side(migration, progress, before.target, progress.targets)
    return LiveMigrationStatus(
        phase=phase,
        observed_generation=migration.metadata.generation,
        source=sources[:SIDES],
        source_count=len(sources) if len(sources) > SIDES else None,
        target=targets[:SIDES],
        target_count=len(targets) if len(targets) > SIDES else None,
        start_time=before.start_time or (None if phase is Phase.PENDING else now),
        # Times are of the first time: what was ready once and is not any more was ready then.
        ready_time=before.ready_time or (now if phase is Phase.READY else None),
        cutover_time=before.cutover_time
        or (_cutover_time(migration, progress, now) if has_cut_over else None),
        completion_time=before.completion_time or (now if phase in phases.FINISHED else None),
        conditions=told,
    )


def silent_nodes(
    migration: LiveMigration, progress: Progress, status: LiveMigrationStatus
) -> frozenset[str]:
    """Return the targets' nodes whose agents have been silent for long, by *status*."""
    ready = status.condition(Type.TARGET_READY)
    if status.phase in phases.FINISHED or ready is None or ready.reason != Reason.AGENT_SILENT:
        return frozenset()
    uid = migration.migration_uid
    return frozenset(each.node for each in progress.targets if each.acted_uid != uid)


def wake(migration: LiveMigration, progress: Progress, now: dt.datetime) -> dt.datetime | None:
    """Return when the status changes though nothing else does; never a time that is past.

    A finished migration has no clocks, and a decided one only those of its end: conditions that
    nobody brings up to date any more must wake nobody, or the operator would look without a pause.
    """
    due = (moment for moment in _clocks(migration, progress) if moment > now)
    return min(due, default=None)


def _clocks(migration: LiveMigration, progress: Progress) -> Iterator[dt.datetime]:
    status = migration.status
    if status.phase in phases.FINISHED or progress.decision is Outcome.ABORTED:
        return
    lingers = status.condition(Type.SOURCE_LINGERS)
    if progress.lingering and lingers is not None and lingers.reason == Reason.WITHDRAWING:
        # Then Withdrawing becomes StillRouted, which is worth an Event.
        yield lingers.last_transition_time + conditions.LINGERS_AFTER
    ready = status.condition(Type.TARGET_READY)
    awaits_agent = ready is not None and ready.reason == Reason.AWAITING_AGENT
    # Then AwaitingAgent becomes AgentSilent, though no object changes.
    if progress.decision is None and awaits_agent and status.start_time is not None:
        yield status.start_time + following.SILENT_AFTER
    until = following.deadline(migration)
    uid = migration.migration_uid
    is_silent = any(target.acted_uid != uid for target in progress.targets)
    # Then a target whose agent never acted is waited for no longer (following.is_settled).
    if progress.decision is Outcome.SUCCEEDED and is_silent and until is not None:
        yield until


def expiry(migration: LiveMigration) -> dt.datetime | None:
    """Return when a finished migration is to be deleted (spec.ttlSecondsAfterFinished)."""
    ttl, completed = migration.spec.ttl_seconds_after_finished, migration.status.completion_time
    # As a Job's: no ttl, no deletion, whatever the migration looks like.
    if ttl is None or completed is None or migration.status.phase not in phases.FINISHED:
        return None
    return completed + dt.timedelta(seconds=ttl)


def _conditions(context: Context) -> tuple[Condition, ...]:
    """Give the conditions their times; one of which nothing is said stays as it is."""
    metadata, status = context.migration.metadata, context.migration.status
    found = {each.type: each for each in status.conditions}
    for kind, said in conditions.drafts(context).items():
        before = found.get(kind.value)
        found[kind.value] = draft.date(kind.value, said, before, metadata.generation, context.now)
    # In one order always: equal statuses must be equal, or each look would write one anew.
    return tuple(found[kind] for kind in sorted(found))


def _side(
    migration: LiveMigration,
    progress: Progress,
    before: Iterable[SideStatus],
    endpoints: Iterable[Endpoint],
) -> tuple[SideStatus, ...]:
    """Report the endpoints of one side; those that are gone stay listed.

    A decided migration loses none: its endpoints may serve the next one already.
    """
    uid = migration.migration_uid
    known = {side.endpoint: side for side in before}
    sides = {
        name: side
        for name, side in known.items()
        if progress.decision is not None or name in progress.absent
    }
    for endpoint in endpoints:
        name = endpoint.key.name
        # An agent that was restarted has forgotten what it measured; the status has not.
        before_it = known[name].cutover if name in known else None
        cutover = _cutover(endpoint, uid) or before_it
        if cutover:
            cutover = _with_redirects(cutover, before_it, _redirects(endpoint, progress, uid))
        sides[name] = SideStatus(
            endpoint=name, node=endpoint.node, state=endpoint.state, cutover=cutover
        )
    return tuple(sides[name] for name in sorted(sides))


def _cutover(endpoint: Endpoint, migration_uid: str) -> Cutover | None:
    """Return what the agent measured for this migration; the status leaves the uid out."""
    measured = endpoint.cutover
    if measured is None or measured.migration_uid != migration_uid:
        return None
    return measured.model_copy(update={"migration_uid": None})


def _redirects(
    endpoint: Endpoint, progress: Progress, migration_uid: str
) -> tuple[RedirectStatus, ...]:
    """Return what the sources of this migration have sent on to an endpoint's addresses."""
    return tuple(
        source.redirect
        for source in progress.sources
        if source.redirect
        and source.redirect.migration_uid == migration_uid
        and not frozenset(source.ips).isdisjoint(endpoint.ips)
    )


def _with_redirects(
    cutover: Cutover, before: Cutover | None, redirects: Iterable[RedirectStatus]
) -> Cutover:
    """Add what was sent on or again, and how often the guest went back.

    A source that is gone, or whose agent was started anew, takes nothing of it back.
    """
    found = tuple(redirects)
    forwarded = _most(before.forwarded if before else None, (each.forwarded for each in found))
    back = _most(before.roll_backs if before else None, (each.roll_backs for each in found))
    hold = _greatest(before.hold if before else None, (each.hold for each in found))
    return cutover.model_copy(update={"forwarded": forwarded, "roll_backs": back, "hold": hold})


def _most(before: int | None, told: Iterable[int | None]) -> int | None:
    counted = [each for each in told if each is not None]
    return max(sum(counted), before or 0) if counted else before


def _greatest(before: Hold | None, told: Iterable[Hold | None]) -> Hold | None:
    # Whole, and not number by number: what was kept and what became of it belong together.
    known = [each for each in (*told, before) if each is not None]
    # Of equal ones max takes the first, which is told anew.
    return max(known, key=lambda each: (each.held, each.resent, each.dropped), default=None)


def _cutover_time(migration: LiveMigration, progress: Progress, now: dt.datetime) -> dt.datetime:
    """Return the time of the last target's cutover in this migration, by its node's clock."""
    measured = (_cutover(target, migration.migration_uid) for target in progress.targets)
    return max((each.time for each in measured if each is not None), default=now)
