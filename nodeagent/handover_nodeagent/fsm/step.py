"""One step of a machine: an event in, the next machine and its commands out; no effect.

``step`` sorts out what moves no machine; ``_transition`` looks the rest up in the table; one
function for each kind of cell makes the next machine.
"""

import dataclasses
import datetime as dt
from dataclasses import dataclass
from typing import Final

from handover_api.configuration import Settings
from handover_api.workloadendpoint import Role, State
from handover_nodeagent.fsm import inputs
from handover_nodeagent.fsm.commands import (
    AnnounceGateway,
    AskGuest,
    Command,
    EmitEvent,
    EventReason,
    KeepOrphan,
    RecordCutover,
    RenewProbes,
    StartProbes,
)
from handover_nodeagent.fsm.events import (
    Announced,
    AskAgainDue,
    Assigned,
    AwaitLifted,
    EpisodeEvent,
    Event,
    Input,
    TableEvent,
    Unaskable,
    Updated,
)
from handover_nodeagent.fsm.machine import Asking, Doubt, Machine, RouteLevel
from handover_nodeagent.fsm.table import (
    ENDINGS,
    LIFTS_AWAIT,
    TRANSITIONS,
    Criterion,
    Fork,
    Reaction,
)

FIRST_ASK_INTERVAL: Final = dt.timedelta(seconds=1)
"""After which a guest in doubt is asked again: most doubts end with the API's next word."""
LONGEST_ASK_INTERVAL: Final = dt.timedelta(seconds=60)
"""A guest that left unnoticed keeps its routes no longer than this."""
WITHDRAWN_PROBE_INTERVAL: Final = dt.timedelta(milliseconds=200)
"""What a ``probeInterval`` of 0 counts as in Withdrawn: the default."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one event did.

    ``machine`` is None when it is gone; ``input`` is None when the event was late or moves no
    machine; ``impossible``: a pair that cannot be, to be counted.
    """

    machine: Machine | None
    commands: tuple[Command, ...] = ()
    input: Input | None = None
    impossible: bool = False


def step(machine: Machine | None, event: Event, now: dt.datetime, settings: Settings) -> Step:
    """Take *event*; total over all machines and events, and without any effect."""
    if machine is None or _is_late(machine, event):
        return Step(machine)
    if isinstance(event, AwaitLifted):
        return _update(machine, dataclasses.replace(machine, awaiting=False), now)
    if isinstance(event, Updated):
        updated = dataclasses.replace(machine, assignment=event.assignment)
        return _update(machine, updated, now)
    if isinstance(event, Announced) and machine.state is State.WITHDRAWN:
        return _require_second_answer(machine, event, now, settings)
    return _transition(machine, event, now)


def _is_late(machine: Machine, event: Event) -> bool:
    """Tell whether an older episode started what comes now."""
    return isinstance(event, EpisodeEvent) and event.episode != machine.episode


def _update(machine: Machine, updated: Machine, now: dt.datetime) -> Step:
    """Take *updated* for *machine*; ask afresh where answers count only from now on."""
    is_trusting_now = updated.is_trusting and not machine.is_trusting
    if not (is_trusting_now and machine.is_listening):
        return Step(updated)
    if machine.state is not State.ASKING:
        return Step(updated, (StartProbes(machine.episode),))
    # No answer counted so far: the guest gets its whole time once more.
    asking = dataclasses.replace(updated, episode=machine.episode + 1, since=now)
    return Step(asking, (AskGuest(asking.episode),))


def _require_second_answer(
    machine: Machine, event: Announced, now: dt.datetime, settings: Settings
) -> Step:
    """Let a Withdrawn believe two answers only, some time apart.

    A dying guest's late frames are no life, nor is its answer to a probe from before.
    """
    # Worth a question, but no life: it may have been under way since before the guest died.
    if not event.answers_probe:
        return Step(machine, (RenewProbes(machine.episode),), event.input)
    first = machine.first_answer
    # A clock that was set back would let the second answer wait for as long as that.
    if first is None or now < first:
        heard = dataclasses.replace(machine, first_answer=now)
        return Step(heard, (StartProbes(machine.episode),), event.input)
    if now - first < 2 * (settings.probe_interval or WITHDRAWN_PROBE_INTERVAL):
        return Step(machine, (), event.input)
    return _transition(machine, event, now)


