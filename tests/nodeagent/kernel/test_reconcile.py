"""The whole loop on a real kernel: endpoints come as the API tells them, guests as frames."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.nodeagent.kernel.conftest import Node

from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Signal, WorkloadEndpointStatus
from handover_nodeagent.memory import Memory
from handover_nodeagent.observation import Observation
from handover_nodeagent.reconcile import Reconciler
from handover_nodeagent.sniff.verdict import Accepted

pytestmark = pytest.mark.root

MAC = "52:54:00:65:00:02"
RARP = bytes.fromhex(
    "ffffffffffff 525400650002 8035 0001 0800 06 04 0003"
    "525400650002 00000000 525400650002 00000000" + "00" * 18
)
ELEVATED_V4 = "10.65.0.2 dev tap0 ... metric 512"
NORMAL_V4 = "10.65.0.2 dev tap0 ... metric 1024"
PATIENCE = 5.0


class Desk:
    """Takes the reports that would go to the API server."""

    def __init__(self) -> None:
        self.statuses: dict[ObjectKey, WorkloadEndpointStatus | None] = {}
        self.events: list[tuple[str, str]] = []

    def status(self, key: ObjectKey, uid: str, status: WorkloadEndpointStatus | None) -> None:
        assert uid
        self.statuses[key] = status

    def known(self, key: ObjectKey, uid: str, status: WorkloadEndpointStatus) -> None:
        assert key
        assert uid
        assert status is not None

    def event(
        self, key: ObjectKey, uid: str, reason: str, message: str, *, warning: bool = False
    ) -> None:
        assert key
        assert uid
        assert message
        assert isinstance(warning, bool)
        self.events.append((key.name, reason))


@dataclasses.dataclass
class World:
    """One life of an agent after the other, on one node."""

    node: Node
    directory: Path
    settings: Settings = dataclasses.field(default_factory=Settings)
    desk: Desk = dataclasses.field(default_factory=Desk)
    loop: Reconciler = dataclasses.field(init=False)
    versions: int = 0
    _tasks: list[asyncio.Task[None]] = dataclasses.field(default_factory=list)

    async def start(self, *, synced: bool = True) -> "World":
        """Begin a life; the API tells of no endpoint so far."""
        self.memory = Memory(self.directory)
        self.loop = Reconciler(self.settings, self.desk, self.memory)  # type: ignore[arg-type]
        self.observation = Observation(self.loop)
        await self.observation.begin(self.memory.load())
        self._tasks = [
            asyncio.create_task(self.loop.kernel.guard.run()),
            asyncio.create_task(self.observation.run()),
        ]
        if synced:
            self.loop.synced()
        return self

    async def kill(self) -> None:
        """End as SIGKILL does, but for what the test's own process must give back."""
        self.observation.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for resident in self.loop.residents.values():
            resident.retire()
        await self.memory.flush()
        self.memory.close()
        self.loop.kernel.close()

    def put(self, name: str = "vm", *, said: str = "", uid: str = "m1", **spec: Any) -> None:
        """Let the API tell of an endpoint: ``said`` as "target" or "target Succeeded"."""
        self.versions += 1
        role, _, outcome = said.partition(" ")
        annotations = {"handover.dev/migration-uid": uid} if said else {}
        if said and outcome:
            annotations |= {"handover.dev/outcome": outcome, "handover.dev/ended-role": role}
        elif said:
            annotations["handover.dev/role"] = role
        if "armed" in spec:
            annotations["handover.dev/armed"] = spec.pop("armed")
        defaults = {"node": "n", "workload": name, "ips": ["10.65.0.2"], "mac": MAC}
        defaults["interface"] = "tap0"
        metadata = {
            "name": name,
            "namespace": "default",
            "uid": spec.pop("object_uid", f"uid-{name}"),
            "resourceVersion": str(self.versions),
            "annotations": annotations,
            "creationTimestamp": "2026-11-24T12:00:00Z",
        }
        spec = {key: value for key, value in (defaults | spec).items() if value is not None}
        self.loop.put({"metadata": metadata, "spec": spec})

    def delete(self, name: str = "vm") -> None:
        """Let the API tell that an endpoint is gone."""
        self.loop.drop(ObjectKey("default", name), f"uid-{name}")

    def state(self, name: str = "vm") -> str:
        """Return where an endpoint's machine stands."""
        resident = self.loop.residents.get(ObjectKey("default", name))
        return resident.machine.state if resident else "gone"

    def routes(self) -> list[str]:
        """Return the routes to the VM's addresses in the main table."""
        return [line for line in self._all_routes() if " table " not in line]

    def parked(self) -> list[str]:
        """Return the routes that are kept aside."""
        return [line for line in self._all_routes() if " table 5254" in line]

    def _all_routes(self) -> list[str]:
        lines = self.node.lines("ip -4 route show table all")
        lines += self.node.lines("ip -6 route show table all")
        return [line for line in lines if line.startswith(("10.65.", "fd00:65:"))]

    def condition(self, kind: str, name: str = "vm") -> tuple[str, str] | None:
        """Return status and reason of a condition as last reported."""
        status = self.desk.statuses.get(ObjectKey("default", name))
        for condition in status.conditions if status else ():
            if condition.type == kind:
                return condition.status, condition.reason
        return None

    async def until(self, is_so: Callable[[], object]) -> None:
        """Wait until something is so; fail when it never is."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not is_so():
            if asyncio.get_running_loop().time() > deadline:
                pytest.fail(f"state {self.state()}, routes {self.routes()}, {self.desk.statuses}")
            await asyncio.sleep(0.005)

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

    def send(self, octets: bytes = RARP) -> None:
        """Let the guest send a frame."""
        with contextlib.closing(self.node.guest_socket()) as guest:
            guest.send(octets)


@pytest.fixture
async def world(node: Node, tmp_path: Path) -> AsyncIterator[World]:
    """Start an agent's loop on the node of this test."""
    it = await World(node, tmp_path).start()
    yield it
    await it.kill()


