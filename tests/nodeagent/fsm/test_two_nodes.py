"""Two agents' machines and the migrations between them, in any order of events (model-based).

Each has a kernel of its own. What they say to each other is lost, late, doubled and out of order;
the API comes and goes, says what it knows late, and errs about outcomes; agents are killed in the
middle of a plan. One guest runs on one of the nodes, or nowhere, and answers truthfully.
"""

import dataclasses
import datetime as dt
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
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
from handover_nodeagent.fsm import restart, table, timers
from handover_nodeagent.fsm.commands import KeepRedirect, RecordCutover, TellPeers
from handover_nodeagent.fsm.events import (
    Announced,
    Deleted,
    Event,
    FellSilent,
    Input,
    PeerHas,
    PeerReleased,
)
from handover_nodeagent.fsm.machine import Machine, RouteLevel
from handover_nodeagent.fsm.restart import Found, Remembered
from handover_nodeagent.fsm.table import Cell, Criterion, Fork, Reaction
from handover_nodeagent.network import desired
from handover_nodeagent.network.desired import Affected, LocalEndpoint
from handover_nodeagent.network.model import Encapsulated, Link, Redirection, Route

NOON = dt.datetime(2026, 8, 1, 12, tzinfo=dt.UTC)
SHARED = ip_address("10.65.0.2")
TUNNEL = 99
UID = "m1"
STEPS_PER_WALK = 40
STEPS = max(6_000, int(os.environ.get("HANDOVER_MODEL_STEPS", "0")) // 2)
OTHER = {"a": "b", "b": "a"}
NODES = {"a": ip_address("192.0.2.1"), "b": ip_address("192.0.2.2")}
LINKS = {
    "a": Link(10, "tap10", "ee:ee:ee:ee:ee:ee", up=True),
    "b": Link(11, "tap11", "ee:ee:ee:ee:ee:ee", up=True),
}
NAMES = st.sampled_from(["a", "b"])
OUTCOMES = st.sampled_from(list(Outcome))


def key(name: str) -> ObjectKey:
    return ObjectKey("ns", name)


def to_peer(name: str) -> Redirection:
    """Return the way to the other node."""
    way = Encapsulated(NODES[OTHER[name]])
    return Redirection(TUNNEL, way, way)


@dataclass
class PeerAgent(Agent):
    """An agent in miniature whose routes may lead to the other node."""

    name: str = ""
    said: list[TellPeers] = field(default_factory=list)
    cutovers: list[str] = field(default_factory=list)
    """The uid of each cutover that was recorded, in their order."""
    older: dict[tuple[ObjectKey, dt.datetime], Remembered] = field(default_factory=dict)
    """The memory without what was written last."""

    def meet(self, endpoint: Endpoint, now: dt.datetime) -> Affected:
        self.episodes += 1000
        last = self.memory.get((endpoint.key, endpoint.created_at))
        level, redirect = self.levels()
        found = Found(
            endpoint.assignment,
            level,
            last,
            await_role=False,
            episode=self.episodes,
            redirect=redirect,
        )
        started = restart.resume(found, now).machine
        assert started is not None
        self.known[endpoint.key] = endpoint
        self.machines[endpoint.key] = started
        return self.network.put(self.local(endpoint.key))

    def levels(self) -> tuple[RouteLevel, RouteLevel]:
        """Return the highest level of the endpoint's own routes, and of those that lead on."""
        found = {True: RouteLevel.NONE, False: RouteLevel.NONE}
        order = list(RouteLevel)
        for route in self.kernel.routes:
            level = {512: RouteLevel.ELEVATED, 1024: RouteLevel.NORMAL}.get(
                route.metric, RouteLevel.PRIVATE
            )
            is_own = route.way is None
            if not self.network.is_remaining(route):
                found[is_own] = max(found[is_own], level, key=order.index)
        return found[True], found[False]

    def _feed(self, key: ObjectKey, event: Event, now: dt.datetime) -> fsm.Step:
        before = self.machines.get(key)
        step = fsm.step(before, event, now, SETTINGS)
        if KeepRedirect() in step.commands:
            kept = desired.redirects_at((SHARED,), to_peer(self.name), SETTINGS)
            # Applied with what the machine's end, or its next state, makes of the address.
            self.network.put_remaining(kept)
        taken = super()._feed(key, event, now)
        self.said += [one for one in taken.commands if isinstance(one, TellPeers)]
        if any(isinstance(one, RecordCutover) for one in taken.commands):
            self.cutovers.append((taken.machine and taken.machine.uid) or "")
        return taken

    def remember(self, key: ObjectKey) -> None:
        self.older = dict(self.memory)
        super().remember(key)

    def local(self, key: ObjectKey) -> LocalEndpoint:
        return dataclasses.replace(super().local(key), redirection=to_peer(self.name))

    def restarted(self, now: dt.datetime) -> "PeerAgent":
        remaining = [route for route in self.kernel.routes if self.network.is_remaining(route)]
        heir = PeerAgent(
            self.kernel, memory=dict(self.memory), episodes=self.episodes, name=self.name
        )
        heir.cutovers = self.cutovers
        heir.kernel.fuse = None
        heir.network.put_remaining(remaining)
        affected = Affected(frozenset({SHARED}))
        for endpoint in self.known.values():
            affected |= heir.meet(endpoint, now)
        heir.reconcile(affected)
        for key in heir.machines:
            heir.remember(key)
        return heir


@dataclass(frozen=True)
class Message:
    """What one agent says to the other; of two, the later one has the greater number."""

    to: str
    number: int
    has_guest: bool


class Nodes(RuleBasedStateMachine):
    """Anything may happen at any time; the invariants hold all the same."""

    steps: ClassVar = 0

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.agents = {name: PeerAgent(name=name) for name in OTHER}
        self.api: dict[str, Endpoint] = {}
        self.api_is_up = True
        self.guest_at: str | None = "a"
        self.under_way: list[Message] = []
        self.number = 0
        self.heard_number = dict.fromkeys(OTHER, 0)
        # Where it answered although it should have been elsewhere, and has stayed since.
        self.found_at: str | None = None
        self.moves = 0
        # What the operator knows of cutovers, newest last; whether it says that the peer has the
        # guest, by version of each object, the first of which its agent has; what that acted on.
        self.known_cutovers: list[str] = []
        self.seen = dict.fromkeys(OTHER, 0)
        self.versions: dict[str, list[bool]] = {name: [False] for name in OTHER}
        self.live_told: dict[str, bool] = dict.fromkeys(OTHER, False)

    def machine(self, name: str) -> Machine | None:
        return self.agents[name].machines.get(key(name))

    def is_redirected(self, name: str) -> bool:
        machine = self.machine(name)
        return machine is not None and machine.underlying.redirect is not None

    def feed(self, name: str, event: Event) -> None:
        try:
            self.agents[name].feed(key(name), event, self.now)
        except CrashError:
            self.restart(name)
        self.collect(name)

    def collect(self, name: str) -> None:
        """Send what the agent has said."""
        agent = self.agents[name]
        for one in agent.said:
            self.number += 1
            self.under_way.append(Message(OTHER[name], self.number, one.has_guest))
        agent.said.clear()

    def sync(self, name: str) -> None:
        if not self.api_is_up:
            return
        agent = self.agents[name]
        try:
            if name in self.api:
                agent.see(self.api[name], self.now)
            elif key(name) in agent.machines:
                agent.feed(key(name), Deleted(), self.now)
        except CrashError:
            self.restart(name)
        self.collect(name)

    def restart(self, name: str) -> None:
        self.agents[name] = self.agents[name].restarted(self.now)
        # It begins with the newest version, whatever its predecessor has acted on.
        self.live_told[name] = False
        del self.versions[name][:-1]
        self.sync(name)

    def speaks(self, name: str, assignment: Assignment) -> None:
        if name in self.api:
            self.api[name] = dataclasses.replace(self.api[name], assignment=assignment)
            self.sync(name)

    # What may happen.

    @initialize(is_moved=st.booleans())
    def begins(self, *, is_moved: bool) -> None:
        """Prepare the migration; *is_moved*: it has gone as it should be, and a sends on."""
        for name, role in (("a", Role.SOURCE), ("b", Role.TARGET)):
            self.api[name] = Endpoint(
                key(name),
                (SHARED,),
                LINKS[name],
                Assignment(role, "m", UID),
                await_role=False,
                created_at=self.now,
            )
            self.sync(name)
        if is_moved:
            self.guest_moves("b")
            self.guest_announces_itself()
            while self.under_way:
                self.hear(self.under_way.pop(0))

    @rule(name=st.sampled_from(["a", "b", None]))
    def guest_moves(self, name: str | None) -> None:
        # Not to where its pod is gone.
        if name != self.guest_at and (name is None or name in self.api):
            self.guest_at, self.found_at = name, None
            self.moves += 1

    @rule()
    def guest_announces_itself(self) -> None:
        """It was resumed: its hypervisor says so."""
        name = self.guest_at
        machine = self.machine(name) if name else None
        if name and machine and machine.is_listening and machine.state is State.TARGET:
            self.feed(name, Announced(machine.episode, Signal.RARP))
            self.deliver_now(name)

    def deliver_now(self, name: str) -> None:
        """As it should be: what was said last is heard at once, as the first of its copies."""
        mine = [one for one in self.under_way if one.to == OTHER[name]]
        if mine and self.number % 2:
            self.hear(mine[-1])

    @rule(index=st.integers(0, 5), is_kept=st.booleans())
    def message_arrives(self, index: int, *, is_kept: bool) -> None:
        """In any order; one that is kept arrives once more."""
        if self.under_way:
            message = self.under_way[index % len(self.under_way)]
            if not is_kept:
                self.under_way.remove(message)
            self.hear(message)

    @rule(index=st.integers(0, 5))
    def message_is_lost(self, index: int) -> None:
        if self.under_way:
            self.under_way.pop(index % len(self.under_way))

    def hear(self, message: Message) -> None:
        """Take a message in, unless a newer one was: what trust refuses never comes here."""
        name = message.to
        if message.number <= self.heard_number[name] or name not in self.api:
            return
        self.heard_number[name] = message.number
        # What the peer was named as by the API, which does not change with its role's end.
        role = Role.TARGET if name == "a" else Role.SOURCE
        event = PeerHas(UID, role) if message.has_guest else PeerReleased(UID)
        agent, machine = self.agents[name], self.machine(name)
        self.feed(name, event)
        # Where the guest was found once it is asked first.
        is_followed = machine and machine.has_routes and not machine.returns.of(UID)
        if message.has_guest and is_followed and agent is self.agents[name]:
            self.late_packets_arrive(name)

    def late_packets_arrive(self, name: str) -> None:
        """Check that what still comes to *name* is sent on, once the guest's node can take it."""
        if self.guest_at == OTHER[name] and self.has_own_route(OTHER[name]):
            assert self.reached_from(name) == OTHER[name]

    @rule(name=NAMES)
    def guest_answers(self, name: str) -> None:
        """A probe is answered: it was sent in this episode, as all are that count."""
        machine = self.machine(name)
        if self.guest_at != name or machine is None or not machine.is_listening:
            return
        agent, was_redirected = self.agents[name], self.is_redirected(name)
        self.now += dt.timedelta(milliseconds=500)
        self.feed(name, Announced(machine.episode, Signal.PROBE, answers_probe=True))
        # One that was killed in the middle of it asks again, and has its answer then.
        if was_redirected and agent is self.agents[name]:
            # One message, and no two redirects point at each other; its node serves it.
            assert not self.is_redirected(name)
            assert self.has_own_route(name)
            self.found_at = name

    @rule(name=NAMES)
    def guest_is_rolled_back(self, name: str) -> None:
        """It goes on where it came from, which sends on meanwhile what comes for it."""
        if self.is_redirected(name) and name in self.api:
            self.guest_moves(name)
            self.guest_answers(name)

    @rule(name=NAMES)
    def timer_pops(self, name: str) -> None:
        machine = self.machine(name)
        timer = machine and timers.timer(machine, SETTINGS)
        if not (machine and timer):
            return
        if isinstance(timer.event, FellSilent) and self.guest_at == name:
            self.guest_answers(name)
            return
        self.now = max(self.now, timer.due)
        self.feed(name, timer.event)

    @rule(name=NAMES, outcome=OUTCOMES)
    def api_decides(self, name: str, outcome: Outcome) -> None:
        """End the role of one side, rightly or not."""
        role = Role.SOURCE if name == "a" else Role.TARGET
        self.speaks(name, Assignment(None, "m", UID, outcome=outcome, ended_role=role))

    @rule(name=NAMES)
    def api_takes_its_word_back(self, name: str) -> None:
        role = Role.SOURCE if name == "a" else Role.TARGET
        self.speaks(name, Assignment(role, "m", UID))

    @rule(name=NAMES)
    def status_arrives(self, name: str) -> None:
        """The operator hears of a cutover, maybe late."""
        done = self.agents[name].cutovers
        if self.api_is_up and self.seen[name] < len(done):
            self.seen[name] = len(done)
            self.known_cutovers.append(name)

    @rule(name=NAMES)
    def operator_names_the_peer(self, name: str) -> None:
        """Whether the peer has the guest, as far as it knows: the next version of the object."""
        is_live = bool(self.known_cutovers) and self.known_cutovers[-1] == OTHER[name]
        if self.api_is_up:
            self.versions[name].append(is_live)

    @rule(name=NAMES)
    def version_arrives(self, name: str) -> None:
        """The agent sees an object, which may be older than what it has reported itself."""
        if not self.api_is_up or name not in self.api:
            return
        if len(self.versions[name]) > 1:
            self.versions[name].pop(0)
        is_live = self.versions[name][0]
        was_told, self.live_told[name] = self.live_told[name], is_live
        if is_live and not was_told:
            role = Role.TARGET if name == "a" else Role.SOURCE
            self.feed(name, PeerHas(UID, role))

    @rule(name=NAMES)
    def guest_is_back_before_the_operator_knows(self, name: str) -> None:
        """It names the peer meanwhile, and the agent sees that when it has the guest again."""
        self.status_arrives(OTHER[name])
        self.operator_names_the_peer(name)
        self.guest_is_rolled_back(name)
        self.version_arrives(name)

    @rule(is_up=st.booleans())
    def api_comes_or_goes(self, *, is_up: bool) -> None:
        self.api_is_up = is_up
        for name in OTHER:
            self.sync(name)

    @rule(name=NAMES)
    def agent_is_killed(self, name: str) -> None:
        self.restart(name)

    @rule(name=NAMES)
    def agent_is_killed_when_it_has_told(self, name: str) -> None:
        """Of a return; that is written a moment later."""
        agent, was_redirected = self.agents[name], self.is_redirected(name)
        self.guest_is_rolled_back(name)
        if was_redirected and agent is self.agents[name]:
            agent.memory = agent.older
            self.restart(name)

    @rule(name=NAMES)
    def agent_is_killed_when_it_has_followed(self, name: str) -> None:
        """The redirect is in, and nobody remembers whose."""
        agent, was_redirected = self.agents[name], self.is_redirected(name)
        for message in [one for one in self.under_way if one.to == name and one.has_guest]:
            self.hear(message)
        if self.is_redirected(name) and not was_redirected and agent is self.agents[name]:
            agent.memory = agent.older
            self.restart(name)

    @rule(name=NAMES, operations=st.integers(0, 3))
    def agent_is_about_to_be_killed(self, name: str, operations: int) -> None:
        self.agents[name].kernel.fuse = operations

    @rule(name=NAMES)
    def endpoint_is_deleted(self, name: str) -> None:
        """Its pod is gone, and so is a guest that ran there."""
        if self.api.pop(name, None):
            if self.guest_at == name:
                self.guest_moves(None)
            agent, was_redirected = self.agents[name], self.is_redirected(name)
            self.sync(name)
            if was_redirected and agent is self.agents[name]:
                self.late_packets_arrive(name)

    # What always holds.

    @invariant()
    def a_step_was_taken(self) -> None:
        Nodes.steps += 1

    @invariant()
    def nobody_changes_his_mind_for_ever(self) -> None:
        """Once by a word that was late; from then on only a guest that moves is found again."""
        for name in OTHER:
            machine = self.machine(name)
            assert machine is None or machine.returns.count <= self.moves + 1

    @invariant()
    def a_guest_that_was_found_is_not_sent_after(self) -> None:
        """Whatever is said late: else the peer, which was told, and its node led to each other."""
        assert self.found_at is None or not self.is_redirected(self.found_at)

    @invariant()
    def the_kernel_is_what_is_desired(self) -> None:
        for agent in self.agents.values():
            assert agent.network.routes([SHARED]) == set(agent.kernel.routes)

    @invariant()
    def a_redirect_never_leads_to_its_own_node(self) -> None:
        for name, agent in self.agents.items():
            ways = {route.way for route in agent.kernel.routes if route.way}
            assert ways <= {Encapsulated(NODES[OTHER[name]])}

    # How a packet goes.

    def has_own_route(self, name: str) -> bool:
        return any(
            route.oif == LINKS[name].index and route.way is None
            for route in self.agents[name].kernel.routes
        )

    def reached_from(self, name: str, *, by_tunnel: bool = False) -> str | None:
        """Return whose interface a packet leaves by that comes to node *name*.

        The lowest metric wins, and what came by the tunnel goes to a VM or is dropped.
        """
        routes = sorted(self.agents[name].kernel.routes, key=lambda route: route.metric)
        if not routes:
            return None
        if routes[0].way is None:
            return name
        return None if by_tunnel else self.reached_from(OTHER[name], by_tunnel=True)

    def teardown(self) -> None:
        """Say how it ends when all is heard and asked, and the API knows: the guest is served."""
        self.api_is_up = True
        for agent in self.agents.values():
            agent.kernel.fuse = None
        for name in OTHER:
            self.sync(name)
        home = self.guest_at
        if home is None or home not in self.api:
            return
        moved = home == "b"
        outcome = Outcome.SUCCEEDED if moved else Outcome.ABORTED
        for name, role in (("a", Role.SOURCE), ("b", Role.TARGET)):
            self.speaks(name, Assignment(None, "m", UID, outcome=outcome, ended_role=role))
        for _ in range(6):
            for name in OTHER:
                self.now += dt.timedelta(seconds=61)
                while self.under_way:
                    self.hear(self.under_way.pop(0))
                self.guest_answers(name)
                self.timer_pops(name)
        assert self.has_own_route(home), self.machine(home)
        assert self.reached_from(home) == home
        other = OTHER[home]
        # Late packets at the other node are sent on, or follow what its speakers tell it.
        assert self.reached_from(other) in {home, None}, (self.machine(other), self.machine(home))
        exported = [r for r in self.agents[other].kernel.routes if r.protocol == 88 and not r.way]
        assert not exported, self.machine(other)


def test_two_nodes_agree_in_the_end_whatever_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    Nodes.steps = 0
    while Nodes.steps < STEPS:
        walks = (STEPS - Nodes.steps) // STEPS_PER_WALK + 1
        limits = settings(
            max_examples=walks,
            stateful_step_count=STEPS_PER_WALK,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(Nodes, settings=limits)
    with capsys.disabled():
        print(f" {Nodes.steps} steps of two nodes ", end="")  # noqa: T201  a number to watch


def moved() -> Nodes:
    """Return two nodes between which the guest has gone, and said so."""
    nodes = Nodes()
    nodes.begins(is_moved=False)
    nodes.guest_moves("b")
    machine = nodes.machine("b")
    assert machine
    nodes.feed("b", Announced(machine.episode, Signal.RARP))
    return nodes


def hear_all(nodes: Nodes) -> Nodes:
    while nodes.under_way:
        nodes.hear(nodes.under_way.pop(0))
    return nodes


def redirect() -> None:
    hear_all(moved())


def redirect_while_asking() -> None:
    nodes = moved()
    nodes.api_decides("a", Outcome.SUCCEEDED)
    hear_all(nodes)


def roll_back() -> None:
    nodes = hear_all(moved())
    nodes.guest_is_rolled_back("a")
    hear_all(nodes)


def delete() -> None:
    hear_all(moved()).endpoint_is_deleted("a")


def found_again(name: str) -> Nodes:
    """Return two nodes of which one has found the guest that the other one had."""
    nodes = hear_all(moved())
    if name == "b":
        nodes.guest_is_rolled_back("a")
        hear_all(nodes)
    nodes.guest_is_rolled_back(name)
    hear_all(nodes)
    # Asked, too, where it was found before.
    nodes.timer_pops(OTHER[name])
    return nodes


def hear_the_echo(name: str) -> None:
    """The operator named the peer before it heard of the return, and so does the report's echo."""
    nodes = found_again(name)
    nodes.versions[name] += [True, True]
    for _ in range(2):
        nodes.version_arrives(name)
        assert not (nodes.is_redirected("a") and nodes.is_redirected("b"))
    nodes.guest_answers(name)
    assert nodes.reached_from("a") == nodes.reached_from("b") == name
    # It has come to rest, and nobody was told.
    machine = nodes.machine(name)
    assert machine
    assert (machine.state, nodes.under_way) == (State.BASE if name == "a" else State.LIVE, [])


def hear_the_echo_at_a() -> None:
    hear_the_echo("a")


def hear_the_echo_at_b() -> None:
    hear_the_echo("b")


def go_on_after_all() -> None:
    """It was found at a, and is at b again."""
    nodes = found_again("a")
    nodes.guest_is_rolled_back("b")
    hear_all(nodes)
    nodes.timer_pops("a")
    nodes.late_packets_arrive("a")
    assert nodes.is_redirected("a")


def go_on_while_asked() -> None:
    """The API says first that it left, and asks; no word of b is lost that comes meanwhile."""
    nodes = found_again("a")
    nodes.guest_is_rolled_back("b")
    nodes.api_decides("a", Outcome.SUCCEEDED)
    hear_all(nodes)
    nodes.timer_pops("a")
    nodes.late_packets_arrive("a")
    assert nodes.is_redirected("a")


AT_ONCE = Fork(Criterion.ROUTES_IN, State.REDIRECTED, Reaction.STAY)


@pytest.mark.parametrize(
    ("state", "column", "instead", "scenario"),
    [
        (State.BASE, Input.PEER_HAS, Reaction.STAY, redirect),
        (State.BASE, Input.PEER_HAS, AT_ONCE, hear_the_echo_at_a),
        (State.BASE, Input.PEER_HAS, Reaction.STAY, go_on_after_all),
        (State.ASKING, Input.PEER_HAS, Reaction.STAY, redirect_while_asking),
        (State.ASKING, Input.PEER_HAS, Reaction.STAY, go_on_while_asked),
        (State.LIVE, Input.PEER_HAS, Reaction.STAY, roll_back),
        (State.LIVE, Input.PEER_HAS, AT_ONCE, hear_the_echo_at_b),
        (State.REDIRECTED, Input.ANNOUNCED, Reaction.STAY, roll_back),
        (State.REDIRECTED, Input.DELETED, Reaction.GONE, delete),
    ],
)
def test_each_of_these_cells_is_needed(
    monkeypatch: pytest.MonkeyPatch,
    state: State,
    column: Input,
    instead: Cell,
    scenario: Callable[[], None],
) -> None:
    """Without it late packets are lost or go round, or a guest that answers has no route."""
    scenario()
    row = dict(table.TRANSITIONS[state])
    row[column] = instead
    changed = {**table.TRANSITIONS, state: row}
    # By its name the package has the function.
    monkeypatch.setattr(sys.modules["handover_nodeagent.fsm.step"], "TRANSITIONS", changed)
    with pytest.raises(AssertionError):
        scenario()


def test_two_that_both_have_the_guest_tell_each_other_once() -> None:
    """Which must not be; each believes the other once, and asks its own one from then on."""
    nodes = hear_all(moved())
    for _ in range(20):
        for name in OTHER:
            nodes.guest_at = name
            nodes.guest_answers(name)
            # Said again, as long as nobody acknowledges it.
            for message in tuple(nodes.under_way):
                nodes.hear(message)
                nodes.hear(dataclasses.replace(message, number=message.number + 1))
        hear_all(nodes)
    assert [machine and machine.returns.of(UID) for machine in map(nodes.machine, OTHER)] == [1, 1]
    # Of the cutover, and of each return.
    assert nodes.number == 3


def test_a_packet_that_came_by_the_tunnel_is_not_sent_back() -> None:
    """What the model takes for granted of the firewall's table: else two redirects were a loop."""
    nodes = Nodes()
    for name, agent in nodes.agents.items():
        agent.kernel.routes = [Route(SHARED, TUNNEL, 1024, 254, 88, way=to_peer(name).ipv4)]
    assert nodes.reached_from("a") is None
