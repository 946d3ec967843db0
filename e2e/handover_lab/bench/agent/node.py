"""One node for measurements: real API server, real agent process, guests that are veth pairs.

Runs in a sandbox, whose network namespace is the node. The guests of all endpoints live in one
namespace of their own, and only send what they are told to.
"""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml
from kubernetes_asyncio import client, config

from handover_api import names
from handover_lab import paths
from handover_lab.bench.agent.guests import Guest, run_batch
from handover_lab.bench.agent.process import PATIENCE, AgentProcess
from handover_lab.bench.agent.route_observer import BenchError, RouteObserver
from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.network.namespaces import WITH_US, Namespace

SOURCE: Final = paths.SOURCES / "bench" / "bench.c"
NAMESPACE: Final = "default"
MERGE_PATCH: Final = "application/merge-patch+json"
AT_ONCE: Final = 16


@dataclass
class Node:
    """Everything that a measurement needs."""

    directory: Path
    plane: ControlPlane
    guests: Namespace
    program: Path
    api: client.CustomObjectsApi
    observer: RouteObserver
    agent: AgentProcess
    programs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def connect(self, guests: Iterable[Guest]) -> None:
        """Make a veth pair for each guest, up and silent."""
        here, there = [], []
        for guest in guests:
            here.append(
                f"link add {guest.tap} type veth peer name {guest.eth} netns "
                f"{self.guests.holder.pid}\nlink set {guest.tap} up"
            )
            there.append(f"link set {guest.eth} address {guest.mac} arp off up")
        run_batch(["ip"], here)
        run_batch(self.guests.command("ip"), there)

    async def create(self, guests: Iterable[Guest]) -> None:
        """Create their endpoints."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(guest: Guest) -> None:
            async with gate:
                await self.api.create_namespaced_custom_object(*collection(), guest.endpoint)

        await asyncio.gather(*map(one, guests))

    async def make_targets(self, guests: Iterable[Guest], uid: str) -> None:
        """Make all of them targets of another migration, and wait until they are listened to."""
        annotations = {names.ROLE: "target", names.MIGRATION_UID: uid}
        patch = {"metadata": {"annotations": annotations}}
        wanted = {guest.name for guest in guests}
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(name: str) -> None:
            async with gate:
                await self.api.patch_namespaced_custom_object(  # type: ignore[call-arg]
                    *collection(), name, patch, _content_type=MERGE_PATCH
                )

        await asyncio.gather(*map(one, wanted))
        deadline = time.monotonic() + PATIENCE
        while not await self._all_listen(wanted, uid):
            if time.monotonic() > deadline:
                message = f"not all of {len(wanted)} endpoints became Target"
                raise BenchError(message)
            await asyncio.sleep(0.05)

    async def _all_listen(self, wanted: set[str], uid: str) -> bool:
        found = await self.api.list_namespaced_custom_object(*collection())
        listening = {
            item["metadata"]["name"]
            for item in found["items"]
            if (status := item.get("status") or {}).get("state") == "Target"
            and status.get("migrationUID") == uid
            and any(
                (condition["type"], condition["status"]) == ("Listening", "True")
                for condition in status["conditions"]
            )
        }
        return wanted <= listening

    async def until_reported(self, state: str, count: int) -> None:
        """Wait until so many endpoints' statuses say this state."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = await self.api.list_namespaced_custom_object(*collection())
            states = [(item.get("status") or {}).get("state") for item in found["items"]]
            if states.count(state) >= count:
                return
            if time.monotonic() > deadline:
                message = f"not {count} endpoints were reported {state}"
                raise BenchError(message)
            await asyncio.sleep(1)

    def start(self, *argv: str, inside: bool = False) -> subprocess.Popen[bytes]:
        """Start a program that :meth:`end` ends; *inside*: where the guests are."""
        command = self.guests.command(*argv) if inside else [*WITH_US, *argv]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.programs.append(process)
        return process

    def end(self) -> None:
        """End all programs that were started."""
        for process in self.programs:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self.programs.clear()


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Node]:
    """Make a node in an empty *directory*, and end it."""
    plane = ControlPlane.start(directory / "plane")
    guests = Namespace.make("guests")
    program = directory / "bench"
    await asyncio.to_thread(compile_program, program)
    configuration = client.Configuration()
    await config.load_kube_config(str(plane.kubeconfig), client_configuration=configuration)
    observer = RouteObserver(guests)
    agent = AgentProcess(plane.kubeconfig, directory)
    async with client.ApiClient(configuration) as connection:
        api = client.CustomObjectsApi(connection)
        node = Node(directory, plane, guests, program, api, observer, agent)
        try:
            await install(connection)
            yield node
        finally:
            node.end()
            agent.stop()
            observer.close()
            guests.end()
            plane.stop()


def compile_program(path: Path) -> None:
    """Compile the floor and the flood."""
    subprocess.run(["gcc", "-O2", "-o", str(path), str(SOURCE)], check=True)


async def install(connection: client.ApiClient) -> None:
    """Install the CRDs, and wait until they are served."""
    extensions = client.ApiextensionsV1Api(connection)
    for path in sorted(paths.CRDS.glob("*.yaml")):
        await extensions.create_custom_resource_definition(yaml.safe_load(path.read_text()))
    api = client.CustomObjectsApi(connection)
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(client.ApiException):
            await api.list_namespaced_custom_object(*collection())
            return
        if time.monotonic() > deadline:
            message = "the CRDs are not served"
            raise BenchError(message)
        await asyncio.sleep(0.05)


def collection() -> tuple[str, str, str, str]:
    """Return where the endpoints are."""
    return names.GROUP, names.VERSION, NAMESPACE, names.WORKLOAD_ENDPOINTS