@pytest.fixture
def mute(node: Node) -> None:
    """Let the guest's kernel answer nothing: no guest is there."""
    node.guest_runs("ip link set eth arp off")


@pytest.fixture
def alive(node: Node) -> None:
    """Let the guest's kernel answer for the VM's address."""
    node.guest_runs("ip address add 10.65.0.2/32 dev eth")


async def test_an_endpoint_without_a_role_has_normal_routes_and_a_guard(world: World) -> None:
    world.put(ips=["10.65.0.2", "fd00:65::2"])
    await world.shows(NORMAL_V4, "fd00:65::2 dev tap0 ... metric 1024")
    await world.until(
        lambda: (
            "10.65.0.2" in world.node.run("nft list tables arp")
            or "saddr ip 10.65.0.2" in world.node.run("nft list table arp handover")
        )
    )
    await world.until(lambda: world.condition("Programmed") == ("True", "Programmed"))
    assert MAC in world.node.run("ip neigh show dev tap0")


@pytest.mark.usefixtures("mute")
async def test_a_rarp_makes_a_target_live(world: World) -> None:
    world.put(said="target")
    await world.until(lambda: world.condition("Listening") == ("True", "Listening"))
    assert world.routes() == []
    world.send()
    await world.shows(ELEVATED_V4)
    await world.until_state("Live")
    await world.until(lambda: ("vm", "CutOver") in world.desk.events)
    status = world.desk.statuses[ObjectKey("default", "vm")]
    assert status is not None
    assert status.last_cutover is not None
    assert status.last_cutover.signal == "RARP"
    assert 0 < status.last_cutover.announcement_to_route_microseconds < 1_000_000
    assert status.last_cutover.migration_uid == "m1"
    # When the kernel had the route, not when the machine took its step a breath later.
    assert status.since is not None
    assert status.last_cutover.time < status.since


@pytest.mark.usefixtures("alive")
async def test_a_target_that_missed_the_announcement_finds_its_guest_by_asking(
    world: World,
) -> None:
    world.put(said="target")
    await world.shows(ELEVATED_V4)
    await world.until(lambda: ("vm", "CutOver") in world.desk.events)
    status = world.desk.statuses[ObjectKey("default", "vm")]
    assert status is not None
    assert status.last_cutover is not None
    assert status.last_cutover.signal == "Probe"


@pytest.mark.usefixtures("alive")
async def test_an_unarmed_target_believes_no_answer(world: World) -> None:
    world.put(said="target", armed="false")
    await world.until(lambda: world.condition("Listening") == ("True", "Listening"))
    assert world.routes() == []
    world.send()
    await world.shows(ELEVATED_V4)


@pytest.mark.usefixtures("alive")
async def test_success_makes_the_routes_normal_without_a_gap(node: Node, tmp_path: Path) -> None:
    soon = Settings(live_migration_route_convergence_time=dt.timedelta(milliseconds=100))
    world = await World(node, tmp_path, soon).start()
    world.put(said="target")
    await world.shows(ELEVATED_V4)
    world.put(said="target Succeeded")
    assert world.state() == "TimeWait"
    await world.until_state("Base")
    await world.shows(NORMAL_V4)
    await world.kill()


@pytest.mark.usefixtures("mute")
async def test_an_aborted_target_stays_silent(world: World) -> None:
    world.put(said="target")
    world.put(said="target Aborted")
    assert world.state() == "Withdrawn"
    assert world.routes() == []


