"""Two replicas beside a played KubeVirt: the leader dies in each phase, and nothing is lost."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from handover_lab.cluster.operator_process import PERIODS, SHORT_LEASE
from handover_lab.cluster.release import LEASE
from handover_lab.kubevirt.objects import Guest
from handover_lab.kubevirt.simulated import STEPS

pytestmark = pytest.mark.api

NUMBERS: Final = itertools.count(2)
"""Of the VMs' addresses: two that serve one are said of both."""
PHASES: Final = ("pending", "schedule", "bind", "hand_off", "target_ready", "run", "switch")


class Move:
    """One VM on its way to another node, and what its agents do."""

    def __init__(self, desk: Any, name: str) -> None:
        self.desk = desk
        self.name = name
        self.played: Any = None
        number = next(NUMBERS)
        self.ips = (f"10.65.0.{number}", f"fd00::{number:x}")

    async def begin(self, step: str) -> "Move":
        """Take it to a step, and see the operator and the agents do their part."""
        await self.desk.kubevirt.start(Guest(self.name), "node-a", self.ips)
        self.played = await self.desk.kubevirt.request(self.name, self.name)
        self.played.node, self.played.ips = "node-b", self.ips
        await self.played.until(step)
        if self.played.reached > STEPS.index("bind"):
            await self.until_said(self.source, f"source of {self.name}")
            await self.until_said(self.target, f"target of {self.name}")
            await self.desk.report(self.source, "Base", self.played.uid)
            await self.desk.report(self.target, "Target", self.played.uid)
        if self.played.reached > STEPS.index("target_ready"):
            await self.desk.until_migration(self.name, lambda raw: raw["spec"]["armed"])
        if self.played.reached > STEPS.index("switch"):
            await self.desk.report(self.target, "Live", self.played.uid)
            await self.desk.until_migration(self.name, lambda raw: phase(raw) == "Live")
        return self

    async def advance(self) -> None:
        """Go a step on, whoever sees it."""
        await self.played.until(STEPS[self.played.reached])

    async def complete(self) -> None:
        """Go through all that is left, with an operator that writes."""
        await self.played.until("bind")
        await self.until_said(self.target, f"target of {self.name}")
        await self.played.until("resume")
        await self.desk.report(self.target, "Live", self.played.uid)
        await self.played.until("succeed")
        await self.until_said(self.source, f"source of {self.name} Succeeded")
        await self.played.until("end_source")
        await self.until_said(self.target, f"target of {self.name} Succeeded")

    async def until_said(self, pod: str, wanted: str) -> None:
        """Wait until the endpoint of a pod says this."""
        is_said = f"{pod}: {wanted}"
        await self.desk.until(self.desk.roles, lambda roles: roles.get(pod) == wanted, is_said)

    async def versions(self) -> dict[str, str]:
        """Return the resourceVersion of every object of ours that belongs to it."""
        mine = {self.name, self.source, self.target}
        found = await self.desk.versions()
        return {key: version for key, version in found.items() if key.split()[1] in mine}

    @property
    def source(self) -> str:
        """The pod that the guest leaves."""
        name: str = self.played.source_pod
        return name

    @property
    def target(self) -> str:
        """The pod that it comes to."""
        name: str = self.played.target_pod
        return name


def phase(raw: Any) -> str | None:
    """Return the phase of a LiveMigration."""
    found: str | None = raw.get("status", {}).get("phase")
    return found


@pytest.fixture
async def replicas(new_operator: Callable[..., Any], desk: Any) -> tuple[Any, Any]:
    """Start two replicas; return the one that leads, and the other."""
    leader, standby = (
        new_operator(replaced=SHORT_LEASE, HANDOVER_POD_NAME=name) for name in ("one", "two")
    )
    await leader.start()
    await until_leading(desk, leader)
    await standby.start()
    return leader, standby


async def until_leading(desk: Any, operator: Any) -> None:
    """Wait until a replica leads."""
    await desk.until(lambda: operator.metric("handover_operator_leader"), bool, "a leader", 60)


