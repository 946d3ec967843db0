"""The status of a LiveMigration, from how it stands: phase, conditions, sides and times.

Pure, and the same input gives an equal status: what is equal is not written. Times are set once.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from handover_api.conditions import MigrationCondition as Type
from handover_api.conditions import MigrationReason as Reason
from handover_api.livemigration import (
    LiveMigration,
    LiveMigrationStatus,
    Outcome,
    Phase,
    SideStatus,
    Source,
    Target,
)
from handover_api.model import Condition
from handover_api.wording import enumerate_few
from handover_api.workloadendpoint import Cutover, State
from handover_operator.roles.model import Endpoint
from handover_operator.status import following, phases
from handover_operator.status.progress import Standing

LINGERS_AFTER: Final = dt.timedelta(seconds=5)
"""A source that still has routes so long after the success is worth an Event."""


SIDES: Final = 64
"""So many endpoints of a side the status lists, as in the CustomResourceDefinition (maxItems): more
are counted. A VM has as many as it has interfaces, and each status is written and stored whole."""


class _Draft(NamedTuple):
    """A condition before it has its time of transition."""

    type: Type
    holds: bool
    reason: Reason
    message: str = ""


def status(
    migration: LiveMigration,
    standing: Standing,
    now: dt.datetime,
    absent_nodes: frozenset[str] = frozenset(),
) -> LiveMigrationStatus:
    """Return the status that *migration* must have; a finished one keeps what it has.

    Only a guest that contradicts how it ended is told later.

    *absent_nodes*: those of ``silent_nodes`` that are known not to exist.
    """
    before = migration.status
    if before.phase in phases.FINISHED:
        told = _dated(migration, _contradicted(migration, standing), now)
        return before.model_copy(update={"conditions": told})
    phase = phases.phase(migration, standing, now)
    drafts = _drafts(migration, standing, phase, now)
    drafts = [_explained(draft, standing, absent_nodes) for draft in drafts]
    cut_over = any(draft.type is Type.CUT_OVER and draft.holds for draft in drafts)
    ended = phase in phases.FINISHED
    sources = _side(migration, standing, before.source, standing.sources)
    targets = _side(migration, standing, before.target, standing.targets)
    return LiveMigrationStatus(
        phase=phase,
        observed_generation=migration.metadata.generation,
        source=sources[:SIDES],
        source_count=len(sources) if len(sources) > SIDES else None,
        target=targets[:SIDES],
        target_count=len(targets) if len(targets) > SIDES else None,
        start_time=before.start_time or (None if phase is Phase.PENDING else now),
        ready_time=before.ready_time or (now if phase is Phase.READY else None),
        cutover_time=before.cutover_time
        or (_cutover_time(migration, standing, now) if cut_over else None),
        completion_time=before.completion_time or (now if ended else None),
        conditions=_dated(migration, drafts, now),
    )


def silent_nodes(
    migration: LiveMigration, standing: Standing, status: LiveMigrationStatus
) -> frozenset[str]:
    """Return the targets' nodes whose agents have been silent for long, by *status*."""
    ready = next((each for each in status.conditions if each.type == Type.TARGET_READY), None)
    if status.phase in phases.FINISHED or ready is None or ready.reason != Reason.AGENT_SILENT:
        return frozenset()
    uid = migration.migration_uid
    return frozenset(each.node for each in standing.targets if each.acted_uid != uid)


def wake(migration: LiveMigration, standing: Standing, now: dt.datetime) -> dt.datetime | None:
    """Return when the status changes though nothing else does; never a time that is past.

    A finished migration has no clocks, and a decided one only those of its end: conditions that
    nobody brings up to date any more must wake nobody, or the operator would look without a pause.
    """
    due = (moment for moment in _clocks(migration, standing) if moment > now)
    return min(due, default=None)


