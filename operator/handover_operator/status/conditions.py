"""The conditions of a LiveMigration: a function for each, and the table of all.

To add one: name its type and its reasons in ``handover_api.conditions``, write its function here
and enter it in ``CONDITIONS``; tell users in docs/conditions.md and in the description of
crds/livemigrations.yaml. Where a person should be told at once, ``kubernetes_events`` has to know.
A function returns what its condition says now, or None: then it stays as it is, or away.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from handover_api import wording
from handover_api.conditions import EndpointReason
from handover_api.conditions import MigrationCondition as Type
from handover_api.conditions import MigrationReason as Reason
from handover_api.livemigration import LiveMigration, Phase, Source, Target
from handover_api.workloadendpoint import State
from handover_operator.roles.model import Endpoint
from handover_operator.status import following, phases
from handover_operator.status.draft import Draft
from handover_operator.status.progress import Progress

LINGERS_AFTER: Final = dt.timedelta(seconds=5)
"""A source that still has routes so long after the success is worth an Event."""


class Context(NamedTuple):
    """What a condition is made of; ``absent_nodes`` are known not to exist."""

    migration: LiveMigration
    progress: Progress
    phase: Phase
    now: dt.datetime
    absent_nodes: frozenset[str] = frozenset()


def drafts(context: Context) -> Mapping[Type, Draft]:
    """Return the conditions of which something is to be said now."""
    # A finished status is a record. Packets alone may still add to it (a late cancel).
    if context.migration.status.phase in phases.FINISHED:
        wanted = {Type.CONTRADICTED}
    elif context.progress.decision is not None:
        wanted = CONDITIONS.keys() - _UNTIL_DECIDED
    else:
        wanted = set(CONDITIONS)
    found = {each: CONDITIONS[each](context) for each in CONDITIONS if each in wanted}
    return {each: draft for each, draft in found.items() if draft is not None}


def _source_resolved(context: Context) -> Draft | None:
    """A side that was not asked for has no condition."""
    source = context.migration.spec.source
    if source is None:
        return None
    absent = Reason.GONE if context.progress.had_source else Reason.NOT_FOUND
    return _resolved(context.progress.sources, absent, _wanted(source))


def _target_resolved(context: Context) -> Draft | None:
    """By name or by selector; a target that was there once and is gone is just not found."""
    target = context.migration.spec.target
    if target is None:
        return None
    wanted = "that the selector matches" if target.selector is not None else _wanted(target)
    return _resolved(context.progress.targets, Reason.NOT_FOUND, wanted)


def _wanted(side: Source | Target) -> str:
    if side.workload is not None:
        return f"of workload {side.workload.name}"
    return f"{side.endpoint.name}" if side.endpoint is not None else ""


def _resolved(endpoints: Sequence[Endpoint], absent: Reason, which: str) -> Draft:
    if endpoints:
        return Draft(holds=True, reason=Reason.RESOLVED, message=_listed(endpoints))
    return Draft(holds=False, reason=absent, message=f"there is no WorkloadEndpoint {which}")


def _target_ready(context: Context) -> Draft:
    """Every target listens for its guest, or has heard it."""
    migration, progress = context.migration, context.progress
    uid = migration.migration_uid
    if not progress.targets:
        return Draft(holds=False, reason=Reason.NO_TARGET)
    unready = [
        target
        for target in progress.targets
        if not (target.is_listening_for(uid) or target.is_alive_for(uid))
    ]
    # After the cutover nobody needs to listen any more, and what was ready once stays so.
    if not unready or migration.status.is_true(Type.CUT_OVER):
        return Draft(holds=True, reason=Reason.LISTENING)
    # Asked only now: the API server is asked for a node only when its agent is silent.
    reason = _unready(context, unready)
    if reason is Reason.AGENT_SILENT and context.absent_nodes:
        return _node_absent(context)
    missing = (_missing(target, uid, progress) for target in unready)
    return Draft(
        holds=False, reason=reason, message=wording.enumerate_few(missing, len(unready), "; ")
    )


def _node_absent(context: Context) -> Draft:
    """Where a silent agent has no node, say that instead."""
    lost = [each for each in context.progress.targets if each.node in context.absent_nodes]
    texts = (f"{_where(each)}: there is no such node" for each in lost)
    message = wording.enumerate_few(texts, len(lost), "; ")
    return Draft(holds=False, reason=Reason.NODE_ABSENT, message=message)


def _unready(context: Context, targets: Iterable[Endpoint]) -> Reason:
    """Tell an agent that has something to say from one that may not be there."""
    migration = context.migration
    uid, start = migration.migration_uid, migration.status.start_time
    if not any(_awaits_agent(target, uid, context.progress) for target in targets):
        return Reason.NOT_LISTENING
    is_late = start is not None and context.now - start >= following.SILENT_AFTER
    return Reason.AGENT_SILENT if is_late else Reason.AWAITING_AGENT


def _awaits_agent(target: Endpoint, migration_uid: str, progress: Progress) -> bool:
    """Its agent was told of this migration, and has not acted."""
    # Its role is not this migration's, so its agent has nothing to act upon.
    if target.key in progress.superseded or _serves_another(target, migration_uid):
        return False
    return target.acted_uid != migration_uid


def _serves_another(target: Endpoint, migration_uid: str) -> bool:
    said = target.assignment
    return said.role is not None and said.migration_uid != migration_uid


def _missing(target: Endpoint, migration_uid: str, progress: Progress) -> str:
    where = _where(target)
    # From what a person can change to what only the agent can: the first that holds is said.
    if target.key in progress.superseded:
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


def _redirectable(context: Context) -> Draft | None:
    """What arrives at the source after the switchover can be sent on; said before the guest moves.

    Absent where no agent says anything of it: they are of a version that has no redirect.
    """
    progress, uid = context.progress, context.migration.migration_uid
    has_moved = any(target.is_alive_for(uid) for target in progress.targets)
    sides = (*progress.sources, *progress.targets)
    said = [each.redirectable for each in sides if each.redirectable is not None]
    # What is true afterwards comes too late for whoever could still have waited or cancelled.
    if has_moved or context.migration.status.is_true(Type.CUT_OVER):
        return None
    if not (said and progress.sources and progress.targets):
        return None
    if any(each.reason == EndpointReason.OFF for each in said):
        return Draft(holds=False, reason=Reason.OFF)
    unready = [each for each in sides if not _is_redirectable(each)]
    if not unready:
        return Draft(holds=True, reason=Reason.READY)
    # A reason that somebody has given explains more than that others have none to give so far.
    named = [each for each in unready if each.redirectable is not None]
    reason = Reason.NOT_READY if named else Reason.AWAITING_AGENT
    named = named or unready
    texts = (_obstructed(each) for each in named)
    message = wording.enumerate_few(texts, len(named), "; ")
    return Draft(holds=False, reason=reason, message=message)


def _is_redirectable(endpoint: Endpoint) -> bool:
    return endpoint.redirectable is not None and endpoint.redirectable.status == "True"


def _obstructed(endpoint: Endpoint) -> str:
    said = endpoint.redirectable
    if said is None:
        return f"{_where(endpoint)}: its agent has not said so far"
    return f"{_where(endpoint)}: {said.message or said.reason}"


def _cut_over(context: Context) -> Draft:
    """Once every target was live it stays so, whatever becomes of the endpoints."""
    migration = context.migration
    if phases.has_cut_over(migration, context.progress) or migration.status.is_true(Type.CUT_OVER):
        return Draft(holds=True, reason=Reason.ANNOUNCED)
    return Draft(holds=False, reason=Reason.NOT_ANNOUNCED)


_ENDED: Final = {
    Phase.SUCCEEDED: Reason.SUCCEEDED,
    Phase.NOT_FOLLOWED: Reason.NOT_FOLLOWED,
    Phase.ABORTED: Reason.ABORTED,
    Phase.CONVERGING: Reason.CONVERGING,
}


def _converged(context: Context) -> Draft:
    """All were told of the success, and the targets are back in Base."""
    if context.phase is Phase.SUCCEEDED:
        return Draft(holds=True, reason=Reason.ALL_IN_BASE)
    missing = _unconverged(context) if context.phase is Phase.CONVERGING else ""
    reason = _ENDED.get(context.phase, Reason.IN_PROGRESS)
    return Draft(holds=False, reason=reason, message=missing)


def _unconverged(context: Context) -> str:
    """Name the targets whose agents have not returned them to Base; SourceLingers has its own."""
    slow = phases.unconverged(context.migration, context.progress, context.now)
    texts = (f"{_where(target)} in state {target.state}" for target in slow)
    states = wording.enumerate_few(texts, len(slow))
    return f"waits for {states}" if states else ""


def _finished(context: Context) -> Draft:
    """The last phase is reached, and the reason says which; why, where the network stayed."""
    why = ""
    if context.phase is Phase.NOT_FOLLOWED:
        why = following.obstacle(context.migration, context.progress, context.now)
    reason = _ENDED.get(context.phase, Reason.IN_PROGRESS)
    return Draft(holds=context.phase in phases.FINISHED, reason=reason, message=why)


def _conflicted(context: Context) -> Draft | None:
    """Present once there was a conflict; the first reason of several is shown."""
    conflict = context.progress.conflict
    if conflict is not None:
        return Draft(holds=True, reason=conflict.reason, message=conflict.message)
    if context.migration.status.condition(Type.CONFLICTED) is not None:
        return Draft(holds=False, reason=Reason.NO_CONFLICT)
    return None


def _address_kept(context: Context) -> Draft | None:
    """Present once the network could not follow."""
    migration, progress = context.migration, context.progress
    # Said while the guest still is where it was: then a person can cancel.
    found = following.address_obstacle(migration, progress.sources, progress.targets)
    if found is not None:
        return Draft(holds=False, reason=found[0], message=found[1])
    if migration.status.condition(Type.ADDRESS_KEPT) is not None:
        return Draft(holds=True, reason=Reason.KEPT)
    return None


def _contradicted(context: Context) -> Draft | None:
    """Present once the guest moved although the migration was aborted."""
    progress = context.progress
    if progress.contradicting:
        listed = _listed(progress.contradicting)
        message = f"the guest runs where the migration was aborted: {listed}"
        if progress.serving:
            message += f"; told to ask and let go: {_listed(progress.serving)}"
        return Draft(holds=True, reason=Reason.GUEST_MOVED, message=message)
    if context.migration.status.condition(Type.CONTRADICTED) is not None:
        return Draft(holds=False, reason=Reason.FOLLOWED)
    return None


def _source_lingers(context: Context) -> Draft | None:
    """Present once a source kept its targets waiting; a new reason when it takes too long."""
    before = context.migration.status.condition(Type.SOURCE_LINGERS)
    if context.progress.lingering:
        # One that lingers for a second time has its time anew.
        is_waiting = before is not None and before.status == "True"
        since = before.last_transition_time if before and is_waiting else context.now
        # Another reason, not another status: the transition time goes on to say since when.
        late = context.now - since >= LINGERS_AFTER
        listed = _listed(context.progress.lingering)
        return Draft(
            holds=True,
            reason=Reason.STILL_ROUTED if late else Reason.WITHDRAWING,
            message=f"the targets keep their priority until these have no routes: {listed}",
        )
    return None if before is None else Draft(holds=False, reason=Reason.WITHDRAWN)


CONDITIONS: Final[Mapping[Type, Callable[[Context], Draft | None]]] = {
    Type.SOURCE_RESOLVED: _source_resolved,
    Type.TARGET_RESOLVED: _target_resolved,
    Type.TARGET_READY: _target_ready,
    Type.REDIRECTABLE: _redirectable,
    Type.CUT_OVER: _cut_over,
    Type.CONVERGED: _converged,
    Type.FINISHED: _finished,
    Type.CONFLICTED: _conflicted,
    Type.SOURCE_LINGERS: _source_lingers,
    Type.ADDRESS_KEPT: _address_kept,
    Type.CONTRADICTED: _contradicted,
}

# A decided migration's endpoints may belong to the next one already: what was said of these while
# it went on stays, as the record of how it was.
_UNTIL_DECIDED: Final = {
    Type.SOURCE_RESOLVED,
    Type.TARGET_RESOLVED,
    Type.TARGET_READY,
    Type.REDIRECTABLE,
    Type.ADDRESS_KEPT,
}


def _listed(endpoints: Sequence[Endpoint]) -> str:
    return wording.enumerate_few(map(_where, endpoints), len(endpoints))


def _where(endpoint: Endpoint) -> str:
    return f"{endpoint.key.name} on {endpoint.node}"
