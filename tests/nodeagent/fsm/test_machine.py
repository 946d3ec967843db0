"""What follows from a machine's state without any event."""

import dataclasses
import datetime as dt

import pytest

from handover_api.assignment import Assignment
from handover_api.livemigration import Outcome
from handover_api.workloadendpoint import Role, State
from handover_nodeagent.fsm.events import Input
from handover_nodeagent.fsm.machine import LISTENING, ROUTES, Asking, Machine, Redirect, RouteLevel

NOW = dt.datetime(2026, 8, 1, 12, tzinfo=dt.UTC)

TARGET = Assignment(Role.TARGET, "m", "uid-1")
UNARMED_TARGET = dataclasses.replace(TARGET, armed=False)
SOURCE = Assignment(Role.SOURCE, "m", "uid-1")
LEFT = Assignment(None, "m", "uid-1", outcome=Outcome.SUCCEEDED, ended_role=Role.SOURCE)

A, T, L, W, B, X, R = (
    State.ASKING,
    State.TARGET,
    State.LIVE,
    State.TIME_WAIT,
    State.BASE,
    State.WITHDRAWN,
    State.REDIRECTED,
)


def in_state(state: State, assignment: Assignment = TARGET) -> Machine:
    """Return a machine in *state*; Asking and Redirected come from Live."""
    redirect = Redirect("uid-1", Role.SOURCE, RouteLevel.ELEVATED) if state is R else None
    plain = Machine(state, 7, NOW, assignment, uid="uid-1", redirect=redirect)
    return asking(Input.ABORTED, in_state(L)) if state is A else plain


def asking(cause: Input, before: Machine) -> Machine:
    return dataclasses.replace(before, state=A, asking=Asking(cause, before))


@pytest.mark.parametrize("state", list(State))
def test_each_state_but_those_that_keep_the_ones_before_has_its_own_routes(state: State) -> None:
    assert (state in ROUTES) is (state not in {A, R})
    assert in_state(state).is_listening is (state in LISTENING)


@pytest.mark.parametrize("state", [state for state in State if state is not A])
def test_an_asking_has_the_routes_of_the_state_before(state: State) -> None:
    before = in_state(state)
    asked = asking(Input.DELETED, before)
    assert (before.underlying, asked.underlying) == (before, before)
    assert (asked.level, asked.has_routes) == (before.level, before.has_routes)
    assert before.level is ROUTES.get(state, RouteLevel.ELEVATED)


def test_a_base_that_awaits_its_role_has_no_routes_also_while_it_is_asked() -> None:
    awaiting = dataclasses.replace(in_state(B), awaiting=True)
    for current in (awaiting, asking(Input.LEFT, awaiting)):
        assert (current.level, current.has_routes) == (RouteLevel.NONE, False)


class TestTrust:
    """Armed guards what may give a route, never what can only keep one."""

    UNARMED_SOURCE = dataclasses.replace(SOURCE, armed=False)
    UNARMED_LEFT = dataclasses.replace(LEFT, armed=False)

    @pytest.mark.parametrize("state", list(State))
    def test_while_armed_every_true_answer_counts(self, state: State) -> None:
        assert in_state(state).is_trusting

    @pytest.mark.parametrize(
        ("current", "expected"),
        [
            (in_state(T, UNARMED_TARGET), False),
            (in_state(X, UNARMED_TARGET), False),
            (in_state(X, UNARMED_SOURCE), True),
            (in_state(X, UNARMED_LEFT), True),
            (in_state(B, UNARMED_SOURCE), True),
            (asking(Input.DELETED, in_state(B, UNARMED_SOURCE)), True),
            (asking(Input.ABORTED, in_state(L, UNARMED_TARGET)), True),
            (asking(Input.LEFT, in_state(W, UNARMED_LEFT)), True),
            (asking(Input.SOURCE, in_state(T, UNARMED_SOURCE)), False),
            (dataclasses.replace(in_state(B, UNARMED_SOURCE), awaiting=True), False),
        ],
    )
    def test_before_that_it_counts_where_routes_are_in_or_the_guest_has_been(
        self, current: Machine, *, expected: bool
    ) -> None:
        assert current.is_trusting is expected
