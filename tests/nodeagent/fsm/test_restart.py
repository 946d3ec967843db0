"""Every row of the restart table, and what is remembered for it."""

import dataclasses
import datetime as dt
import itertools
from ipaddress import ip_address

import pytest

from handover_api.assignment import Assignment
from handover_api.configuration import Settings
from handover_api.livemigration import Outcome
from handover_api.model import Condition
from handover_api.workloadendpoint import Role, RouteStatus, Signal, State, WorkloadEndpointStatus
from handover_nodeagent.fsm import restart
from handover_nodeagent.fsm.commands import (
    AnnounceGateway,
    AskGuest,
    Command,
    EmitEvent,
    EventReason,
    RecordCutover,
    StartProbes,
    TellPeers,
)
from handover_nodeagent.fsm.events import Announced, FellSilent, Input, PeerHas
from handover_nodeagent.fsm.machine import Asking, Doubt, Machine, Redirect, Returns, RouteLevel
from handover_nodeagent.fsm.restart import Found, Remembered
from handover_nodeagent.fsm.step import step

NOW = dt.datetime(2026, 8, 1, 12, tzinfo=dt.UTC)
BEFORE = NOW - dt.timedelta(seconds=7)
EPISODE = 40
NONE, NORMAL, ELEVATED = RouteLevel.NONE, RouteLevel.NORMAL, RouteLevel.ELEVATED
BASE, TARGET, LIVE, TIME_WAIT, WITHDRAWN, ASKING, REDIRECTED = State

IS_TARGET = Assignment(Role.TARGET, "m", "uid-1")
UNARMED = dataclasses.replace(IS_TARGET, armed=False)
IS_SOURCE = Assignment(Role.SOURCE, "m", "uid-1")
NO_ROLE = Assignment(None, "m", "uid-1")


def ended(role: Role, outcome: Outcome) -> Assignment:
    return Assignment(None, "m", "uid-1", outcome=outcome, ended_role=role)


SUCCEEDED_TARGET = ended(Role.TARGET, Outcome.SUCCEEDED)
SUCCEEDED_SOURCE = ended(Role.SOURCE, Outcome.SUCCEEDED)
ABORTED_TARGET = ended(Role.TARGET, Outcome.ABORTED)
ABORTED_SOURCE = ended(Role.SOURCE, Outcome.ABORTED)


def found(
    assignment: Assignment,
    routes: RouteLevel,
    last: State | None = None,
    uid: str | None = "uid-1",
    *,
    await_role: bool = False,
) -> Found:
    remembered = Remembered(last, BEFORE, uid) if last else None
    return Found(assignment, routes, remembered, await_role, EPISODE)


def resumed(what: Found) -> Machine:
    resumed_machine = restart.resume(what, NOW).machine
    assert resumed_machine is not None
    return resumed_machine


