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
    KeepRedirect,
    RecordCutover,
    RenewProbes,
    StartProbes,
    TellPeers,
)
from handover_nodeagent.fsm.events import (
    Announced,
    AskAgainDue,
    Assigned,
    AwaitLifted,
    EpisodeEvent,
    Event,
    Input,
    PeerHas,
    PeerReleased,
    TableEvent,
    Unaskable,
    Updated,
)
from handover_nodeagent.fsm.machine import (
    Asking,
    Doubt,
    Machine,
    Redirect,
    Returns,
    RouteLevel,
)
from handover_nodeagent.fsm.table import (
    ENDINGS,
    LIFTS_AWAIT,
    REDIRECT_ENDING,
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
    # A frame of a guest that has just gone may still be under way: only an answer is life.
    is_unasked = isinstance(event, Announced) and not event.answers_probe
    if is_unasked and (machine.underlying.redirect or (machine.asking and machine.asking.peer)):
        return Step(machine, (RenewProbes(machine.episode),), event.input)
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
    if goal is Reaction.BEFORE:
        return _take_before(machine, event, now)
    return _react(goal, machine, event, now)


def _take_before(machine: Machine, event: TableEvent, now: dt.datetime) -> Step:
    """Take *event* in the state before the asking; what a peer has said is asked all the same."""
    assert machine.asking is not None
    # Once: no state before an asking is an asking.
    taken = _transition(_abandon_asking(machine), event, now)
    if taken.machine is None or machine.asking.peer is None:
        return taken
    asked = _transition(taken.machine, machine.asking.peer, now)
    return Step(asked.machine, (*taken.commands, *asked.commands), event.input)


def _react(reaction: Reaction, machine: Machine, event: TableEvent, now: dt.datetime) -> Step:
    """Do what enters no state."""
    if reaction is Reaction.STAY:
        return _stay(machine, event)
    if reaction is Reaction.BACK:
        return _go_back(machine, event, now)
    if reaction is Reaction.UNCHANGED:
        return Step(_abandon_asking(machine), (), event.input)
    if reaction is Reaction.HEEDED:
        return _heed(machine, event)
    if reaction is Reaction.IMPOSSIBLE:
        return Step(machine, (), event.input, impossible=True)
    return _leave(reaction, machine, event)


def _leave(reaction: Reaction, machine: Machine, event: TableEvent) -> Step:
    """End the machine, whose object is gone."""
    if reaction is Reaction.KEPT:
        return Step(None, (KeepRedirect(),), event.input)
    if reaction is Reaction.ORPHAN and machine.has_routes:
        return Step(None, (KeepOrphan(), EmitEvent(EventReason.ORPHAN_ROUTE)), event.input)
    # A peer whose redirect leads here must not wait for the API to hear that nobody is here.
    told = (TellPeers(has_guest=False),) if machine.has_routes else ()
    return Step(None, told, event.input)


def _input(machine: Machine, event: TableEvent) -> Input:
    """Return the column in which to look."""
    # Nobody could ask, so nobody may conclude: what is there stays, what is not does not come.
    # What is there of a Redirected is its redirect.
    is_here = machine.has_routes and not machine.underlying.redirect
    if isinstance(event, Unaskable) and is_here:
        return Input.ANNOUNCED
    return event.input


def _goal(machine: Machine, event: TableEvent) -> State | Reaction:
    """Follow the cell to its end: through its forks, and from an asking to its ending."""
    cell = TRANSITIONS[machine.state][_input(machine, event)]
    while isinstance(cell, Fork):
        cell = cell.then if _holds(cell.criterion, machine, event) else cell.otherwise
    if machine.asking:
        cell = _end(machine.asking, cell)
    return _own_state(machine) if cell is Reaction.RETURNED else cell


def _end(asking: Asking, cell: State | Reaction) -> State | Reaction:
    """Return how *asking* ends by a cell of its row."""
    ending = REDIRECT_ENDING if asking.before.redirect else ENDINGS[asking.cause]
    if cell is Reaction.ANSWERED:
        return ending.answered
    if cell is Reaction.SILENT:
        # The peer was right. A Target has no routes, whoever has the guest so far.
        is_there = asking.peer is not None and ending.silent is not State.TARGET
        cell = State.REDIRECTED if is_there else ending.silent
    # Nothing would ever end a machine whose object is gone.
    is_over = cell is State.REDIRECTED and asking.cause is Input.DELETED
    return Reaction.KEPT if is_over else cell


def _own_state(machine: Machine) -> State:
    """Return where a machine goes whose guest is here: a Redirected to what the API has it for."""
    assignment, redirect = machine.assignment, machine.underlying.redirect
    if redirect is None:
        return machine.underlying.state
    is_nothing = assignment.role is None and assignment.ended_role is None
    if assignment.is_on_source_side or (is_nothing and redirect.peer is Role.TARGET):
        return State.BASE
    # Nobody gives an ended target its end once more, so it has to begin its own.
    return State.TIME_WAIT if assignment.ended_role is Role.TARGET else State.LIVE


def _holds(criterion: Criterion, machine: Machine, event: TableEvent) -> bool:
    assignment = event.assignment if isinstance(event, Assigned) else machine.assignment
    match criterion:
        case Criterion.ROUTES_IN_AND_ARMED:
            return isinstance(event, Assigned) and event.routes_in and assignment.armed
        case Criterion.ENDED_TARGET:
            return assignment.ended_role is Role.TARGET
        case Criterion.SAME_UID:
            # An unknown uid is another one.
            uid = machine.redirect.uid if machine.redirect else machine.uid
            return uid is not None and uid == assignment.migration_uid
        case Criterion.SOURCE_SIDE:
            return assignment.is_on_source_side
        case Criterion.IN_DOUBT:
            return machine.doubt is not None
    return _holds_of_peer(criterion, machine, event)


def _holds_of_peer(criterion: Criterion, machine: Machine, event: TableEvent) -> bool:
    redirect = machine.redirect
    if isinstance(event, PeerReleased):
        return redirect is not None and redirect.uid == event.uid
    assert isinstance(event, PeerHas)
    if criterion is Criterion.ROUTES_IN:
        return machine.has_routes
    if criterion is Criterion.FOUND_HERE:
        is_here = machine.has_routes and not machine.underlying.redirect
        return is_here and machine.returns.of(event.uid) > 0
    was_released = machine.doubt is not None and machine.doubt.cause is Input.PEER_RELEASED
    is_same = redirect is not None and (redirect.uid, redirect.peer) == (event.uid, event.role)
    return was_released or not is_same


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
        doubt=_doubt_at_entry(state, machine, event, now),
        redirect=_redirect_at_entry(machine, event) if state is State.REDIRECTED else None,
        returns=_returns_at_entry(machine, event),
    )
    commands: list[Command] = []
    if entered.is_listening:
        commands.append(StartProbes(entered.episode))
    commands += _gateway_commands(machine, entered)
    if isinstance(event, Announced):
        commands += _life_commands(machine, entered, event)
    if entered.doubt and not entered.redirect:
        commands.append(EmitEvent(EventReason.STILL_ALIVE))
    commands += _end_commands(machine, entered)
    return Step(entered, tuple(commands), event.input)


