"""An installation from its first day to its last, while a VM answers a ping per millisecond.

One installation: each test goes on where the one before has ended.
"""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from handover_lab.cluster.operations import KINDS, Operations
from handover_lab.lab import Lab
from handover_lab.network import tap
from handover_lab.network.journal import OURS, Entry
from handover_lab.network.ping_record import PingRecord
from handover_lab.testing.scenario import (
    CONVERGENCE_VALUE,
    ELEVATED,
    NORMAL,
    ROUTES_ALONE_VALUES,
    Scenario,
    name_of,
    settle,
)

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

PARKING, FOREIGN = "5254", "boot"
LOST_IF_AWAY = 200
"""Pings that a target would lose whose agent does not follow at once."""

HIGHER, HIGH = 600, 1200
FIELD = "configuration.ipv{family}{level}RoutePriority={value}"
CHANGED, USUAL = (
    [
        FIELD.format(family=family, level=level, value=value)
        for family in (4, 6)
        for level, value in (("Elevated", elevated), ("Normal", normal))
    ]
    for elevated, normal in ((HIGHER, HIGH), (ELEVATED, NORMAL))
)
GENERATION = "handover_nodeagent_configuration_generation"
DEFAULT = frozenset({("name", "default")})

BARE = """
for family in -4 -6; do
    for what in "proto 88" "table 5254" "dev {tap} proto boot"; do
        ip $family route flush $what 2>/dev/null || true
    done
done
nft delete table arp handover 2>/dev/null || true
"""
BLOCKS = ("10.65.0.0/24", "fd00:65::/64")
"""Addresses that the CNI gives out on the VM's node, and routes there as a whole."""


@pytest.fixture(scope="module")
def operations(lab: Lab) -> Operations:
    """Have an owner of the cluster."""
    return Operations(lab.client)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scenario(with_cpu_share: Lab, operations: Operations) -> AsyncIterator[Scenario]:
    """A cluster that never heard of Handover, and a VM that its CNI has made reachable."""
    nic = with_cpu_share.vm.nic.tap
    await settle(with_cpu_share)
    await operations.uninstall()
    await with_cpu_share.stop_watches()
    await with_cpu_share.kubectl("delete", "crd", *(f"{kind}.handover.dev" for kind in KINDS))
    for node in with_cpu_share.cluster.nodes.values():
        node.run(BARE.format(tap=nic))
    home = with_cpu_share.cluster.nodes[with_cpu_share.vm.home]
    for address in with_cpu_share.vm.nic.addresses:
        home.run(f"ip route add {address} dev {nic}")
    route_blocks(with_cpu_share)
    await with_cpu_share.vm.start_flows()
    async with Scenario.record(with_cpu_share) as recorded:
        yield recorded
    await with_cpu_share.vm.stop_flows()
    unroute_blocks(with_cpu_share)
    await operations.upgrade(CONVERGENCE_VALUE, *ROUTES_ALONE_VALUES)
    await settle(with_cpu_share)
    # A guest that answers keeps its routes without an endpoint, and what was parked for it: both
    # go with their interface alone.
    for name in list(with_cpu_share.vm.guests):
        await with_cpu_share.vm.end(name)
    tap.remove(home, nic)
    tap.add(home, nic)
    await settle(with_cpu_share)


async def test_an_install_takes_over_a_vm_that_is_there(
    scenario: Scenario, ping_record: PingRecord
) -> None:
    """Guards parking: first our route, then the plug-in's away."""
    began = begin(ping_record)

    await scenario.lab.install(CONVERGENCE_VALUE)
    await scenario.begin()

    await taken_over(scenario, ping_record, began)
    # From now on it is Handover's route, or none.
    unroute_blocks(scenario.lab)
    assert await scenario.lost_by_network(ping_record, began) == 0


