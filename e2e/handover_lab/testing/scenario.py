"""One scenario: the VM at home on a node, fresh endpoints, traffic, and a journal of all routes."""

import asyncio
import contextlib
import copy
import itertools
import json
import os
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from prometheus_client.parser import text_string_to_metric_families

from handover_lab import paths
from handover_lab.cluster import manifests
from handover_lab.guest.qemu import Guest, GuestError
from handover_lab.guest.vm import Move
from handover_lab.lab import Lab
from handover_lab.network import measure
from handover_lab.network.delivery import WRAP
from handover_lab.network.journal import Entry, Journal
from handover_lab.network.measure import Loss
from handover_lab.network.ping_record import PingRecord
from handover_lab.processes.place import Place

NUMBERS: Final = itertools.count(1)
ELEVATED: Final = 512
NORMAL: Final = 1024
MOST_LOST: Final = 10
"""Pings 1 ms apart that a guest itself may lose which somebody emulates on a busy machine."""
CONVERGENCE: Final = "1s"
"""How long the tests' targets stay elevated: BGP needs a tenth of it here, and all wait for it."""
CONVERGENCE_VALUE: Final = f"configuration.liveMigrationRouteConvergenceTime={CONVERGENCE}"
ROUTES_ALONE: Final = {"advertise": "bgp", "sourceRedirect": "off"}
"""BIRD tells what the agents write, and nothing is sent on: each node's own routes by themselves.

What is set by default is seen on four nodes, at an installation, and in the demonstration.
"""
ROUTES_ALONE_VALUES: Final = tuple(f"configuration.{name}={v}" for name, v in ROUTES_ALONE.items())
"""The same for Helm."""
"""The same as Helm is told it."""
CONFIGURATION: Final = "handoverconfiguration"
KNOWN: Final = "handover_nodeagent_endpoints"
AGENTS: Final = ("pods", "--namespace", "handover-system", "--output", "json")