ROWS: list[tuple[str, Found, State]] = [
    ("target, elevated route of its uid", found(IS_TARGET, ELEVATED, LIVE), LIVE),
    ("target, route in before it was written", found(IS_TARGET, ELEVATED, TARGET), ASKING),
    ("target, elevated of another uid", found(IS_TARGET, ELEVATED, LIVE, "uid-0"), ASKING),
    ("target, elevated of an unknown uid", found(IS_TARGET, ELEVATED, LIVE, None), ASKING),
    ("target, elevated, no memory", found(IS_TARGET, ELEVATED), ASKING),
    ("target, normal route", found(IS_TARGET, NORMAL, BASE), ASKING),
    ("target, normal route, not armed", found(UNARMED, NORMAL, BASE), TARGET),
    ("target, elevated of another uid, not armed", found(UNARMED, ELEVATED, LIVE, "u"), ASKING),
    ("target, no route", found(IS_TARGET, NONE), TARGET),
    ("target, no route, was Live", found(IS_TARGET, NONE, LIVE), TARGET),
    ("source", found(IS_SOURCE, NONE), BASE),
    ("source with its route", found(IS_SOURCE, NORMAL, BASE), BASE),
    ("source, was Target", found(IS_SOURCE, NONE, TARGET), ASKING),
    ("source, was Withdrawn", found(IS_SOURCE, NONE, WITHDRAWN), ASKING),
    ("source, was Target but the route is in", found(IS_SOURCE, ELEVATED, TARGET), BASE),
    ("source aborted", found(ABORTED_SOURCE, NONE, BASE), BASE),
    ("source aborted, was Withdrawn", found(ABORTED_SOURCE, NONE, WITHDRAWN), ASKING),
    ("target succeeded, elevated", found(SUCCEEDED_TARGET, ELEVATED, LIVE), TIME_WAIT),
    ("target succeeded, unheard", found(SUCCEEDED_TARGET, NONE, TARGET), TIME_WAIT),
    ("target succeeded, route lost", found(SUCCEEDED_TARGET, NONE, LIVE), TIME_WAIT),
    ("target succeeded, converged", found(SUCCEEDED_TARGET, NORMAL, BASE), BASE),
    ("target succeeded, converged, was Live", found(SUCCEEDED_TARGET, NORMAL, LIVE), BASE),
    ("target succeeded, new to us", found(SUCCEEDED_TARGET, NONE), BASE),
    ("target succeeded, was Withdrawn", found(SUCCEEDED_TARGET, NONE, WITHDRAWN), BASE),
    ("source succeeded, with a route", found(SUCCEEDED_SOURCE, NORMAL, BASE), ASKING),
    ("source succeeded, elevated", found(SUCCEEDED_SOURCE, ELEVATED, LIVE), ASKING),
    ("source succeeded, no route", found(SUCCEEDED_SOURCE, NONE, WITHDRAWN), WITHDRAWN),
    ("target aborted, elevated", found(ABORTED_TARGET, ELEVATED, LIVE), ASKING),
    ("target aborted, normal", found(ABORTED_TARGET, NORMAL, BASE), ASKING),
    ("target aborted, no route", found(ABORTED_TARGET, NONE, TARGET), WITHDRAWN),
    ("no role, new", found(Assignment(), NONE), BASE),
    ("no role, normal", found(NO_ROLE, NORMAL, BASE), BASE),
    ("no role, elevated", found(NO_ROLE, ELEVATED, LIVE), LIVE),
    ("no role, elevated, unknown past", found(NO_ROLE, ELEVATED), LIVE),
    ("no role, elevated, was TimeWait", found(NO_ROLE, ELEVATED, TIME_WAIT), TIME_WAIT),
    ("no role, was Target", found(NO_ROLE, NONE, TARGET), WITHDRAWN),
    ("no role, was Withdrawn", found(NO_ROLE, NONE, WITHDRAWN), WITHDRAWN),
    ("no role, status alone never elevates", found(NO_ROLE, NONE, LIVE), BASE),
]