def _clocks(migration: LiveMigration, standing: Standing) -> Iterator[dt.datetime]:
    if migration.status.phase in phases.FINISHED or standing.decision is Outcome.ABORTED:
        return
    lingers = _condition(migration, Type.SOURCE_LINGERS)
    if standing.lingering and lingers is not None and lingers.reason == Reason.WITHDRAWING:
        yield lingers.last_transition_time + LINGERS_AFTER
    ready = _condition(migration, Type.TARGET_READY)
    is_awaited = ready is not None and ready.reason == Reason.AWAITING_AGENT
    if standing.decision is None and is_awaited and migration.status.start_time is not None:
        yield migration.status.start_time + following.SILENT_AFTER
    until = following.deadline(migration)
    uid = migration.migration_uid
    is_silent = any(target.acted_uid != uid for target in standing.targets)
    if standing.decision is Outcome.SUCCEEDED and is_silent and until is not None:
        yield until


def expiry(migration: LiveMigration) -> dt.datetime | None:
    """Return when a finished migration is to be deleted (spec.ttlSecondsAfterFinished)."""
    ttl, completed = migration.spec.ttl_seconds_after_finished, migration.status.completion_time
    if ttl is None or completed is None or migration.status.phase not in phases.FINISHED:
        return None
    return completed + dt.timedelta(seconds=ttl)


def has_resolved_source(migration: LiveMigration) -> bool:
    """Its status says that its source once had an endpoint."""
    resolved = _condition(migration, Type.SOURCE_RESOLVED)
    return resolved is not None and (resolved.status == "True" or resolved.reason == Reason.GONE)


def is_superseded(migration: LiveMigration) -> bool:
    """Its status says that a newer migration has moved the guest since."""
    found = _condition(migration, Type.CONFLICTED)
    return found is not None and found.status == "True" and found.reason == Reason.SUPERSEDED


def _condition(migration: LiveMigration, wanted: Type) -> Condition | None:
    return next((found for found in migration.status.conditions if found.type == wanted), None)


def _drafts(
    migration: LiveMigration, standing: Standing, phase: Phase, now: dt.datetime
) -> Sequence[_Draft]:
    drafts = [
        _cut_over(migration, standing),
        *_ended(migration, standing, phase, now),
        *_conflicted(migration, standing),
        *_lingering(migration, standing, now),
        *_contradicted(migration, standing),
    ]
    if standing.decision is None:
        drafts += [*_resolved(migration, standing), _target_ready(migration, standing, now)]
        drafts += _address_kept(migration, standing)
    return drafts


def _resolved(migration: LiveMigration, standing: Standing) -> Iterator[_Draft]:
    """A side that was not asked for has no condition."""
    source, target = migration.spec.source, migration.spec.target
    if source is not None:
        absent = Reason.GONE if standing.source_was_resolved else Reason.NOT_FOUND
        yield _found(Type.SOURCE_RESOLVED, standing.sources, absent, _wanted(source))
    if target is not None:
        wanted = "that the selector matches" if target.selector is not None else _wanted(target)
        yield _found(Type.TARGET_RESOLVED, standing.targets, Reason.NOT_FOUND, wanted)


def _wanted(side: Source | Target) -> str:
    if side.workload is not None:
        return f"of workload {side.workload.name}"
    return f"{side.endpoint.name}" if side.endpoint is not None else ""


def _found(wanted: Type, endpoints: Sequence[Endpoint], absent: Reason, which: str) -> _Draft:
    if endpoints:
        return _Draft(wanted, holds=True, reason=Reason.RESOLVED, message=_listed(endpoints))
    message = f"there is no WorkloadEndpoint {which}"
    return _Draft(wanted, holds=False, reason=absent, message=message)


def _listed(endpoints: Sequence[Endpoint]) -> str:
    return enumerate_few(map(_where, endpoints), len(endpoints))


def _where(endpoint: Endpoint) -> str:
    return f"{endpoint.key.name} on {endpoint.node}"


def _target_ready(migration: LiveMigration, standing: Standing, now: dt.datetime) -> _Draft:
    uid = migration.migration_uid
    if not standing.targets:
        return _Draft(Type.TARGET_READY, holds=False, reason=Reason.NO_TARGET)
    unready = [
        target
        for target in standing.targets
        if not (target.is_listening_for(uid) or target.is_alive_for(uid))
    ]
    if unready and not _held_before(migration, Type.CUT_OVER):
        reason = _unready(migration, standing, unready, now)
        missing = (_missing(target, uid, standing) for target in unready)
        message = enumerate_few(missing, len(unready), "; ")
        return _Draft(Type.TARGET_READY, holds=False, reason=reason, message=message)
    return _Draft(Type.TARGET_READY, holds=True, reason=Reason.LISTENING)