@dataclass
class Scenario:
    """What one test works with; *here* is where the VM runs at first, *there* the other node."""

    lab: Lab
    here: str
    there: str
    journals: Mapping[str, Journal]
    """By node, and of the router."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, lab: Lab) -> AsyncIterator[Self]:
        """Bring *lab* into order, whatever the scenario before did, and let traffic flow."""
        await settle(lab)
        async with cls.record(lab) as scenario:
            await scenario.begin()
            await lab.vm.start_flows()
            try:
                yield scenario
            finally:
                await lab.vm.stop_flows()

    @classmethod
    @contextlib.asynccontextmanager
    async def record(cls, lab: Lab) -> AsyncIterator[Self]:
        """Keep journals of *lab*, of which nothing is changed."""
        here = lab.vm.home
        (there,) = lab.cluster.nodes.keys() - {here}
        places: dict[str, Place] = {"router": lab.cluster.router, **lab.cluster.nodes}
        async with contextlib.AsyncExitStack() as journals:
            opened = {
                name: await journals.enter_async_context(Journal.open(place))
                for name, place in places.items()
            }
            yield cls(lab, here, there, opened)

    async def begin(self) -> None:
        """Make the VM's endpoints, and wait for its routes where it is."""
        await self.lab.apply(*(self.endpoint(node) for node in (self.here, self.there)))
        await self.lab.in_state(name_of(self.here), "Base")

    @property
    def source(self) -> Guest:
        """The QEMU from which the VM moves."""
        return self.lab.vm.guests[self.here]

    @property
    def target(self) -> Guest:
        """The QEMU into which it moves."""
        return self.lab.vm.guests[self.there]

    def endpoint(self, node: str, **spec: object) -> dict[str, Any]:
        """Compose the VM's endpoint on *node* after the examples."""
        examples = {thing["spec"]["node"]: thing for thing in manifests.read(manifests.ENDPOINTS)}
        endpoint = copy.deepcopy(examples[node])
        endpoint["spec"] |= {"awaitRole": node != self.here, **spec}
        return endpoint

    def swap_nodes(self) -> None:
        """Look at it from the other side: the VM has moved *there*, and that is *here* now."""
        self.here, self.there = self.there, self.here

    def migration(self, **spec: object) -> dict[str, Any]:
        """Compose a LiveMigration of the VM from *here* to *there*."""
        (example,) = manifests.read(paths.EXAMPLES / "livemigration.yaml")
        migration = copy.deepcopy(example)
        # A new name each time: agents and operator may still know the one before.
        migration["metadata"]["name"] = f"scenario-{next(NUMBERS)}"
        migration["spec"] |= {
            side: {"endpoint": {"name": name_of(node)}}
            for side, node in (("source", self.here), ("target", self.there))
        }
        migration["spec"] |= spec
        return migration

    def seen(self, node: str) -> Mapping[str, Any]:
        """Return the endpoint on *node* as the API has it now."""
        return self.lab.endpoints.objects[name_of(node)]

    async def catch_up(self) -> None:
        """Let all journals hold all that has happened so far."""
        for journal in self.journals.values():
            await journal.catch_up()

    async def lost_by_network(
        self, ping_record: PingRecord, since_ns: int, move: Move | None = None, home: str = ""
    ) -> int:
        """Count the pings since then that neither the guest nor its pause in *move* has lost.

        The *ping_record* covers all of the time. Without a *move* the guest ran at *home*; if
        that is not said either, where its only QEMU is.
        """
        now, flow = time.time_ns(), self.lab.vm.flows["ping"]
        # An answer that is still on its way is no loss.
        await flow.overtaken(now)
        own = {node: ping_record.unanswered(node) for node in self.lab.cluster.nodes}
        homes = (
            (number, self.home_at(packet.sent_ns, move) if move else home or self.lab.vm.home)
            for number, packet in enumerate(flow.recording.packets())
            if since_ns <= packet.sent_ns < now and packet.answered_ns is None
        )
        return sum(home != "" and number % WRAP not in own[home] for number, home in homes)

    def home_at(self, moment_ns: int, move: Move) -> str:
        """Return the node on which the guest ran then, before, in or after *move*; "": nowhere."""
        if moment_ns < move.switchover.stopped_ns:
            return move.source
        return move.target if moment_ns >= move.switchover.resumed_ns else ""

    async def loss(self, *moves: Move) -> list[Mapping[str, Loss]]:
        """End the flows, and return what each of them felt of each of *moves*."""
        recordings = await self.lab.vm.stop_flows()
        return [
            {name: measure.loss(move.packets(r), move.switchover) for name, r in recordings.items()}
            for move in moves
        ]

    async def agent(self, node: str) -> frozenset[int]:
        """Return the process of the node agent on *node*: none or one, or more in a change.

        Its child, in which libnftables lives, comes and goes.
        """
        pods = json.loads(await self.lab.kubectl("get", *AGENTS))["items"]
        names = [
            pod["metadata"]["name"]
            for pod in pods
            if pod["spec"].get("nodeName") == node and is_agent(pod)
        ]
        pids = {
            pid
            for name in names
            for pid in self.lab.cluster.nodes[node].pids(name, "handover-system")
        }
        return frozenset(pid for pid in pids if parent_of(pid) not in {None, *pids})

    async def metrics(self, node: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Ask the agent on *node* what Prometheus would ask it: value by name and labels."""
        text = await self.ask(node, "metrics")
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def known(self, *nodes: str) -> float:
        """Count the endpoints that the agents on *nodes* know."""
        pages = [await self.metrics(node) for node in nodes]
        return sum(v for page in pages for (name, _), v in page.items() if name == KNOWN)

    def changes(self, node: str, address: str, since_ns: int = 0) -> list[tuple[int, bool]]:
        """Return how the agent's routes to *address* changed: metric, and whether it came."""
        entries = (entry for entry in self.journals[node].of(address) if entry.at_ns >= since_ns)
        return [(entry.metric, entry.present) for entry in entries if entry.is_ours]

    def ways_back(self, address: str, since_ns: int) -> list[Entry]:
        """Return what would lead packets for *address* to the old node since then."""
        old = next(speaker for speaker in self.lab.cluster.mesh if speaker.name == self.here)
        towards = {old.address4, old.address6}
        came = (
            (name, entry)
            for name, journal in self.journals.items()
            for entry in journal.of(address)
            if entry.present and entry.at_ns > since_ns
        )
        return [
            entry
            for name, entry in came
            if entry.way in towards or (name == self.here and entry.is_ours)
        ]

    async def replace_agent(self, node: str) -> None:
        """Kill the agent on *node*, and return when its successor is ready."""
        killed = await self.agent(node)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        await self.succeeded(node, killed)

    async def succeeded(self, node: str, killed: frozenset[int]) -> None:
        """Wait until another agent than the *killed* one is ready on *node*."""
        for _ in range(300):
            if await self.agent(node) - killed and await self.is_ready(node):
                return
            await asyncio.sleep(0.1)
        message = f"no new agent is ready on {node}"
        raise TimeoutError(message)

    async def is_ready(self, node: str) -> bool:
        """Whether the agent on *node* says that it is."""
        try:
            await self.ask(node, "readyz")
        except OSError:
            return False
        return True

    async def ask(self, node: str, path: str) -> str:
        """Ask the agent on *node* over HTTP."""
        url = f"http://{self.lab.cluster.nodes[node].address}:8081/{path}"
        with await asyncio.to_thread(urllib.request.urlopen, url, timeout=10) as answer:
            return str(answer.read().decode())

    async def configure(self, **fields: object) -> None:
        """Set *fields* of the cluster's configuration."""
        patch = json.dumps({"spec": fields})
        await self.lab.kubectl("patch", CONFIGURATION, "default", "--type=merge", "-p", patch)


def name_of(node: str) -> str:
    """Name the VM's endpoint on *node*."""
    return f"vm-on-{node}"


def parent_of(pid: int) -> int | None:
    """Return the number of a process's parent; None for one that is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        # The name before it may have blanks and brackets itself (proc_pid_stat(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[1])
    return None


def is_agent(pod: Mapping[str, Any]) -> bool:
    """Whether a DaemonSet owns *pod*: in our release only the agent has one."""
    owners = pod["metadata"].get("ownerReferences", ())
    return any(owner["kind"] == "DaemonSet" for owner in owners)


async def settle(lab: Lab) -> None:
    """Leave one QEMU, in which the VM runs, and no object of ours; boot the VM where it is gone."""
    await lab.kubectl("delete", "livemigrations,workloadendpoints", "--all", "--wait")
    for node, guest in list(lab.vm.guests.items()):
        if not await is_running(guest):
            await lab.vm.end(node)
    if not lab.vm.guests:
        await lab.vm.boot(next(iter(lab.cluster.nodes)))
    await lab.endpoints.until(lambda seen: not seen, "the end of all endpoints")


async def is_running(guest: Guest) -> bool:
    """Whether the VM runs in this QEMU; one that is dead has none."""
    try:
        state = await guest.execute("query-status")
    except GuestError:
        return False
    return isinstance(state, dict) and state["status"] == "running"