def _transition(machine: Machine, event: TableEvent, now: dt.datetime) -> Step:
    """Do what the table says."""
    goal = _goal(machine, event)
    if goal is State.ASKING:
        return _ask(machine, event, now)
    if isinstance(goal, State):
        return _enter(goal, machine, event, now)
    # Once: no state before an asking is an asking.
    if goal is Reaction.BEFORE:
        return _transition(_abandon_asking(machine), event, now)
    return _react(goal, machine, event, now)


def _react(reaction: Reaction, machine: Machine, event: TableEvent, now: dt.datetime) -> Step:
    """Do what enters no state."""
    if reaction is Reaction.STAY:
        return _stay(machine, event)
    if reaction is Reaction.BACK:
        return _go_back(machine, event, now)
    if reaction is Reaction.IMPOSSIBLE:
        return Step(machine, (), event.input, impossible=True)
    if reaction is Reaction.ORPHAN and machine.has_routes:
        return Step(None, (KeepOrphan(), EmitEvent(EventReason.ORPHAN_ROUTE)), event.input)
    return Step(None, (), event.input)


def _input(machine: Machine, event: TableEvent) -> Input:
    """Return the column in which to look."""
    # Nobody could ask, so nobody may conclude: what is there stays, what is not does not come.
    if isinstance(event, Unaskable) and machine.has_routes:
        return Input.ANNOUNCED
    return event.input


def _goal(machine: Machine, event: TableEvent) -> State | Reaction:
    """Follow the cell to its end: through its fork, and from an asking to its ending."""
    cell = TRANSITIONS[machine.state][_input(machine, event)]
    if isinstance(cell, Fork):
        return cell.then if _holds(cell.criterion, machine, event) else cell.otherwise
    if machine.asking and cell is Reaction.ANSWERED:
        return ENDINGS[machine.asking.cause].answered
    if machine.asking and cell is Reaction.SILENT:
        return ENDINGS[machine.asking.cause].silent
    return cell


def _holds(criterion: Criterion, machine: Machine, event: TableEvent) -> bool:
    assignment = event.assignment if isinstance(event, Assigned) else machine.assignment
    match criterion:
        case Criterion.ROUTES_IN_AND_ARMED:
            return isinstance(event, Assigned) and event.routes_in and assignment.armed
        case Criterion.ENDED_TARGET:
            return assignment.ended_role is Role.TARGET
        case Criterion.SAME_UID:
            # An unknown uid is another one.
            return machine.uid is not None and machine.uid == assignment.migration_uid
        case Criterion.SOURCE_SIDE:
            return assignment.is_on_source_side
    return machine.doubt is not None


def _with_assignment(machine: Machine, event: TableEvent) -> Machine:
    """Act upon the event's assignment from now on; a uid that is not said any more stays."""
    if not isinstance(event, Assigned):
        return machine
    uid = event.assignment.migration_uid or machine.uid
    # A word that vanished contradicts no doubt; any other one ends it.
    doubt = machine.doubt if event.input is Input.VANISHED else None
    return dataclasses.replace(machine, assignment=event.assignment, uid=uid, doubt=doubt)


def _abandon_asking(machine: Machine) -> Machine:
    """End the asking without an answer: the state before, in an episode of its own."""
    assert machine.asking is not None
    return dataclasses.replace(
        machine.asking.before,
        episode=machine.episode + 1,
        awaiting=machine.awaiting,
        assignment=machine.assignment,
    )


def _stay(machine: Machine, event: TableEvent) -> Step:
    """Keep state and episode; only the assignment, and what is awaited, may be new."""
    stayed = _with_assignment(machine, event)
    if machine.state is State.BASE and event.input in LIFTS_AWAIT:
        stayed = dataclasses.replace(stayed, awaiting=False)
    # A new word to a state that listens means: look now. The series may be slow by now.
    probes = isinstance(event, Assigned) and machine.is_listening
    commands = (StartProbes(machine.episode),) if probes else _gateway_commands(machine, stayed)
    return Step(stayed, commands, event.input)