def _explained(draft: _Draft, standing: Standing, absent_nodes: frozenset[str]) -> _Draft:
    """Where a silent agent has no node, say that instead."""
    if draft.reason != Reason.AGENT_SILENT or not absent_nodes:
        return draft
    lost = [each for each in standing.targets if each.node in absent_nodes]
    texts = (f"{_where(each)}: there is no such node" for each in lost)
    message = enumerate_few(texts, len(lost), "; ")
    return draft._replace(reason=Reason.NODE_ABSENT, message=message)


def _unready(
    migration: LiveMigration, standing: Standing, targets: Iterable[Endpoint], now: dt.datetime
) -> Reason:
    """Tell an agent that has something to say from one that may not be there."""
    uid, start = migration.migration_uid, migration.status.start_time
    if not any(_awaits_agent(target, uid, standing) for target in targets):
        return Reason.NOT_LISTENING
    is_late = start is not None and now - start >= following.SILENT_AFTER
    return Reason.AGENT_SILENT if is_late else Reason.AWAITING_AGENT


def _awaits_agent(target: Endpoint, migration_uid: str, standing: Standing) -> bool:
    """Its agent was told of this migration, and has not acted."""
    if target.key in standing.superseded or _serves_another(target, migration_uid):
        return False
    return target.acted_uid != migration_uid


def _serves_another(target: Endpoint, migration_uid: str) -> bool:
    said = target.assignment
    return said.role is not None and said.migration_uid != migration_uid


def _missing(target: Endpoint, migration_uid: str, standing: Standing) -> str:
    where = _where(target)
    if target.key in standing.superseded:
        return f"{where} was moved since by a newer migration"
    if _serves_another(target, migration_uid):
        return f"{where} has its role from another migration"
    if target.state is None:
        return f"{where}: no agent has reported from that node; do the node and its agent run?"
    if target.acted_uid != migration_uid:
        return (
            f"{where}: the node's agent has not acted upon the role yet, it last reported state"
            f" {target.state}"
        )
    if target.state is not State.TARGET:
        return f"{where} is in state {target.state}"
    return f"{where} is not listening"


def _cut_over(migration: LiveMigration, standing: Standing) -> _Draft:
    """Once every target was live it stays so, whatever becomes of the endpoints."""
    if phases.has_cut_over(migration, standing) or _held_before(migration, Type.CUT_OVER):
        return _Draft(Type.CUT_OVER, holds=True, reason=Reason.ANNOUNCED)
    return _Draft(Type.CUT_OVER, holds=False, reason=Reason.NOT_ANNOUNCED)


def _held_before(migration: LiveMigration, wanted: Type) -> bool:
    found = _condition(migration, wanted)
    return found is not None and found.status == "True"


def _ended(
    migration: LiveMigration, standing: Standing, phase: Phase, now: dt.datetime
) -> Iterator[_Draft]:
    reason = {
        Phase.SUCCEEDED: Reason.SUCCEEDED,
        Phase.NOT_FOLLOWED: Reason.NOT_FOLLOWED,
        Phase.ABORTED: Reason.ABORTED,
        Phase.CONVERGING: Reason.CONVERGING,
    }.get(phase, Reason.IN_PROGRESS)
    converged = phase is Phase.SUCCEEDED
    awaited = _awaited(migration, standing, now) if phase is Phase.CONVERGING else ""
    why = following.obstacle(migration, standing, now) if phase is Phase.NOT_FOLLOWED else ""
    yield _Draft(Type.CONVERGED, converged, Reason.ALL_IN_BASE if converged else reason, awaited)
    yield _Draft(Type.FINISHED, phase in phases.FINISHED, reason, why)