@pytest.mark.parametrize(
    ("what", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_every_row(what: Found, expected: State) -> None:
    assert expected == resumed(what).state


def _commands_of(state: State, *, told: bool) -> tuple[Command, ...]:
    if state is ASKING:
        return (AskGuest(EPISODE),)
    if state in {TARGET, WITHDRAWN}:
        return (StartProbes(EPISODE),)
    return () if state is BASE or told else (AnnounceGateway(),)


@pytest.mark.parametrize(
    ("what", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_the_first_commands_fit_the_state(what: Found, expected: State) -> None:
    told = what.has_routes and what.last is not None and what.last.state in {LIVE, TIME_WAIT}
    commands = restart.resume(what, NOW).commands
    if expected is ASKING and not told:
        # Of a guest that may have just come the gateway is told besides.
        commands = tuple(each for each in commands if each != AnnounceGateway())
    assert _commands_of(expected, told=told) == commands


@pytest.mark.parametrize("assignment", [SUCCEEDED_TARGET, NO_ROLE])
@pytest.mark.parametrize("last", [TARGET, WITHDRAWN])
def test_a_guest_is_told_of_its_gateway_when_the_last_agent_died_with_the_route_in(
    assignment: Assignment, last: State
) -> None:
    """The route is older than the memory: what follows the route was perhaps not done."""
    assert restart.resume(found(assignment, ELEVATED, last), NOW).commands == (AnnounceGateway(),)


@pytest.mark.parametrize("last", [TARGET, WITHDRAWN, REDIRECTED])
def test_a_target_whose_agent_died_with_the_route_in_has_its_guest_asked_and_says_so(
    last: State,
) -> None:
    """Else no peer would ever hear of it, and no API of its cutover."""
    start = restart.resume(found(IS_TARGET, ELEVATED, last), NOW)
    assert start.machine is not None
    episode = start.machine.episode
    assert start.commands == (AnnounceGateway(), AskGuest(episode))
    answer = Announced(episode, Signal.PROBE, answers_probe=True)
    after = step(start.machine, answer, NOW, Settings())
    assert after.machine is not None
    assert (after.machine.state, after.machine.level) == (LIVE, ELEVATED)
    assert TellPeers(has_guest=True) in after.commands
    assert RecordCutover(Signal.PROBE) in after.commands
    # It had announced itself: its routes stay, whatever it does.
    silent = step(start.machine, FellSilent(episode), NOW, Settings())
    assert silent.machine is not None
    assert (silent.machine.state, silent.machine.level) == (LIVE, ELEVATED)
    assert silent.commands == ()


ASSIGNMENTS = [
    Assignment(role, "m", uid, armed, outcome, ended_role)
    for role, uid, armed, outcome, ended_role in itertools.product(
        (None, *Role), (None, "uid-1"), (True, False), (None, *Outcome), (None, *Role)
    )
]


@pytest.mark.parametrize("routes", [NONE, NORMAL, ELEVATED])
@pytest.mark.parametrize("last", [None, BASE, TARGET, LIVE, TIME_WAIT, WITHDRAWN])
def test_no_route_is_taken_out_unasked_but_for_an_unarmed_target(
    routes: RouteLevel, last: State | None
) -> None:
    for assignment, await_role in itertools.product(ASSIGNMENTS, (True, False)):
        what = found(assignment, routes, last, await_role=await_role)
        start = resumed(what)
        assert (start.state is ASKING) is (start.asking is not None)
        is_unarmed_target = assignment.role is Role.TARGET and not assignment.armed
        if what.has_routes and not is_unarmed_target:
            assert start.level is not NONE, assignment


@pytest.mark.parametrize(
    ("what", "cause", "before", "level"),
    [
        (found(IS_TARGET, ELEVATED, LIVE, "uid-0"), Input.TARGET, LIVE, ELEVATED),
        (found(IS_TARGET, ELEVATED, TIME_WAIT, "uid-0"), Input.TARGET, TIME_WAIT, ELEVATED),
        (found(IS_TARGET, NORMAL, BASE), Input.TARGET, BASE, NORMAL),
        (found(IS_SOURCE, NONE, WITHDRAWN), Input.SOURCE, TARGET, NONE),
        (found(SUCCEEDED_SOURCE, NORMAL), Input.LEFT, BASE, NORMAL),
        (found(ABORTED_TARGET, ELEVATED), Input.ABORTED, LIVE, ELEVATED),
    ],
)
def test_an_asking_keeps_the_routes_that_were_found(
    what: Found, cause: Input, before: State, level: RouteLevel
) -> None:
    start = resumed(what)
    assert start.asking is not None
    assert (cause, before) == (start.asking.cause, start.asking.before.state)
    assert level == start.level


@pytest.mark.parametrize(
    ("in_doubt", "expected"), [(True, ASKING), (False, TIME_WAIT)], ids=["in doubt", "not"]
)
def test_a_timewait_in_doubt_asks_again_where_the_word_has_vanished(
    *, in_doubt: bool, expected: State
) -> None:
    last = Remembered(TIME_WAIT, BEFORE, "uid-1", in_doubt=in_doubt)
    start = resumed(Found(NO_ROLE, ELEVATED, last, await_role=False, episode=EPISODE))
    assert expected == start.state
    if in_doubt:
        assert start.asking is not None
        assert (start.asking.cause, start.asking.before.state) == (Input.ABORTED, TIME_WAIT)
        assert start.asking.before.since == BEFORE


def test_a_live_endpoint_in_doubt_stays_live_where_the_word_has_vanished() -> None:
    last = Remembered(LIVE, BEFORE, "uid-1", in_doubt=True)
    what = Found(NO_ROLE, ELEVATED, last, await_role=False, episode=EPISODE)
    assert resumed(what).state is LIVE


def test_an_asking_remembers_under_which_uid_the_routes_went_in() -> None:
    start = resumed(found(IS_TARGET, ELEVATED, LIVE, "uid-0"))
    assert start.asking is not None
    assert (start.uid, start.asking.before.uid) == ("uid-1", "uid-0")


def test_timewait_keeps_its_deadline() -> None:
    assert resumed(found(SUCCEEDED_TARGET, ELEVATED, TIME_WAIT)).since == BEFORE


def test_timewait_never_lasts_longer_than_the_full_time() -> None:
    future = Remembered(TIME_WAIT, NOW + dt.timedelta(hours=1), "uid-1")
    what = Found(SUCCEEDED_TARGET, ELEVATED, future, await_role=False, episode=EPISODE)
    assert resumed(what).since == NOW


def test_a_state_that_begins_at_the_restart_begins_now() -> None:
    assert resumed(found(SUCCEEDED_TARGET, ELEVATED, LIVE)).since == NOW


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (found(Assignment(), NONE, await_role=True), NONE),
        (found(Assignment(), NONE, await_role=False), NORMAL),
        (found(Assignment(), NORMAL, await_role=True), NORMAL),
        (found(NO_ROLE, NONE, BASE, await_role=True), NORMAL),
        (found(IS_SOURCE, NONE, await_role=True), NORMAL),
        (found(ABORTED_SOURCE, NONE, await_role=True), NORMAL),
        (found(SUCCEEDED_TARGET, NONE, await_role=True), NORMAL),
        (found(IS_TARGET, NONE, await_role=True), NONE),
    ],
)
def test_base_that_awaits_its_role_has_no_routes_before(what: Found, expected: RouteLevel) -> None:
    assert expected == resumed(what).level


def test_it_still_awaits_its_role_after_another_restart() -> None:
    last = restart.remember(resumed(found(Assignment(), NONE, await_role=True)))
    again = Found(Assignment(), NONE, last, await_role=True, episode=EPISODE)
    assert resumed(again).level is NONE


@pytest.mark.parametrize("state", [BASE, TARGET, LIVE, TIME_WAIT, WITHDRAWN])
def test_what_is_remembered_of_a_machine(state: State) -> None:
    plain = Machine(state, EPISODE, BEFORE, IS_TARGET, uid="uid-1")
    asking = dataclasses.replace(
        plain, state=ASKING, since=NOW, uid="uid-2", asking=Asking(Input.TARGET, plain)
    )
    assert Remembered(state, BEFORE, "uid-1") == restart.remember(plain)
    assert Remembered(state, BEFORE, "uid-1") == restart.remember(asking)
    doubting = dataclasses.replace(plain, doubt=Doubt(Input.LEFT, NOW, dt.timedelta(seconds=1)))
    assert Remembered(state, BEFORE, "uid-1", in_doubt=True) == restart.remember(doubting)


ROUTE = RouteStatus(address=ip_address("10.65.0.2"), metric=512, table=254, protocol=88)


@pytest.mark.parametrize(
    ("state", "routes", "expected"),
    [
        (LIVE, (ROUTE,), Remembered(LIVE, BEFORE, "uid-1")),
        (BASE, (ROUTE,), Remembered(BASE, BEFORE, "uid-1")),
        (BASE, (), Remembered(BASE, BEFORE, "uid-1", awaiting=True)),
        (ASKING, (ROUTE,), Remembered(BASE, BEFORE, "uid-1")),
        (ASKING, (), Remembered(TARGET, BEFORE, "uid-1")),
    ],
)
def test_the_status_is_the_second_best_memory(
    state: State, routes: tuple[RouteStatus, ...], expected: Remembered
) -> None:
    status = WorkloadEndpointStatus(state=state, since=BEFORE, routes=routes, migration_uid="uid-1")
    assert expected == restart.from_status(status)


@pytest.mark.parametrize(
    ("said", "expected"), [("True", True), ("Unknown", True), ("False", False)]
)
def test_the_status_remembers_a_doubt(said: str, *, expected: bool) -> None:
    condition = Condition.model_validate(
        {
            "type": "StillAlive",
            "status": said,
            "reason": "GuestAnswers",
            "message": "",
            "lastTransitionTime": BEFORE.isoformat(),
        }
    )
    other = condition.model_copy(update={"type": "Programmed"})
    status = WorkloadEndpointStatus(state=TIME_WAIT, since=BEFORE, conditions=(other, condition))
    assert restart.from_status(status) == Remembered(TIME_WAIT, BEFORE, in_doubt=expected)
    plain = WorkloadEndpointStatus(state=TIME_WAIT, since=BEFORE, conditions=(other,))
    assert restart.from_status(plain) == Remembered(TIME_WAIT, BEFORE)


def test_an_empty_status_is_no_memory() -> None:
    assert restart.from_status(WorkloadEndpointStatus()) is None
    assert restart.from_status(WorkloadEndpointStatus(state=LIVE)) is None


def test_a_status_without_a_state_is_no_memory() -> None:
    assert restart.from_status(WorkloadEndpointStatus(since=NOW)) is None


def test_routes_of_no_known_migration_are_another_ones() -> None:
    nameless = Assignment(Role.TARGET, "m", None)
    last = Remembered(State.LIVE, NOW, None)
    what = Found(nameless, RouteLevel.ELEVATED, last, await_role=False, episode=1)
    started = resumed(what)
    assert (started.state, started.asking and started.asking.cause) == (
        State.ASKING,
        Input.TARGET,
    )


@pytest.mark.parametrize("state", [BASE, TARGET, LIVE, TIME_WAIT, WITHDRAWN])
@pytest.mark.parametrize("said", [IS_TARGET, IS_SOURCE, NO_ROLE, SUCCEEDED_TARGET, ABORTED_SOURCE])
@pytest.mark.parametrize("routes", [NONE, NORMAL, ELEVATED])
def test_what_is_paused_stays_where_it_was_remembered(
    state: State, said: Assignment, routes: RouteLevel
) -> None:
    paused = dataclasses.replace(found(said, routes, state, "uid-0"), is_paused=True)
    step = restart.resume(paused, NOW)
    assert step.machine == Machine(state, EPISODE, BEFORE, said, "uid-0")
    assert step.commands == ()
    assert restart.remember(step.machine) == paused.last


def test_what_is_paused_goes_on_awaiting_its_role() -> None:
    last = Remembered(BASE, BEFORE, "uid-0", awaiting=True)
    paused = dataclasses.replace(found(NO_ROLE, NONE), last=last, is_paused=True)
    assert resumed(paused).awaiting
    assert not resumed(dataclasses.replace(paused, last=Remembered(BASE, BEFORE, "uid-0"))).awaiting


def test_of_what_is_paused_and_not_remembered_what_is_found_counts() -> None:
    paused = dataclasses.replace(found(NO_ROLE, NORMAL), is_paused=True)
    assert resumed(paused).state is BASE


TO_TARGET = Redirect("uid-1", Role.TARGET, NORMAL)
TO_SOURCE = Redirect("uid-1", Role.SOURCE, ELEVATED)
OTHER_TARGET = dataclasses.replace(IS_TARGET, migration_uid="uid-2")
OTHER_SOURCE = dataclasses.replace(IS_SOURCE, migration_uid="uid-2")


def redirected(
    assignment: Assignment,
    last: Redirect | None,
    redirect: RouteLevel = NORMAL,
    routes: RouteLevel = NONE,
) -> Found:
    """Return what is found with a redirect in the kernel; *last*: that of the memory, if any."""
    state = REDIRECTED if last else BASE
    remembered = Remembered(state, BEFORE, "uid-1", redirect=last, returns=Returns("uid-1", 1))
    return Found(assignment, routes, remembered, False, EPISODE, redirect=redirect)  # noqa: FBT003


def was_live(assignment: Assignment) -> Found:
    """Return what an agent leaves that dies right after the redirect of a roll-back."""
    last = Remembered(LIVE, BEFORE, "uid-1", returns=Returns("uid-1", 1))
    return Found(assignment, NONE, last, False, EPISODE, redirect=ELEVATED)  # noqa: FBT003


REDIRECTS: list[tuple[str, Found, State, Input | None]] = [
    ("source, of its uid", redirected(IS_SOURCE, TO_TARGET), REDIRECTED, None),
    ("source that left", redirected(SUCCEEDED_SOURCE, TO_TARGET), REDIRECTED, None),
    ("source of another uid", redirected(OTHER_SOURCE, TO_TARGET), ASKING, Input.SOURCE),
    ("source that failed", redirected(ABORTED_SOURCE, TO_TARGET), ASKING, Input.ABORTED),
    ("a role that vanished", redirected(NO_ROLE, TO_TARGET), REDIRECTED, None),
    ("target of its uid", redirected(IS_TARGET, TO_SOURCE, ELEVATED), REDIRECTED, None),
    ("target of another uid", redirected(OTHER_TARGET, TO_TARGET), TARGET, None),
    ("target that failed", redirected(ABORTED_TARGET, TO_SOURCE, ELEVATED), REDIRECTED, None),
    ("target that succeeded", redirected(SUCCEEDED_TARGET, TO_SOURCE), ASKING, Input.NO_ROLE),
    ("source, not remembered", redirected(IS_SOURCE, None), ASKING, Input.SOURCE),
    ("source that left, not remembered", redirected(SUCCEEDED_SOURCE, None), ASKING, Input.LEFT),
    ("target, not remembered", redirected(IS_TARGET, None), TARGET, None),
    ("target, was Live in it", was_live(IS_TARGET), ASKING, Input.TARGET),
    ("target, was Live in another", was_live(OTHER_TARGET), TARGET, None),
    # After a boot: nobody has the guest by the kernel's word, so that it is asked.
    ("source, without any route", redirected(IS_SOURCE, TO_TARGET, NONE), ASKING, Input.SOURCE),
    ("that left, without any", redirected(SUCCEEDED_SOURCE, TO_TARGET, NONE), WITHDRAWN, None),
]


@pytest.mark.parametrize(
    ("what", "expected", "cause"), [row[1:] for row in REDIRECTS], ids=[row[0] for row in REDIRECTS]
)
def test_every_redirect(what: Found, expected: State, cause: Input | None) -> None:
    start = resumed(what)
    assert (start.state, start.asking and start.asking.cause) == (expected, cause)
    # The times that the guest was found here count on, whatever it is now.
    assert start.returns == Returns("uid-1", 1)
    if expected is REDIRECTED:
        assert what.last
        assert (start.redirect, start.since) == (what.last.redirect, BEFORE)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (redirected(IS_SOURCE, TO_TARGET, routes=NORMAL), BASE),
        (redirected(IS_SOURCE, TO_TARGET, NONE, routes=NORMAL), BASE),
        (redirected(ABORTED_SOURCE, TO_TARGET, routes=NORMAL), BASE),
        (redirected(IS_TARGET, TO_SOURCE, ELEVATED, routes=ELEVATED), LIVE),
        (redirected(SUCCEEDED_TARGET, TO_SOURCE, routes=ELEVATED), TIME_WAIT),
    ],
)
def test_a_return_that_was_not_written_any_more_counts_and_is_told(
    what: Found, expected: State
) -> None:
    """The route of its own went in when the guest was heard; maybe its peer heard of it, too."""
    asked = resumed(what)
    assert asked.asking
    assert asked.asking.cause is Input.ANNOUNCED
    assert asked.level is what.routes
    assert asked.returns == asked.asking.before.returns == Returns("uid-1", 2)
    answer = Announced(EPISODE, Signal.PROBE, answers_probe=True)
    step_ = step(asked, answer, NOW, Settings())
    assert step_.machine
    assert (step_.machine.state, step_.machine.returns) == (expected, asked.returns)
    told = (TellPeers(has_guest=True), EmitEvent(EventReason.RETURNED))
    assert step_.commands == (RecordCutover(Signal.PROBE), *told)
    # One that is silent keeps what it has: the API's next word decides.
    silent = step(asked, FellSilent(EPISODE), NOW, Settings())
    assert silent.machine == dataclasses.replace(asked.asking.before, episode=EPISODE + 1)
    # But for a peer that says that it has it.
    heeding = step(asked, PeerHas("uid-1", Role.TARGET), NOW, Settings()).machine
    gone = step(heeding, FellSilent(EPISODE), NOW, Settings()).machine
    assert gone
    assert gone.state is REDIRECTED


