"""Migrations in a row: there and at once back, while all old pods are still there.

The VM has two interfaces, each with an address of either family. Each pod in which it runs has
interfaces and endpoints of its own, as with KubeVirt.
"""

import contextlib
import dataclasses
import itertools
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Self

import pytest
import pytest_asyncio

from handover_lab.guest import migration
from handover_lab.guest.qemu import Guest, Nic, VmSpec
from handover_lab.lab import Lab
from handover_lab.network import tap
from handover_lab.network.measure import between
from handover_lab.network.traffic import Flow
from handover_lab.testing import scenario
from handover_lab.testing.scenario import ELEVATED, NORMAL, Scenario

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

MS: Final = 10**6
SETTLED: Final = 100 * MS
UNDER_WAY: Final = 500 * MS
NICS: Final = (
    Nic("", "52:54:00:65:00:03", ("10.65.0.3", "fd00:65::3")),
    Nic("", "52:54:00:65:00:04", ("10.65.0.4", "fd00:65::4")),
)
ADDRESSES: Final = tuple(address for nic in NICS for address in nic.addresses)


@dataclass
class Pod:
    """One place in which the VM runs, or has run: QEMU and its taps."""

    scenario: Scenario
    name: str
    node: str
    spec: VmSpec
    guest: Guest

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, scenario: Scenario, name: str, node: str) -> AsyncIterator[Self]:
        """Start QEMU; in any pod but the first it waits for the VM."""
        nics = tuple(
            dataclasses.replace(nic, tap=f"{name}-{number}") for number, nic in enumerate(NICS)
        )
        spec, place = VmSpec("twin", nics), scenario.lab.cluster.nodes[node]
        for nic in nics:
            tap.add(place, nic.tap)
        console = scenario.lab.vm.directory / f"console-{name}.log"
        guest = await Guest.start(place, spec, console, incoming=name != "first")
        pod = cls(scenario, name, node, spec, guest)
        try:
            yield pod
        finally:
            await pod.end()

    @property
    def endpoints(self) -> list[dict[str, Any]]:
        """What a CNI would write of it."""
        endpoints = []
        for nic in self.spec.nics:
            endpoint = self.scenario.endpoint(self.node, workload=self.name)
            endpoint["metadata"] |= {"name": nic.tap, "labels": {"pod": self.name}}
            endpoint["spec"] |= {"interface": nic.tap, "mac": nic.mac, "ips": list(nic.addresses)}
            endpoint["spec"]["awaitRole"] = self.name != "first"
            endpoints.append(endpoint)
        return endpoints

    async def in_state(self, state: str) -> None:
        """Wait until its agent reports *state* of both interfaces."""
        for nic in self.spec.nics:
            await self.scenario.lab.in_state(nic.tap, state)

    def routes(self, address: str) -> list[tuple[int, set[int]]]:
        """Return at each change on the node which metrics the routes by its interfaces had."""
        taps = {nic.tap for nic in self.spec.nics}
        return [
            (
                entry.at_ns,
                {one.metric for one in present if one.is_ours and one.way in taps},
            )
            for entry, present in self.scenario.journals[self.node].moments(address)
        ]

    async def end(self) -> None:
        """End it like a pod: QEMU, endpoints, interfaces; a second time changes nothing."""
        await self.guest.end()
        await self.scenario.lab.kubectl("delete", "wep", "--selector", f"pod={self.name}", "--wait")
        for nic in self.spec.nics:
            with contextlib.suppress(subprocess.CalledProcessError):
                tap.remove(self.scenario.lab.cluster.nodes[self.node], nic.tap)


async def announce(old: Pod, new: Pod) -> str:
    """Announce that the VM will move; return the migration's name."""
    lab = old.scenario.lab
    live = old.scenario.migration()
    live["spec"] |= {
        "source": {"workload": {"name": old.name}},
        "target": {"selector": {"matchLabels": {"pod": new.name}}},
    }
    await lab.apply(*new.endpoints, live)
    return str(live["metadata"]["name"])


