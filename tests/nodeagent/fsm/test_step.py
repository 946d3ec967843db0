"""Every state with every input, and what a step commands beside the new state."""

import dataclasses
import datetime as dt

import pytest

from handover_api.assignment import Assignment
from handover_api.configuration import Settings
from handover_api.livemigration import Outcome
from handover_api.workloadendpoint import Role, Signal, State
from handover_nodeagent import fsm
from handover_nodeagent.fsm import inputs, table
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
    Deleted,
    Event,
    FellSilent,
    Input,
    PeerHas,
    PeerReleased,
    TimerPopped,
    Unaskable,
    Updated,
)
from handover_nodeagent.fsm.machine import Asking, Doubt, Machine, Redirect, Returns, RouteLevel

NOW = dt.datetime(2026, 8, 1, 12, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(seconds=5)
EPISODE = 7
SETTINGS = Settings()

TARGET = Assignment(Role.TARGET, "m", "uid-1")
OTHER_TARGET = Assignment(Role.TARGET, "m2", "uid-2")
UNARMED_TARGET = dataclasses.replace(OTHER_TARGET, armed=False)
SOURCE = Assignment(Role.SOURCE, "m2", "uid-2")
VANISHED = Assignment(None, "m", "uid-1")


def ended(role: Role, outcome: Outcome, uid: str = "uid-1") -> Assignment:
    return Assignment(None, "m", uid, outcome=outcome, ended_role=role)


NO_ROLE = ended(Role.TARGET, Outcome.SUCCEEDED)
LEFT = ended(Role.SOURCE, Outcome.SUCCEEDED)
FAILED_TARGET = ended(Role.TARGET, Outcome.ABORTED)
FAILED_SOURCE = ended(Role.SOURCE, Outcome.ABORTED)


def assigned(assignment: Assignment, *, routes_in: bool = False) -> Assigned:
    return Assigned(inputs.of_assignment(assignment), assignment, routes_in)


def heard(signal: Signal = Signal.RARP, *, answers_probe: bool = False) -> Announced:
    return Announced(EPISODE, signal, answers_probe)


def in_state(state: State, assignment: Assignment = TARGET) -> Machine:
    """Return a machine that may be in *state* under uid-1; Asking and Redirected come from Live."""
    plain = Machine(state, EPISODE, NOW, assignment, uid="uid-1")
    if state is State.ASKING:
        return asking(Input.ABORTED, in_state(State.LIVE))
    if state is State.WITHDRAWN:
        return dataclasses.replace(plain, first_answer=NOW)
    if state is State.REDIRECTED:
        return redirected(Role.SOURCE, assignment)
    return plain


def redirected(
    peer: Role, assignment: Assignment, level: RouteLevel = RouteLevel.ELEVATED
) -> Machine:
    """Return a machine whose guest the *peer* of uid-1 has."""
    redirect = Redirect("uid-1", peer, level)
    return Machine(State.REDIRECTED, EPISODE, NOW, assignment, uid="uid-1", redirect=redirect)


def asking(cause: Input, before: Machine) -> Machine:
    peer = PeerHas("uid-1", Role.TARGET) if cause is Input.PEER_HAS else None
    return dataclasses.replace(before, state=State.ASKING, asking=Asking(cause, before, peer))


def doubting(state: State) -> Machine:
    return dataclasses.replace(
        in_state(state), doubt=Doubt(Input.LEFT, NOW, dt.timedelta(seconds=1))
    )


def take(before: Machine, event: Event) -> fsm.Step:
    return fsm.step(before, event, LATER, SETTINGS)


STAYS, GONE, IMPOSSIBLE = "stays", "gone", "impossible"
A, T, L, W, B, X, R = (
    State.ASKING,
    State.TARGET,
    State.LIVE,
    State.TIME_WAIT,
    State.BASE,
    State.WITHDRAWN,
    State.REDIRECTED,
)

COLUMNS: dict[str, Event] = {
    "Target same uid": assigned(TARGET),
    "Target new uid": assigned(OTHER_TARGET),
    "Target new uid routes in": assigned(OTHER_TARGET, routes_in=True),
    "Target unarmed routes in": assigned(UNARMED_TARGET, routes_in=True),
    "Announced": heard(Signal.PROBE, answers_probe=True),
    "NoRole": assigned(NO_ROLE),
    "Aborted target": assigned(FAILED_TARGET),
    "Aborted source": assigned(FAILED_SOURCE),
    "Vanished": assigned(VANISHED),
    "Source": assigned(SOURCE),
    "Left": assigned(LEFT),
    "PeerHas": PeerHas("uid-1", Role.SOURCE),
    "PeerHas another": PeerHas("uid-2", Role.TARGET),
    "PeerReleased": PeerReleased("uid-1"),
    "PeerReleased another": PeerReleased("uid-2"),
    "TimerPop": TimerPopped(EPISODE),
    "Silence": FellSilent(EPISODE),
    "Unaskable": Unaskable(EPISODE),
    "AskAgain": AskAgainDue(EPISODE),
    "Deleted": Deleted(),
}

# Base, Target, Live, TimeWait, Withdrawn, Asking: one that came from Live with cause Aborted,
# Redirected: one that came from Live.
TABLE: dict[str, tuple[State | str, ...]] = {
    "Target same uid": (T, STAYS, STAYS, L, T, L, STAYS),
    "Target new uid": (T, STAYS, A, A, T, A, T),
    "Target new uid routes in": (A, STAYS, A, A, T, A, T),
    "Target unarmed routes in": (T, STAYS, A, A, T, A, T),
    "Announced": (IMPOSSIBLE, L, IMPOSSIBLE, IMPOSSIBLE, W, L, L),
    "NoRole": (STAYS, W, W, STAYS, STAYS, W, A),
    "Aborted target": (A, X, A, A, STAYS, A, STAYS),
    "Aborted source": (STAYS, X, A, A, STAYS, A, A),
    "Vanished": (STAYS, X, STAYS, STAYS, STAYS, L, STAYS),
    "Source": (STAYS, A, B, B, STAYS, B, A),
    "Left": (A, STAYS, A, A, STAYS, A, STAYS),
    "PeerHas": (R, STAYS, R, R, STAYS, R, STAYS),
    "PeerHas another": (R, STAYS, R, R, STAYS, R, R),
    "PeerReleased": (STAYS, STAYS, STAYS, STAYS, STAYS, STAYS, A),
    "PeerReleased another": (STAYS, STAYS, STAYS, STAYS, STAYS, STAYS, STAYS),
    "TimerPop": (IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE, B, IMPOSSIBLE, STAYS, IMPOSSIBLE),
    "Silence": (IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE, X, IMPOSSIBLE),
    "Unaskable": (IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE, L, IMPOSSIBLE),
    "AskAgain": (
        IMPOSSIBLE,
        IMPOSSIBLE,
        IMPOSSIBLE,
        IMPOSSIBLE,
        IMPOSSIBLE,
        IMPOSSIBLE,
        IMPOSSIBLE,
    ),
    "Deleted": (A, GONE, A, A, GONE, A, GONE),
}
EVERY_PAIR = [
    pytest.param(state, COLUMNS[column], expected, id=f"{state}-{column}")
    for column, row in TABLE.items()
    for state, expected in zip((B, T, L, W, X, A, R), row, strict=True)
]


def test_the_table_has_every_state_and_every_input() -> None:
    assert set(State) == set(table.TRANSITIONS)
    for state, row in table.TRANSITIONS.items():
        assert set(Input) == set(row), state
    moving = [event for event in COLUMNS.values() if not isinstance(event, Updated | AwaitLifted)]
    assert {event.input for event in moving} == set(Input)


@pytest.mark.parametrize(("state", "event", "expected"), EVERY_PAIR)
def test_every_pair(state: State, event: Event, expected: State | str) -> None:
    before = in_state(state)
    taken = take(before, event)
    assert (expected == IMPOSSIBLE) is taken.impossible
    if expected == GONE:
        assert taken.machine is None
    elif expected == IMPOSSIBLE:
        assert taken == fsm.Step(before, (), taken.input, impossible=True)
    else:
        assert taken.machine is not None
        assert (state if expected == STAYS else expected) == taken.machine.state
    if expected == STAYS:
        assert taken.machine is not None
        assert before.episode == taken.machine.episode
        assert before.since == taken.machine.since


@pytest.mark.parametrize(
    ("cause", "before", "answered", "silent"),
    [
        (Input.TARGET, L, L, T),
        (Input.TARGET, B, L, T),
        (Input.ABORTED, L, L, X),
        (Input.ABORTED, W, W, X),
        (Input.LEFT, B, B, X),
        (Input.SOURCE, T, B, X),
        (Input.DELETED, L, None, None),
        (Input.ANNOUNCED, L, L, L),
        (Input.PEER_HAS, B, B, R),
        (Input.PEER_HAS, L, L, R),
        (Input.PEER_HAS, W, W, R),
    ],
)
def test_every_asking_ends_both_ways(
    cause: Input, before: State, answered: State | None, silent: State | None
) -> None:
    question = asking(cause, in_state(before))
    by_answer = take(question, ANSWER).machine
    by_silence = take(question, FellSilent(EPISODE)).machine
    assert answered == (by_answer and by_answer.state)
    assert silent == (by_silence and by_silence.state)


@pytest.mark.parametrize("before", [B, L, W])
def test_a_guest_whose_mac_nobody_knows_counts_as_answering_where_it_has_routes(
    before: State,
) -> None:
    back = take(asking(Input.LEFT, in_state(before)), Unaskable(EPISODE)).machine
    assert back is not None
    assert before == back.state


def test_a_guest_whose_mac_nobody_knows_counts_as_silent_where_it_has_no_routes() -> None:
    taken = take(asking(Input.SOURCE, in_state(T)), Unaskable(EPISODE)).machine
    assert taken is not None
    assert taken.state is State.WITHDRAWN


def test_an_answer_without_a_frame_is_no_cutover() -> None:
    taken = take(asking(Input.TARGET, in_state(L)), Unaskable(EPISODE))
    assert taken.commands == ()


@pytest.mark.parametrize("state", list(State))
def test_what_an_older_episode_started_changes_nothing(state: State) -> None:
    before = in_state(state)
    for event in (
        Announced(EPISODE - 1, Signal.RARP),
        TimerPopped(EPISODE - 1),
        FellSilent(EPISODE - 1),
        Unaskable(EPISODE + 1),
        AskAgainDue(EPISODE - 1),
    ):
        assert fsm.Step(before) == take(before, event)


@pytest.mark.parametrize("event", COLUMNS.values(), ids=COLUMNS)
def test_nothing_recreates_a_machine_that_is_gone(event: Event) -> None:
    assert fsm.Step(None) == fsm.step(None, event, NOW, SETTINGS)


CUTOVER = (
    AnnounceGateway(),
    RecordCutover(Signal.RARP),
    TellPeers(has_guest=True),
    EmitEvent(EventReason.CUT_OVER),
)
COMMANDS: list[tuple[str, Machine, Event, tuple[Command, ...]]] = [
    ("life is a cutover", in_state(T), heard(), CUTOVER),
    (
        "an unannounced success brings the routes in",
        in_state(T),
        assigned(NO_ROLE),
        (AnnounceGateway(),),
    ),
    ("Live hears the end without a word", in_state(L), assigned(NO_ROLE), ()),
    ("TimeWait ends without a word", in_state(W), TimerPopped(EPISODE), ()),
    (
        "a new Target listens at once",
        in_state(B),
        assigned(OTHER_TARGET),
        (StartProbes(EPISODE + 1), EmitEvent(EventReason.WITHDRAWN)),
    ),
    ("a new uid probes afresh", in_state(T), assigned(OTHER_TARGET), (StartProbes(EPISODE),)),
    ("Live follows a role without a word", in_state(L), assigned(TARGET), ()),
    ("Withdrawn listens on", in_state(T), assigned(FAILED_TARGET), (StartProbes(EPISODE + 1),)),
    ("asking is a command", in_state(L), assigned(LEFT), (AskGuest(EPISODE + 1),)),
    (
        "silence takes the routes out",
        asking(Input.LEFT, in_state(L)),
        FellSilent(EPISODE),
        (
            StartProbes(EPISODE + 1),
            TellPeers(has_guest=False),
            EmitEvent(EventReason.WITHDRAWN),
        ),
    ),
    (
        "an unexpected answer is told",
        asking(Input.LEFT, in_state(B)),
        heard(),
        (EmitEvent(EventReason.STILL_ALIVE),),
    ),
    ("but once", asking(Input.LEFT, doubting(B)), heard(), ()),
    (
        "a new migration finds its guest here already",
        asking(Input.TARGET, in_state(B)),
        heard(),
        CUTOVER[1:],
    ),
    (
        "an aborted target that never lived has the guest after all",
        asking(Input.SOURCE, in_state(T)),
        heard(),
        (AnnounceGateway(),),
    ),
    (
        "a deleted endpoint's guest answers",
        asking(Input.DELETED, in_state(L)),
        heard(),
        (KeepOrphan(), EmitEvent(EventReason.ORPHAN_ROUTE)),
    ),
    (
        "a deleted endpoint's guest is silent",
        asking(Input.DELETED, in_state(L)),
        FellSilent(7),
        (TellPeers(has_guest=False),),
    ),
    (
        "a deleted endpoint without routes leaves no orphan",
        asking(Input.DELETED, dataclasses.replace(in_state(B), awaiting=True)),
        heard(),
        (),
    ),
    (
        "the source's guest is back",
        in_state(X, FAILED_SOURCE),
        heard(Signal.PROBE, answers_probe=True),
        (AnnounceGateway(),),
    ),
]


@pytest.mark.parametrize(
    ("before", "event", "expected"), [case[1:] for case in COMMANDS], ids=[c[0] for c in COMMANDS]
)
def test_commands(before: Machine, event: Event, expected: tuple[Command, ...]) -> None:
    assert expected == take(before, event).commands


@pytest.mark.parametrize(
    ("assignment", "expected", "doubted"),
    [
        (SOURCE, B, None),
        (FAILED_SOURCE, B, None),
        (LEFT, B, Input.LEFT),
        (NO_ROLE, W, None),
        (VANISHED, W, Input.ABORTED),
        (FAILED_TARGET, W, Input.ABORTED),
    ],
)
def test_a_withdrawn_endpoint_whose_guest_lives_returns_to_its_side(
    assignment: Assignment, expected: State, doubted: Input | None
) -> None:
    taken = take(in_state(X, assignment), heard(Signal.PROBE, answers_probe=True))
    assert taken.machine is not None
    assert expected == taken.machine.state
    # Where the API denies that a guest is here, it is asked again later.
    doubt = Doubt(doubted, LATER, fsm.FIRST_ASK_INTERVAL) if doubted else None
    assert doubt == taken.machine.doubt
    assert bool(doubted) is (EmitEvent(EventReason.STILL_ALIVE) in taken.commands)


class TestWithdrawn:
    """One frame is no life: a dying guest's late ones are heard, too."""

    WITHDRAWN = Machine(State.WITHDRAWN, EPISODE, NOW, FAILED_TARGET, uid="uid-1")
    ANSWER = heard(Signal.PROBE, answers_probe=True)

    @pytest.mark.parametrize("signal", [Signal.RARP, Signal.GRATUITOUS_ARP, Signal.PROBE])
    def test_a_frame_that_answers_no_probe_of_this_episode_only_probes_anew(
        self, signal: Signal
    ) -> None:
        taken = take(self.WITHDRAWN, heard(signal))
        assert fsm.Step(self.WITHDRAWN, (RenewProbes(EPISODE),), Input.ANNOUNCED) == taken
        # The very same: nothing else follows from frames that may come as a flood.
        assert taken.machine is self.WITHDRAWN

    @pytest.mark.parametrize(
        ("milliseconds", "probe_interval", "expected"),
        [(399, 200, X), (400, 200, W), (39, 20, X), (40, 20, W), (399, 0, X), (400, 0, W)],
    )
    def test_the_second_answer_counts_after_two_intervals(
        self, milliseconds: int, probe_interval: int, expected: State
    ) -> None:
        settings = Settings(probe_interval=dt.timedelta(milliseconds=probe_interval))
        first = fsm.step(self.WITHDRAWN, self.ANSWER, NOW, settings)
        assert (StartProbes(EPISODE),) == first.commands
        at = NOW + dt.timedelta(milliseconds=milliseconds)
        second = fsm.step(first.machine, self.ANSWER, at, settings)
        assert second.machine is not None
        assert expected == second.machine.state

    def test_a_clock_that_was_set_back_counts_anew(self) -> None:
        heard_once = dataclasses.replace(self.WITHDRAWN, first_answer=LATER)
        taken = fsm.step(heard_once, self.ANSWER, NOW, SETTINGS).machine
        assert taken is not None
        assert taken.first_answer == NOW


class TestAsking:
    """Packets decide, the API confirms."""

    def test_the_asked_machine_keeps_its_routes_and_remembers_what_it_was(self) -> None:
        live = in_state(L)
        taken = take(live, assigned(OTHER_TARGET)).machine
        assert taken is not None
        assert Asking(Input.TARGET, live) == taken.asking
        assert taken.level is RouteLevel.ELEVATED
        assert (taken.uid, taken.since, taken.episode) == ("uid-2", LATER, EPISODE + 1)

    def test_another_input_is_taken_under_the_uid_before(self) -> None:
        question = take(in_state(L), assigned(OTHER_TARGET)).machine
        assert question is not None
        back = fsm.step(question, assigned(TARGET), LATER, SETTINGS).machine
        assert back is not None
        assert (back.state, back.uid, back.episode) == (L, "uid-1", EPISODE + 2)

    def test_the_time_of_a_timewait_runs_on_while_its_guest_is_asked(self) -> None:
        question = take(in_state(W), assigned(FAILED_TARGET)).machine
        assert question is not None
        back = fsm.step(question, Announced(EPISODE + 1, Signal.PROBE), LATER, SETTINGS).machine
        assert back is not None
        assert (back.state, back.since, back.assignment) == (W, NOW, FAILED_TARGET)

    def test_the_interval_doubles_up_to_a_minute(self) -> None:
        question = take(in_state(B), assigned(LEFT)).machine
        seconds = []
        for _ in range(9):
            assert question is not None
            back = take(question, Announced(question.episode, Signal.PROBE)).machine
            assert back is not None
            assert back.doubt is not None
            seconds.append(back.doubt.interval.total_seconds())
            question = take(back, AskAgainDue(back.episode)).machine
        assert seconds == [1, 2, 4, 8, 16, 32, 60, 60, 60]

    @pytest.mark.parametrize("state", [B, L, W])
    def test_a_doubted_guest_is_asked_again_for_the_same_cause(self, state: State) -> None:
        taken = take(doubting(state), AskAgainDue(EPISODE)).machine
        assert taken is not None
        assert Asking(Input.LEFT, doubting(state)) == taken.asking
        assert taken.doubt is not None

    def test_a_time_wait_in_doubt_never_falls_back_to_the_normal_priority(self) -> None:
        """Nobody has asked the source: its route of that priority may still be there."""
        assert fsm.Step(doubting(W), (), Input.TIMER_POP) == take(doubting(W), TimerPopped(EPISODE))

    def test_its_time_begins_when_the_api_agrees_with_the_guest(self) -> None:
        taken = take(doubting(W), assigned(NO_ROLE))
        assert taken.machine is not None
        assert (taken.machine.state, taken.machine.since, taken.machine.doubt) == (W, LATER, None)
        assert taken.commands == ()

    def test_also_while_the_guest_is_asked_again(self) -> None:
        question = take(doubting(W), AskAgainDue(EPISODE)).machine
        taken = fsm.step(question, assigned(NO_ROLE), LATER, SETTINGS).machine
        assert taken is not None
        assert (taken.state, taken.since, taken.doubt) == (W, LATER, None)

    def test_without_doubt_the_time_runs_on(self) -> None:
        taken = take(in_state(W, FAILED_TARGET), assigned(NO_ROLE)).machine
        assert taken is not None
        assert (taken.state, taken.since, taken.episode) == (W, NOW, EPISODE)

    @pytest.mark.parametrize("event", [assigned(TARGET), assigned(SOURCE), assigned(NO_ROLE)])
    def test_a_new_word_of_the_api_ends_the_doubt(self, event: Assigned) -> None:
        taken = take(doubting(L), event).machine
        assert taken is not None
        assert taken.doubt is None

    @pytest.mark.parametrize("state", [B, L, W])
    def test_a_word_that_vanishes_does_not(self, state: State) -> None:
        taken = take(doubting(state), assigned(VANISHED)).machine
        assert taken is not None
        assert doubting(state).doubt == taken.doubt

    @pytest.mark.parametrize("state", [L, W])
    def test_that_the_source_of_a_failed_migration_answers_leaves_no_doubt(
        self, state: State
    ) -> None:
        question = take(in_state(state), assigned(FAILED_SOURCE)).machine
        assert question is not None
        taken = take(question, Announced(question.episode, Signal.PROBE))
        assert taken.machine is not None
        assert (taken.machine.state, taken.machine.doubt, taken.commands) == (state, None, ())

    def test_a_guest_that_cannot_be_asked_is_in_doubt_but_not_said_to_answer(self) -> None:
        taken = take(asking(Input.LEFT, in_state(B)), Unaskable(EPISODE))
        assert taken.machine is not None
        doubt = Doubt(Input.LEFT, LATER, fsm.FIRST_ASK_INTERVAL, is_heard=False)
        assert (doubt, ()) == (taken.machine.doubt, taken.commands)

    def test_that_it_answers_after_all_is_told(self) -> None:
        unheard = dataclasses.replace(
            in_state(B), doubt=Doubt(Input.LEFT, NOW, fsm.FIRST_ASK_INTERVAL, is_heard=False)
        )
        taken = take(asking(Input.LEFT, unheard), heard())
        assert taken.machine is not None
        assert taken.machine.doubt == Doubt(Input.LEFT, LATER, 2 * fsm.FIRST_ASK_INTERVAL)
        assert (EmitEvent(EventReason.STILL_ALIVE),) == taken.commands

    def test_arming_asks_afresh_because_the_answers_so_far_were_not_heard(self) -> None:
        silent = asking(Input.SOURCE, in_state(T))
        deaf = dataclasses.replace(silent, assignment=UNARMED_TARGET)
        taken = take(deaf, Updated(OTHER_TARGET))
        assert taken.machine is not None
        assert (taken.machine.state, taken.machine.since) == (A, LATER)
        assert (AskGuest(EPISODE + 1),) == taken.commands

    def test_arming_changes_nothing_where_the_answers_were_heard_all_along(self) -> None:
        hearing = dataclasses.replace(in_state(A), assignment=UNARMED_TARGET)
        after = dataclasses.replace(hearing, assignment=OTHER_TARGET)
        assert fsm.Step(after) == take(hearing, Updated(OTHER_TARGET))

    def test_routes_that_are_awaited_no_more_ask_afresh_where_nobody_was_heard(self) -> None:
        awaiting = dataclasses.replace(in_state(B, UNARMED_TARGET), awaiting=True)
        taken = take(asking(Input.LEFT, awaiting), AwaitLifted())
        assert taken.machine is not None
        assert (taken.machine.awaiting, taken.machine.since) == (False, LATER)
        assert (AskGuest(EPISODE + 1),) == taken.commands


class TestUpdates:
    """What moves no machine."""

    @pytest.mark.parametrize(
        ("state", "expected"),
        [(T, (StartProbes(EPISODE),)), (X, (StartProbes(EPISODE),)), (B, ()), (L, ()), (W, ())],
    )
    def test_arming_probes_afresh_where_somebody_listens(
        self, state: State, expected: tuple[Command, ...]
    ) -> None:
        before = in_state(state, UNARMED_TARGET)
        after = dataclasses.replace(before, assignment=OTHER_TARGET)
        assert fsm.Step(after, expected) == take(before, Updated(OTHER_TARGET))

    def test_another_name_is_followed_without_a_word(self) -> None:
        renamed = dataclasses.replace(TARGET, migration="renamed")
        after = dataclasses.replace(in_state(T), assignment=renamed)
        assert fsm.Step(after) == take(in_state(T), Updated(renamed))

    def test_a_uid_that_is_not_said_any_more_is_kept(self) -> None:
        taken = take(in_state(L), assigned(Assignment())).machine
        assert taken is not None
        assert (taken.uid, taken.assignment) == ("uid-1", Assignment())

    @pytest.mark.parametrize("state", [T, L, W, B])
    def test_an_unknown_uid_is_another_one(self, state: State) -> None:
        unknown = dataclasses.replace(in_state(state), uid=None)
        taken = take(unknown, assigned(Assignment(Role.TARGET))).machine
        assert taken is not None
        assert taken.state in {State.TARGET, State.ASKING}


class TestAwaitRole:
    """An endpoint made before anyone knows what it is has no route until somebody does."""

    AWAITING = dataclasses.replace(in_state(B, Assignment()), awaiting=True)

    @pytest.mark.parametrize("assignment", [SOURCE, NO_ROLE, FAILED_SOURCE])
    def test_base_gets_its_routes(self, assignment: Assignment) -> None:
        taken = take(self.AWAITING, assigned(assignment))
        assert taken.machine is not None
        assert taken.machine.level is RouteLevel.NORMAL
        assert (AnnounceGateway(),) == taken.commands

    @pytest.mark.parametrize("assignment", [TARGET, LEFT, FAILED_TARGET, VANISHED])
    def test_base_gets_no_routes(self, assignment: Assignment) -> None:
        taken = take(self.AWAITING, assigned(assignment)).machine
        assert taken is not None
        assert taken.level is RouteLevel.NONE

    def test_it_keeps_them_when_the_role_vanishes(self) -> None:
        source = take(self.AWAITING, assigned(SOURCE)).machine
        taken = fsm.step(source, assigned(VANISHED), LATER, SETTINGS).machine
        assert taken is not None
        assert taken.level is RouteLevel.NORMAL

    def test_it_gets_them_when_its_guest_answers(self) -> None:
        question = take(self.AWAITING, assigned(LEFT)).machine
        assert question is not None
        taken = take(question, Announced(question.episode, Signal.PROBE))
        assert taken.machine is not None
        assert taken.machine.level is RouteLevel.NORMAL
        assert (AnnounceGateway(), EmitEvent(EventReason.STILL_ALIVE)) == taken.commands

    def test_it_gets_them_when_the_spec_stops_to_await(self) -> None:
        taken = take(self.AWAITING, AwaitLifted()).machine
        assert taken is not None
        assert taken.level is RouteLevel.NORMAL

    def test_a_spec_that_stops_to_await_counts_while_the_guest_is_asked(self) -> None:
        question = take(self.AWAITING, assigned(LEFT)).machine
        lifted = fsm.step(question, AwaitLifted(), LATER, SETTINGS).machine
        back = fsm.step(lifted, assigned(VANISHED), LATER, SETTINGS).machine
        assert back is not None
        assert (back.state, back.level) == (B, RouteLevel.NORMAL)


def taken(before: Machine, *events: Event) -> Machine:
    """Return where *before* stands after *events*, the episodes of which are its own."""
    machine = before
    for event in events:
        if isinstance(event, Announced | FellSilent | Unaskable | AskAgainDue):
            following = take(machine, dataclasses.replace(event, episode=machine.episode)).machine
        else:
            following = take(machine, event).machine
        assert following is not None
        machine = following
    return machine


ANSWER = heard(Signal.PROBE, answers_probe=True)
SILENCE = FellSilent(EPISODE)
GONE_ON = PeerHas("uid-1", Role.TARGET)
ROLLED_BACK = PeerHas("uid-1", Role.SOURCE)
IS_SOURCE = Assignment(Role.SOURCE, "m", "uid-1")


class TestRedirected:
    """The peer has the guest: the routes lead there, at once, until it is found here."""

    @pytest.mark.parametrize(
        ("state", "assignment", "expected"),
        [
            (B, IS_SOURCE, RouteLevel.NORMAL),
            (B, FAILED_SOURCE, RouteLevel.NORMAL),
            (B, LEFT, RouteLevel.PRIVATE),
            (L, TARGET, RouteLevel.ELEVATED),
            (W, NO_ROLE, RouteLevel.ELEVATED),
            (L, FAILED_TARGET, RouteLevel.PRIVATE),
            (L, VANISHED, RouteLevel.ELEVATED),
            # Live for one migration and source of the next one already, which has moved it.
            (L, SOURCE, RouteLevel.NORMAL),
        ],
    )
    def test_the_level_stays_until_the_api_agrees_that_the_guest_is_gone(
        self, state: State, assignment: Assignment, expected: RouteLevel
    ) -> None:
        entered = taken(in_state(state, assignment), GONE_ON)
        assert (entered.state, entered.level) == (R, expected)

    def test_a_source_that_is_left_has_private_routes(self) -> None:
        entered = taken(in_state(B, IS_SOURCE), GONE_ON, assigned(LEFT))
        assert (entered.state, entered.level, entered.doubt) == (R, RouteLevel.PRIVATE, None)

    def test_a_live_that_becomes_source_yields_to_the_next_target(self) -> None:
        entered = taken(in_state(L), PeerHas("uid-2", Role.TARGET))
        assert entered.level is RouteLevel.ELEVATED
        assert taken(entered, assigned(SOURCE)).level is RouteLevel.NORMAL

    def test_the_entry_listens_and_tells_a_person(self) -> None:
        step = take(in_state(B, IS_SOURCE), GONE_ON)
        expected = (StartProbes(EPISODE + 1), EmitEvent(EventReason.REDIRECTED))
        assert expected == step.commands
        assert step.machine is not None
        assert step.machine.is_listening

    @pytest.mark.parametrize("state", [T, X])
    def test_where_no_routes_are_in_there_is_nothing_to_send_on(self, state: State) -> None:
        assert taken(in_state(state), GONE_ON, ROLLED_BACK).state is state

    def test_neither_are_routes_that_are_only_awaited(self) -> None:
        awaiting = dataclasses.replace(in_state(B, IS_SOURCE), awaiting=True)
        assert taken(awaiting, GONE_ON) == awaiting

    def test_an_asking_without_routes_goes_on(self) -> None:
        question = asking(Input.SOURCE, in_state(T, IS_SOURCE))
        assert taken(question, GONE_ON) == question

    def test_a_source_that_was_told_to_leave_is_answered_by_its_peer(self) -> None:
        entered = taken(in_state(B, IS_SOURCE), assigned(LEFT), GONE_ON)
        assert (entered.state, entered.level) == (R, RouteLevel.PRIVATE)

    def test_an_endpoint_that_is_deleted_meanwhile_leaves_its_redirect(self) -> None:
        question = taken(in_state(B, IS_SOURCE), Deleted())
        assert fsm.Step(None, (KeepRedirect(),), Input.PEER_HAS) == take(question, GONE_ON)

    def test_one_that_is_deleted_later_does_so_at_once(self) -> None:
        entered = taken(in_state(B, IS_SOURCE), GONE_ON)
        assert fsm.Step(None, (KeepRedirect(),), Input.DELETED) == take(entered, Deleted())
        asked = taken(entered, assigned(FAILED_SOURCE))
        assert fsm.Step(None, (KeepRedirect(),), Input.DELETED) == take(asked, Deleted())

    def test_a_frame_that_answers_no_probe_only_probes_anew(self) -> None:
        entered = in_state(R)
        step = take(entered, heard())
        assert fsm.Step(entered, (RenewProbes(EPISODE),), Input.ANNOUNCED) == step
        # An asking takes no other frame for an answer either.
        asked = taken(entered, assigned(FAILED_SOURCE))
        step = take(asked, dataclasses.replace(heard(), episode=asked.episode))
        assert step.machine is asked

    @pytest.mark.parametrize(
        ("peer", "assignment", "expected", "doubted"),
        [
            (Role.TARGET, IS_SOURCE, B, None),
            (Role.TARGET, FAILED_SOURCE, B, None),
            (Role.TARGET, LEFT, B, Input.LEFT),
            (Role.TARGET, VANISHED, B, None),
            # It is the target of one migration, and was to be the source of another.
            (Role.TARGET, TARGET, L, None),
            (Role.SOURCE, TARGET, L, None),
            (Role.SOURCE, NO_ROLE, W, None),
            (Role.SOURCE, FAILED_TARGET, W, Input.ABORTED),
            (Role.SOURCE, VANISHED, L, None),
        ],
    )
    def test_a_guest_that_answers_takes_it_back_to_its_side(
        self, peer: Role, assignment: Assignment, expected: State, doubted: Input | None
    ) -> None:
        step = take(redirected(peer, assignment), ANSWER)
        assert step.machine is not None
        assert step.machine.redirect is None
        doubt = step.machine.doubt
        assert (step.machine.state, doubt and doubt.cause) == (expected, doubted)
        expected_commands = (
            AnnounceGateway(),
            RecordCutover(Signal.PROBE),
            TellPeers(has_guest=True),
            EmitEvent(EventReason.RETURNED),
        )
        assert expected_commands == step.commands[:4]

    @pytest.mark.parametrize("silence", [SILENCE, Unaskable(EPISODE)])
    @pytest.mark.parametrize(
        ("machine", "event", "cause"),
        [
            (redirected(Role.TARGET, IS_SOURCE), assigned(FAILED_SOURCE), Input.ABORTED),
            (redirected(Role.SOURCE, TARGET), assigned(NO_ROLE), Input.NO_ROLE),
            (redirected(Role.SOURCE, TARGET), assigned(SOURCE), Input.SOURCE),
            (redirected(Role.TARGET, IS_SOURCE), PeerReleased("uid-1"), Input.PEER_RELEASED),
        ],
    )
    def test_whoever_says_that_the_guest_is_here_has_it_asked(
        self, machine: Machine, event: Event, cause: Input, silence: Event
    ) -> None:
        question = taken(machine, event)
        assert question.state is A
        back = taken(question, silence)
        assert (back.state, back.redirect) == (R, machine.redirect)
        is_heard = silence is SILENCE
        assert back.doubt == Doubt(cause, LATER, fsm.FIRST_ASK_INTERVAL, is_heard)
        again = taken(back, AskAgainDue(EPISODE), silence)
        assert again.doubt == Doubt(cause, LATER, 2 * fsm.FIRST_ASK_INTERVAL, is_heard)
        assert taken(again, AskAgainDue(EPISODE), ANSWER).redirect is None

    def test_nobody_is_told_that_a_silent_guest_is_alive(self) -> None:
        question = taken(redirected(Role.TARGET, IS_SOURCE), assigned(FAILED_SOURCE))
        step = take(question, dataclasses.replace(SILENCE, episode=question.episode))
        assert step.commands == ()

    def test_a_peer_that_has_it_again_ends_the_doubt(self) -> None:
        released = taken(redirected(Role.TARGET, IS_SOURCE), PeerReleased("uid-1"), SILENCE)
        assert released.doubt is not None
        assert taken(released, GONE_ON).doubt is None

    def test_a_peer_that_the_api_contradicts_is_believed_and_the_guest_asked_again(self) -> None:
        entered = taken(in_state(B, FAILED_SOURCE), GONE_ON)
        assert entered.doubt == Doubt(Input.ABORTED, LATER, fsm.FIRST_ASK_INTERVAL)
        assert (
            EmitEvent(EventReason.STILL_ALIVE) not in take(in_state(L, NO_ROLE), GONE_ON).commands
        )

    def test_a_third_node_takes_over(self) -> None:
        """A to B to C: A hears of C, and keeps its level."""
        entered = taken(in_state(B, IS_SOURCE), GONE_ON, PeerHas("uid-2", Role.TARGET))
        assert entered.redirect == Redirect("uid-2", Role.TARGET, RouteLevel.NORMAL)

    def test_the_target_of_another_migration_has_no_routes_of_its_own(self) -> None:
        """The operator waits for Target; the guest was asked all the time, and nobody is late."""
        step = take(in_state(R, LEFT), assigned(OTHER_TARGET))
        assert step.machine is not None
        assert (step.machine.state, step.machine.level) == (T, RouteLevel.NONE)
        assert step.commands == (StartProbes(EPISODE + 1), KeepRedirect())


def found(state: State, assignment: Assignment) -> Machine:
    """Return a machine whose guest was found here although its peer in uid-1 had it."""
    return dataclasses.replace(in_state(state, assignment), returns=Returns("uid-1", 1))


class TestFoundHere:
    """The peer's word may be older than the guest's return: it is asked before it is followed."""

    FOUND = pytest.mark.parametrize(
        "machine",
        [
            found(B, IS_SOURCE),
            found(B, FAILED_SOURCE),
            found(L, TARGET),
            found(W, NO_ROLE),
            dataclasses.replace(
                found(B, LEFT), doubt=Doubt(Input.LEFT, NOW, dt.timedelta(seconds=8))
            ),
        ],
    )

    def test_a_return_is_counted(self) -> None:
        machine = taken(in_state(B, IS_SOURCE), GONE_ON, ANSWER)
        assert machine.returns == Returns("uid-1", 1)
        machine = taken(machine, GONE_ON, SILENCE, ANSWER)
        assert machine.returns == Returns("uid-1", 2)

    @FOUND
    def test_it_is_asked_with_its_routes_in(self, machine: Machine) -> None:
        step = take(machine, GONE_ON)
        assert step.machine is not None
        assert step.machine.asking == Asking(Input.PEER_HAS, machine, GONE_ON)
        assert (step.machine.level, step.machine.redirect) == (machine.level, None)
        assert step.commands == (AskGuest(EPISODE + 1),)

    @FOUND
    @pytest.mark.parametrize("answer", [ANSWER, Unaskable(EPISODE)])
    def test_one_that_answers_has_not_moved(
        self, machine: Machine, answer: Announced | Unaskable
    ) -> None:
        asked = taken(machine, GONE_ON)
        step = take(asked, dataclasses.replace(answer, episode=asked.episode))
        assert step.machine == dataclasses.replace(machine, episode=EPISODE + 2)
        # No Event, no doubt that was not there, and no peer that would tell us in turn.
        assert step.commands == ()

    @FOUND
    def test_a_silent_one_has(self, machine: Machine) -> None:
        asked = taken(machine, GONE_ON)
        step = take(asked, dataclasses.replace(SILENCE, episode=asked.episode))
        # As at once, where nobody need be asked.
        at_once = take(dataclasses.replace(machine, returns=Returns()), GONE_ON)
        assert step.machine is not None
        assert at_once.machine is not None
        assert step.machine == dataclasses.replace(
            at_once.machine, episode=EPISODE + 2, returns=machine.returns
        )
        assert step.commands == (StartProbes(EPISODE + 2), EmitEvent(EventReason.REDIRECTED))

    def test_a_frame_that_answers_no_probe_only_probes_anew(self) -> None:
        """It may be from before the guest went."""
        asked = taken(found(B, IS_SOURCE), GONE_ON)
        step = take(asked, dataclasses.replace(heard(), episode=asked.episode))
        assert step == fsm.Step(asked, (RenewProbes(asked.episode),), Input.ANNOUNCED)

    def test_a_peer_that_says_it_again_does_not_begin_it_anew(self) -> None:
        asked = taken(found(B, IS_SOURCE), GONE_ON)
        assert take(asked, GONE_ON) == fsm.Step(asked, (), Input.PEER_HAS)

    def test_another_migration_counts_anew(self) -> None:
        other = PeerHas("uid-2", Role.TARGET)
        assert taken(found(B, SOURCE), other).state is R
        assert taken(found(B, SOURCE), GONE_ON, other).state is R

    def test_where_no_routes_are_in_nobody_is_asked(self) -> None:
        for machine in (found(T, TARGET), found(X, FAILED_TARGET)):
            assert taken(machine, GONE_ON) == machine
        awaiting = dataclasses.replace(found(B, IS_SOURCE), awaiting=True)
        assert taken(awaiting, GONE_ON) == awaiting

    def test_where_the_peer_has_it_nobody_is_asked_either(self) -> None:
        """What ends the doubt of a redirect takes no route from any guest."""
        machine = dataclasses.replace(in_state(R, IS_SOURCE), returns=Returns("uid-1", 1))
        asked = taken(machine, PeerReleased("uid-1"))
        assert taken(asked, ROLLED_BACK).state is R
        assert taken(asked, SILENCE, ROLLED_BACK).doubt is None

    @pytest.mark.parametrize(
        ("word", "answered", "silent", "level"),
        [
            (LEFT, B, R, RouteLevel.PRIVATE),
            (FAILED_TARGET, B, R, RouteLevel.PRIVATE),
            # No word of the past keeps a Target from what its operator waits for.
            (OTHER_TARGET, L, T, RouteLevel.NONE),
        ],
    )
    @pytest.mark.parametrize("is_first", [True, False])
    def test_a_peers_word_is_not_lost_where_the_api_has_the_guest_asked(
        self,
        word: Assignment,
        answered: State,
        silent: State,
        level: RouteLevel,
        *,
        is_first: bool,
    ) -> None:
        said = assigned(word, routes_in=True)
        events = (GONE_ON, said) if is_first else (said, GONE_ON)
        asked = taken(found(B, IS_SOURCE), *events)
        assert asked.asking is not None
        assert (asked.asking.cause, asked.asking.peer) == (said.input, GONE_ON)
        assert taken(asked, ANSWER).state is answered
        ended = taken(asked, SILENCE)
        assert (ended.state, ended.level) == (silent, level)

    @pytest.mark.parametrize("word", [SOURCE, VANISHED, FAILED_SOURCE])
    def test_neither_is_it_where_the_api_says_something_else(self, word: Assignment) -> None:
        asked = taken(found(B, IS_SOURCE), GONE_ON)
        step = take(asked, assigned(word))
        assert step.machine is not None
        assert step.machine.asking is not None
        assert (step.machine.asking.cause, step.machine.asking.peer) == (Input.PEER_HAS, GONE_ON)
        assert step.machine.asking.before.assignment == word
        assert (step.input, step.commands) == (
            inputs.of_assignment(word),
            (AskGuest(step.machine.episode),),
        )

    def test_an_endpoint_that_is_deleted_meanwhile_leaves_its_redirect(self) -> None:
        for events in ((GONE_ON, Deleted()), (Deleted(), GONE_ON)):
            asked = taken(found(B, IS_SOURCE), *events)
            silence = dataclasses.replace(SILENCE, episode=asked.episode)
            assert take(asked, silence) == fsm.Step(None, (KeepRedirect(),), Input.SILENCE)
            answer = dataclasses.replace(ANSWER, episode=asked.episode)
            assert KeepOrphan() in take(asked, answer).commands
