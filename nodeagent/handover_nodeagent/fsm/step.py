"""One step of a machine: an event in, the next machine and its commands out; no effect."""

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
    Deleted,
    Event,
    Input,
    Started,
    Unaskable,
    Updated,
)
from handover_nodeagent.fsm.machine import (
    Doubt,
    Machine,
    Question,
    RouteLevel,
    is_listening,
    is_on_source_side,
    is_trusting,
    level,
)
from handover_nodeagent.fsm.table import ENDINGS, RELEASING, TRANSITIONS, Fork, Guard, Turn

FIRST_PATIENCE: Final = dt.timedelta(seconds=1)
LAST_PATIENCE: Final = dt.timedelta(seconds=60)
WITHDRAWN_PROBE_INTERVAL: Final = dt.timedelta(milliseconds=200)
"""What a ``probeInterval`` of 0 counts as in Withdrawn."""

Moving = Assigned | Deleted | Started
"""The events that have a column in the table."""


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
        return _weigh(machine, event, now, settings)
    return _take(machine, event, now)


def _is_late(machine: Machine, event: Event) -> bool:
    return isinstance(event, Started) and event.episode != machine.episode


def _update(machine: Machine, updated: Machine, now: dt.datetime) -> Step:
    """Take *updated* for *machine*; ask afresh where answers count only from now on."""
    is_trusting_now = is_trusting(updated) and not is_trusting(machine)
    if not (is_trusting_now and is_listening(machine)):
        return Step(updated)
    if machine.state is not State.ASKING:
        return Step(updated, (StartProbes(machine.episode),))
    # The answers so far fell on deaf ears: the guest gets its whole time once more.
    asking = dataclasses.replace(updated, episode=machine.episode + 1, since=now)
    return Step(asking, (AskGuest(asking.episode),))


def _weigh(machine: Machine, event: Announced, now: dt.datetime, settings: Settings) -> Step:
    """Let a Withdrawn believe two answers only, some time apart.

    A dying guest's late frames are no life, nor is its answer to a probe from before.
    """
    if not event.answers_probe:
        return Step(machine, (RenewProbes(machine.episode),), event.input)
    first = machine.first_answer
    if first is None or now < first:
        heard = dataclasses.replace(machine, first_answer=now)
        return Step(heard, (StartProbes(machine.episode),), event.input)
    if now - first < 2 * (settings.probe_interval or WITHDRAWN_PROBE_INTERVAL):
        return Step(machine, (), event.input)
    return _take(machine, event, now)


def _take(machine: Machine, event: Moving, now: dt.datetime) -> Step:
    goal = _goal(machine, event)
    if goal is State.ASKING:
        return _ask(machine, event, now)
    if isinstance(goal, State):
        return _enter(goal, machine, event, now)
    if goal is Turn.BEFORE:
        return _take(_before(machine), event, now)
    return _turn(goal, machine, event, now)


def _turn(turn: Turn, machine: Machine, event: Moving, now: dt.datetime) -> Step:
    if turn is Turn.STAY:
        return _stay(machine, event)
    if turn is Turn.BACK:
        return _go_back(machine, event, now)
    if turn is Turn.IMPOSSIBLE:
        return Step(machine, (), event.input, impossible=True)
    if turn is Turn.ORPHAN and level(machine) is not RouteLevel.NONE:
        return Step(None, (KeepOrphan(), EmitEvent(EventReason.ORPHAN_ROUTE)), event.input)
    return Step(None, (), event.input)


def _input(machine: Machine, event: Moving) -> Input:
    if isinstance(event, Unaskable) and level(machine) is not RouteLevel.NONE:
        return Input.ANNOUNCED
    return event.input


def _goal(machine: Machine, event: Moving) -> State | Turn:
    cell = TRANSITIONS[machine.state][_input(machine, event)]
    if isinstance(cell, Fork):
        return cell.then if _holds(cell.guard, machine, event) else cell.otherwise
    if machine.question and cell is Turn.ANSWERED:
        return ENDINGS[machine.question.cause].answered
    if machine.question and cell is Turn.SILENT:
        return ENDINGS[machine.question.cause].silent
    return cell


def _holds(guard: Guard, machine: Machine, event: Moving) -> bool:
    assignment = event.assignment if isinstance(event, Assigned) else machine.assignment
    match guard:
        case Guard.ROUTES_IN_AND_ARMED:
            return isinstance(event, Assigned) and event.routes_in and assignment.armed
        case Guard.ENDED_TARGET:
            return assignment.ended_role is Role.TARGET
        case Guard.SAME_UID:
            # An unknown uid is another one.
            return machine.uid is not None and machine.uid == assignment.migration_uid
        case Guard.SOURCE_SIDE:
            return is_on_source_side(assignment)
    return machine.doubt is not None


