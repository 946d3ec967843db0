"""The timer of each state, and how long it waits."""

import datetime as dt

import pytest

from handover_api.assignment import Assignment
from handover_api.configuration import Settings
from handover_api.workloadendpoint import State
from handover_nodeagent.fsm import timers
from handover_nodeagent.fsm.events import AskAgainDue, FellSilent, Input, TimerPopped
from handover_nodeagent.fsm.machine import Asking, Doubt, Machine

SINCE = dt.datetime(2026, 8, 1, 12, tzinfo=dt.UTC)
CONVERGENCE = dt.timedelta(seconds=30)
SETTINGS = Settings(
    live_migration_route_convergence_time=CONVERGENCE, target_timeout=dt.timedelta(minutes=10)
)


def machine(state: State, doubt: Doubt | None = None) -> Machine:
    return Machine(state, 3, SINCE, Assignment(), doubt=doubt)


@pytest.mark.parametrize("state", [State.BASE, State.TARGET, State.LIVE, State.WITHDRAWN])
def test_these_states_wait_for_nothing(state: State) -> None:
    assert timers.timer(machine(state), SETTINGS) is None


def test_timewait_ends_with_the_convergence_time() -> None:
    expected = timers.Timer(SINCE + CONVERGENCE, CONVERGENCE, TimerPopped(3))
    assert expected == timers.timer(machine(State.TIME_WAIT), SETTINGS)


def test_a_new_convergence_time_counts_at_once() -> None:
    shorter = Settings(live_migration_route_convergence_time=dt.timedelta(seconds=5))
    timer = timers.timer(machine(State.TIME_WAIT), shorter)
    assert timer is not None
    assert SINCE + dt.timedelta(seconds=5) == timer.due


def test_asking_ends_after_a_quarter_of_a_second_whatever_else_is_due() -> None:
    doubt = Doubt(Input.LEFT, SINCE, dt.timedelta(milliseconds=1))
    asking = Machine(
        State.ASKING,
        3,
        SINCE,
        Assignment(),
        doubt=doubt,
        asking=Asking(Input.LEFT, machine(State.TIME_WAIT)),
    )
    expected = timers.Timer(SINCE + timers.SILENCE, timers.SILENCE, FellSilent(3))
    assert expected == timers.timer(asking, SETTINGS)


@pytest.mark.parametrize("state", [State.BASE, State.LIVE, State.TIME_WAIT])
def test_a_guest_in_doubt_is_asked_again_after_the_interval(state: State) -> None:
    interval = dt.timedelta(seconds=4)
    doubt = Doubt(Input.ABORTED, SINCE + dt.timedelta(seconds=1), interval)
    expected = timers.Timer(SINCE + dt.timedelta(seconds=5), interval, AskAgainDue(3))
    assert expected == timers.timer(machine(state, doubt), SETTINGS)


def test_a_timewait_in_doubt_has_no_end_however_long_the_interval() -> None:
    interval = dt.timedelta(seconds=60)
    doubt = Doubt(Input.ABORTED, SINCE + dt.timedelta(seconds=1), interval)
    doubting = machine(State.TIME_WAIT, doubt)
    expected = timers.Timer(SINCE + dt.timedelta(seconds=61), interval, AskAgainDue(3))
    assert expected == timers.timer(doubting, SETTINGS)
    assert timers.deadline(doubting, SETTINGS) is None


@pytest.mark.parametrize("state", list(State))
def test_only_a_timewait_has_a_deadline(state: State) -> None:
    expected = SINCE + CONVERGENCE if state is State.TIME_WAIT else None
    assert expected == timers.deadline(machine(state), SETTINGS)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (SINCE, 30.0),
        (SINCE + dt.timedelta(seconds=10), 20.0),
        (SINCE + dt.timedelta(days=1), 0.0),
        (SINCE - dt.timedelta(days=1), 30.0),
    ],
    ids=["fresh", "half-way", "overdue", "clock set back"],
)
def test_the_delay_is_bounded_by_the_length(now: dt.datetime, expected: float) -> None:
    timer = timers.timer(machine(State.TIME_WAIT), SETTINGS)
    assert timer is not None
    assert expected == timer.delay(now)


def test_only_a_target_can_be_overdue() -> None:
    expected = SINCE + dt.timedelta(minutes=10)
    assert expected == timers.target_overdue(machine(State.TARGET), SETTINGS)
    assert timers.target_overdue(machine(State.LIVE), SETTINGS) is None
