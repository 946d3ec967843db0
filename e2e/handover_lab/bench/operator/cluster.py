"""A control plane with endpoints by the thousand, and one operator on it."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import yaml

from handover_lab import paths
from handover_lab.bench.operator import objects
from handover_lab.bench.operator.client import PATIENCE, BenchError, Client
from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.cluster.release import Release
from handover_lab.cluster.replica import Replica
from handover_lab.processes.waiting import until

CRD_PATH: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WITHOUT_KUBEVIRT: Final = {"HANDOVER_KUBEVIRT": "false"}


@dataclass
class Cluster:
    """What is measured together: an operator and the API server that it watches."""

    kubeconfig: Path
    client: Client
    operator: Replica
    size: int = 0
    """Endpoints so far."""

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, directory: Path) -> AsyncIterator[Self]:
        """Start one in a new *directory*, its operator not yet; what it logs lies beside."""
        plane = ControlPlane.start(directory)
        try:
            release = await Release.install(plane)
            log = directory.with_suffix(".log")
            operator = release.replica(log, WITHOUT_KUBEVIRT, PATIENCE)
            async with Client.connect(plane.kubeconfig) as client:
                cluster = cls(plane.kubeconfig, client, operator)
                try:
                    await cluster.prepare()
                    yield cluster
                finally:
                    operator.stop()
        finally:
            plane.stop()

    async def prepare(self) -> None:
        """Make the namespaces and our kinds."""
        for number in range(objects.NAMESPACES):
            made = {"kind": "Namespace", "metadata": {"name": f"bench-{number}"}}
            await self.client.create(made, "/api/v1/namespaces")
        for path in sorted(paths.CRDS.glob("*.yaml")):
            await self.client.create(yaml.safe_load(path.read_text()), CRD_PATH)
        await until(self._is_served, bool, "the kinds are served", PATIENCE)

    async def _is_served(self) -> bool:
        try:
            await self.client.create(objects.endpoint(0))
        except BenchError:
            return False
        return True

    async def fill(self, size: int, say: Callable[[str], None]) -> None:
        """Make endpoints up to *size* while no operator runs."""
        self.operator.stop()
        more = (objects.endpoint(number) for number in range(self.size, size))
        await self.client.create_all(more, lambda n: say(f"{n} more of {size} endpoints"))
        self.size = size