def _follow(machine: Machine, event: Moving) -> Machine:
    """Act upon the event's assignment from now on; a uid that is not said any more stays."""
    if not isinstance(event, Assigned):
        return machine
    uid = event.assignment.migration_uid or machine.uid
    # A word that vanished contradicts no doubt; any other one ends it.
    doubt = machine.doubt if event.input is Input.VANISHED else None
    return dataclasses.replace(machine, assignment=event.assignment, uid=uid, doubt=doubt)


def _before(machine: Machine) -> Machine:
    """End the asking without an answer: the state before, in an episode of its own."""
    assert machine.question is not None
    return dataclasses.replace(
        machine.question.before,
        episode=machine.episode + 1,
        awaiting=machine.awaiting,
        assignment=machine.assignment,
    )


def _stay(machine: Machine, event: Moving) -> Step:
    stayed = _follow(machine, event)
    if machine.state is State.BASE and event.input in RELEASING:
        stayed = dataclasses.replace(stayed, awaiting=False)
    probes = isinstance(event, Assigned) and is_listening(machine)
    commands = (StartProbes(machine.episode),) if probes else _gateway(machine, stayed)
    return Step(stayed, commands, event.input)


def _enter(state: State, machine: Machine, event: Moving, now: dt.datetime) -> Step:
    followed = _follow(machine, event)
    entered = Machine(
        state=state,
        episode=machine.episode + 1,
        since=now,
        assignment=followed.assignment,
        uid=followed.uid,
        doubt=_doubt(machine, event, now),
    )
    commands: list[Command] = []
    if is_listening(entered):
        commands.append(StartProbes(entered.episode))
    commands += _gateway(machine, entered)
    if isinstance(event, Announced) and level(entered) is RouteLevel.ELEVATED:
        commands += (RecordCutover(event.signal), EmitEvent(EventReason.CUT_OVER))
    if entered.doubt:
        commands.append(EmitEvent(EventReason.STILL_ALIVE))
    if level(machine) is not RouteLevel.NONE and level(entered) is RouteLevel.NONE:
        commands.append(EmitEvent(EventReason.WITHDRAWN))
    return Step(entered, tuple(commands), event.input)


def _doubt(machine: Machine, event: Moving, now: dt.datetime) -> Doubt | None:
    """Return the doubt with which a state begins: that of a guest whom the API denies."""
    if not isinstance(event, Announced):
        return None
    cause = inputs.denial(machine.assignment)
    if inputs.meaning(machine.assignment) is Input.VANISHED:
        # Only Withdrawn is here without a role: it took that for a failure, which the guest denies.
        cause = Input.ABORTED
    return Doubt(cause, now, FIRST_PATIENCE) if cause else None


def _gateway(old: Machine, new: Machine) -> tuple[Command, ...]:
    routes_go_in = level(old) is RouteLevel.NONE and level(new) is not RouteLevel.NONE
    return (AnnounceGateway(),) if routes_go_in else ()


def _ask(machine: Machine, event: Moving, now: dt.datetime) -> Step:
    is_again = isinstance(event, AskAgainDue)
    cause = machine.doubt.cause if is_again and machine.doubt else event.input
    asking = dataclasses.replace(
        _follow(machine, event),
        state=State.ASKING,
        episode=machine.episode + 1,
        since=now,
        question=Question(cause, machine),
    )
    return Step(asking, (AskGuest(asking.episode),), event.input)


def _go_back(machine: Machine, event: Moving, now: dt.datetime) -> Step:
    """Return with the routes to a guest that answers; doubt stays, with growing patience."""
    back = dataclasses.replace(
        _before(machine), uid=machine.uid, awaiting=False, doubt=_lasting_doubt(machine, event, now)
    )
    was_told = machine.doubt is not None and machine.doubt.is_heard
    is_news = back.doubt is not None and back.doubt.is_heard and not was_told
    told = (EmitEvent(EventReason.STILL_ALIVE),) if is_news else ()
    return Step(back, (*_gateway(machine, back), *told), event.input)


def _lasting_doubt(machine: Machine, event: Moving, now: dt.datetime) -> Doubt | None:
    """Return the doubt after an asking that was answered, or that could not be put."""
    assert machine.question is not None
    cause = machine.question.cause
    if cause is Input.ABORTED and is_on_source_side(machine.assignment):
        # The source of a failed migration has its guest: that it answers is no surprise.
        return None
    patience = FIRST_PATIENCE
    if machine.doubt:
        patience = min(2 * machine.doubt.patience, LAST_PATIENCE)
    return Doubt(cause, now, patience, is_heard=not isinstance(event, Unaskable))
