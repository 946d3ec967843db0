"""Endpoints that come, change and go: what of an object becomes a machine, or an event for one."""

import json
from typing import Any

import pytest
from tests.nodeagent.fault import BAD, OTHER_V4, Fault, put_good, told_and_healed
from tests.nodeagent.witness import watching
from tests.nodeagent.world import ELEVATED_V4, MAC, NORMAL_V4, World

from handover_nodeagent.fsm import restart
from handover_nodeagent.reconcile import lifecycle

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("mute")]

OTHER_MAC = "52:54:00:65:00:03"
SHARED = "10.65.0.2 is also served by default/other on node-b"


def hanging_on(world: World) -> list[object]:
    """Return what hangs on the endpoint's machine."""
    running = world.loop.alarms.of(BAD)
    return [world.loop.listening.of(BAD), running, world.loop.endpoints[BAD].prepared]


async def test_an_endpoint_that_awaits_its_role_has_no_routes_until_it_need_not(
    world: World,
) -> None:
    world.put(awaitRole=True)
    assert (world.state(), world.routes()) == ("Base", [])
    assert world.loop.endpoints[BAD].machine.awaiting
    world.put(awaitRole=False)
    await world.shows(NORMAL_V4)
    assert not world.loop.endpoints[BAD].machine.awaiting


async def test_a_role_counts_after_the_interface_that_came_with_it(world: World) -> None:
    """Whether routes are in, there, decides what it means: a guest that may live is asked."""
    world.put(interface="none0")
    world.put(said="target")
    assert world.state() == "Asking"


async def test_the_same_version_again_changes_nothing(world: World) -> None:
    world.put(said="target")
    await world.until_listening()
    endpoint, before = world.loop.endpoints[BAD], hanging_on(world)
    machine = endpoint.machine
    with watching() as witness:
        world.put(said="target")
        assert not [line for line in witness.told() if "10.65.0.2" in line and line[0] in "+-"]
    assert (endpoint.machine is machine, hanging_on(world)) == (True, before)


async def test_another_spec_is_remembered_though_its_machine_stays(world: World) -> None:
    world.put()
    await world.memory.flush()
    world.put(mac=OTHER_MAC)
    await world.memory.flush()
    (path,) = (world.directory / "endpoints").glob("*.json")
    assert json.loads(path.read_text())["endpoint"]["spec"]["mac"] == OTHER_MAC


async def test_who_shares_an_address_is_told_when_the_other_one_lets_go_of_it(
    world: World,
) -> None:
    world.put()
    world.put("other", interface="tap1")
    await world.until_says("AddressShared", "True", "Shared", "other")
    world.put(ips=["10.65.0.3"])
    await world.until(lambda: world.condition("AddressShared", "other") is None)


async def test_that_another_node_serves_its_address_is_told_while_the_operator_says_so(
    world: World,
) -> None:
    world.put()
    world.put(shared=SHARED)
    await world.until_says("AddressShared", "True", "ServedElsewhere")
    assert world.message("AddressShared") == SHARED
    world.put()
    await world.until(lambda: world.condition("AddressShared") is None)


async def test_an_object_made_anew_under_its_name_begins_anew(world: World) -> None:
    world.put(said="target")
    await world.until_listening()
    former, listener = world.loop.endpoints[BAD], world.loop.listening.of(BAD)
    assert listener
    world.put(object_uid="second")
    endpoint = world.loop.endpoints[BAD]
    assert (endpoint.uid, world.state()) == ("second", "Base")
    # Nothing that was begun for the former one is taken for the new one's.
    assert endpoint.machine.episode - former.machine.episode >= lifecycle.EPISODES
    assert not listener.is_open
    assert world.loop.listening.of(BAD) is None
    await world.shows(NORMAL_V4)


