"""An installation from its first day to its last, while a VM answers a ping per millisecond.

One story: each test goes on where the one before has ended.
"""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from handover_lab.cluster.operations import KINDS, Upkeep
from handover_lab.demo import demonstration
from handover_lab.lab import Lab
from handover_lab.network.journal import OURS, Entry
from handover_lab.network.ping_record import Witness
from handover_lab.testing.scenario import ELEVATED, NORMAL, Trial, name_of, settle

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
def upkeep(lab: Lab) -> Upkeep:
    """Have an owner of the cluster."""
    return Upkeep(lab.client)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def trial(berthed: Lab, upkeep: Upkeep) -> AsyncIterator[Trial]:
    """A cluster that never heard of Handover, and a VM that its CNI has made reachable."""
    tap = berthed.yard.nic.tap
    bare = BARE.format(tap=tap)
    await settle(berthed)
    await upkeep.uninstall()
    await berthed.close_eyes()
    await berthed.kubectl("delete", "crd", *(f"{kind}.handover.dev" for kind in KINDS))
    for node in berthed.cluster.nodes.values():
        node.run(bare)
    home = berthed.cluster.nodes[berthed.yard.home]
    for address in berthed.yard.nic.addresses:
        home.run(f"ip route add {address} dev {tap}")
    route_blocks(berthed)
    await berthed.yard.send()
    async with Trial.record(berthed) as recorded:
        yield recorded
    await berthed.yard.hush()
    unroute_blocks(berthed)
    await upkeep.upgrade(demonstration.CONVERGENCE)
    await settle(berthed)
    home.run(bare)


async def test_an_install_takes_over_a_vm_that_is_there(trial: Trial, witness: Witness) -> None:
    """Guards parking: first our route, then the plug-in's away."""
    began = begin(witness)

    await trial.lab.install(demonstration.CONVERGENCE)
    await trial.begin()

    await taken_over(trial, witness, began)
    # From now on it is Handover's route, or none.
    unroute_blocks(trial.lab)
    assert await trial.lost_by_network(witness, began) == 0


async def test_changed_values_take_effect_without_a_gap(
    trial: Trial, upkeep: Upkeep, witness: Witness
) -> None:
    """Guards the order of a change: first the new metric, then the old one away."""
    began = begin(witness)

    await upkeep.upgrade(*CHANGED, "configuration.probeInterval=100ms")

    for address in trial.lab.yard.nic.addresses:
        await until(trial, trial.here, Change(began, address, NORMAL, present=False))
        assert trial.changes(trial.here, address, began) == [(HIGH, True), (NORMAL, False)]
    assert await trial.lost_by_network(witness, began) == 0
    configured = json.loads(await trial.lab.kubectl("get", "hc", "default", "--output", "json"))
    assert configured["spec"]["probeInterval"] == "100ms"
    for node in (trial.here, trial.there):
        told = await trial.metrics(node)
        assert told[GENERATION, DEFAULT] == configured["metadata"]["generation"]
    await migrates(trial, witness, [(HIGHER, True), (HIGH, True), (HIGHER, False)])


async def test_an_uninstall_keeps_routes_guard_and_objects(
    trial: Trial, upkeep: Upkeep, witness: Witness
) -> None:
    before, began = await left(trial), begin(witness)

    await upkeep.uninstall()

    assert await upkeep.pods() == []
    assert await left(trial) == before
    assert all(before.guards)
    assert await changes(trial, began) == []
    assert await trial.lost_by_network(witness, began) == 0


async def test_an_install_goes_on_from_what_an_uninstall_kept(
    trial: Trial, upkeep: Upkeep, witness: Witness
) -> None:
    """Guards an agent's start: what it finds as it should be it leaves alone."""
    before, began = await left(trial), begin(witness)

    await upkeep.install(demonstration.CONVERGENCE, *CHANGED)

    assert await left(trial) == before
    assert await changes(trial, began) == []
    assert await trial.lost_by_network(witness, began) == 0
    await migrates(trial, witness, [(HIGHER, True), (HIGH, True), (HIGHER, False)])


