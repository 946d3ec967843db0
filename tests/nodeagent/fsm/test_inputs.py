"""What a change of the annotations means."""

import dataclasses

import pytest

from handover_api.assignment import Assignment
from handover_api.livemigration import Outcome
from handover_api.workloadendpoint import Role
from handover_nodeagent.fsm import inputs
from handover_nodeagent.fsm.events import Assigned, Input, Updated

NOTHING = Assignment()
TARGET = Assignment(Role.TARGET, "m", "uid-1")
SOURCE = Assignment(Role.SOURCE, "m", "uid-1")


def ended(role: Role | None, outcome: Outcome | None) -> Assignment:
    return Assignment(None, "m", "uid-1", outcome=outcome, ended_role=role)


CASES = [
    ("target given", NOTHING, TARGET, Input.TARGET),
    ("source given", NOTHING, SOURCE, Input.SOURCE),
    ("target turns source", TARGET, SOURCE, Input.SOURCE),
    ("source turns target", SOURCE, TARGET, Input.TARGET),
    (
        "target of another migration",
        TARGET,
        dataclasses.replace(TARGET, migration_uid="uid-2"),
        Input.TARGET,
    ),
    (
        "source of another migration",
        SOURCE,
        dataclasses.replace(SOURCE, migration_uid="uid-2"),
        Input.SOURCE,
    ),
    ("target succeeded", TARGET, ended(Role.TARGET, Outcome.SUCCEEDED), Input.NO_ROLE),
    ("source succeeded", SOURCE, ended(Role.SOURCE, Outcome.SUCCEEDED), Input.LEFT),
    ("target aborted", TARGET, ended(Role.TARGET, Outcome.ABORTED), Input.ABORTED),
    ("source aborted", SOURCE, ended(Role.SOURCE, Outcome.ABORTED), Input.ABORTED),
    ("role stripped", TARGET, ended(None, None), Input.VANISHED),
    ("everything stripped", TARGET, NOTHING, Input.VANISHED),
    ("outcome stripped", ended(Role.TARGET, Outcome.ABORTED), NOTHING, Input.VANISHED),
    ("outcome without its role", TARGET, ended(None, Outcome.ABORTED), Input.VANISHED),
    (
        "given and ended between two looks",
        NOTHING,
        ended(Role.SOURCE, Outcome.SUCCEEDED),
        Input.LEFT,
    ),
    (
        "given anew after an end",
        ended(Role.TARGET, Outcome.ABORTED),
        TARGET,
        Input.TARGET,
    ),
    (
        "a late roll-back",
        ended(Role.TARGET, Outcome.SUCCEEDED),
        ended(Role.TARGET, Outcome.ABORTED),
        Input.ABORTED,
    ),
]


@pytest.mark.parametrize(
    ("before", "after", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
@pytest.mark.parametrize("routes_in", [True, False])
def test_a_change_of_role_uid_or_outcome_is_an_input(
    before: Assignment, after: Assignment, expected: Input, *, routes_in: bool
) -> None:
    assert Assigned(expected, after, routes_in) == inputs.of_change(
        before, after, routes_in=routes_in
    )


@pytest.mark.parametrize(
    "after",
    [dataclasses.replace(TARGET, armed=False), dataclasses.replace(TARGET, migration="other")],
)
def test_any_other_change_is_an_update(after: Assignment) -> None:
    assert Updated(after) == inputs.of_change(TARGET, after, routes_in=True)


def test_no_change_is_nothing() -> None:
    assert inputs.of_change(TARGET, dataclasses.replace(TARGET), routes_in=True) is None


def test_a_new_uid_that_also_arms_is_an_input() -> None:
    unarmed = dataclasses.replace(TARGET, migration_uid="uid-0", armed=False)
    assert Assigned(Input.TARGET, TARGET) == inputs.of_change(unarmed, TARGET, routes_in=False)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        (NOTHING, None),
        (TARGET, None),
        (SOURCE, None),
        (ended(Role.TARGET, Outcome.SUCCEEDED), None),
        (ended(Role.SOURCE, Outcome.ABORTED), None),
        (ended(Role.SOURCE, Outcome.SUCCEEDED), Input.LEFT),
        (ended(Role.TARGET, Outcome.ABORTED), Input.ABORTED),
    ],
)
def test_the_api_denies_a_guest_where_it_left_or_never_came(
    assignment: Assignment, expected: Input | None
) -> None:
    assert expected == inputs.denial(assignment)