async def move(name: str, old: Pod, new: Pod) -> None:
    """Move the VM when Handover is ready."""
    lab = old.scenario.lab
    await lab.in_phase(name, "Ready")
    await migration.migrate(old.guest, new.guest, lab.vm.directory / name)
    await new.in_state("Live")


@pytest_asyncio.fixture(loop_scope="session")
async def recorded(lab: Lab) -> AsyncIterator[Scenario]:
    """The lab in order, with a journal of all routes."""
    await scenario.settle(lab)
    async with Scenario.record(lab) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def pods(recorded: Scenario) -> AsyncIterator[tuple[Pod, Pod, Pod]]:
    """The VM in its first pod, and two that wait for it: one elsewhere, and one on its node."""
    home, away = recorded.lab.cluster.nodes
    async with (
        Pod.open(recorded, "first", home) as first,
        Pod.open(recorded, "second", away) as second,
        Pod.open(recorded, "third", home) as third,
    ):
        await first.guest.ready()
        await recorded.lab.apply(*first.endpoints)
        await first.in_state("Base")
        yield first, second, third


@pytest_asyncio.fixture(loop_scope="session")
async def pings(lab: Lab, pods: tuple[Pod, ...]) -> AsyncIterator[dict[str, Flow]]:  # noqa: ARG001  they answer
    """Pings to all addresses, to the first one once in a millisecond."""
    pings: dict[str, Flow] = {}
    for number, address in enumerate(ADDRESSES):
        path = lab.vm.directory / f"row-{number}"
        interval = 5 if number else 1
        pings[address] = Flow.start(lab.cluster.router, "ping", address, interval, path)
    for ping in pings.values():
        await ping.answered()
    yield pings
    for ping in pings.values():
        await ping.stop()


async def test_a_vm_returns_at_once_to_a_node_where_its_old_pod_still_is(
    pods: tuple[Pod, Pod, Pod], pings: dict[str, Flow]
) -> None:
    """Guards the change from target of one migration to source of the next, before it converged.

    Without it both would be elevated. The first pod's address is the third one's, on one node; its
    late end takes nothing of that.
    """
    first, second, third = pods
    lab = first.scenario.lab
    there = await announce(first, second)
    await move(there, first, second)
    back = await announce(second, third)
    await lab.say_outcome(there, "Succeeded")
    await move(back, second, third)
    await lab.say_outcome(back, "Succeeded")
    await third.in_state("Base")
    for name in (there, back):
        await lab.in_phase(name, "Succeeded")
    await first.end()
    await second.end()

    for ping in pings.values():
        await ping.answered(time.time_ns() + UNDER_WAY)
    ended_ns = time.time_ns()
    await first.scenario.catch_up()
    for address, ping in pings.items():
        serves(third, address)
        for old in (first, second):
            assert old.routes(address)[-1][1] == set()
        ping.recording.read()
        since_ns = follows(pods, address) + SETTLED
        packets = between(ping.recording.packets(), since_ns, ended_ns - UNDER_WAY)
        assert [packet for packet in packets if packet.answered_ns is None] == []


def serves(pod: Pod, address: str) -> None:
    """See that *pod* has had a route at each moment since its first."""
    moments = pod.routes(address)
    routed_ns, metrics = next(moment for moment in moments if moment[1])
    assert metrics == {ELEVATED}
    assert all(metrics for at_ns, metrics in moments if at_ns >= routed_ns)
    assert moments[-1][1] == {NORMAL}


def follows(pods: tuple[Pod, ...], address: str) -> int:
    """See that the router has turned to one of *pods* after the other; return when to the last."""
    lab = pods[0].scenario
    names = {
        way: speaker.name
        for speaker in lab.lab.cluster.mesh
        for way in (speaker.address4, speaker.address6)
    }
    turns = [
        (names[entry.way], entry.at_ns)
        for entry in lab.journals["router"].of(address)
        if entry.present
    ]
    ways = [(name, next(group)[1]) for name, group in itertools.groupby(turns, lambda one: one[0])]
    assert [name for name, _ in ways] == [pod.node for pod in pods]
    return ways[-1][1]
