"""Whole stories of one endpoint, from its first sight to its end, and what always holds."""

import dataclasses
import datetime as dt
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_api.assignment import Assignment
from handover_api.configuration import Settings
from handover_api.livemigration import Outcome
from handover_api.workloadendpoint import Role, Signal, State
from handover_nodeagent import fsm
from handover_nodeagent.fsm import inputs, restart, timers
from handover_nodeagent.fsm.events import (
    Announced,
    AskAgainDue,
    Deleted,
    EpisodeEvent,
    Event,
    FellSilent,
    TimerPopped,
    Unaskable,
)
from handover_nodeagent.fsm.machine import Machine, RouteLevel
from handover_nodeagent.fsm.restart import Found

NOON = dt.datetime(2026, 8, 1, 12, tzinfo=dt.UTC)
SETTINGS = Settings()


def assignment(words: str, migration: str) -> Assignment:
    """Return what "target", "succeeded source", "stripped" … write for a migration."""
    match words.split():
        case ["target" | "source" as role]:
            return Assignment(Role(role), "m", migration)
        case ["unarmed", "target"]:
            return Assignment(Role.TARGET, "m", migration, armed=False)
        case ["succeeded" | "aborted" as outcome, role]:
            return Assignment(
                None,
                "m",
                migration,
                outcome=Outcome(outcome.capitalize()),
                ended_role=Role(role),
            )
    return Assignment(None, "m", migration)


class Play:
    """One endpoint, its clock, and a kernel that does at once what the machine wants."""

    def __init__(self, first: str, *, await_role: bool = False) -> None:
        self.now = NOON
        self.migration = "m1"
        self.assignment = assignment(first, self.migration)
        found = Found(self.assignment, RouteLevel.NONE, None, await_role, episode=0)
        self.machine = restart.resume(found, self.now).machine
        self.late: list[Event] = []

    def act(self, words: str) -> None:
        """Let one thing happen: a frame, a timer, or a word of the API."""
        when, _, what = words.rpartition(": ")
        if when.startswith("after "):
            self.now += dt.timedelta(milliseconds=int(when.removeprefix("after ")))
        elif when:
            self.migration = when
        for event in self.events(what):
            self.machine = fsm.step(self.machine, event, self.now, SETTINGS).machine

    def events(self, words: str) -> list[Event]:
        """Return the event that *words* name; "late" ones are of all former episodes."""
        if words == "late":
            return self.late
        if words == "deleted":
            return [Deleted()]
        assert self.machine is not None
        episode = self.machine.episode
        announcements: dict[str, Event] = {
            "RARP": Announced(episode, Signal.RARP),
            "answer": Announced(episode, Signal.PROBE, answers_probe=True),
        }
        timer = timers.timer(self.machine, SETTINGS)
        self.late += [*announcements.values(), TimerPopped(episode), FellSilent(episode)]
        if words == "timer":
            assert timer is not None
            self.now = max(self.now, timer.due)
            return [timer.event]
        if words in announcements:
            return [announcements[words]]
        before, self.assignment = self.assignment, assignment(words, self.migration)
        routes_in = self.machine.level is not RouteLevel.NONE
        event = inputs.of_change(before, self.assignment, routes_in=routes_in)
        return [event] if event else []

    def stands(self) -> str:
        """Return state and routes in two words."""
        if self.machine is None:
            return "gone"
        return f"{self.machine.state} {self.machine.level}"


