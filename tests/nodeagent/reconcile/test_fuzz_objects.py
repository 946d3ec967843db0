"""The whole agent among odd objects: it never ends, and the VM beside them keeps its routes.

Only the API server is played, by queues: what the agent makes of its lists and watches, of the
kernel and of the guest is its own. Objects are drawn from our schemas (tests/fuzzing.py).
"""

import asyncio
import contextlib
import itertools
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import strategies as st
from tests.fuzzing import Raw
from tests.nodeagent.node import Node

from handover_api import names
from handover_nodeagent.agent import Agent
from handover_nodeagent.api.errors import Gone
from handover_nodeagent.api.responses import Page
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.settings import AgentSettings
from tests import fuzzing

pytestmark = pytest.mark.root

MAC: Final = "52:54:00:65:00:02"
HEALTHY: Final = {"node": "n", "workload": "vm", "interface": "tap0", "mac": MAC}
HEALTHY_ADDRESSES: Final = ["10.65.0.2", "fd00:65::2"]
ADDRESSES: Final = [f"10.66.0.{number}" for number in range(1, 30)]
ODD_ADDRESSES: Final = [
    *("127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0", "169.254.1.1", "::", "::1"),
    *(
        "ff02::1",
        "fe80::1",
        "fd00:66::1",
        "::ffff:10.66.0.1",
        "10.66.0.1/32",
        "10.66.0",
        "fe80::1%1",
    ),
]
INTERFACES: Final = ["tap1", "tap1", "far1", "tap0", "lo", "tun9", "nowhere", "x" * 15, "..", ""]
MACS: Final = [f"02:00:00:00:00:{number:02x}" for number in range(1, 6)]
ODD_MACS: Final = ["FF:FF:FF:FF:FF:FF", "00:00:00:00:00:00", "01:00:5e:00:00:01", "zz", "", MAC]
NETWORKS: Final = ["10.0.0.0/8", "fd00::/8", "10.65.0.2/32", "fd00:65::/64", "0.0.0.0/0", "::/0"]
DURATIONS: Final = ["1s", "30s", "10m", "20ms", "0", "0s", "1h", "999999h", "5us", "-1s", "soon"]
ANNOTATIONS: Final[Mapping[str, Sequence[str]]] = {
    names.ROLE: ["source", "target", "target", "both"],
    names.MIGRATION: ["m", "x" * 253],
    names.MIGRATION_UID: ["u1", "u2", ""],
    names.ARMED: ["true", "false", "perhaps"],
    names.OUTCOME: ["Succeeded", "Aborted", "Unknown"],
    names.ENDED_ROLE: ["source", "target", "none"],
}
CALLS_PER_EVENT: Final = 6_000
"""Calls of our own functions for one event, its report and its share of the looks at the kernel.

Four times what the dearest one of a few thousand cost.
"""


def _specs() -> fuzzing.Draws:
    spec = fuzzing.schema(names.WORKLOAD_ENDPOINTS)["spec"]
    address = fuzzing.rarely(st.sampled_from(ADDRESSES), st.sampled_from(ODD_ADDRESSES), one_in=8)
    known = {
        "node": st.just("n"),
        "workload": st.sampled_from(["w1", "w2"]),
        "interface": st.sampled_from(INTERFACES),
        "mac": fuzzing.rarely(st.sampled_from(MACS), st.sampled_from(ODD_MACS), one_in=8),
        "ips": fuzzing.rarely(
            st.lists(address, min_size=1, max_size=3), st.just(ADDRESSES[:16]), one_in=10
        ),
        "gateways": st.lists(address, max_size=4),
    }
    return fuzzing.values(spec, known)


def _configurations() -> fuzzing.Draws:
    """Draw settings that leave the healthy VM's routes as they are, however odd the rest is."""
    spec = fuzzing.schema(names.CONFIGURATIONS)["spec"]
    duration = st.sampled_from(DURATIONS)
    known = {
        **{f"ip{family}NormalRoutePriority": st.just(1024) for family in ("v4", "v6")},
        **{f"ip{family}ElevatedRoutePriority": st.just(512) for family in ("v4", "v6")},
        "routeProtocol": st.just(88),
        "routeTable": st.just(254),
        "liveMigrationRouteConvergenceTime": duration,
        "targetTimeout": duration,
        "probeInterval": duration,
        "allowedCIDRs": st.lists(st.sampled_from(["10.66.0.0/24", "10.66", ""]), max_size=3).map(
            lambda more: [*NETWORKS, *more]
        ),
    }
    metadata = {
        "name": st.sampled_from([names.DEFAULT_CONFIGURATION, "node.n", "node.m"]),
        "uid": st.sampled_from(["1", "2"]),
        "generation": st.integers(1, 9),
    }
    return st.fixed_dictionaries(
        {"metadata": st.fixed_dictionaries(metadata)},
        optional={"spec": fuzzing.values(spec, known)},
    )