async def test_an_uninstall_hands_the_node_back(
    trial: Trial, upkeep: Upkeep, witness: Witness
) -> None:
    """Guards the order of handing back: first the plug-in's route, then ours away."""
    before, began = await left(trial), begin(witness)
    await upkeep.upgrade(*USUAL, "configuration.onUninstall=handBack")
    route_blocks(trial.lab)

    await upkeep.uninstall()

    after = await left(trial)
    assert after.objects == before.objects
    assert not any(after.guards)
    await trial.catch_up()
    for address in trial.lab.yard.nic.addresses:
        assert [route.protocol for route in standing(trial, address)] == [FOREIGN]
        assert not is_parked(trial, address)
        assert always_routed(trial, address)
        await until(trial, "router", Change(began, address, present=False))
    assert await trial.lost_by_network(witness, began) == 0


async def test_an_install_takes_over_again_what_was_handed_back(
    trial: Trial, upkeep: Upkeep, witness: Witness
) -> None:
    """Guards the request for the hand-back: it was another installation's."""
    began = begin(witness)

    await upkeep.install(demonstration.CONVERGENCE)

    await taken_over(trial, witness, began)
    unroute_blocks(trial.lab)
    assert await trial.lost_by_network(witness, began) == 0
    session = (await trial.lab.yard.hush())["TCP session"]
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


def begin(witness: Witness) -> int:
    """Begin a stretch of time in which losses are counted; return the time."""
    witness.forget()
    return time.time_ns()


async def until(trial: Trial, place: str, change: Change) -> None:
    """Wait for a change at *place*."""
    await trial.journals[place].until(change.is_it)


async def taken_over(trial: Trial, witness: Witness, since_ns: int) -> None:
    """See that ours have come into the place of the plug-in's routes, without a moment of none."""
    await trial.lab.in_state(name_of(trial.here), "Base")
    await trial.catch_up()
    for address in trial.lab.yard.nic.addresses:
        ours = [(route.protocol, route.metric) for route in standing(trial, address)]
        assert ours == [(OURS, NORMAL)]
        assert is_parked(trial, address)
        assert always_routed(trial, address)
        await until(trial, "router", Change(since_ns, address))
    assert await trial.lost_by_network(witness, since_ns) == 0


async def migrates(trial: Trial, witness: Witness, expected: list[tuple[int, bool]]) -> None:
    """Let the VM move once; *expected* are the changes of its routes where it goes."""
    began = begin(witness)
    migrated = await trial.lab.migrate(trial.migration())
    assert await trial.lost_by_network(witness, began, migrated.move) < LOST_IF_AWAY
    for address in trial.lab.yard.nic.addresses:
        assert trial.changes(trial.there, address, began) == expected
    trial.turn()


async def left(trial: Trial) -> Left:
    """See what is there."""
    nodes = trial.lab.cluster.nodes.values()
    show = "nft list table arp handover 2>/dev/null || true"
    kinds = ",".join((*KINDS, "crd"))
    found = json.loads(await trial.lab.kubectl("get", kinds, "--output", "json"))
    uids = {(each["metadata"]["name"], each["metadata"]["uid"]) for each in found["items"]}
    return Left(tuple(node.run(show) for node in nodes), frozenset(uids))


async def changes(trial: Trial, since_ns: int) -> list[Entry]:
    """Return every change of a route to the VM since then, anywhere."""
    await trial.catch_up()
    addresses = trial.lab.yard.nic.addresses
    entries = (entry for journal in trial.journals.values() for entry in journal.entries)
    return [entry for entry in entries if entry.address in addresses and entry.at_ns > since_ns]


def standing(trial: Trial, address: str) -> frozenset[Entry]:
    """Return the routes to *address* that the VM's node has now."""
    *_, (_, routes) = trial.journals[trial.here].moments(address)
    return routes


def always_routed(trial: Trial, address: str) -> bool:
    """Whether the VM's node has had a way to *address* at each moment, its own or BIRD's."""
    return all(routes for _, routes in trial.journals[trial.here].moments(address))


def is_parked(trial: Trial, address: str) -> bool:
    """Whether the plug-in's route to *address* is in the parking table now."""
    entries = trial.journals[trial.here].entries
    return [e for e in entries if e.address == address and e.table == PARKING][-1].present


def route_blocks(lab: Lab) -> None:
    """Let the router find the addresses of the VM's node, as it does without Handover."""
    home = next(speaker for speaker in lab.cluster.mesh if speaker.name == lab.yard.home)
    for block, way in zip(BLOCKS, (home.address4, home.address6), strict=True):
        lab.cluster.router.run(f"ip route replace {block} via {way}")


def unroute_blocks(lab: Lab) -> None:
    """Let the router find the VM by Handover's route or not at all."""
    for block in BLOCKS:
        lab.cluster.router.run(f"ip route del {block} 2>/dev/null || true")
