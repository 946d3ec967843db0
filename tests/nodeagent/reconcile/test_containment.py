"""One endpoint's fault is never another one's, nor the agent's: whatever raises, wherever."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.nodeagent.fault import BAD, OTHER_V4, WORDS, Fault, put_good, told_and_healed
from tests.nodeagent.node import Node
from tests.nodeagent.world import CNI, ELEVATED_V4, NORMAL_V4, World, count

from handover_nodeagent import fsm, metrics
from handover_nodeagent.fsm.machine import Machine
from handover_nodeagent.network import placement
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.reconcile import enforce
from handover_nodeagent.routes.host_routes import Applied
from handover_nodeagent.sniff import endpoint_listener, listener
from handover_nodeagent.sniff.listen_spec import ListenSpec

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("mute")]


async def test_a_device_without_a_mac_is_refused_in_each_life(node: Node, world: World) -> None:
    node.run("ip tuntap add tun9 mode tun")
    node.run("ip link set tun9 up")
    world.put(said="target", interface="tun9")
    put_good(world)
    await world.until_says("Programmed", "False", "InterfaceRefused")
    assert "no MAC address" in world.message("Programmed")
    await world.kill()
    await world.start()
    await world.shows(OTHER_V4)
    world.put(said="target", interface="tap0")
    await world.until_listening()


async def test_a_step_that_raises_leaves_the_routes_and_is_taken_again(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put()
    put_good(world)
    await world.shows(NORMAL_V4, OTHER_V4)

    def concerns(machine: Machine, *_: object) -> bool:
        return machine is world.loop.endpoints[BAD].machine

    monkeypatch.setattr(fsm, "step", fault.over(fsm.step, concerns))
    before = count(metrics.FAULTS, "update")
    with capture_logs() as lines:
        world.put(said="source")
        world.put("good", interface="tap1", ips=["10.65.0.9"], mac=None, said="target", uid="m9")
        assert world.state("good") == "Asking"
        await world.shows(NORMAL_V4, OTHER_V4)
        await told_and_healed(world, fault)
    assert world.loop.endpoints[BAD].machine.assignment.role == "source"
    assert count(metrics.FAULTS, "update") - before == fault.met
    (told,) = [line for line in lines if line["event"] == "unexpected"]
    assert (told["endpoint"], told["what"]) == ("default/vm", "update")
    assert isinstance(told["exc_info"], ArithmeticError)


async def test_a_listener_whose_questions_raise_is_opened_again(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def concerns(spec: ListenSpec) -> bool:
        return spec.link.name == "tap0"

    monkeypatch.setattr(
        ListenSpec,
        "compose",
        fault.over(ListenSpec.compose, concerns),
    )
    world.put(said="target")
    world.put("good", interface="tap1", ips=["10.65.0.9"], mac=None, said="target", uid="m9")
    await world.until_listening("good")
    await world.until_says("Programmed", "False", "InternalError")
    fault.mended = True
    await world.until_listening()
    world.send()
    await world.until_state("Live")


async def test_a_guest_that_could_not_be_asked_is_not_silent(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(said="source")
    await world.shows(NORMAL_V4)
    monkeypatch.setattr(
        endpoint_listener.EndpointListener,
        "ask",
        fault.over(endpoint_listener.EndpointListener.ask, lambda _: True),
    )
    world.put(said="source Succeeded")
    assert world.state() == "Asking"
    await world.until_state("Base")
    await world.shows(NORMAL_V4)


async def test_a_link_that_raises_for_one_is_placed_for_the_other(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(interface="late0")
    world.put("good", interface="late0", ips=["10.65.0.9"], mac=None)
    await world.until_says("Programmed", "False", "InterfaceNotFound", "good")

    def concerns(endpoint: Any, *_: object) -> bool:
        return bool(endpoint.key == BAD)

    monkeypatch.setattr(placement, "place", fault.over(placement.place, concerns))
    world.node.run("ip link add late0 type veth peer name late1")
    world.node.run("ip link set late1 up")
    world.node.run("ip link set late0 up")
    await world.shows("10.65.0.9 dev late0 ... metric 1024")
    await told_and_healed(world, fault)
    await world.shows("10.65.0.2 dev late0 ... metric 1024", "10.65.0.9 dev late0 ... metric 1024")


async def test_an_address_that_raises_is_no_other_ones_trouble(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put()
    put_good(world)
    await world.shows(NORMAL_V4, OTHER_V4)
    routes = world.loop.routes

    def concerns(addresses: list[IPAddress], *_: object, **__: object) -> bool:
        return "10.65.0.2" in map(str, addresses)

    monkeypatch.setattr(routes, "_apply", fault.over(routes._apply, concerns))
    world.configure(ipv4NormalRoutePriority=2048)
    await world.shows(NORMAL_V4, "10.65.0.9 dev tap1 ... metric 2048")
    await told_and_healed(world, fault)
    await world.shows("10.65.0.2 dev tap0 ... metric 2048", "10.65.0.9 dev tap1 ... metric 2048")


@pytest.mark.parametrize("ips", [["10.65.0.2"], ["10.65.0.2", "10.65.0.3"]], ids=["one", "many"])
async def test_what_was_given_back_before_a_fault_is_told(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch, ips: list[str]
) -> None:
    """No later attempt has anything to give back, so none would tell of it."""
    world.node.run(f"ip route add {CNI}")
    world.put(ips=ips)
    await world.until(lambda: len(world.parked()) == 1)
    routes = world.loop.routes
    monkeypatch.setattr(routes, "_program", fault.over(routes._program, lambda *_: True))
    world.delete()
    await world.until_state("gone")
    await world.until(lambda: ("vm", "RoutesGivenBack") in world.reports.events)
    assert fault.met
    fault.mended = True
    await world.shows("10.65.0.2 dev tap0 proto 5")


async def test_a_prepared_cutover_that_raises_is_one_that_was_not_prepared(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(said="target")
    await world.until_listening()
    cutovers = world.loop.cutovers
    monkeypatch.setattr(cutovers, "_send", fault.over(cutovers._send, lambda _: True))
    world.announce()
    assert world.state() == "Live"
    await world.shows(ELEVATED_V4)


async def test_a_status_that_cannot_be_made_mutes_nobody(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        world.loop.publisher,
        "_describe",
        fault.over(world.loop.describe, lambda endpoint: endpoint.key == BAD),
    )
    world.put()
    put_good(world)
    await world.until_says("Programmed", "True", "Programmed", "good")
    await world.until(lambda: fault.met > 2)
    assert BAD not in world.reports.statuses
    fault.mended = True
    await world.until_says("Programmed", "True", "Programmed")


async def test_a_line_that_cannot_be_told_mutes_nobody(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising = fault.over(world.reports.add_event, lambda *_: True)
    monkeypatch.setattr(world.reports, "add_event", raising)
    world.put(said="target")
    await world.until_listening()
    world.send()
    await world.until(lambda: fault.met)
    await world.until(lambda: world.condition("Programmed") == ("True", "Programmed"))
    world.put(said="target Succeeded")
    await world.until(lambda: (world.reports.statuses[BAD] or 0) and world.state() == "TimeWait")
    await world.until(lambda: "TimeWait" in str(world.reports.statuses[BAD]))


async def test_a_timer_that_raises_pops_again(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.configure(liveMigrationRouteConvergenceTime="50ms")
    world.put(said="target")
    await world.until_listening()
    world.send()
    await world.until_state("Live")

    def concerns(_: Machine, event: object, *__: object) -> bool:
        return type(event).__name__ == "TimerPopped"

    monkeypatch.setattr(fsm, "step", fault.over(fsm.step, concerns))
    world.put(said="target Succeeded")
    await world.until_says("Programmed", "False", "InternalError")
    await world.shows(ELEVATED_V4)
    fault.mended = True
    await world.until_state("Base")
    await world.shows(NORMAL_V4)


async def test_healing_gives_back_a_timer_that_was_lost(world: World) -> None:
    world.configure(liveMigrationRouteConvergenceTime="50ms")
    world.put(said="target")
    await world.until_listening()
    world.send()
    await world.until_state("Live")
    world.put(said="target Succeeded")
    assert world.loop.alarms.of(BAD) is not None
    world.loop.alarms.cancel(BAD)
    world.loop.heal()
    await world.until_state("Base")


def rewrite(world: World, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the last agent remembered, as a newer one may have written it."""
    (path,) = (world.directory / "endpoints").glob("*.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def of_a_newer_place(content: dict[str, Any]) -> None:
    content["stood"]["state"] = "Teleported"
    content["cutover"]["signal"] = "Telepathy"


def of_a_newer_spec(content: dict[str, Any]) -> None:
    content["endpoint"]["spec"]["mac"] = "of another kind"


async def live_and_die(world: World) -> None:
    world.put(said="target")
    await world.until_listening()
    world.send()
    await world.until_state("Live")
    await world.memory.flush()
    await world.kill()


async def test_where_a_newer_agent_left_a_guest_it_is_asked(world: World) -> None:
    await live_and_die(world)
    rewrite(world, of_a_newer_place)
    await world.start(synced=False)
    assert world.state() == "Asking"
    await world.shows(ELEVATED_V4)
    await world.until_state("Target")


async def test_a_newer_agents_spec_costs_no_guest_its_route(world: World) -> None:
    await live_and_die(world)
    rewrite(world, of_a_newer_spec)
    await world.start(synced=False)
    await world.at_rest()
    await world.shows(ELEVATED_V4)
    world.put(said="target")
    world.sink.synced()
    assert world.state() == "Asking"


async def test_what_cannot_be_read_goes_with_its_object(world: World) -> None:
    world.put()
    await world.shows(NORMAL_V4)
    await world.memory.flush()
    await world.kill()
    rewrite(world, of_a_newer_spec)
    world.node.run("ip neigh flush dev tap0")
    await world.start(synced=False)
    await world.shows(NORMAL_V4)
    world.sink.synced()
    await world.shows()
    await world.memory.flush()
    assert list((world.directory / "endpoints").glob("*.json")) == []


async def test_a_listener_that_raises_is_opened_again(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "handover_nodeagent.sniff.endpoint_listener.Listener",
        fault.over(listener.Listener, lambda *_: True),
    )
    world.put(said="target")
    await world.until_says("Listening", "False", "CannotListen")
    assert WORDS in world.message("Listening")
    fault.mended = True
    await world.until_listening()
    world.send()
    await world.until_state("Live")


async def test_a_change_that_concerns_many_lets_the_loop_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in the end each status tells what is in the kernel."""
    count = 5
    for number in range(count):
        ips = [f"10.65.{number}.{host}" for host in range(1, enforce.SLICE + 1)]
        world.put(f"vm{number}", interface="tap1", ips=ips, mac=None)
    total = count * enforce.SLICE
    await world.until(lambda: len(world.routes()) == total)
    routes, turns, sizes = world.loop.routes, list[int](), list[int]()
    apply, loop = routes.apply, asyncio.get_running_loop()

    def counted(addresses: frozenset[IPAddress], **how: Any) -> Applied:
        sizes.append(len(addresses))
        loop.call_soon(turns.append, len(sizes))
        return apply(addresses, **how)

    monkeypatch.setattr(routes, "apply", counted)
    world.configure(ipv4NormalRoutePriority=2048)
    await world.until(lambda: sum("metric 2048" in line for line in world.routes()) == total)
    await world.until(lambda: len(world.routes()) == total)
    assert max(sizes) <= enforce.SLICE
    await world.until(lambda: len(turns) >= count)
    assert turns[:count] == list(range(1, count + 1))

    def told() -> set[int]:
        statuses = [status for status in world.reports.statuses.values() if status]
        return {route.metric for status in statuses for route in status.routes}

    await world.until(lambda: told() == {2048})
