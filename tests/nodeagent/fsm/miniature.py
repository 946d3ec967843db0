"""The agent's loop in miniature: the real core between a simulated kernel and a memory.

It is killed where a test wants it, even in the middle of a plan, and checks what one event costs.
"""

import datetime as dt
from dataclasses import dataclass, field

from handover_api.assignment import Assignment
from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_nodeagent import fsm
from handover_nodeagent.fsm import inputs, restart
from handover_nodeagent.fsm.commands import KeepOrphan
from handover_nodeagent.fsm.events import Event
from handover_nodeagent.fsm.machine import Machine, RouteLevel
from handover_nodeagent.fsm.restart import Found, Remembered
from handover_nodeagent.network import plan
from handover_nodeagent.network.desired import Affected, DesiredNetwork, LocalEndpoint
from handover_nodeagent.network.model import IPAddress, Link, Route

SETTINGS = Settings()
WORK_PER_ADDRESS = 4
"""Kernel operations per event: at each of two priorities a route comes and another one goes."""
COMMANDS = 5


class CrashError(Exception):
    """The agent was killed."""


@dataclass(frozen=True)
class Endpoint:
    """An endpoint's object in the API, with the interface that it has on its node."""

    key: ObjectKey
    addresses: tuple[IPAddress, ...]
    link: Link
    assignment: Assignment
    await_role: bool
    created_at: dt.datetime

    @property
    def own_address(self) -> IPAddress:
        """The address that no other endpoint names."""
        return self.addresses[0]


@dataclass
class Kernel:
    """One node's routes; watches that the plan leaves no gap."""

    routes: list[Route] = field(default_factory=list)
    fuse: int | None = None
    operations: int = 0

    def apply(self, steps: plan.Plan) -> None:
        """Carry out *steps*; the agent dies when the fuse has burnt down."""
        served = {route.address for route in self.routes}
        wanted = served - {route.address for route in steps.remove}
        wanted |= {route.address for route in (*steps.add, *steps.replace)}
        for added in steps.add:
            self._burn()
            assert not [there for there in self.routes if _key(there) == _key(added)]
            self.routes.append(added)
        for replacing in steps.replace:
            self._burn()
            place = [_key(there) for there in self.routes].index(_key(replacing))
            self.routes[place] = replacing
        for removed in steps.remove:
            assert (served & wanted) <= {route.address for route in self.routes}
            self._burn()
            self.routes.remove(removed)

    def serves(self, endpoint: Endpoint) -> bool:
        """Tell whether the endpoint's own address goes to its interface."""
        goals = {(route.address, route.oif) for route in self.routes}
        return (endpoint.own_address, endpoint.link.index) in goals

    def _burn(self) -> None:
        self.operations += 1
        if self.fuse is not None:
            if self.fuse == 0:
                self.fuse = None
                raise CrashError
            self.fuse -= 1


def _key(route: Route) -> tuple[IPAddress, int]:
    return route.address, route.metric


