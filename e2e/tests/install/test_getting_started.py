"""Getting started, word by word: who types its commands on a cluster ends with a migrated VM."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from handover_lab.cluster import client
from handover_lab.cluster.cluster import Cluster
from handover_lab.docs import pages
from handover_lab.images import build
from handover_lab.lab import Lab
from handover_lab.network import tap
from handover_lab.toolchain import tools

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400)]

HOME, AWAY = "node-a", "node-b"
SPACE = ("--namespace", "handover-system")
LISTENS = "kubectl wait --for=condition=TargetReady lm/vm-to-node-b"
STEPS = {
    "ok  node agents: 2 of 2": "helm test handover --namespace handover-system",
    "Base": "kubectl get wep --all-namespaces",
    "CutOver": "kubectl describe lm vm-to-node-b",
}
"""What the page says that a person sees, and where."""


@dataclass(frozen=True)
class Newcomer:
    """Has a checkout, a kubeconfig, and what the page says that one needs."""

    lab: Lab
    directory: Path

    def equip(self) -> None:
        """Put the two clients where a shell finds them."""
        for name in ("helm", "kubectl"):
            (self.directory / name).symlink_to(tools.locate(name))

    async def types(self, line: str) -> str:
        """Type a line in the checkout, or on each node what only works there; return the answer."""
        if line.startswith("make "):
            return "made before"
        if line.startswith("ctr "):
            nodes = self.lab.cluster.nodes.values()
            return "".join(node.run(f"cd {pages.ROOT} && {line}") for node in nodes)
        environment = dict(client.environment(self.lab.cluster.kubeconfig, self.directory))
        environment["PATH"] = f"{self.directory}:{environment['PATH']}"
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_shell(
            line, cwd=pages.ROOT, env=environment, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        said = (await process.communicate())[0].decode()
        assert process.returncode == 0, f"$ {line}\n{said}"
        return said


@pytest_asyncio.fixture(loop_scope="session")
async def newcomer(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Newcomer]:
    """Have a cluster with a VM that runs, and nothing of Handover's; nothing of it stays."""
    if missing := [archive for archive in build.archives() if not archive.exists()]:
        pytest.fail(f"{missing[0].name} is not there: make images builds it", pytrace=False)
    cluster.kubectl("delete", "namespace", SPACE[1], "--ignore-not-found")
    async with Lab.open(cluster, tmp_path, lambda _: None) as lab:
        newcomer = Newcomer(lab, tmp_path)
        newcomer.equip()
        await lab.vm.boot(HOME)
        yield newcomer
    cluster.kubectl("delete", "livemigrations,workloadendpoints", "--all")
    cluster.helm("uninstall", "handover", *SPACE, "--wait")
    cluster.kubectl("delete", "handoverconfigurations", "--all")
    cluster.kubectl("delete", "namespace", SPACE[1])
    for node in cluster.nodes.values():
        tap.remove(node, lab.vm.nic.tap)


async def test_who_types_all_of_it_ends_with_a_migrated_vm(newcomer: Newcomer) -> None:
    lab, said = newcomer.lab, dict[str, str]()

    for line in pages.typed("getting-started.md", "On a KubeVirt cluster"):
        if line == LISTENS:
            # The routes are in: from here on the VM is in use.
            await lab.vm.start_flows()
            await lab.vm.start_target(AWAY)
        said[line] = await newcomer.types(line)
        if line == LISTENS:
            await lab.vm.move(HOME, AWAY)
            await lab.vm.answered()

    assert [seen for seen, line in STEPS.items() if seen not in said[line]] == []
    where = lab.cluster.router.run(f"ip route get {lab.vm.addresses[4]}")
    assert f"via {lab.cluster.nodes[AWAY].address} " in where
    flows = await lab.vm.stop_flows()
    assert not flows["TCP session"].broken