async def test_changed_values_take_effect_without_a_gap(
    scenario: Scenario, operations: Operations, ping_record: PingRecord
) -> None:
    """Guards the order of a change: first the new metric, then the old one away."""
    began = begin(ping_record)

    await operations.upgrade(*CHANGED, "configuration.probeInterval=100ms")

    for address in scenario.lab.vm.nic.addresses:
        await until(scenario, scenario.here, Change(began, address, NORMAL, present=False))
        assert scenario.changes(scenario.here, address, began) == [(HIGH, True), (NORMAL, False)]
    assert await scenario.lost_by_network(ping_record, began) == 0
    configured = json.loads(await scenario.lab.kubectl("get", "hc", "default", "--output", "json"))
    assert configured["spec"]["probeInterval"] == "100ms"
    for node in (scenario.here, scenario.there):
        told = await scenario.metrics(node)
        assert told[GENERATION, DEFAULT] == configured["metadata"]["generation"]
    await migrates(scenario, ping_record, [(HIGHER, True), (HIGH, True), (HIGHER, False)])


async def test_an_uninstall_keeps_routes_guard_and_objects(
    scenario: Scenario, operations: Operations, ping_record: PingRecord
) -> None:
    before, began = await left(scenario), begin(ping_record)

    await operations.uninstall()

    assert await operations.pods() == []
    assert await left(scenario) == before
    assert all(before.guards)
    assert await changes(scenario, began) == []
    assert await scenario.lost_by_network(ping_record, began) == 0


async def test_an_install_goes_on_from_what_an_uninstall_kept(
    scenario: Scenario, operations: Operations, ping_record: PingRecord
) -> None:
    """Guards an agent's start: what it finds as it should be it leaves alone."""
    before, began = await left(scenario), begin(ping_record)

    await operations.install(CONVERGENCE_VALUE, *CHANGED)

    assert await left(scenario) == before
    assert await changes(scenario, began) == []
    assert await scenario.lost_by_network(ping_record, began) == 0
    await migrates(scenario, ping_record, [(HIGHER, True), (HIGH, True), (HIGHER, False)])


async def test_an_uninstall_hands_the_node_back(
    scenario: Scenario, operations: Operations, ping_record: PingRecord
) -> None:
    """Guards the order of handing back: first the plug-in's route, then ours away."""
    before, began = await left(scenario), begin(ping_record)
    await operations.upgrade(*USUAL, "configuration.onUninstall=handBack")
    route_blocks(scenario.lab)

    await operations.uninstall()

    after = await left(scenario)
    assert after.objects == before.objects
    assert not any(after.guards)
    await scenario.catch_up()
    for address in scenario.lab.vm.nic.addresses:
        assert [route.protocol for route in standing(scenario, address)] == [FOREIGN]
        assert not is_parked(scenario, address)
        assert always_routed(scenario, address)
        await until(scenario, "router", Change(began, address, present=False))
    assert await scenario.lost_by_network(ping_record, began) == 0


async def test_an_install_takes_over_again_what_was_handed_back(
    scenario: Scenario, operations: Operations, ping_record: PingRecord
) -> None:
    """Guards the request for the hand-back: it was another installation's."""
    began = begin(ping_record)

    await operations.install(CONVERGENCE_VALUE)

    await taken_over(scenario, ping_record, began)
    unroute_blocks(scenario.lab)
    assert await scenario.lost_by_network(ping_record, began) == 0
    session = (await scenario.lab.vm.stop_flows())["TCP session"]
    assert not session.broken


@dataclass(frozen=True, slots=True)
class Left:
    """What an uninstall must not touch."""

    guards: tuple[str, ...]
    """The ARP guard of each node, as `nft` lists it."""
    objects: frozenset[tuple[str, str]]
    """Name and uid of each of our objects, and of their kinds."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a route to the VM, of whatever metric where none is given."""

    since_ns: int
    address: str
    metric: int = -1
    present: bool = True

    def is_it(self, entry: Entry) -> bool:
        """Whether it is the one in *entry*."""
        return (
            entry.at_ns > self.since_ns
            and (entry.address, entry.present) == (self.address, self.present)
            and self.metric in {-1, entry.metric}
        )


