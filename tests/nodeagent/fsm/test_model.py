"""The agent's core against a simulated world, in any order of events (ring 1, model-based).

Two agents, each with a kernel of its own, serve three endpoints of one guest. The guest runs on
one of them or nowhere, and answers truthfully. Words of the API, frames, timers, crashes in the
middle of a plan, lost memories, API outages and interfaces that come and go arrive in any order.
``HANDOVER_MODEL_STEPS`` makes the walk longer than its 20,000 steps.
"""

import dataclasses
import datetime as dt
import os
from collections.abc import Callable
from ipaddress import ip_address
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from tests.nodeagent.fsm.miniature import SETTINGS, Agent, CrashError, Endpoint

from handover_api.assignment import Assignment
from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role, Signal, State
from handover_nodeagent import fsm
from handover_nodeagent.fsm import inputs, timers
from handover_nodeagent.fsm.events import Announced, Deleted, Event, FellSilent, Input
from handover_nodeagent.fsm.machine import Machine
from handover_nodeagent.network.model import Link, Route

NOON = dt.datetime(2026, 8, 1, 12, tzinfo=dt.UTC)
SHARED = ip_address("10.65.0.2")
STEPS_PER_WALK = 50
STEPS = max(20_000, int(os.environ.get("HANDOVER_MODEL_STEPS", "0")))
"""Steps that are really taken, all walks together; not those that hypothesis may take."""


def _ended(role: Role, outcome: Outcome, uid: str) -> Assignment:
    return Assignment(None, "m", uid, outcome=outcome, ended_role=role)


NAMES = st.sampled_from(["a", "b", "c"])
UIDS = st.sampled_from(["m1", "m2"])
TARGETS = st.builds(
    Assignment, st.just(Role.TARGET), st.just("m"), UIDS, st.sampled_from([True, True, False])
)
WORDS = st.one_of(
    TARGETS,
    st.builds(Assignment, st.just(Role.SOURCE), st.just("m"), UIDS),
    st.builds(_ended, st.sampled_from(list(Role)), st.sampled_from(list(Outcome)), UIDS),
    st.builds(Assignment, migration_uid=UIDS),
)
RARP = Signal.RARP
SIGNALS = st.none() | st.sampled_from(list(Signal))
NOTHING = st.builds(Assignment)
LIFELESS = {Input.TARGET, Input.ABORTED, Input.VANISHED}


