"""Two replicas of the operator: one writes, and whatever befalls it, the other goes on."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.cluster.operator_process import PERIODS, SHORT_LEASE
from handover_lab.cluster.release import LEASE, Release
from handover_operator.kinds import Kind

pytestmark = pytest.mark.api

FAIL_OVER = PERIODS.duration + PERIODS.poll + 4.0
"""Seconds: what a Lease takes to expire and to be looked at, and some for a busy machine."""
PHASES = ("pending", "preparing", "ready", "live", "converging")
HISTORY = {
    "a": ["source of {}", "source of {} Succeeded"],
    "b": ["target of {}", "target of {} Succeeded"],
}


class Replicas(NamedTuple):
    """Both are ready."""

    leader: Any
    standby: Any


class Wire:
    """A way to the API server that can be cut: nothing comes through, nothing is closed."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._to = port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._server = server

    def cut(self) -> None:
        """Let nothing through from now on."""
        self._open.clear()

    def mend(self) -> None:
        """Let everything through again, what waited first."""
        self._open.set()

    async def stop(self) -> None:
        """End it."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            # The API server is down: so is the wire that leads to it.
            writer.close()
            return
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while block := await source.read(65536):
                await self._open.wait()
                sink.write(block)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()


@pytest.fixture
async def wire(api_server: ControlPlane) -> AsyncIterator[Wire]:
    """Lay a wire."""
    wire = Wire(api_server.shape.port)
    await wire.start()
    yield wire
    await wire.stop()


@pytest.fixture
async def replicas(
    new_operator: Callable[..., Any],
    release: Release,
    desk: Any,
    wire: Wire,
    tmp_path: Path,
) -> Replicas:
    """Start two replicas; the one that leads is at the end of the wire."""
    kubeconfig = yaml.safe_load(release.kubeconfig.read_text())
    kubeconfig["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{wire.port}"
    wired = tmp_path / "wired.kubeconfig"
    wired.write_text(yaml.safe_dump(kubeconfig))
    leader = new_operator(wired, SHORT_LEASE, HANDOVER_POD_NAME="one")
    standby = new_operator(replaced=SHORT_LEASE, HANDOVER_POD_NAME="two")
    await leader.start()
    await until_leading(desk, leader)
    await standby.start()
    return Replicas(leader, standby)


async def until_leading(desk: Any, operator: Any, wanted: int = 1) -> None:
    """Wait until a replica leads, or does not any more."""
    await desk.until(
        lambda: operator.metric("handover_operator_leader"), lambda leads: leads == wanted
    )


async def phases(operator: Any) -> list[str]:
    """Return the phases that a replica has written, by its log."""
    return [line["phase"] for line in operator.lines() if line["event"] == "phase"]


async def holder(desk: Any) -> str:
    """Return the name of the replica that the Lease names."""
    raw = await desk.api.call("GET", LEASE)
    name = raw["spec"]["holderIdentity"]
    assert isinstance(name, str)
    return name.partition("_")[0]


async def migrate(desk: Any, name: str, until: str) -> str:
    """Bring a migration of a workload of its own into a phase; return its uid."""
    a, b = f"{name}-a", f"{name}-b"
    uid: str = await desk.migration(name, a, b)
    await desk.until_phase("Pending", name)
    if until == "pending":
        return uid
    await desk.endpoint(a)
    await desk.endpoint(b)
    await desk.until_said(a, f"source of {name}")
    await desk.until_said(b, f"target of {name}")
    if until == "preparing":
        return uid
    await desk.report(a, "Base", uid)
    await desk.report(b, "Target", uid)
    await desk.until_phase("Ready", name)
    if until == "ready":
        return uid
    await desk.report(b, "Live", uid)
    await desk.until_phase("Live", name)
    if until == "live":
        return uid
    await desk.end("Succeeded", name)
    await desk.until_said(a, f"source of {name} Succeeded")
    return uid


async def finish(desk: Any, name: str, uid: str, reached: str) -> None:
    """Do all that is left to do, without waiting for the operator."""
    a, b = f"{name}-a", f"{name}-b"
    if reached == "pending":
        await desk.endpoint(a)
        await desk.endpoint(b)
    if reached in {"live", "converging"}:
        await desk.end("Succeeded", name)
        await desk.report(a, "Withdrawn", uid)


async def complete(desk: Any, name: str, uid: str) -> None:
    """Go through all that follows, with an operator that writes."""
    a, b = f"{name}-a", f"{name}-b"
    if await desk.said(a) == f"source of {name}" or await desk.said(a) == "-":
        await desk.until_said(b, f"target of {name}")
        await desk.report(b, "Live", uid)
        await desk.end("Succeeded", name)
        await desk.until_said(a, f"source of {name} Succeeded")
        await desk.report(a, "Withdrawn", uid)
    await desk.until_said(b, f"target of {name} Succeeded")
    await desk.report(b, "Base", uid)
    await desk.until_phase("Succeeded", name)


def history(*migrations: str) -> dict[str, list[str]]:
    """Compose what the endpoints of successful migrations were told: each thing once."""
    return {
        f"{name}-{side}": [said.format(name) for said in told]
        for name in migrations
        for side, told in HISTORY.items()
    }


async def test_a_leader_that_is_killed_is_followed_in_every_phase(
    replicas: Replicas, desk: Any
) -> None:
    async with desk.told() as told:
        uids = {phase: await migrate(desk, phase, phase) for phase in PHASES}
        assert await replicas.standby.metric("handover_operator_writes_total") == 0
        start = time.monotonic()
        replicas.leader.kill()
        for phase, uid in uids.items():
            await finish(desk, phase, uid, phase)
        await desk.until_said("pending-b", "target of pending")
        assert await holder(desk) == "one"  # nobody leads, and the role is there
        await until_leading(desk, replicas.standby)
        assert time.monotonic() - start < FAIL_OVER
        assert await holder(desk) == "two"
        for phase, uid in uids.items():
            await complete(desk, phase, uid)
        assert told == history(*PHASES)


async def test_a_leader_that_was_stopped_writes_nothing_when_it_goes_on(
    replicas: Replicas, desk: Any
) -> None:
    async with desk.told() as told:
        uid = await migrate(desk, "m1", "live")
        # The answer to its write may reach it later than us; read after the stop, it would look as
        # if it had been written then.
        await desk.until(lambda: phases(replicas.leader), lambda found: "Live" in found)
        replicas.leader.send(signal.SIGSTOP)
        await finish(desk, "m1", uid, "live")
        await desk.until_said("m1-b", "target of m1 Succeeded")
        written = len(replicas.leader.lines())
        replicas.leader.send(signal.SIGCONT)
        await until_leading(desk, replicas.leader, 0)
        await complete(desk, "m1", uid)
        assert (await replicas.leader.get("/readyz"))[0] == 200
        assert await holder(desk) == "two"
        assert told == history("m1")
        after = [line["event"] for line in replicas.leader.lines()[written:]]
        assert "stepping_down" in after
        assert not {"role", "phase"} & set(after)


async def test_a_leader_that_is_cut_off_stops_before_the_other_begins(
    replicas: Replicas, desk: Any, wire: Wire
) -> None:
    async with desk.told() as told:
        uid = await migrate(desk, "m1", "live")
        start = time.monotonic()
        wire.cut()
        await finish(desk, "m1", uid, "live")
        await until_leading(desk, replicas.leader, 0)
        assert await replicas.standby.metric("handover_operator_leader") == 0
        await desk.until_said("m1-b", "target of m1 Succeeded")
        assert time.monotonic() - start < FAIL_OVER
        wire.mend()
        await complete(desk, "m1", uid)
        await desk.until(lambda: standing_by(replicas.leader), bool)
        assert told == history("m1")


async def standing_by(operator: Any) -> bool:
    """Return whether a replica has said that it stands by."""
    return any(line["event"] == "standing_by" for line in operator.lines())


async def test_after_an_outage_of_the_api_server_one_goes_on(
    replicas: Replicas, desk: Any, api_server: ControlPlane
) -> None:
    uid = await migrate(desk, "m1", "ready")
    await desk.report("m1-b", "Live", uid)
    await desk.until_phase("Live", "m1")
    api_server.stop_api()
    try:
        await until_leading(desk, replicas.leader, 0)
        assert await replicas.standby.metric("handover_operator_leader") == 0
    finally:
        api_server.start_api()  # not in a thread: the server ends with the thread
    await finish(desk, "m1", uid, "live")
    await complete(desk, "m1", uid)
    leads = [await each.metric("handover_operator_leader") for each in replicas]
    assert sorted(leads) == [0, 1]
    for each in replicas:
        each.ignore_refusals()  # an API server that has just started knows of nobody's rights


async def test_a_graceful_stop_hands_over_at_once(replicas: Replicas, desk: Any) -> None:
    async with desk.told() as told:
        uid = await migrate(desk, "m1", "live")
        start = time.monotonic()
        # Not here: the wire runs in this thread.
        assert await asyncio.to_thread(replicas.leader.kill, signal.SIGTERM) == 0
        await finish(desk, "m1", uid, "live")
        await desk.until_said("m1-b", "target of m1 Succeeded")
        assert time.monotonic() - start < 5
        assert await holder(desk) == "two"
        await complete(desk, "m1", uid)
        assert told == history("m1")
        assert "lease_released" in [line["event"] for line in replicas.leader.lines()[-3:]]


async def test_a_replica_that_is_started_again_in_its_pod_leads_at_once(
    new_operator: Callable[..., Any], desk: Any
) -> None:
    operator = new_operator()
    await operator.start()
    await until_leading(desk, operator)
    operator.kill()
    await operator.start()
    start = time.monotonic()
    await until_leading(desk, operator)
    assert time.monotonic() - start < 3
    await desk.endpoint("a")
    await desk.migration("m1", "a", "b")
    await desk.until_said("a", "source of m1")
    await desk.delete(Kind.MIGRATION, "m1")
    await desk.until_said("a", "source of m1 Aborted")
