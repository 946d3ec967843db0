"""What the table of all pairs does not show: commands, doubts and uids that a slip would change."""

import dataclasses
import datetime as dt

import pytest

from handover_api.assignment import Assignment
from handover_api.configuration import Settings
from handover_api.workloadendpoint import Role, Signal, State
from handover_nodeagent import fsm
from handover_nodeagent.fsm import inputs
from handover_nodeagent.fsm.commands import AskGuest, EmitEvent, EventReason
from handover_nodeagent.fsm.events import (
    Announced,
    Assigned,
    Deleted,
    Event,
    Input,
    TimerPopped,
    Updated,
)
from handover_nodeagent.fsm.machine import Asking, Doubt, Machine

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(seconds=3)
TARGET = Assignment(Role.TARGET, "m", "uid-1")
UNARMED = dataclasses.replace(TARGET, armed=False)
VANISHED = Assignment(None, "m", "uid-1")


def machine(state: State, assignment: Assignment = TARGET, **fields: object) -> Machine:
    plain = Machine(state, 7, NOW, assignment, uid="uid-1")
    return dataclasses.replace(plain, **fields)  # type: ignore[arg-type]


def asking(before: Machine, cause: Input = Input.ABORTED) -> Machine:
    return dataclasses.replace(before, state=State.ASKING, asking=Asking(cause, before))


def step(before: Machine, event: Event) -> fsm.Step:
    return fsm.step(before, event, LATER, Settings())


def assigned(assignment: Assignment) -> Assigned:
    return Assigned(inputs.of_assignment(assignment), assignment, routes_in=False)


def test_what_stays_unarmed_starts_no_probes() -> None:
    renamed = dataclasses.replace(UNARMED, migration="m2")
    taken = step(machine(State.TARGET, UNARMED), Updated(renamed))
    assert (taken.commands, taken.machine and taken.machine.assignment) == ((), renamed)


def test_who_does_not_listen_starts_no_probes_when_armed() -> None:
    awaiting = machine(State.BASE, dataclasses.replace(VANISHED, armed=False), awaiting=True)
    taken = step(awaiting, Updated(VANISHED))
    assert (taken.commands, taken.machine and taken.machine.assignment) == ((), VANISHED)


def test_a_timer_that_pops_while_the_guest_is_asked_asks_nothing_more() -> None:
    assert step(asking(machine(State.TIME_WAIT)), TimerPopped(7)).commands == ()


def test_a_role_that_vanishes_ends_an_asking_without_an_answer_or_a_doubt() -> None:
    taken = step(asking(machine(State.LIVE)), assigned(VANISHED))
    assert taken.machine is not None
    assert (taken.machine.state, taken.machine.doubt, taken.commands) == (State.LIVE, None, ())


@pytest.mark.parametrize("state", [State.BASE, State.LIVE, State.TIME_WAIT])
def test_a_doubted_guest_whose_endpoint_goes_is_asked_because_of_that(state: State) -> None:
    doubt = Doubt(Input.LEFT, NOW, dt.timedelta(seconds=1))
    taken = step(machine(state, doubt=doubt), Deleted())
    assert taken.machine is not None
    assert taken.machine.asking is not None
    assert taken.machine.asking.cause is Input.DELETED
    assert taken.commands == (AskGuest(taken.machine.episode),)


def test_a_guest_that_answers_goes_back_under_the_uid_that_it_was_asked_for() -> None:
    asked = dataclasses.replace(asking(machine(State.LIVE)), uid="uid-2")
    back = step(asked, Announced(7, Signal.PROBE, answers_probe=True))
    assert back.machine is not None
    assert (back.machine.state, back.machine.uid) == (State.LIVE, "uid-2")
    assert EmitEvent(EventReason.STILL_ALIVE) in back.commands