def _assigned() -> fuzzing.Draws:
    """Draw annotations: those of the operator, in any mixture, and somebody's."""
    said = {name: st.sampled_from(of) for name, of in ANNOTATIONS.items()}
    usual = st.fixed_dictionaries({}, optional=said)
    target = st.fixed_dictionaries(
        {names.ROLE: st.just("target"), names.MIGRATION_UID: st.sampled_from(["u1", "u2"])},
        optional={names.ARMED: said[names.ARMED]},
    )
    return st.one_of(usual, target, fuzzing.crowd("a.dev/"))


def _endpoints() -> fuzzing.Draws:
    status = fuzzing.schema(names.WORKLOAD_ENDPOINTS)["status"]
    # The API server itself checks what every object has.
    metadata = st.fixed_dictionaries(
        {
            "name": st.sampled_from([f"odd{number}" for number in range(4)]),
            "uid": st.sampled_from(["1", "1", "1", "2"]),
            "annotations": _assigned(),
        },
        optional={
            "labels": fuzzing.crowd(),
            "creationTimestamp": st.just("2026-11-24T12:00:00Z"),
            "generation": st.integers(1, 9),
        },
    )
    return st.fixed_dictionaries(
        {"metadata": metadata, "spec": _specs()},
        optional={"status": fuzzing.values(status, {})},
    )


EVENTS: Final = st.one_of(
    st.tuples(st.just("put"), _endpoints()),
    st.tuples(st.just("put"), _endpoints()),
    st.tuples(st.just("put"), _endpoints()),
    st.tuples(st.just("configure"), _configurations()),
    st.tuples(st.sampled_from(["delete", "forget"]), st.integers(0, 3)),
    st.tuples(st.just("relist"), st.none()),
)


class Api:
    """An API server as the agent's watches and reports need it."""

    def __init__(self) -> None:
        self.stored: dict[str, Raw] = {}
        self.told: asyncio.Queue[tuple[str, Raw] | None] = asyncio.Queue()
        self.configured: asyncio.Queue[tuple[str, Raw] | None] = asyncio.Queue()
        self.version = 0
        self.writes = 0

    def put(self, raw: Mapping[str, Any]) -> None:
        """Hold and tell one version of an endpoint."""
        self.version += 1
        fields = {"namespace": "default", "resourceVersion": str(self.version)}
        metadata = {**raw["metadata"], **fields}
        self.stored[metadata["name"]] = {**raw, "metadata": metadata}
        self.told.put_nowait(("MODIFIED", self.stored[metadata["name"]]))

    def configure(self, raw: Mapping[str, Any]) -> None:
        """Tell one version of a configuration."""
        self.version += 1
        metadata = {**raw["metadata"], "resourceVersion": str(self.version)}
        self.configured.put_nowait(("MODIFIED", {**raw, "metadata": metadata}))

    def delete(self, name: str, *, is_told: bool) -> None:
        """Hold an endpoint no more; a watch may have missed it."""
        gone = self.stored.pop(name, None)
        if gone and is_told:
            self.told.put_nowait(("DELETED", gone))

    def relist(self) -> None:
        """End the watch such that only a list helps."""
        self.told.put_nowait(None)

    @property
    def is_taken(self) -> bool:
        """Whether all was told that there is to tell."""
        return self.told.empty() and self.configured.empty()

    async def pages(self, path: str, _: Mapping[str, str]) -> AsyncGenerator[Page]:
        """List."""
        items = list(self.stored.values()) if path.endswith(names.WORKLOAD_ENDPOINTS) else []
        yield Page(list(items), str(self.version))

    async def stream(self, path: str, *_: object, **__: object) -> AsyncGenerator[tuple[str, Raw]]:
        """Watch."""
        queue = self.told if path.endswith(names.WORKLOAD_ENDPOINTS) else self.configured
        while (told := await queue.get()) is not None:
            yield told
        message = "410"
        raise Gone(message)

    async def patch(self, *_: object) -> Raw:
        """Take a report."""
        self.writes += 1
        return {}

    async def create(self, *_: object) -> Raw:
        """Take an Event."""
        self.writes += 1
        return {}