def _life_commands(old: Machine, new: Machine, event: Announced) -> tuple[Command, ...]:
    """Record that the network follows a guest that was heard, and tell of it."""
    was_redirected = old.underlying.redirect is not None
    # The last agent had heard it, and may have told nobody.
    is_untold = old.asking is not None and old.asking.cause is Input.ANNOUNCED
    if not (was_redirected or is_untold or new.level is RouteLevel.ELEVATED):
        return ()
    is_return = was_redirected or (is_untold and new.returns.of(new.uid) > 0)
    reason = EventReason.RETURNED if is_return else EventReason.CUT_OVER
    return RecordCutover(event.signal), TellPeers(has_guest=True), EmitEvent(reason)


def _end_commands(old: Machine, new: Machine) -> tuple[Command, ...]:
    """Tell of what ends by the entry: the routes, or that they lead to the guest."""
    if new.redirect:
        return (EmitEvent(EventReason.REDIRECTED),)
    if not old.has_routes or new.has_routes:
        return ()
    if old.underlying.redirect:
        return (KeepRedirect(),)
    told = (TellPeers(has_guest=False),) if new.state is State.WITHDRAWN else ()
    return (*told, EmitEvent(EventReason.WITHDRAWN))


def _redirect_at_entry(machine: Machine, event: TableEvent) -> Redirect:
    """Return who has the guest: who says so now, or said so before it was found silent."""
    asked = machine.asking.peer if machine.asking else None
    peer = event if isinstance(event, PeerHas) else asked
    assert peer is not None
    before = machine.underlying
    level = before.redirect.level if before.redirect else before.level
    return Redirect(peer.uid, peer.role, level)