def test_a_guest_that_comes_back_from_a_redirect_of_an_unknown_migration_is_counted() -> None:
    """The redirect was not written any more: it is that of the migration that is known."""
    asked = resumed(redirected(IS_SOURCE, None))
    answer = Announced(EPISODE, Signal.PROBE, answers_probe=True)
    back = step(asked, answer, NOW, Settings()).machine
    assert back
    assert (back.state, back.returns) == (BASE, Returns("uid-1", 2))


def test_a_redirect_that_nobody_remembers_stays_while_the_guest_is_asked() -> None:
    start = resumed(redirected(SUCCEEDED_SOURCE, None, RouteLevel.PRIVATE))
    assert start.underlying.redirect == Redirect(None, Role.TARGET, RouteLevel.PRIVATE)
    assert start.level is RouteLevel.PRIVATE


def test_what_is_redirected_is_remembered() -> None:
    machine = resumed(redirected(IS_SOURCE, TO_TARGET))
    last = restart.remember(machine)
    assert (last.state, last.redirect, last.returns) == (REDIRECTED, TO_TARGET, machine.returns)
    assert resumed(Found(IS_SOURCE, NONE, last, False, EPISODE, redirect=NORMAL)) == machine  # noqa: FBT003


def test_of_a_status_that_says_redirected_only_that_no_guest_was_here_is_known() -> None:
    last = restart.from_status(WorkloadEndpointStatus(state=REDIRECTED, since=BEFORE))
    assert last
    assert (last.state, last.redirect) == (WITHDRAWN, None)


def test_a_paused_redirect_stays_as_it_was_remembered() -> None:
    paused = dataclasses.replace(redirected(ABORTED_SOURCE, TO_TARGET), is_paused=True)
    start = resumed(paused)
    assert (start.state, start.redirect) == (REDIRECTED, TO_TARGET)


def test_a_guest_that_is_asked_because_of_its_peer_is_where_it_was_found() -> None:
    """Who says so says it again; and it is asked again, since its return is remembered."""
    word = PeerHas("uid-1", Role.TARGET)
    machine = Machine(BASE, EPISODE, BEFORE, IS_SOURCE, "uid-1", returns=Returns("uid-1", 1))
    asked = step(machine, word, NOW, Settings()).machine
    assert asked
    last = restart.remember(asked)
    assert last == Remembered(BASE, BEFORE, "uid-1", returns=machine.returns)
    again = resumed(Found(IS_SOURCE, NORMAL, last, await_role=False, episode=EPISODE))
    assert again == machine
    taken = step(again, word, NOW, Settings()).machine
    assert taken
    assert taken.state is ASKING