class Work:
    """Counts the calls of the agent's own functions, in the loop's thread."""

    def __init__(self) -> None:
        self.calls = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count meanwhile."""

        def count(frame: Any, event: str, _: object) -> None:
            if event == "call" and "/handover_nodeagent/" in frame.f_code.co_filename:
                self.calls += 1

        sys.setprofile(count)
        try:
            yield
        finally:
            sys.setprofile(None)


@pytest.fixture
def crowded(node: Node) -> Node:
    """The VM answers behind tap0, and there is a device without a MAC."""
    node.guest_runs("ip address add 10.65.0.2/32 dev eth")
    node.run("ip tuntap add tun9 mode tun")
    node.run("ip link set tun9 up")
    return node


@contextlib.contextmanager
def withdrawals(node: Node) -> Iterator[list[str]]:
    """Collect the healthy VM's routes that go meanwhile."""
    seen: list[str] = []
    command = ["ip", "-oneline", "monitor", "route"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as monitor:
        try:
            yield seen
            # The monitor has told all that went before this one.
            node.run("ip route add 10.99.0.1 dev lo")
            assert monitor.stdout is not None
            for line in monitor.stdout:
                if line.startswith("10.99.0.1 "):
                    break
                if line.startswith(("Deleted 10.65.0.2 ", "Deleted fd00:65::2 ")):
                    seen.append(line)
        finally:
            monitor.terminate()
            node.run("ip route flush 10.99.0.1")


async def begin(directory: Path, api: Api) -> tuple[Agent, asyncio.Task[None]]:
    """Start an agent with the healthy endpoint alone."""
    healthy = {"uid": "healthy", "creationTimestamp": "2026-11-24T12:00:00Z", "name": "healthy"}
    said = {names.ROLE: "source", names.MIGRATION_UID: "m0", names.MIGRATION: "m0"}
    api.put({
        "metadata": {**healthy, "annotations": said},
        "spec": {**HEALTHY, "ips": HEALTHY_ADDRESSES},
    })  # fmt: skip
    settings = AgentSettings(node_name="n", state_directory=directory)
    agent = Agent(settings, Memory(directory), api)  # type: ignore[arg-type]
    task = asyncio.create_task(agent.run())
    async with asyncio.timeout(10):
        while not agent.endpoints.is_synced:
            assert not task.done(), task.exception()
            await asyncio.sleep(0.001)
    return agent, task


async def play(directory: Path, history: Sequence[tuple[str, Any]], node: Node) -> float:
    """Let one agent meet a history; return its calls per event."""
    api, work = Api(), Work()
    agent, task = await begin(directory, api)
    before = own_routes(node)
    with work.counted():
        for what, value in history:
            match what:
                case "put":
                    api.put(value)
                case "relist":
                    api.relist()
                case "configure":
                    api.configure(value)
                case _:
                    api.delete(f"odd{value}", is_told=what == "delete")
            await asyncio.sleep(0.002)
        async with asyncio.timeout(10):
            while not api.is_taken:
                assert not task.done(), f"it ended: {task}"
                await asyncio.sleep(0.002)
        await asyncio.sleep(0.02)
    assert not task.done(), f"it ended: {task}"
    assert own_routes(node) == before
    assert len(before) == len(HEALTHY_ADDRESSES)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await agent.close()
    return work.calls / (len(history) + 1)


def own_routes(node: Node) -> list[str]:
    """Return the healthy VM's routes."""
    lines = node.lines("ip -4 route show table main") + node.lines("ip -6 route show table main")
    return sorted(line for line in lines if line.startswith(("10.65.0.2 ", "fd00:65::2 ")))


def test_no_history_of_odd_endpoints_hurts_the_vm_beside_them(
    crowded: Node, tmp_path: Path
) -> None:
    numbers = itertools.count()

    def check(history: Sequence[tuple[str, Any]]) -> None:
        directory = tmp_path / str(next(numbers))
        directory.mkdir()
        assert asyncio.run(play(directory, history, crowded)) <= CALLS_PER_EVENT
        for family in ("-4", "-6"):
            crowded.run(f"ip {family} route flush proto 88 dev tap1")

    with withdrawals(crowded) as gone:
        fuzzing.rounds(check, st.lists(EVENTS, min_size=1, max_size=12))
    assert gone == []