async def test_a_leader_that_is_killed_in_each_phase_is_followed(
    replicas: tuple[Any, Any], desk: Any
) -> None:
    leader, standby = replicas
    still = [await Move(desk, f"still-{step.replace('_', '-')}").begin(step) for step in PHASES]
    moving = [await Move(desk, f"moving-{step.replace('_', '-')}").begin(step) for step in PHASES]
    failing = [await Move(desk, f"failing-{step}").begin(step) for step in ("bind", "run")]
    await leader.until_idle()
    # On a busy machine the leader is late now and then; else it alone writes.
    written = [await each.metric("handover_operator_writes_total") for each in replicas]
    assert written[1] <= written[0] / 4
    before = [await each.versions() for each in still]
    leader.kill()
    for each in moving:
        await each.advance()
    for each in failing:
        await each.played.fail()
    await until_leading(desk, standby)
    for each in failing:
        await each.until_said(each.source, f"source of {each.name} Aborted")
    await standby.until_idle()
    assert [await each.versions() for each in still] == before
    for each in still + moving:
        await each.complete()
    for each in still + moving:
        told = [desk.history[pod] for pod in (each.source, each.target)]
        assert told == [each_once(each.name, "source"), each_once(each.name, "target")]
    for each in failing:
        aborted = [f"source of {each.name}", f"source of {each.name} Aborted"]
        assert desk.history[each.source] == ["-", *aborted]
        # Its pod has ended, and the endpoint goes with it.
        assert set(desk.history[each.target]) <= {
            f"target of {each.name}",
            f"target of {each.name} Aborted",
        }


def each_once(name: str, role: str) -> list[str]:
    """Compose what the endpoint of one side comes to say; the target's is made with its role."""
    said = f"{role} of {name}"
    return [*(["-"] if role == "source" else []), said, f"{said} Succeeded"]


AWAITED: Final = {
    "pending": ("source", "source of {}"),
    "schedule": ("target", "target of {}"),
    "prepare": ("target", "target of {}"),
}
"""By the last step that a leader sees: what the step after it makes agents wait for."""

BAR: Final = 0.5
"""Seconds from the leader's death, in which KubeVirt goes on, until it is written."""
REQUESTS: Final = 10
"""Those made meanwhile by KubeVirt, standby and test: on a busy machine each one is late."""


async def test_what_a_migration_waits_for_is_there_half_a_second_after_the_leader_s_death(
    replicas: tuple[Any, Any], desk: Any
) -> None:
    leader, standby = replicas
    for step, (side, said) in AWAITED.items():
        if not leader.runs:
            # In its pod it still holds the Lease; its next renewal shows that there is a leader.
            before = await renewed(desk)
            await leader.start()
            await until_leading(desk, leader)
            for _ in range(2):
                before = await desk.until(
                    lambda: renewed(desk),
                    lambda now, before=before: now != before,
                    "a renewal",
                )
            await asyncio.sleep(PERIODS.poll)
        move = await Move(desk, f"short-{step}").begin(step)
        await leader.until_idle()
        stood_in = await standby.metric("handover_operator_stood_in_total")
        leader.kill()
        died = time.monotonic()
        await move.advance()
        if step == "prepare":
            await desk.until(lambda move=move: desk.armed(move.target), bool, "armed")
        await move.until_said(getattr(move, side), said.format(move.name))
        took = time.monotonic() - died
        request = await request_time(desk)
        print(f"{step}: {took * 1000:.0f} ms, a request {request * 1000:.0f}")  # noqa: T201  also of a failure
        assert took < BAR + REQUESTS * request
        assert await standby.metric("handover_operator_leader") == 0
        assert await standby.metric("handover_operator_stood_in_total") > stood_in
        assert await standby.metric("handover_operator_terms_total") == 0


async def request_time(desk: Any) -> float:
    """Return how many seconds a request takes now."""
    times = []
    for _ in range(5):
        began = time.monotonic()
        await renewed(desk)
        times.append(time.monotonic() - began)
    return statistics.median(times)


async def renewed(desk: Any) -> str:
    """Return when the Lease was last renewed."""
    found: str = (await desk.api.call("GET", LEASE))["spec"]["renewTime"]
    return found