def begin(ping_record: PingRecord) -> int:
    """Begin a stretch of time in which losses are counted; return the time."""
    ping_record.forget()
    return time.time_ns()


async def until(scenario: Scenario, place: str, change: Change) -> None:
    """Wait for a change at *place*."""
    await scenario.journals[place].until(change.is_it)


async def taken_over(scenario: Scenario, ping_record: PingRecord, since_ns: int) -> None:
    """See that ours have come into the place of the plug-in's routes, without a moment of none."""
    await scenario.lab.in_state(name_of(scenario.here), "Base")
    await scenario.catch_up()
    for address in scenario.lab.vm.nic.addresses:
        ours = [(route.protocol, route.metric) for route in standing(scenario, address)]
        assert ours == [(OURS, NORMAL)]
        assert is_parked(scenario, address)
        assert always_routed(scenario, address)
        await until(scenario, "router", Change(since_ns, address))
    assert await scenario.lost_by_network(ping_record, since_ns) == 0


async def migrates(
    scenario: Scenario, ping_record: PingRecord, expected: list[tuple[int, bool]]
) -> None:
    """Let the VM move once; *expected* are the changes of its routes where it goes."""
    began = begin(ping_record)
    migrated = await scenario.lab.migrate(scenario.migration())
    assert await scenario.lost_by_network(ping_record, began, migrated.move) < LOST_IF_AWAY
    for address in scenario.lab.vm.nic.addresses:
        assert scenario.changes(scenario.there, address, began) == expected
    scenario.swap_nodes()


async def left(scenario: Scenario) -> Left:
    """See what is there."""
    nodes = scenario.lab.cluster.nodes.values()
    show = "nft list table arp handover 2>/dev/null || true"
    kinds = ",".join((*KINDS, "crd"))
    found = json.loads(await scenario.lab.kubectl("get", kinds, "--output", "json"))
    uids = {(each["metadata"]["name"], each["metadata"]["uid"]) for each in found["items"]}
    return Left(tuple(node.run(show) for node in nodes), frozenset(uids))


async def changes(scenario: Scenario, since_ns: int) -> list[Entry]:
    """Return every change of a route to the VM since then, anywhere."""
    await scenario.catch_up()
    addresses = scenario.lab.vm.nic.addresses
    entries = (entry for journal in scenario.journals.values() for entry in journal.entries)
    return [entry for entry in entries if entry.address in addresses and entry.at_ns > since_ns]


def standing(scenario: Scenario, address: str) -> frozenset[Entry]:
    """Return the routes to *address* that the VM's node has now."""
    *_, (_, routes) = scenario.journals[scenario.here].moments(address)
    return routes


def always_routed(scenario: Scenario, address: str) -> bool:
    """Whether the VM's node has had a way to *address* at each moment, its own or BIRD's."""
    return all(routes for _, routes in scenario.journals[scenario.here].moments(address))


def is_parked(scenario: Scenario, address: str) -> bool:
    """Whether the plug-in's route to *address* is in the parking table now."""
    entries = scenario.journals[scenario.here].entries
    return [e for e in entries if e.address == address and e.table == PARKING][-1].present


def route_blocks(lab: Lab) -> None:
    """Let the router find the addresses of the VM's node, as it does without Handover."""
    home = next(speaker for speaker in lab.cluster.mesh if speaker.name == lab.vm.home)
    for block, way in zip(BLOCKS, (home.address4, home.address6), strict=True):
        lab.cluster.router.run(f"ip route replace {block} via {way}")


def unroute_blocks(lab: Lab) -> None:
    """Let the router find the VM by Handover's route or not at all."""
    for block in BLOCKS:
        lab.cluster.router.run(f"ip route del {block} 2>/dev/null || true")