def _enter(state: State, machine: Machine, event: TableEvent, now: dt.datetime) -> Step:
    """Begin *state* in an episode of its own, and tell of what changes by it."""
    # Made anew, not replaced: nothing of the state before may survive by oversight.
    followed = _with_assignment(machine, event)
    entered = Machine(
        state=state,
        episode=machine.episode + 1,
        since=now,
        assignment=followed.assignment,
        uid=followed.uid,
        doubt=_doubt_at_entry(machine, event, now),
    )
    commands: list[Command] = []
    if entered.is_listening:
        commands.append(StartProbes(entered.episode))
    commands += _gateway_commands(machine, entered)
    if isinstance(event, Announced) and entered.level is RouteLevel.ELEVATED:
        commands += (RecordCutover(event.signal), EmitEvent(EventReason.CUT_OVER))
    if entered.doubt:
        commands.append(EmitEvent(EventReason.STILL_ALIVE))
    if machine.has_routes and not entered.has_routes:
        commands.append(EmitEvent(EventReason.WITHDRAWN))
    return Step(entered, tuple(commands), event.input)


def _doubt_at_entry(machine: Machine, event: TableEvent, now: dt.datetime) -> Doubt | None:
    """Return the doubt with which a state begins: that of a guest whom the API denies."""
    if not isinstance(event, Announced):
        return None
    cause = inputs.denial(machine.assignment)
    if inputs.of_assignment(machine.assignment) is Input.VANISHED:
        # Only Withdrawn is here without a role: it took that for a failure, which the guest denies.
        cause = Input.ABORTED
    return Doubt(cause, now, FIRST_ASK_INTERVAL) if cause else None


def _gateway_commands(old: Machine, new: Machine) -> tuple[Command, ...]:
    """Tell the guest its gateway when its routes go in: on its old node it had another MAC."""
    routes_go_in = new.has_routes and not old.has_routes
    return (AnnounceGateway(),) if routes_go_in else ()


def _ask(machine: Machine, event: TableEvent, now: dt.datetime) -> Step:
    """Begin an asking; the machine waits in it, with the routes that it has."""
    # Asked again for the old reason: how it ends depends on that, not on the timer.
    is_again = isinstance(event, AskAgainDue)
    cause = machine.doubt.cause if is_again and machine.doubt else event.input
    asking = dataclasses.replace(
        _with_assignment(machine, event),
        state=State.ASKING,
        episode=machine.episode + 1,
        since=now,
        asking=Asking(cause, machine),
    )
    return Step(asking, (AskGuest(asking.episode),), event.input)


def _go_back(machine: Machine, event: TableEvent, now: dt.datetime) -> Step:
    """Return with the routes to a guest that answers; doubt stays, at growing intervals."""
    back = dataclasses.replace(
        _abandon_asking(machine),
        uid=machine.uid,
        awaiting=False,
        doubt=_doubt_after_asking(machine, event, now),
    )
    # Told once: condition StillAlive goes on saying it, and an Event each minute would be noise.
    was_told = machine.doubt is not None and machine.doubt.is_heard
    is_news = back.doubt is not None and back.doubt.is_heard and not was_told
    told = (EmitEvent(EventReason.STILL_ALIVE),) if is_news else ()
    return Step(back, (*_gateway_commands(machine, back), *told), event.input)


def _doubt_after_asking(machine: Machine, event: TableEvent, now: dt.datetime) -> Doubt | None:
    """Return the doubt after an asking that was answered, or that could not be put."""
    assert machine.asking is not None
    cause = machine.asking.cause
    if cause is Input.ABORTED and machine.assignment.is_on_source_side:
        # The source of a failed migration has its guest: that it answers is no surprise.
        return None
    interval = FIRST_ASK_INTERVAL
    if machine.doubt:
        interval = min(2 * machine.doubt.interval, LONGEST_ASK_INTERVAL)
    return Doubt(cause, now, interval, is_heard=not isinstance(event, Unaskable))