def _awaited(migration: LiveMigration, standing: Standing, now: dt.datetime) -> str:
    """Name the targets whose agents have not returned them to Base; SourceLingers has its own."""
    slow = phases.unconverged(migration, standing, now)
    texts = (f"{_where(target)} in state {target.state}" for target in slow)
    states = enumerate_few(texts, len(slow))
    return f"waits for {states}" if states else ""


def _conflicted(migration: LiveMigration, standing: Standing) -> Iterator[_Draft]:
    """Present once there was a conflict; the first reason of several is shown."""
    if standing.conflict is not None:
        reason, message = standing.conflict.reason, standing.conflict.message
        yield _Draft(Type.CONFLICTED, holds=True, reason=reason, message=message)
    elif _condition(migration, Type.CONFLICTED) is not None:
        yield _Draft(Type.CONFLICTED, holds=False, reason=Reason.NO_CONFLICT)


def _address_kept(migration: LiveMigration, standing: Standing) -> Iterator[_Draft]:
    """Present once the network could not follow."""
    if standing.obstacle is not None:
        reason, message = standing.obstacle.reason, standing.obstacle.message
        yield _Draft(Type.ADDRESS_KEPT, holds=False, reason=reason, message=message)
    elif _condition(migration, Type.ADDRESS_KEPT) is not None:
        yield _Draft(Type.ADDRESS_KEPT, holds=True, reason=Reason.KEPT)


def _contradicted(migration: LiveMigration, standing: Standing) -> Iterator[_Draft]:
    """Present once the guest moved although the migration was aborted."""
    if standing.contradicting:
        message = (
            f"the guest runs where the migration was aborted: {_listed(standing.contradicting)}"
        )
        if standing.serving:
            message += f"; told to ask and let go: {_listed(standing.serving)}"
        yield _Draft(Type.CONTRADICTED, holds=True, reason=Reason.GUEST_MOVED, message=message)
    elif _condition(migration, Type.CONTRADICTED) is not None:
        yield _Draft(Type.CONTRADICTED, holds=False, reason=Reason.FOLLOWED)


def _lingering(migration: LiveMigration, standing: Standing, now: dt.datetime) -> Iterator[_Draft]:
    """Present once a source kept its targets waiting; a new reason when it takes too long."""
    before = _condition(migration, Type.SOURCE_LINGERS)
    if standing.lingering:
        since = before.last_transition_time if before and before.status == "True" else now
        late = now - since >= LINGERS_AFTER
        reason = Reason.STILL_ROUTED if late else Reason.WITHDRAWING
        listed = _listed(standing.lingering)
        message = f"the targets keep their priority until these have no routes: {listed}"
        yield _Draft(Type.SOURCE_LINGERS, holds=True, reason=reason, message=message)
    elif before is not None:
        yield _Draft(Type.SOURCE_LINGERS, holds=False, reason=Reason.WITHDRAWN)


def _dated(
    migration: LiveMigration, drafts: Iterable[_Draft], now: dt.datetime
) -> tuple[Condition, ...]:
    """Give the conditions their times; one without a draft stays as it is."""
    conditions = {condition.type: condition for condition in migration.status.conditions}
    for draft in drafts:
        before = conditions.get(draft.type)
        text = "True" if draft.holds else "False"
        since = now.replace(microsecond=0)
        if before is not None and before.status == text:
            since = before.last_transition_time
        conditions[draft.type] = Condition(
            type=draft.type.value,
            status=text,
            reason=draft.reason.value,
            message=draft.message,
            last_transition_time=since,
            observed_generation=migration.metadata.generation,
        )
    return tuple(conditions[wanted] for wanted in sorted(conditions))


def _side(
    migration: LiveMigration,
    standing: Standing,
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
        if standing.decision is not None or name in standing.absent
    }
    for endpoint in endpoints:
        name = endpoint.key.name
        cutover = _cutover(endpoint, uid) or (known[name].cutover if name in known else None)
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


def _cutover_time(migration: LiveMigration, standing: Standing, now: dt.datetime) -> dt.datetime:
    """Return the time of the last target's cutover in this migration, by its node's clock."""
    measured = (_cutover(target, migration.migration_uid) for target in standing.targets)
    return max((each.time for each in measured if each is not None), default=now)