def _returns_at_entry(machine: Machine, event: TableEvent) -> Returns:
    """Count the guest that is found here although a peer has it."""
    redirect = machine.underlying.redirect
    if not (redirect and isinstance(event, Announced)):
        return machine.returns
    # An agent that was started anew may not know whose redirect it found.
    uid = redirect.uid or machine.uid
    return Returns(uid, machine.returns.of(uid) + 1)


def _doubt_at_entry(
    state: State, machine: Machine, event: TableEvent, now: dt.datetime
) -> Doubt | None:
    """Return the doubt with which a state begins: the API denies what a guest or a peer says."""
    cause = None
    if isinstance(event, Announced):
        cause = inputs.denial(machine.assignment)
        if inputs.of_assignment(machine.assignment) is Input.VANISHED and not machine.has_routes:
            # It is Withdrawn, and took that for a failure, which the guest denies.
            cause = Input.ABORTED
    elif state is State.REDIRECTED and not inputs.denial(machine.assignment):
        said = inputs.of_assignment(machine.assignment)
        # The API says that the guest is here; it errs less often than it is late, but it may.
        cause = said if said in {Input.ABORTED, Input.NO_ROLE} else None
    return Doubt(cause, now, FIRST_ASK_INTERVAL) if cause else None


def _gateway_commands(old: Machine, new: Machine) -> tuple[Command, ...]:
    """Tell the guest its gateway when its routes go in: on its old node it had another MAC."""
    had_routes = old.has_routes and not old.underlying.redirect
    routes_go_in = new.has_routes and not new.underlying.redirect and not had_routes
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
        asking=Asking(cause, machine, event if isinstance(event, PeerHas) else None),
    )
    return Step(asking, (AskGuest(asking.episode),), event.input)


def _heed(machine: Machine, event: TableEvent) -> Step:
    """Go on asking, and know whom to believe when no guest answers."""
    assert machine.asking is not None
    assert isinstance(event, PeerHas)
    asking = dataclasses.replace(machine.asking, peer=event)
    return Step(dataclasses.replace(machine, asking=asking), (), event.input)


def _go_back(machine: Machine, event: TableEvent, now: dt.datetime) -> Step:
    """Return with the routes to a guest that answers, or to the peer that has a silent one.

    Doubt stays, at growing intervals.
    """
    back = dataclasses.replace(
        _abandon_asking(machine),
        uid=machine.uid,
        awaiting=False,
        doubt=_doubt_after_asking(machine, event, now),
    )
    # Told once: condition StillAlive goes on saying it, and an Event each minute would be noise.
    was_told = machine.doubt is not None and machine.doubt.is_heard
    is_news = back.doubt is not None and back.doubt.is_heard and not was_told
    is_news = is_news and not back.redirect
    told = (EmitEvent(EventReason.STILL_ALIVE),) if is_news else ()
    return Step(back, (*_gateway_commands(machine, back), *told), event.input)


def _doubt_after_asking(machine: Machine, event: TableEvent, now: dt.datetime) -> Doubt | None:
    """Return the doubt after an asking that was answered, or that could not be put."""
    assert machine.asking is not None
    cause = machine.asking.cause
    is_redirected = machine.underlying.redirect is not None
    if cause is Input.ABORTED and machine.assignment.is_on_source_side and not is_redirected:
        # The source of a failed migration has its guest: that it answers is no surprise.
        return None
    interval = FIRST_ASK_INTERVAL
    if machine.doubt:
        interval = min(2 * machine.doubt.interval, LONGEST_ASK_INTERVAL)
    return Doubt(cause, now, interval, is_heard=not isinstance(event, Unaskable))