class World(RuleBasedStateMachine):
    """Anything may happen at any time; the invariants hold all the same."""

    steps: ClassVar = 0
    PLACES: ClassVar = {
        "a": (0, ip_address("10.65.0.11")),
        "b": (1, ip_address("10.65.0.12")),
        "c": (0, ip_address("fd00:65::13")),
    }

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.agents = [Agent(), Agent()]
        self.api: dict[str, Endpoint] = {}
        self.api_is_up = True
        self.guest_at: str | None = None
        self.index = 10
        self.links: dict[str, Link] = {}
        # Endpoints that were targets from birth and never had a guest nor a word of success.
        self.never_lived: set[str] = set()
        # Endpoints whose guest answers and had a route: they keep it, also when deleted.
        self.served: dict[str, Endpoint] = {}

    def agent(self, name: str) -> Agent:
        return self.agents[self.PLACES[name][0]]

    def key(self, name: str) -> ObjectKey:
        return ObjectKey("ns", name)

    def machine_of(self, name: str) -> Machine | None:
        return self.agent(name).machines.get(self.key(name))

    def answers(self, name: str) -> bool:
        """Tell whether the guest is there and its answers count."""
        current = self.machine_of(name)
        return current is not None and self.is_heard(name) and current.is_trusting

    def is_heard(self, name: str) -> bool:
        """Tell whether the guest is behind the interface that the agent listens at."""
        known = self.agent(name).known.get(self.key(name))
        return known is not None and self.guest_at == name and known.link == self.links[name]

    def sync(self, name: str) -> None:
        """Let the agent see the API's objects, unless it is killed on the way."""
        if not self.api_is_up:
            return
        agent, key, endpoint = self.agent(name), self.key(name), self.api.get(name)
        try:
            if endpoint:
                agent.see(endpoint, self.now)
            elif key in agent.machines:
                agent.feed(key, Deleted(), self.now)
        except CrashError:
            self.restart(name)

    def feed(self, name: str, event: Event) -> None:
        try:
            self.agent(name).feed(self.key(name), event, self.now)
        except CrashError:
            self.restart(name)

    def restart(self, name: str) -> None:
        """Start the node's agent anew, from what it remembers; then it sees the API."""
        place = self.PLACES[name][0]
        agent = self.agents[place]
        self.agents[place] = agent.restarted(self.now)
        for other in self.PLACES:
            if self.PLACES[other][0] == place:
                self.sync(other)
        if self.api_is_up:
            self.agents[place].prune()

    def forget(self, name: str) -> None:
        """Lose /run/handover, as at a reboot of the node that keeps its routes."""
        agent = self.agent(name)
        for endpoint in agent.known.values():
            # The API's word alone cannot tell that it was a target, nor that there was a guest.
            if inputs.of_assignment(endpoint.assignment) is Input.VANISHED:
                self.never_lived.discard(endpoint.key.name)
        for other in self.PLACES.keys() - self.api.keys():
            self.served.pop(other, None)
        agent.memory.clear()
        agent.known.clear()
        agent.orphans = frozenset()

    # What may happen.

    @initialize(assignment=TARGETS, await_role=st.booleans())
    def begins(self, assignment: Assignment, *, await_role: bool) -> None:
        self.appears("a", assignment, await_role=await_role)
        self.appears("b", Assignment(), await_role=await_role)
        self.guest_moves("b", None)

    @rule(old=NAMES, new=NAMES, uid=UIDS, acts=st.integers(2, 7), signal=SIGNALS)
    def migration(self, old: str, new: str, uid: str, acts: int, signal: Signal | None) -> None:
        """Play the first acts of a migration as it should be."""
        plot: list[Callable[[], None]] = [
            lambda: self.api_speaks(new, Assignment(Role.TARGET, "m", uid)),
            lambda: self.api_speaks(old, Assignment(Role.SOURCE, "m", uid)),
            lambda: self.guest_moves(new, signal),
            lambda: self.api_speaks(old, _ended(Role.SOURCE, Outcome.SUCCEEDED, uid)),
            lambda: self.timer_pops(old),
            lambda: self.api_speaks(new, _ended(Role.TARGET, Outcome.SUCCEEDED, uid)),
            lambda: self.timer_pops(new),
        ]
        for act in plot[:acts]:
            act()

    @rule(name=NAMES, assignment=TARGETS | NOTHING, await_role=st.booleans(), is_new=st.booleans())
    def comes_or_goes(
        self, name: str, assignment: Assignment, *, await_role: bool, is_new: bool
    ) -> None:
        if name in self.api:
            self.deleted(name)
        else:
            self.appears(name, assignment, await_role=await_role, is_new=is_new)

    def appears(
        self, name: str, assignment: Assignment, *, await_role: bool, is_new: bool = True
    ) -> None:
        """Make an object, for a new interface or for the one of an object before it."""
        self.now += dt.timedelta(seconds=1)
        is_new = is_new or name not in self.links
        if is_new:
            if self.guest_at == name:
                self.guest_leaves()
            self.index += 1
            self.links[name] = Link(self.index, f"tap{self.index}", "ee:ee:ee:ee:ee:ee", up=True)
        addresses = (self.PLACES[name][1], SHARED)
        self.api[name] = Endpoint(
            self.key(name), addresses, self.links[name], assignment, await_role, self.now
        )
        if is_new and (assignment.role or await_role):
            self.never_lived.add(name)
        self.sync(name)

    def deleted(self, name: str) -> None:
        del self.api[name]
        self.never_lived.discard(name)
        self.sync(name)

    @rule(name=NAMES, assignment=WORDS)
    def api_speaks(self, name: str, assignment: Assignment) -> None:
        if name not in self.api:
            return
        self.api[name] = dataclasses.replace(self.api[name], assignment=assignment)
        known = self.agent(name).known.get(self.key(name))
        is_seen = known is not None and known.created_at == self.api[name].created_at
        is_of_source = assignment.ended_role is Role.SOURCE
        if inputs.of_assignment(assignment) not in LIFELESS or is_of_source or not is_seen:
            self.never_lived.discard(name)
        self.sync(name)

    @rule(word=st.sampled_from(["failed", "left", "stripped", "other", "deleted"]))
    def api_is_wrong(self, word: str) -> None:
        """Say of the guest's own endpoint what is not so."""
        name = self.guest_at
        words = {
            "failed": _ended(Role.TARGET, Outcome.ABORTED, "m1"),
            "left": _ended(Role.SOURCE, Outcome.SUCCEEDED, "m1"),
            "stripped": Assignment(),
            "other": Assignment(Role.TARGET, "m", "m3"),
        }
        if name in self.api:
            self.api_speaks(name, words[word]) if word in words else self.deleted(name)
            self.timer_pops(name)

    @rule(word=st.sampled_from(["failed", "stripped"]), is_killed=st.booleans())
    def migration_is_cancelled(self, word: str, *, is_killed: bool) -> None:
        """End the first target that has no guest yet."""
        for name in sorted(self.never_lived & self.api.keys()):
            failed = _ended(Role.TARGET, Outcome.ABORTED, "m1")
            self.api_speaks(name, failed if word == "failed" else Assignment())
            if is_killed:
                self.restart(name)

    @rule(name=NAMES, signal=SIGNALS)
    def guest_moves(self, name: str, signal: Signal | None) -> None:
        """Let the guest run elsewhere, and be heard or missed."""
        self.guest_leaves()
        self.guest_at = name
        self.never_lived.discard(name)
        if signal:
            self.guest_is_heard(signal)

    @rule()
    def guest_leaves(self) -> None:
        self.served.pop(self.guest_at or "", None)
        self.guest_at = None

    @rule(signal=st.sampled_from(list(Signal)))
    def guest_is_heard(self, signal: Signal) -> None:
        name = self.guest_at
        if name is None or not self.is_heard(name):
            return
        current = self.machine_of(name)
        if current and current.is_listening and (current.is_trusting or signal is RARP):
            self.feed(name, Announced(current.episode, signal, signal is Signal.PROBE))

    @rule(name=NAMES, age=st.integers(1, 3), milliseconds=st.integers(1, 40_000))
    def noise(self, name: str, age: int, milliseconds: int) -> None:
        """Hear late frames, and frames of a dying guest: they change nothing."""
        self.now += dt.timedelta(milliseconds=milliseconds)
        current = self.machine_of(name)
        if current:
            agent, key = self.agent(name), self.key(name)
            late = Announced(current.episode - age, RARP, answers_probe=True)
            assert fsm.Step(current) == agent.feed(key, late, self.now)
            if current.state is State.WITHDRAWN:
                dying = agent.feed(key, Announced(current.episode, RARP), self.now)
                assert current == dying.machine

    @rule(name=NAMES)
    def timer_pops(self, name: str) -> None:
        current = self.machine_of(name)
        timer = current and timers.timer(current, SETTINGS)
        if not (current and timer):
            return
        if isinstance(timer.event, FellSilent) and self.answers(name):
            self.feed(name, Announced(current.episode, Signal.PROBE, answers_probe=True))
            return
        self.now = max(self.now, timer.due)
        agent = self.agent(name)
        self.feed(name, timer.event)
        current = self.machine_of(name)
        following = current and timers.timer(current, SETTINGS)
        # Else one timer would wind the next for ever; one killed before it acted has it again.
        assert not following or following.due > self.now or agent is not self.agent(name)

    @rule(name=NAMES)
    def orphans_are_asked_again(self, name: str) -> None:
        try:
            self.agent(name).ask_orphans(self.guests_link)
        except CrashError:
            self.restart(name)

    @property
    def guests_link(self) -> int:
        """The interface behind which the guest is; 0 where it is nowhere."""
        link = self.links.get(self.guest_at or "")
        return link.index if link else 0

    @rule(name=NAMES, is_memory_lost=st.booleans())
    def agent_is_killed(self, name: str, *, is_memory_lost: bool) -> None:
        if is_memory_lost and self.api_is_up:
            self.forget(name)
        self.restart(name)

    @rule(name=NAMES, operations=st.integers(0, 3))
    def agent_is_about_to_be_killed(self, name: str, operations: int) -> None:
        self.agent(name).kernel.fuse = operations

    @rule(is_up=st.sampled_from([True, True, False]))
    def api_comes_or_goes(self, *, is_up: bool) -> None:
        self.api_is_up = is_up
        for name in self.PLACES:
            self.sync(name)

    @rule(name=NAMES)
    def interface_is_made_anew(self, name: str) -> None:
        endpoint, agent = self.api.get(name), self.agent(name)
        if not endpoint or not self.api_is_up:
            return
        self.index += 1
        gone, link = endpoint.link, Link(self.index, endpoint.link.name, endpoint.link.mac, up=True)
        agent.kernel.routes = [r for r in agent.kernel.routes if r.oif != gone.index]
        touched = agent.network.drop_link(gone.index)
        agent.orphans = agent.network.orphans()
        self.served.pop(name, None)
        self.links[name] = link
        self.api[name] = dataclasses.replace(endpoint, link=link)
        try:
            agent.reconcile(touched)
        except CrashError:
            self.restart(name)
        self.sync(name)

    # What always holds.

    @invariant()
    def a_step_was_taken(self) -> None:
        World.steps += 1

    @invariant()
    def a_target_without_life_has_no_route(self) -> None:
        for name in self.never_lived & self.api.keys():
            endpoint = self.api[name]
            oifs = {route.oif for route in self.agent(name).kernel.routes}
            assert endpoint.link.index not in oifs, name

    @invariant()
    def a_guest_that_answers_keeps_its_route(self) -> None:
        for name, endpoint in list(self.served.items()):
            if self.machine_of(name) and not self.answers(name):
                self.served.pop(name)
            else:
                assert self.agent(name).kernel.serves(endpoint), name
        home = self.guest_at
        if home and self.answers(home):
            endpoint = self.agent(home).known[self.key(home)]
            if self.agent(home).kernel.serves(endpoint):
                self.served[home] = endpoint

    @invariant()
    def the_kernel_is_what_is_desired(self) -> None:
        for agent in self.agents:
            everywhere = agent.network.everything().addresses
            there = {route for route in agent.kernel.routes if route.address in everywhere}
            assert agent.network.routes(everywhere) == there

    @invariant()
    def the_guard_is_the_endpoints(self) -> None:
        for agent in self.agents:
            interfaces = {endpoint.link.name for endpoint in agent.known.values()}
            assert interfaces == agent.network.everything().interfaces
            for endpoint in agent.known.values():
                guarded = agent.network.guard([endpoint.link.name])[endpoint.link.name]
                assert {a for a in endpoint.addresses if a.version == 4} == guarded

    def teardown(self) -> None:
        """Say how it all ended: one place serves the guest, at normal priority, no other."""
        self.api_is_up = True
        for agent in self.agents:
            agent.kernel.fuse = None
        for name in self.PLACES:
            self.sync(name)
        for name in self.api:
            lives = name == self.guest_at
            outcome = Outcome.SUCCEEDED if lives or self.guest_at in self.api else Outcome.ABORTED
            role = Role.TARGET if lives or outcome is Outcome.ABORTED else Role.SOURCE
            uid = self.api[name].assignment.migration_uid or "end"
            self.api_speaks(name, _ended(role, outcome, uid))
        for _ in range(8):
            for name in self.PLACES:
                self.now += dt.timedelta(milliseconds=400)
                self.guest_is_heard(Signal.PROBE)
                self.timer_pops(name)
        for name in self.PLACES:
            self.orphans_are_asked_again(name)
        for name, endpoint in self.api.items():
            current = self.machine_of(name)
            assert current is not None
            is_home = name == self.guest_at
            expected = [Route(endpoint.own_address, endpoint.link.index, 1024, 254, 88)]
            routes = self.agent(name).kernel.routes
            found = [route for route in routes if route.address == endpoint.own_address]
            assert (name, expected if is_home else []) == (name, found), current
        self.nobody_else_draws_traffic()

    def nobody_else_draws_traffic(self) -> None:
        """Never are two agents elevated for good, nor is one that has no guest."""
        home = self.api.get(self.guest_at or "")
        drawing = {route for agent in self.agents for route in agent.kernel.routes}
        orphans = {route for agent in self.agents for route in agent.network.orphans()}
        assert {route.oif for route in orphans} <= {self.guests_link}
        expected = {home.link.index} if home else set()
        assert {r.oif for r in drawing - orphans if r.address == SHARED} == expected
        assert {r.metric for r in drawing - orphans} <= {1024}


def test_nothing_that_must_not_happen_happens_in_any_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    World.steps = 0
    while World.steps < STEPS:
        walks = (STEPS - World.steps) // STEPS_PER_WALK + 1
        limits = settings(
            max_examples=walks,
            stateful_step_count=STEPS_PER_WALK,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(World, settings=limits)
    with capsys.disabled():
        print(f" {World.steps} steps of the model ", end="")  # noqa: T201  a number to watch
