"""Each transition is one line that says all, and what moves nothing is none."""

import dataclasses
import datetime as dt
from typing import Final

import pytest

from handover_api.assignment import Assignment
from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role, Signal, State, WorkloadEndpoint
from handover_nodeagent.fsm.commands import RecordCutover
from handover_nodeagent.fsm.events import Input
from handover_nodeagent.fsm.machine import Asking, Machine, Redirect, RouteLevel
from handover_nodeagent.fsm.restart import Found
from handover_nodeagent.fsm.step import Step
from handover_nodeagent.network.admission import Admission
from handover_nodeagent.network.model import Link
from handover_nodeagent.reconcile import lines
from handover_nodeagent.reconcile.endpoint import Endpoint

NOW: Final = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
KEY: Final = ObjectKey("default", "vm")
NOBODY: Final = Assignment(None)
TARGET: Final = Assignment(Role.TARGET, "m", "uid-1")
MOVED: Final = Assignment(None, "m", "uid-1", outcome=Outcome.SUCCEEDED, ended_role=Role.TARGET)
BEFORE: Final = Machine(State.TARGET, 7, NOW, TARGET, uid="uid-1")
LIVE: Final = dataclasses.replace(BEFORE, state=State.LIVE)


def endpoint(machine: Machine = BEFORE) -> Endpoint:
    obj = WorkloadEndpoint.model_validate(
        {
            "metadata": {"name": "vm", "namespace": "default", "uid": "u", "resourceVersion": "1"},
            "spec": {"node": "n", "workload": "vm", "ips": ["10.65.0.2"]},
        }
    )
    return Endpoint(obj, machine, Link(7, "tap0", "ee:ee:ee:ee:ee:ee", up=True), Admission((), {}))


def test_a_first_sight_says_what_was_found() -> None:
    found = Found(TARGET, RouteLevel.NONE, None, await_role=False, episode=7)
    assert lines.started(endpoint(), State.TARGET, found) == (
        "endpoint",
        {
            "endpoint": "default/vm",
            "migration": "uid-1",
            "state": "Target",
            "role": "target",
            "found": "none",
            "interface": "tap0",
        },
    )


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Step(LIVE, (), Input.ANNOUNCED), True),
        (Step(None, (), Input.DELETED), True),
        (Step(BEFORE, (), Input.TIMER_POP, impossible=True), True),
        (Step(dataclasses.replace(BEFORE, episode=8), (), Input.TARGET), False),
    ],
    ids=["moved", "gone", "impossible", "where it was"],
)
def test_what_moves_no_machine_is_not_worth_a_line(step: Step, *, expected: bool) -> None:
    assert lines.is_told(BEFORE, step) is expected


def test_a_transition_is_one_line_that_says_all() -> None:
    step = Step(LIVE, (RecordCutover(Signal.RARP),), Input.ANNOUNCED)
    assert lines.transition(KEY, BEFORE, step) == (
        "transition",
        {
            "endpoint": "default/vm",
            "migration": "uid-1",
            "input": "Announced",
            "before": "Target",
            "after": "Live",
            "why": "the guest was heard: RARP",
            "armed": True,
        },
    )


def test_what_cannot_be_is_a_line_of_its_own() -> None:
    event, fields = lines.transition(KEY, LIVE, Step(LIVE, (), Input.TIMER_POP, impossible=True))
    assert event == "impossible_input"
    assert (fields["before"], fields["after"]) == ("Live", "Live")


def test_a_machine_that_is_gone_says_what_it_was() -> None:
    event, fields = lines.transition(KEY, LIVE, Step(None, (), Input.DELETED))
    assert event == "transition"
    assert (fields["migration"], fields["after"]) == ("uid-1", "gone")


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (LIVE, "role target"),
        (dataclasses.replace(LIVE, assignment=MOVED), "target of a migration that succeeded"),
        (dataclasses.replace(LIVE, assignment=NOBODY), "no role"),
        (
            dataclasses.replace(LIVE, state=State.ASKING, asking=Asking(Input.ABORTED, LIVE)),
            "the guest is asked because of Aborted",
        ),
        (
            dataclasses.replace(LIVE, redirect=Redirect("uid-1", Role.SOURCE, RouteLevel.ELEVATED)),
            "the source of the migration has the guest",
        ),
    ],
)
def test_a_transition_says_what_the_machine_goes_by(after: Machine, why: str) -> None:
    _, fields = lines.transition(KEY, BEFORE, Step(after, (), Input.NO_ROLE))
    assert fields["why"] == why