PLAYBOOKS: dict[str, list[tuple[str, str]]] = {
    "a migration as it should be, seen from the target": [
        ("target", "Target none"),
        ("RARP", "Live elevated"),
        ("late", "Live elevated"),
        ("succeeded target", "TimeWait elevated"),
        ("timer", "Base normal"),
        ("late", "Base normal"),
    ],
    "and from the source": [
        ("source", "Base normal"),
        ("succeeded source", "Asking normal"),
        ("timer", "Withdrawn none"),
        ("deleted", "gone"),
        ("late", "gone"),
    ],
    "cancelled before the announcement": [
        ("target", "Target none"),
        ("aborted target", "Withdrawn none"),
        ("late", "Withdrawn none"),
        ("RARP", "Withdrawn none"),
        ("deleted", "gone"),
    ],
    "the object lost before the announcement": [
        ("target", "Target none"),
        ("stripped", "Withdrawn none"),
        ("late", "Withdrawn none"),
    ],
    "the endpoint deleted before the announcement": [
        ("target", "Target none"),
        ("deleted", "gone"),
        ("late", "gone"),
    ],
    "failure after Live": [
        ("target", "Target none"),
        ("RARP", "Live elevated"),
        ("aborted target", "Asking elevated"),
        ("late", "Asking elevated"),
        ("timer", "Withdrawn none"),
    ],
    "a source that serves again": [
        ("source", "Base normal"),
        ("aborted source", "Base normal"),
    ],
    "a late cancel: the guest lives here whatever the API says": [
        ("target", "Target none"),
        ("RARP", "Live elevated"),
        ("aborted target", "Asking elevated"),
        ("answer", "Live elevated"),
        ("timer", "Asking elevated"),
        ("RARP", "Live elevated"),
        ("timer", "Asking elevated"),
        ("timer", "Withdrawn none"),
    ],
    "the object flaps before the announcement": [
        ("target", "Target none"),
        ("stripped", "Withdrawn none"),
        ("target", "Target none"),
        ("late", "Target none"),
        ("RARP", "Live elevated"),
    ],
    "the object flaps after the announcement": [
        ("target", "Target none"),
        ("RARP", "Live elevated"),
        ("stripped", "Live elevated"),
        ("target", "Live elevated"),
        ("aborted target", "Asking elevated"),
        ("target", "Live elevated"),
        ("late", "Live elevated"),
        ("succeeded target", "TimeWait elevated"),
        ("target", "Live elevated"),
        ("late", "Live elevated"),
    ],
    "the role stripped while the time runs": [
        ("target", "Target none"),
        ("RARP", "Live elevated"),
        ("succeeded target", "TimeWait elevated"),
        ("stripped", "TimeWait elevated"),
        ("timer", "Base normal"),
    ],
    "a missed announcement is made good by the probe": [
        ("target", "Target none"),
        ("answer", "Live elevated"),
    ],
    "or by the end of the migration": [
        ("target", "Target none"),
        ("succeeded target", "TimeWait elevated"),
        ("late", "TimeWait elevated"),
        ("timer", "Base normal"),
    ],
    "there and back: the target becomes a source while the time runs": [
        ("target", "Target none"),
        ("RARP", "Live elevated"),
        ("succeeded target", "TimeWait elevated"),
        ("m2: source", "Base normal"),
        ("succeeded source", "Asking normal"),
        ("timer", "Withdrawn none"),
        ("m3: target", "Target none"),
        ("RARP", "Live elevated"),
    ],
    "at once: the target becomes a source before the end": [
        ("target", "Target none"),
        ("RARP", "Live elevated"),
        ("m2: source", "Base normal"),
        ("aborted source", "Base normal"),
        ("m3: target", "Asking normal"),
        ("answer", "Live elevated"),
    ],
    "back to the old pod that still is there": [
        ("source", "Base normal"),
        ("succeeded source", "Asking normal"),
        ("timer", "Withdrawn none"),
        ("m2: target", "Target none"),
        ("late", "Target none"),
        ("RARP", "Live elevated"),
    ],
    "a source that lingers gets the traffic back only if its guest answers": [
        ("source", "Base normal"),
        ("succeeded source", "Asking normal"),
        ("answer", "Base normal"),
        ("timer", "Asking normal"),
        ("timer", "Withdrawn none"),
        ("RARP", "Withdrawn none"),
        ("answer", "Withdrawn none"),
        ("after 399: answer", "Withdrawn none"),
        ("after 1: answer", "Base normal"),
        ("timer", "Asking normal"),
        ("timer", "Withdrawn none"),
    ],
    "a cancelled target whose guest lives after all": [
        ("target", "Target none"),
        ("aborted target", "Withdrawn none"),
        ("answer", "Withdrawn none"),
        ("after 400: answer", "TimeWait elevated"),
        ("timer", "Asking elevated"),
        ("answer", "TimeWait elevated"),
        ("timer", "Asking elevated"),
        ("after 30000: answer", "TimeWait elevated"),
        ("timer", "Asking elevated"),
        ("answer", "TimeWait elevated"),
        ("stripped", "TimeWait elevated"),
        ("timer", "Asking elevated"),
        ("answer", "TimeWait elevated"),
        ("succeeded target", "TimeWait elevated"),
        ("timer", "Base normal"),
    ],
    "a target whose migration is lost with its operator, and whose guest comes all the same": [
        ("target", "Target none"),
        ("stripped", "Withdrawn none"),
        ("answer", "Withdrawn none"),
        ("after 400: answer", "TimeWait elevated"),
        ("after 60000: timer", "Asking elevated"),
        ("answer", "TimeWait elevated"),
        ("timer", "Asking elevated"),
        ("timer", "Withdrawn none"),
    ],
    "the target was a source in truth": [
        ("target", "Target none"),
        ("m2: source", "Asking none"),
        ("answer", "Base normal"),
    ],
    "or nothing at all": [
        ("target", "Target none"),
        ("m2: source", "Asking none"),
        ("timer", "Withdrawn none"),
        ("m3: target", "Target none"),
    ],
    "a target that is told to have been a source, but hears its guest": [
        ("target", "Target none"),
        ("m2: source", "Asking none"),
        ("succeeded source", "Target none"),
        ("RARP", "Live elevated"),
        ("timer", "Asking elevated"),
        ("timer", "Withdrawn none"),
    ],
    "named as target where the guest already runs": [
        ("nothing", "Base normal"),
        ("target", "Asking normal"),
        ("answer", "Live elevated"),
    ],
    "named as target where no guest runs": [
        ("nothing", "Base normal"),
        ("target", "Asking normal"),
        ("timer", "Target none"),
        ("RARP", "Live elevated"),
    ],
    "named as target before the guest could be there": [
        ("nothing", "Base normal"),
        ("unarmed target", "Target none"),
        ("target", "Target none"),
        ("RARP", "Live elevated"),
    ],
    "another migration claims a live target": [
        ("target", "Target none"),
        ("RARP", "Live elevated"),
        ("m2: target", "Asking elevated"),
        ("answer", "Live elevated"),
        ("m3: target", "Asking elevated"),
        ("m2: target", "Live elevated"),
        ("m4: target", "Asking elevated"),
        ("timer", "Target none"),
    ],
    "the timer of TimeWait waits while the guest is asked": [
        ("target", "Target none"),
        ("RARP", "Live elevated"),
        ("succeeded target", "TimeWait elevated"),
        ("after 29990: aborted target", "Asking elevated"),
        ("after 240: answer", "TimeWait elevated"),
        ("timer", "Asking elevated"),
        ("answer", "TimeWait elevated"),
    ],
    "the custom resource definition is deleted under a live guest": [
        ("target", "Target none"),
        ("RARP", "Live elevated"),
        ("deleted", "Asking elevated"),
        ("answer", "gone"),
        ("late", "gone"),
    ],
    "an endpoint deleted while its guest is asked": [
        ("source", "Base normal"),
        ("succeeded source", "Asking normal"),
        ("deleted", "Asking normal"),
        ("timer", "gone"),
    ],
}