@dataclass
class Agent:
    """The loop in a few lines: derive, diff, apply, remember."""

    kernel: Kernel = field(default_factory=Kernel)
    network: DesiredNetwork = field(default_factory=lambda: DesiredNetwork(SETTINGS))
    machines: dict[ObjectKey, Machine] = field(default_factory=dict)
    known: dict[ObjectKey, Endpoint] = field(default_factory=dict)
    memory: dict[tuple[ObjectKey, dt.datetime], Remembered] = field(default_factory=dict)
    orphans: frozenset[Route] = frozenset()
    episodes: int = 0
    looks: int = 0
    """How many addresses were compared with the kernel's routes."""

    def see(self, endpoint: Endpoint, now: dt.datetime) -> None:
        """Take in an endpoint's object as the API has it now."""
        before = self.known.get(endpoint.key)
        if before is None or before.created_at != endpoint.created_at:
            self.reconcile(self.meet(endpoint, now))
            self.remember(endpoint.key)
            return
        self.known[endpoint.key] = endpoint
        event = inputs.of_change(
            before.assignment, endpoint.assignment, routes_in=self.kernel.serves(endpoint)
        )
        if event:
            self.feed(endpoint.key, event, now)
        elif before != endpoint:
            self.reconcile(self.network.put(self.local(endpoint.key)))

    def meet(self, endpoint: Endpoint, now: dt.datetime) -> Affected:
        """Start a machine from what is found."""
        self.episodes += 1000
        found = Found(
            endpoint.assignment,
            self._level(endpoint),
            self.memory.get((endpoint.key, endpoint.created_at)),
            endpoint.await_role,
            self.episodes,
        )
        started = restart.resume(found, now).machine
        assert started is not None
        self.known[endpoint.key] = endpoint
        self.machines[endpoint.key] = started
        return self.network.put(self.local(endpoint.key))

    def feed(self, key: ObjectKey, event: Event, now: dt.datetime) -> fsm.Step:
        """Take one event and make the kernel follow, with bounded work."""
        known = self.known.get(key)
        addresses = len(known.addresses) if known else 0
        operations, looks = self.kernel.operations, self.looks
        taken = self._feed(key, event, now)
        assert self.looks - looks <= addresses
        assert self.kernel.operations - operations <= WORK_PER_ADDRESS * addresses
        assert len(taken.commands) <= COMMANDS
        return taken

    def _feed(self, key: ObjectKey, event: Event, now: dt.datetime) -> fsm.Step:
        current = self.machines.get(key)
        taken = fsm.step(current, event, now, SETTINGS)
        assert not taken.impossible
        if current is None:
            assert taken.machine is None
            return taken
        if taken.machine is None:
            affected = self.network.drop(key, orphan=KeepOrphan() in taken.commands)
            del self.machines[key]
            self.reconcile(affected)
            # In one write: a kill before it finds the endpoint, one after it the orphan.
            del self.known[key]
            self.orphans = self.network.orphans()
            return taken
        self.machines[key] = taken.machine
        self.reconcile(self.network.put(self.local(key)))
        self.remember(key)
        return taken

    def remember(self, key: ObjectKey) -> None:
        """Write behind: a kill in the middle of a plan finds the state before."""
        remembered = restart.remember(self.machines[key])
        self.memory[key, self.known[key].created_at] = remembered

    def restarted(self, now: dt.datetime) -> "Agent":
        """Return the agent's next life: the kernel and /run/handover are all that is left."""
        heir = Agent(self.kernel, memory=dict(self.memory), episodes=self.episodes)
        heir.kernel.fuse = None
        for orphan in self.orphans.intersection(self.kernel.routes):
            heir.network.put_orphan(orphan)
        affected = Affected()
        for endpoint in self.known.values():
            affected |= heir.meet(endpoint, now)
        # Only when all are known again: else one would take another one's route out.
        heir.reconcile(affected)
        heir.orphans = heir.network.orphans()
        return heir

    def ask_orphans(self, living: int) -> None:
        """Ask all orphans again; only a guest behind the interface *living* answers."""
        silent = [orphan for orphan in self.network.orphans() if orphan.oif != living]
        self.reconcile(self.network.drop_orphans(silent))
        self.orphans = self.network.orphans()

    def prune(self) -> None:
        """After the first sync, remove what no endpoint and no orphan wants."""
        strays = {route.address for route in self.kernel.routes}
        self.reconcile(Affected(frozenset(strays)))

    def local(self, key: ObjectKey) -> LocalEndpoint:
        """Join an endpoint and its machine."""
        endpoint, current = self.known[key], self.machines[key]
        return LocalEndpoint(
            key,
            endpoint.addresses,
            current.level,
            current.underlying.state,
            endpoint.link,
            created_at=endpoint.created_at,
        )

    def reconcile(self, affected: Affected) -> None:
        """Make the kernel what is desired, where it was affected."""
        self.looks += len(affected.addresses)
        observed = [route for route in self.kernel.routes if route.address in affected.addresses]
        self.kernel.apply(plan.diff(self.network.routes(affected.addresses), observed))

    def _level(self, endpoint: Endpoint) -> RouteLevel:
        metrics = {
            route.metric
            for route in self.kernel.routes
            if route.oif == endpoint.link.index and route.address in endpoint.addresses
        }
        if 512 in metrics:
            return RouteLevel.ELEVATED
        return RouteLevel.NORMAL if metrics else RouteLevel.NONE
