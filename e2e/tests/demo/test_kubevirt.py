"""The demonstration beside a simulated KubeVirt, from the first pod to its exit status."""

import asyncio
import io
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from rich.console import Console

from handover_lab import paths
from handover_lab.cluster.cluster import Cluster
from handover_lab.cluster.nodenetwork import NodeNetwork
from handover_lab.demo import demonstration
from handover_lab.demo.kubevirt import KubeVirtDemo
from handover_lab.demo.timeline import Timeline
from handover_lab.images import build
from handover_lab.terminal.screen import Screen

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

LOST_IF_LATE = 200
"""Pings that a route would lose which waited for more than the announcement."""

LEFT = (
    ("delete", "virtualmachineinstancemigrations,virtualmachineinstances", "--all"),
    ("delete", "pods,livemigrations,workloadendpoints", "--all"),
    ("delete", "crd", "virtualmachineinstances.kubevirt.io"),
    ("delete", "crd", "virtualmachineinstancemigrations.kubevirt.io"),
)


@dataclass(frozen=True)
class Performed:
    """A demonstration that is over."""

    status: int
    output: str
    report: dict[str, Any]
    timeline: list[str]

    def part(self, number: int) -> list[str]:
        """Return the lines of one chapter that applies a VMIM; the first is without Handover."""
        begins = [n for n, line in enumerate(self.timeline) if "kubectl apply" in line]
        return self.timeline[begins[number] : [*begins[1:], None][number]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def performed(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Performed]:
    """Perform once for all tests, and leave no trace on the cluster."""
    if missing := [archive for archive in build.archives() if not archive.exists()]:
        pytest.fail(f"{missing[0].name} is not there: make images builds it", pytrace=False)
    cluster.load(*build.archives())
    directory = tmp_path_factory.mktemp("demo")
    output = io.StringIO()
    screen = Screen(Console(file=output, width=110, highlight=False))
    timeline = Timeline(time.time_ns(), (demonstration.HOME, demonstration.AWAY), screen.console)

    async def is_there(network: NodeNetwork) -> Cluster:
        assert network is cluster.network
        return cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", directory)
        patch.setattr(demonstration, "BUILD", directory / "build")
        show = KubeVirtDemo(cluster.network, is_there, screen, directory, timeline)
        status = await show.perform(keep=False)
    report = json.loads((directory / "build" / "report.json").read_text())
    told = (directory / "build" / "timeline.txt").read_text().splitlines()
    yield Performed(status, output.getvalue(), report, told)
    for words in LEFT:
        await asyncio.to_thread(cluster.kubectl, *words)
    cluster.helm("uninstall", "handover", "--namespace", "handover-system", "--wait")


async def test_the_vm_moves_there_and_back_and_the_exit_status_says_how(
    performed: Performed,
) -> None:
    moves = performed.report["migrations"]

    ways = [(move["source"], move["target"]) for move in moves]
    assert ways == [("node-b", "node-a"), ("node-a", "node-b")]
    for move in moves:
        assert move["signal"] == "RARP"
        assert move["tcp_survived"]
        assert move["lost_after_switch"] < LOST_IF_LATE
    assert performed.status == (1 if "✗" in performed.output else 0)


async def test_without_handover_it_would_be_worse(performed: Performed) -> None:
    baseline = performed.report["baseline"]

    assert (baseline["source"], baseline["target"]) == ("node-a", "node-b")
    assert baseline["lost_after_switch"] > LOST_IF_LATE


@pytest.mark.parametrize("number", [1, 2])
async def test_each_does_its_part_in_time(performed: Performed, number: int) -> None:
    """Nobody waits for Handover, and it is ready when the VM comes."""
    lines = performed.part(number)
    target = ("node-a", "node-b")[number - 1]

    def first(pattern: str) -> int:
        found = [n for n, line in enumerate(lines) if re.search(pattern, line)]
        assert found, f"no {pattern} in {lines}"
        return found[0]

    course = [
        rf"{target} +pod +virt-launcher-vm-{number + 2} is bound",
        rf"{target} +route +- dev cali[0-9a-f]+ metric 0",
        r"kubevirt vmim +PreparingTarget",
        rf"{target} +guest +runs here",
        rf"{target} +route +\+ dev cali[0-9a-f]+ metric 512",
        r"kubevirt vmim +Succeeded",
        r"cluster +phase +Succeeded",
    ]
    places = [first(pattern) for pattern in course]

    assert places == sorted(places)
    # The API tells it when the node has long done it.
    for told in ("role +target", "state +Target"):
        assert first(rf"{target} +{told}") < first(rf"{target} +guest +runs here")


async def test_a_person_sees_what_was_made_for_the_vmim(performed: Performed) -> None:
    said = performed.output

    assert "virtualmachineinstancemigration.kubevirt.io/vm-moves " in said
    assert re.search(r"livemigration\.handover\.dev/vm-moves +(Ready|Preparing)", said)
    assert re.search(r"virt-launcher-vm-1 +0/1 +Completed", said)
    assert re.search(r"virt-launcher-vm-4 +1/1 +Running .*10\.65\.0\.2", said)