@pytest.mark.parametrize("playbook", PLAYBOOKS.values(), ids=PLAYBOOKS)
def test_playbook(playbook: list[tuple[str, str]]) -> None:
    (first, expected), *acts = playbook
    play = Play(first)
    assert expected == play.stands()
    for words, stands in acts:
        play.act(words)
        assert (words, stands) == (words, play.stands())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("target", "Target none"),
        ("source", "Base normal"),
        ("aborted source", "Base normal"),
        ("succeeded target", "Base normal"),
        ("stripped", "Base none"),
    ],
)
def test_an_endpoint_that_awaits_its_role_shows_no_route_before(words: str, expected: str) -> None:
    play = Play("nothing", await_role=True)
    assert play.stands() == "Base none"
    play.act(words)
    assert expected == play.stands()


ROLES = st.sampled_from(list(Role))
UIDS = st.sampled_from(["m1", "m2", None])
GIVEN = st.builds(Assignment, role=ROLES, migration_uid=UIDS)
ENDED = st.builds(
    Assignment,
    migration_uid=UIDS,
    outcome=st.sampled_from(list(Outcome)),
    ended_role=ROLES,
)
STRIPPED = st.builds(Assignment, migration_uid=UIDS)
ASSIGNMENTS = GIVEN | ENDED | STRIPPED
SIGNALS = st.sampled_from(list(Signal))
STARTED = (
    st.builds(Announced, st.just(0), SIGNALS, st.booleans())
    | st.builds(TimerPopped, st.just(0))
    | st.builds(FellSilent, st.just(0))
    | st.builds(Unaskable, st.just(0))
    | st.builds(AskAgainDue, st.just(0))
)
Happening = Assignment | EpisodeEvent | Deleted
HAPPENINGS = ASSIGNMENTS | STARTED | st.just(Deleted())


