"""A migration during which node agents are killed, and what is left of it on the nodes."""

import asyncio
import functools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from handover_lab.cluster.node import Node
from handover_lab.guest.migration import SHORT_PAUSE
from handover_lab.guest.qemu import Nic
from handover_lab.network.journal import Entry
from handover_lab.network.measure import Switchover
from handover_lab.network.ping_record import PingRecord
from handover_lab.processes.waiting import until
from handover_lab.testing.agent_processes import AgentProcess
from handover_lab.testing.scenario import Scenario, name_of
from handover_nodeagent.kernel.arp_guard import rules

# The agent's: the table in which it parks foreign routes, and what survives its death.
PARKING: Final = "5254"
MEMORY: Final = "/run/handover/endpoints"


@dataclass
class InterruptedMigration:
    """One migration of a scenario; its steps are taken one by one."""

    scenario: Scenario
    agents: Mapping[str, AgentProcess]
    ping_record: PingRecord
    began_ns: int = field(default_factory=time.time_ns)
    name: str = ""
    switchover: Switchover | None = None

    @property
    def source(self) -> AgentProcess:
        """The agents of the node that the VM leaves."""
        return self.agents[self.scenario.here]

    @property
    def target(self) -> AgentProcess:
        """The agents of the node that it moves to."""
        return self.agents[self.scenario.there]

    async def prepare(self) -> None:
        """Announce the migration, and wait until Handover is ready for it."""
        migration = self.scenario.migration()
        self.name = migration["metadata"]["name"]
        await self.scenario.lab.prepare(migration)

    async def move(self) -> Switchover:
        """Let QEMU move the VM."""
        move = self.scenario.lab.vm.move
        self.switchover = await move(self.scenario.here, self.scenario.there, SHORT_PAUSE)
        return self.switchover

    async def routed(self) -> None:
        """Wait until the target has a route to each address."""
        journal = self.scenario.journals[self.scenario.there]
        for address in self.scenario.lab.vm.nic.addresses:
            await journal.until(functools.partial(self._is_news, address))

    async def live(self) -> None:
        """Wait until the target is Live, and its agent has done all that belongs to it."""
        node = self.scenario.lab.cluster.nodes[self.scenario.there]
        await self.scenario.lab.in_state(name_of(node.name), "Live")
        await until(
            functools.partial(asyncio.to_thread, AgentState.of, node),
            lambda found: "Live" in found.remembered.values(),
            "a memory of the target's life",
        )

    async def succeed(self) -> None:
        """Say that the migration succeeded."""
        lab = self.scenario.lab
        await self.live()
        await lab.say_outcome(self.name, "Succeeded")
        await lab.vm.end(self.scenario.here)

    async def end(self) -> None:
        """See it end as a migration does that nobody disturbs."""
        lab = self.scenario.lab
        # An API server that has just begun refuses roles for half a minute: see errors.Unprepared.
        await lab.in_phase(self.name, "Succeeded", seconds=90)
        await lab.in_state(name_of(self.scenario.here), "Withdrawn")
        await lab.in_state(name_of(self.scenario.there), "Base")
        await lab.vm.answered()
        await self.scenario.catch_up()

    def changes(self, node: str, address: str) -> list[Entry]:
        """Return how the agent's routes to *address* changed since this migration began."""
        return [e for e in self.scenario.journals[node].of(address) if self._is_news(address, e)]

    def preferred_ns(self, address: str) -> int:
        """Return when the router began to send packets for *address* to the target."""
        (there,) = (
            one for one in self.scenario.lab.cluster.mesh if one.name == self.scenario.there
        )
        ways = {there.address4, there.address6}
        return next(
            entry.at_ns
            for entry in self.scenario.journals["router"].of(address)
            if entry.present and entry.way in ways and entry.at_ns > self.began_ns
        )

    def _is_news(self, address: str, entry: Entry) -> bool:
        return entry.address == address and entry.is_ours and entry.at_ns > self.began_ns


@dataclass(frozen=True, slots=True)
class AgentState:
    """What agents keep on a node: routes set aside, the guard, endpoints with their states."""

    parked: Sequence[str]
    guard: Mapping[str, frozenset[str]]
    remembered: Mapping[str, str]

    @classmethod
    def of(cls, node: Node) -> Self:
        """Look at *node*."""
        routes = (
            node.run(f"ip -{family} route show table {PARKING} 2>/dev/null || true")
            for family in (4, 6)
        )
        guard = rules.parse(node.run("nft --json list table arp handover")) or {}
        show = "echo $file; cat $file 2>/dev/null || true; echo"
        files = node.run(f"cd {MEMORY}; for file in *; do {show}; done")
        names, contents = files.splitlines()[::2], files.splitlines()[1::2]
        return cls(
            "".join(routes).splitlines(),
            {name: frozenset(map(str, guarded)) for name, guarded in guard.items()},
            dict(zip(names, map(state_of, contents), strict=True)),
        )

    @classmethod
    def expected(cls, nic: Nic, node: str, state: str) -> Self:
        """Return what should be there for the one VM whose endpoint is in *state*."""
        guarded = frozenset(address for address in nic.addresses if ":" not in address)
        return cls([], {nic.tap: guarded}, {f"default.{name_of(node)}.json": state})


def metrics_over_time(changes: Iterable[Entry]) -> Iterator[frozenset[int]]:
    """Yield the metrics of the routes that stand before, between and after the *changes*."""
    metrics: set[int] = set()
    yield frozenset(metrics)
    for entry in changes:
        (metrics.add if entry.present else metrics.discard)(entry.metric)
        yield frozenset(metrics)


def state_of(record: str) -> str:
    """Return the state in which an agent remembers an endpoint; none in a file that is gone."""
    content: dict[str, Any] = json.loads(record or "{}")
    return str(content.get("stood", {}).get("state", ""))