async def test_nothing_more_is_heard_for_the_former_one_though_the_new_one_cannot_be_started(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(said="target")
    await world.until_listening()
    monkeypatch.setattr(restart, "resume", fault.over(restart.resume, lambda *_: True))
    world.put(object_uid="second")
    assert fault.met
    assert world.loop.listening.of(BAD) is None
    assert world.loop.alarms.of(BAD) is None


async def test_what_was_measured_and_learned_outlives_the_agent(world: World) -> None:
    world.put(said="target", mac=None)
    await world.until_listening()
    world.send()
    await world.until_state("Live")
    known = world.loop.endpoints[BAD]
    assert (known.learned_mac, known.cutover is None) == (MAC, False)
    await world.memory.flush()
    await world.kill()
    await world.start(synced=False)
    found = world.loop.endpoints[BAD]
    assert (found.learned_mac, found.cutover) == (known.learned_mac, known.cutover)


async def test_where_the_memory_is_lost_the_status_tells_what_was_measured(world: World) -> None:
    cutover = {
        "signal": "RARP",
        "announcementToRouteMicroseconds": 180,
        "time": "2026-11-24T12:00:09Z",
        "migrationUID": "m1",
    }
    metadata: dict[str, Any] = {"name": "vm", "namespace": "default", "uid": "uid-vm"}
    metadata["resourceVersion"] = "1"
    spec = {"node": "n", "workload": "vm", "ips": ["10.65.0.2"], "interface": "tap0"}
    world.sink.put({"metadata": metadata, "spec": spec, "status": {"lastCutover": cutover}})
    found = world.loop.endpoints[BAD].cutover
    assert found is not None
    assert found.announcement_to_route_microseconds == 180


async def test_a_start_that_raises_leaves_what_the_last_agent_did(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the sync nor the endpoint's next version takes the route of a guest that lives."""
    world.put(said="target")
    put_good(world)
    await world.until_listening()
    world.send()
    await world.until_state("Live")
    await world.memory.flush()
    await world.kill()

    def concerns(found: restart.Found, *_: object) -> bool:
        return found.assignment.role == "target"

    monkeypatch.setattr(restart, "resume", fault.over(restart.resume, concerns))
    # Nobody was spoken to, so that no doubt keeps the route: only that it is an endpoint's does.
    world.node.run("ip neigh flush dev tap0")
    await world.start(synced=False)
    world.put(said="target")
    put_good(world)
    world.sink.synced()
    await world.until(lambda: fault.met > 2)
    await world.shows(ELEVATED_V4, OTHER_V4)
    await told_and_healed(world, fault)
    assert world.state() == "Live"
    await world.shows(ELEVATED_V4, OTHER_V4)


async def test_what_cannot_be_started_goes_with_its_object(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    await world.memory.flush()
    await world.kill()
    monkeypatch.setattr(restart, "resume", fault.over(restart.resume, lambda *_: True))
    await world.start()
    await world.until(lambda: world.routes() == [])
    assert not world.loop.faults.trouble(BAD)


async def test_an_endpoint_that_nobody_can_read_keeps_what_it_has(world: World) -> None:
    """Its agent was newer, say, and its memory is gone with the node's last boot but one."""
    world.node.run("ip route add 10.65.0.2 dev tap0 scope link proto 88 metric 512")
    await world.kill()
    await world.start(synced=False)
    metadata = {"name": "vm", "namespace": "default", "uid": "uid-vm", "resourceVersion": "1"}
    spec = {"node": "n", "workload": "vm", "ips": ["10.65.0.2", "of another kind"]}
    world.sink.put({"metadata": metadata, "spec": spec})
    put_good(world)
    world.sink.synced()
    await world.shows(ELEVATED_V4, OTHER_V4)
    await world.until_says("Programmed", "False", "Unreadable")
    assert "spec.ips.1" in world.message("Programmed")
    await world.at_rest()
    await world.shows(ELEVATED_V4, OTHER_V4)
    world.put(said="target")
    assert world.state() == "Asking"
    await world.until_state("Target")
    await world.shows(OTHER_V4)


async def test_an_endpoint_that_could_be_read_goes_on_as_it_was(world: World) -> None:
    world.put()
    await world.until_says("Programmed", "True", "Programmed")
    metadata = {"name": "vm", "namespace": "default", "uid": "uid-vm", "resourceVersion": "9"}
    world.sink.put({"metadata": metadata, "spec": {"ips": "none"}})
    await world.at_rest()
    await world.shows(NORMAL_V4)
    assert world.condition("Programmed") == ("True", "Programmed")


async def test_an_endpoint_that_names_another_interface_moves_without_a_gap(world: World) -> None:
    world.put(ips=["10.65.0.2", "fd00:65::2"])
    await world.shows(NORMAL_V4, "fd00:65::2 dev tap0 ... metric 1024")
    with watching() as witness:
        world.put(ips=["10.65.0.2", "fd00:65::2"], interface="tap1")
        told = witness.told()
    assert told[0].startswith("=") or told[0].startswith("+")
    assert not [line for line in told if line.startswith("-10.65.0.2")]
    await world.shows("10.65.0.2 dev tap1 ... 1024", "fd00:65::2 dev tap1 ... metric 1024")
    await world.until(lambda: world.guarded("tap0") == [])
    await world.until(lambda: world.guarded("tap1") == ["10.65.0.2"])


async def test_two_endpoints_that_swap_their_addresses_swap_their_routes(world: World) -> None:
    world.put()
    world.put("other", interface="tap1", ips=["10.65.0.3"])
    await world.shows(NORMAL_V4, "10.65.0.3 dev tap1 ... metric 1024")
    world.put(ips=["10.65.0.3"])
    world.put("other", interface="tap1", ips=["10.65.0.2"])
    await world.shows("10.65.0.3 dev tap0 ... metric 1024", "10.65.0.2 dev tap1 ... metric 1024")
    await world.until(lambda: world.guarded("tap0") == ["10.65.0.3"])
