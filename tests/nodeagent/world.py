"""An agent's loop in a node of its own: the API as method calls, the kernel and guests real."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.nodeagent.node import Node

from handover_api.configuration import Settings
from handover_api.model import Condition
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Signal, WorkloadEndpointStatus
from handover_nodeagent.kernel.arp_guard import rules
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.reconcile.endpoint_sink import EndpointSink
from handover_nodeagent.reconcile.lifecycle import Lifecycle
from handover_nodeagent.reconcile.loop import Reconciler, Start
from handover_nodeagent.reconcile.observe import Observation
from handover_nodeagent.reconcile.reconfigure import Reconfiguration
from handover_nodeagent.sniff.verdict import Accepted
from handover_nodeagent.status.kubernetes_events import Event

MAC = "52:54:00:65:00:02"
RARP = bytes.fromhex(
    "ffffffffffff 525400650002 8035 0001 0800 06 04 0003"
    "525400650002 00000000 525400650002 00000000" + "00" * 18
)
ELEVATED_V4 = "10.65.0.2 dev tap0 ... metric 512"
NORMAL_V4 = "10.65.0.2 dev tap0 ... metric 1024"
PATIENCE = 5.0
CNI = "10.65.0.2 dev tap0 scope link proto 5"
CNI_V6 = "fd00:65::2 dev tap0 proto 5 metric 1024"
GUARD = "nft list ruleset arp"


def settings(**fields: Any) -> Settings:
    """Make a configuration as the API would tell it."""
    return Settings.model_validate(fields)


def count(counter: Any, *labels: str) -> float:
    """Read a counter."""
    return float((counter.labels(*labels) if labels else counter)._value.get())


class Reports:
    """Takes the reports that would go to the API server."""

    def __init__(self) -> None:
        self.statuses: dict[ObjectKey, WorkloadEndpointStatus | None] = {}
        self.events: list[tuple[str, str]] = []

    def retry_now(self) -> None:
        """Have nothing that could be retried."""

    def want(self, key: ObjectKey, uid: str, status: WorkloadEndpointStatus) -> None:
        assert uid
        self.statuses[key] = status

    def forget(self, key: ObjectKey, uid: str) -> None:
        assert uid
        self.statuses[key] = None

    def learn(self, key: ObjectKey, uid: str, status: WorkloadEndpointStatus) -> None:
        assert key
        assert uid
        assert status is not None

    def add_event(self, event: Event) -> None:
        assert event.uid
        assert event.message
        assert isinstance(event.is_warning, bool)
        self.events.append((event.key.name, event.reason))


@dataclasses.dataclass
class World:
    """One life of an agent after the other, on one node."""

    node: Node
    directory: Path
    settings: Settings = dataclasses.field(default_factory=Settings)
    reports: Reports = dataclasses.field(default_factory=Reports)
    loop: Reconciler = dataclasses.field(init=False)
    versions: int = 0
    said: str = ""
    paused: frozenset[str] = frozenset()
    _tasks: list[asyncio.Task[None]] = dataclasses.field(default_factory=list)

    async def start(self, *, synced: bool = True) -> "World":
        """Begin a life; the API tells of no endpoint so far."""
        self.memory = Memory(self.directory)
        start = Start(self.settings, paused=self.paused)
        self.loop = Reconciler(start, self.reports, self.memory)  # type: ignore[arg-type]
        lifecycle = Lifecycle(self.loop, self.memory)
        self.sink = EndpointSink(self.loop, lifecycle, self.reports, self.memory)  # type: ignore[arg-type]
        self.reconfiguration = Reconfiguration(self.loop, lifecycle, self.sink)
        self.observation = Observation(self.loop)
        await self.observation.begin(self.sink, self.memory.load())
        self._tasks = [
            asyncio.create_task(self.loop.enforcer.guard.run()),
            asyncio.create_task(self.loop.enforcer.redirect_table.run()),
            asyncio.create_task(self.observation.run()),
        ]
        if synced:
            self.sink.synced()
        return self

    async def kill(self) -> None:
        """End as SIGKILL does, but for what the test's own process must give back."""
        self.observation.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # An orphan of this life would be asked on in the next one, by a socket that nobody closes.
        self.loop.orphans.close()
        self.loop.remaining.close()
        self.loop.holding.close()
        for endpoint in self.loop.endpoints.values():
            self.loop.retire(endpoint)
        await self.memory.flush()
        self.memory.close()
        self.loop.enforcer.close()

    def put(self, name: str = "vm", *, said: str = "", uid: str = "m1", **spec: Any) -> None:
        """Let the API tell of an endpoint: ``said`` as "target" or "target Succeeded"."""
        self.versions += 1
        self.said = said
        role, _, outcome = said.partition(" ")
        annotations = {"handover.dev/migration-uid": uid} if said else {}
        if said and outcome:
            annotations |= {"handover.dev/outcome": outcome, "handover.dev/ended-role": role}
        elif said:
            annotations["handover.dev/role"] = role
        if "armed" in spec:
            annotations["handover.dev/armed"] = spec.pop("armed")
        if "shared" in spec:
            annotations["handover.dev/address-shared"] = spec.pop("shared")
        annotations |= spec.pop("annotations", {})
        defaults = {"node": "n", "workload": name, "ips": ["10.65.0.2"], "mac": MAC}
        defaults["interface"] = "tap0"
        metadata = {
            "name": name,
            "namespace": spec.pop("namespace", "default"),
            "uid": spec.pop("object_uid", f"uid-{name}"),
            "resourceVersion": str(self.versions),
            "annotations": annotations,
            "creationTimestamp": "2026-11-24T12:00:00Z",
        }
        status = spec.pop("status", {})
        spec = {key: value for key, value in (defaults | spec).items() if value is not None}
        self.sink.put({"metadata": metadata, "spec": spec, "status": status})

    def delete(self, name: str = "vm") -> None:
        """Let the API tell that an endpoint is gone."""
        self.sink.drop(ObjectKey("default", name), f"uid-{name}")

    def state(self, name: str = "vm") -> str:
        """Return where an endpoint's machine stands."""
        endpoint = self.loop.endpoints.get(ObjectKey("default", name))
        return endpoint.machine.state if endpoint else "gone"

    def routes(self) -> list[str]:
        """Return the routes to the VM's addresses in the main table."""
        return [line for line in self._all_routes() if " table " not in line]

    def parked(self) -> list[str]:
        """Return the routes that are kept aside."""
        return [line for line in self._all_routes() if " table 5254" in line]

    def guarded(self, interface: str) -> list[str]:
        """Return the addresses for which the host must not answer on *interface*."""
        if "arp handover" not in self.node.run("nft list tables"):
            return []
        found = rules.parse(self.node.run("nft -j list table arp handover"))
        assert found is not None
        return sorted(map(str, found.get(interface, ())))

    def _all_routes(self) -> list[str]:
        lines = self.node.lines("ip -4 route show table all")
        lines += self.node.lines("ip -6 route show table all")
        return [line for line in lines if line.startswith(("10.65.", "fd00:65:"))]

    def condition(self, kind: str, name: str = "vm") -> tuple[str, str] | None:
        """Return status and reason of a condition as last reported."""
        found = self._condition(kind, name)
        return (found.status, found.reason) if found else None

    def message(self, kind: str, name: str = "vm") -> str:
        """Return what a condition said last, "" when there was none."""
        found = self._condition(kind, name)
        return found.message if found else ""

    def _condition(self, kind: str, name: str) -> Condition | None:
        status = self.reports.statuses.get(ObjectKey("default", name))
        found = (one for one in (status.conditions if status else ()) if one.type == kind)
        return next(found, None)

    async def until(self, is_so: Callable[[], object]) -> None:
        """Wait until something is so; fail when it never is."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not is_so():
            if asyncio.get_running_loop().time() > deadline:
                pytest.fail(
                    f"state {self.state()}, routes {self.routes()}, {self.reports.statuses}"
                )
            await asyncio.sleep(0.005)

    async def until_says(self, kind: str, status: str, reason: str, name: str = "vm") -> None:
        """Wait for a condition."""
        await self.until(lambda: self.condition(kind, name) == (status, reason))

    async def until_listening(self, name: str = "vm") -> None:
        """Wait until announcements are heard."""
        await self.until_says("Listening", "True", "Listening", name)

    async def until_state(self, state: str, name: str = "vm") -> None:
        """Wait for a state."""
        await self.until(lambda: self.state(name) == state)

    async def shows(self, *routes: str) -> None:
        """Wait until exactly these routes are there; each is a part of a line."""

        def is_so() -> bool:
            shown = self.routes()
            return len(shown) == len(routes) and all(
                any(all(word in line for word in wanted.split(" ... ")) for line in shown)
                for wanted in routes
            )

        await self.until(is_so)

    async def at_rest(self) -> None:
        """Wait until everything was looked at, and nobody wants another look."""
        interfaces = self.loop.interfaces
        follow, looked = interfaces.observed, asyncio.Event()
        interfaces.observed = looked.set  # type: ignore[method-assign]
        # The first to end may have been under way already.
        for _ in range(2):
            self.observation.request_resync()
            await looked.wait()
            looked.clear()
        interfaces.observed = follow  # type: ignore[method-assign]
        follow()

    def send(self, octets: bytes = RARP) -> None:
        """Let the guest send a frame."""
        with contextlib.closing(self.node.guest_socket()) as guest:
            guest.send(octets)

    def configure(self, **fields: Any) -> None:
        """Let the API tell of a configuration, as its object would have it."""
        self.reconfiguration.configure(settings(**fields))

    def pause(self, *namespaces: str) -> None:
        """Let the API tell that these namespaces, and no others, are paused."""
        self.paused = frozenset(namespaces)
        self.reconfiguration.pause(self.paused)

    def announce(self, name: str = "vm", *, is_answer: bool = False) -> None:
        """Let the endpoint's listener have heard its guest."""
        endpoint = self.loop.endpoints[ObjectKey("default", name)]
        signal = Signal.PROBE if is_answer else Signal.RARP
        accepted = Accepted(signal, bytes.fromhex(MAC.replace(":", "")), is_answer)
        self.loop.cutovers.heard(endpoint.key, endpoint.machine.episode, accepted, time.time_ns())

    @contextlib.contextmanager
    def deaf(self) -> Iterator[None]:
        """Let what happens in the kernel meanwhile be told afterwards."""
        subscription = self.observation._notifications._subscription
        take, kept = subscription._take, list[bytes]()
        subscription._take = kept.append
        yield
        subscription._take = take
        for message in kept:
            take(message)