def run(start: Machine, happenings: list[Happening]) -> list[fsm.Step]:
    """Let all happen, a second apart, each in the episode of its time."""
    steps = [fsm.Step(start)]
    known = start.assignment
    for seconds, happening in enumerate(happenings, 1):
        current = steps[-1].machine
        if current is None:
            break
        event: Event | None
        if isinstance(happening, Assignment):
            routes_in = current.level is not RouteLevel.NONE
            event = inputs.of_change(known, happening, routes_in=routes_in)
            known = happening
        elif isinstance(happening, Deleted):
            event = happening
        else:
            event = dataclasses.replace(happening, episode=current.episode)
        if event:
            now = NOON + dt.timedelta(seconds=seconds)
            steps.append(fsm.step(current, event, now, SETTINGS))
    return steps


def fresh(state: State) -> Machine:
    given_role = Assignment(Role.TARGET, "m", "m1")
    return Machine(state, 0, NOON, given_role, uid="m1")


@given(st.sampled_from([State.BASE, State.TARGET, State.LIVE]), st.lists(HAPPENINGS, max_size=12))
def test_a_machine_always_makes_sense(state: State, happenings: list[Happening]) -> None:
    steps = run(fresh(state), happenings)
    for before, after in itertools.pairwise(steps):
        assert before.machine is not None
        if after.machine is None:
            continue
        assert before.machine.episode <= after.machine.episode
        if before.machine.state is not after.machine.state:
            assert before.machine.episode < after.machine.episode
        is_asking = after.machine.state is State.ASKING
        assert is_asking is (after.machine.asking is not None)
        timer = timers.timer(after.machine, SETTINGS)
        if timer:
            assert not fsm.step(after.machine, timer.event, NOON, SETTINGS).impossible


LIFELESS = (
    st.builds(Assignment, role=st.just(Role.TARGET), migration_uid=UIDS, armed=st.booleans())
    | ENDED.filter(lambda ended: ended.outcome is Outcome.ABORTED)
    | STRIPPED
    | STARTED.filter(lambda event: not isinstance(event, Announced))
)


@given(st.lists(LIFELESS, max_size=12))
def test_a_target_without_life_never_has_a_route(happenings: list[Happening]) -> None:
    for taken in run(fresh(State.TARGET), happenings):
        if taken.machine:
            assert taken.machine.level is RouteLevel.NONE


UNDENIED = HAPPENINGS.filter(lambda happening: not isinstance(happening, FellSilent))


@given(st.sampled_from([State.BASE, State.LIVE, State.TIME_WAIT]), st.lists(UNDENIED, max_size=12))
def test_a_live_guest_keeps_its_routes_unless_asked_and_silent(
    state: State, happenings: list[Happening]
) -> None:
    for taken in run(fresh(state), happenings):
        if taken.machine:
            assert taken.machine.level is not RouteLevel.NONE
        else:
            assert any(isinstance(happening, Deleted) for happening in happenings)
            assert taken.commands


@given(
    st.sampled_from([State.BASE, State.TARGET, State.LIVE, State.TIME_WAIT]),
    st.lists(HAPPENINGS, max_size=8),
    STARTED,
    st.integers(1, 9),
)
def test_what_is_late_changes_nothing(
    state: State, happenings: list[Happening], late: EpisodeEvent, by: int
) -> None:
    reached = run(fresh(state), happenings)[-1].machine
    if reached:
        stale = dataclasses.replace(late, episode=reached.episode - by)
        assert fsm.Step(reached) == fsm.step(reached, stale, NOON, SETTINGS)