@pytest.mark.usefixtures("alive")
async def test_a_source_whose_guest_answers_keeps_its_routes(world: World) -> None:
    world.put(said="source")
    await world.shows(NORMAL_V4)
    world.put(said="source Succeeded")
    assert world.state() == "Asking"
    await world.until(lambda: world.condition("StillAlive") == ("True", "GuestAnswers"))
    await world.shows(NORMAL_V4)


@pytest.mark.usefixtures("mute")
async def test_a_source_whose_guest_left_withdraws(world: World) -> None:
    world.put(said="source")
    await world.shows(NORMAL_V4)
    world.put(said="source Succeeded")
    await world.until_state("Withdrawn")
    await world.shows()


@pytest.mark.usefixtures("mute")
async def test_a_killed_agent_goes_on_where_it_stood(world: World) -> None:
    world.put(said="target")
    await world.until(lambda: world.condition("Listening") == ("True", "Listening"))
    world.send()
    await world.until_state("Live")
    await world.kill()
    await world.start(synced=False)
    assert world.state() == "Live"
    await world.shows(ELEVATED_V4)


@pytest.mark.usefixtures("mute")
async def test_an_endpoint_deleted_while_nobody_watched_is_asked_about(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    await world.kill()
    await world.start(synced=False)
    assert world.state() == "Base"
    world.loop.synced()
    await world.until_state("gone")
    await world.shows()


@pytest.mark.usefixtures("alive")
async def test_a_deleted_endpoint_whose_guest_answers_leaves_an_orphan(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.delete()
    await world.until_state("gone")
    await world.shows(NORMAL_V4)
    await world.until(lambda: ("vm", "OrphanRoute") in world.desk.events)
    await world.kill()
    await world.start()
    await world.shows(NORMAL_V4)


async def test_a_stale_route_of_ours_is_pruned_after_the_sync(node: Node, tmp_path: Path) -> None:
    node.run("ip route add 10.65.0.9 dev tap0 scope link metric 1024 proto 88")
    node.run("ip route add 10.65.0.8 dev tap0 scope link metric 1024 proto 89")
    world = await World(node, tmp_path).start(synced=False)
    assert len(world.routes()) == 2
    world.loop.synced()
    await world.shows("10.65.0.8 dev tap0 ... metric 1024")
    await world.kill()


async def test_a_foreign_route_is_parked_under_ours(world: World) -> None:
    world.node.run("ip route add 10.65.0.2 dev tap0 scope link proto 3")
    world.put()
    await world.shows(NORMAL_V4)
    assert len(world.parked()) == 1


@pytest.mark.usefixtures("mute")
async def test_a_foreign_route_that_comes_later_is_parked(world: World) -> None:
    world.put(said="target")
    world.node.run("ip route add 10.65.0.2 dev tap0 scope link proto 3")
    world.node.run("ip -6 route add fd00:65::2 dev tap0 proto 3")
    await world.shows("fd00:65::2 dev tap0 ... metric 1024")
    world.put(said="target", ips=["10.65.0.2", "fd00:65::2"])
    await world.shows()
    assert len(world.parked()) == 2


async def test_a_foreign_route_of_our_metric_gives_way(world: World) -> None:
    world.node.run("ip -6 route add fd00:65::2 dev tap0 proto 3 metric 1024")
    world.put(ips=["fd00:65::2"])
    await world.shows("fd00:65::2 dev tap0 proto 88 metric 1024")
    assert len(world.parked()) == 1


@pytest.mark.usefixtures("mute")
async def test_a_parked_route_is_given_back_with_the_endpoints_end(world: World) -> None:
    world.node.run("ip route add 10.65.0.2 dev tap0 scope link proto 3 mtu 1400")
    world.put()
    await world.shows(NORMAL_V4)
    world.delete()
    await world.until_state("gone")
    await world.shows("10.65.0.2 dev tap0 ... mtu 1400")
    assert world.parked() == []


async def test_a_route_that_somebody_removed_is_back(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.node.run("ip route delete 10.65.0.2 dev tap0 metric 1024")
    await world.shows(NORMAL_V4)


async def test_routes_follow_a_link_that_was_down(world: World) -> None:
    world.put(ips=["10.65.0.2", "fd00:65::2"])
    both = (NORMAL_V4, "fd00:65::2 dev tap0 ... metric 1024")
    await world.shows(*both)
    world.node.run("ip link set tap0 down")
    await world.shows()
    world.node.run("ip link set tap0 up")
    await world.shows(*both)


@pytest.mark.usefixtures("mute")
async def test_an_interface_made_anew_is_followed(world: World) -> None:
    world.put(said="target")
    await world.until(lambda: world.condition("Listening") == ("True", "Listening"))
    world.node.run("ip link delete tap0")
    await world.until(lambda: world.condition("Programmed") == ("False", "InterfaceNotFound"))
    world.node.make_tap0()
    world.node.guest_runs("ip link set eth arp off")
    await world.until(lambda: world.condition("Listening") == ("True", "Listening"))
    world.node.await_shown("ip link show tap0", "state UP")
    world.send()
    await world.shows(ELEVATED_V4)


async def test_an_interface_that_does_not_exist_yet_is_awaited(world: World) -> None:
    world.put(interface="later0")
    await world.until(lambda: world.condition("Programmed") == ("False", "InterfaceNotFound"))
    world.node.run("ip link set tap1 name later0")
    await world.shows("10.65.0.2 dev later0 ... metric 1024")


async def test_the_cnis_route_tells_the_interface(world: World) -> None:
    world.put(interface=None)
    await world.until(lambda: world.condition("Programmed") == ("False", "InterfaceNotFound"))
    world.node.run("ip route add 10.65.0.2 dev tap0 scope link")
    await world.shows(NORMAL_V4)


async def test_a_forbidden_address_changes_nothing(world: World) -> None:
    world.node.run("ip address add 10.65.0.2/24 dev tap1")
    world.put()
    await world.until(lambda: world.condition("AddressNotAllowed") == ("True", "NotAllowed"))
    assert [line for line in world.routes() if "proto 88" in line] == []


async def test_another_priority_moves_the_routes_without_a_gap(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.loop.configure(Settings(ipv4_normal_route_priority=2048))
    await world.shows("10.65.0.2 dev tap0 ... metric 2048")


@pytest.mark.usefixtures("mute")
async def test_observe_writes_nothing(world: World) -> None:
    world.loop.configure(Settings.model_validate({"mode": "observe"}))
    world.put()
    await world.until(lambda: world.condition("Programmed") == ("False", "NotActive"))
    assert world.routes() == []
    world.loop.configure(Settings())
    await world.shows(NORMAL_V4)


async def test_a_guard_that_somebody_flushed_is_back(world: World) -> None:
    world.put()
    guard = "nft list ruleset arp"
    await world.until(lambda: "saddr ip 10.65.0.2" in world.node.run(guard))
    world.node.run("nft flush table arp handover")
    await world.until(lambda: "saddr ip 10.65.0.2" in world.node.run(guard))


async def test_an_unreadable_endpoint_changes_nothing(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    world.put(ips=["nonsense"])
    await world.shows(NORMAL_V4)


async def test_a_damaged_memory_is_as_good_as_none(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    await world.kill()
    (file,) = (world.directory / "endpoints").glob("*.json")
    assert json.loads(file.read_text())["stood"]["state"] == "Base"
    file.write_text("{")
    await world.start(synced=False)
    world.put()
    world.loop.synced()
    await world.shows(NORMAL_V4)


@pytest.mark.usefixtures("mute")
async def test_what_happens_right_after_an_announcement_comes_after_it(world: World) -> None:
    """Guards the breath between a prepared cutover and the machine's step."""
    world.put(said="target")
    await world.until(lambda: world.condition("Listening") == ("True", "Listening"))
    resident = world.loop.residents[ObjectKey("default", "vm")]
    accepted = Accepted(Signal.RARP, bytes.fromhex(MAC.replace(":", "")))
    world.loop.heard(resident.key, resident.machine.episode, accepted, time.time_ns())
    world.loop.kernel.reapply(resident.admission.allowed)
    assert [line for line in world.routes() if "metric 512" in line]
    world.put(said="target Succeeded")
    assert world.state() == "TimeWait"
    await world.shows(ELEVATED_V4)
    await world.until(lambda: ("vm", "CutOver") in world.desk.events)


@pytest.mark.usefixtures("mute")
async def test_a_route_that_beats_an_elevated_one_is_reported(world: World) -> None:
    world.node.run("ip route add 192.0.2.1 dev tap1")
    world.node.run("ip route add 10.65.0.2 via 192.0.2.1 metric 100 proto bird")
    world.put(said="target")
    await world.until(lambda: world.condition("Listening") == ("True", "Listening"))
    world.send()
    await world.until(lambda: world.condition("Programmed") == ("False", "Shadowed"))
    await world.until(lambda: ("vm", "Shadowed") in world.desk.events)


async def test_a_normal_route_may_lose_to_the_one_that_bgp_brings(world: World) -> None:
    world.node.run("ip route add 192.0.2.1 dev tap1")
    world.node.run("ip route add 10.65.0.2 via 192.0.2.1 metric 768 proto bird")
    world.put(said="source")
    await world.until(lambda: world.condition("Programmed") == ("True", "Programmed"))
    assert ("vm", "Shadowed") not in world.desk.events
