"""A whole control plane with a played KubeVirt, and the operator as a process of its own."""

import asyncio
import dataclasses
import functools
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from handover_api import names
from handover_lab.cluster import operator_process
from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.cluster.release import Release
from handover_lab.cluster.replica import Replica
from handover_lab.cluster.rest import Api, ApiError
from handover_lab.kubevirt.objects import CRD, POD, KubeVirtObjects
from handover_lab.kubevirt.simulated import KubeVirt
from handover_lab.processes.waiting import until
from handover_lab.toolchain.tools import ToolsError
from handover_operator import kinds
from handover_operator.kinds import Kind

CRDS: Final = Path(__file__).parents[4] / "crds"
NODES: Final = ("node-a", "node-b", "node-c")

Raw = dict[str, Any]


def said(raw: Raw) -> str:
    """Write the short way what an endpoint's annotations say."""
    annotations = raw["metadata"].get("annotations", {})
    role = annotations.get(names.ROLE) or annotations.get(names.ENDED_ROLE)
    if role is None:
        return "-"
    told = annotations.get(names.OUTCOME)
    return f"{role} of {annotations[names.MIGRATION]}" + (f" {told}" if told else "")


class Desk:
    """One namespace as a person sees it, and every version of its endpoints."""

    until = staticmethod(until)
    said = staticmethod(said)

    def __init__(self, api: Api, namespace: str, *, played: bool = True) -> None:
        self.api = api
        self.namespace = namespace
        self.kubevirt: KubeVirtObjects = (
            KubeVirt(api, namespace) if played else KubeVirtObjects(api, namespace)
        )
        self.history: dict[str, list[str]] = {}

    def path(self, kind: Kind, name: str = "") -> str:
        """Return where objects of ours are."""
        return f"{kinds.collection(kind, self.namespace)}/{name}".rstrip("/")

    async def objects(self, kind: Kind) -> list[Raw]:
        """Read all objects of a kind."""
        found: list[Raw] = (await self.api.call("GET", self.path(kind)))["items"]
        return found

    async def roles(self) -> dict[str, str]:
        """Return what is said of every endpoint."""
        return {raw["metadata"]["name"]: said(raw) for raw in await self.objects(Kind.ENDPOINT)}

    async def armed(self, endpoint: str) -> bool:
        """Return whether an endpoint is told that more than a RARP counts now."""
        raw = await self.api.call("GET", self.path(Kind.ENDPOINT, endpoint))
        return bool(raw["metadata"]["annotations"].get(names.ARMED) != "false")

    async def until_roles(self, wanted: dict[str, str]) -> None:
        """Wait until just this is said."""
        await until(self.roles, lambda found: found == wanted)

    async def migration(self, name: str) -> Raw:
        """Read a LiveMigration; empty when there is none."""
        try:
            return await self.api.call("GET", self.path(Kind.MIGRATION, name))
        except ApiError:
            return {}

    async def until_migration(self, name: str, wanted: Callable[[Raw], object]) -> Raw:
        """Wait until a LiveMigration is as wanted."""
        return await until(lambda: self.migration(name), wanted)

    async def report(self, endpoint: str, state: str, uid: str) -> None:
        """Report as an endpoint's agent; one that is Live has not heard yet how it ended."""
        route = {"address": "10.65.0.2", "metric": 1024, "table": 254, "protocol": 88}
        status: dict[str, Any] = {
            "state": state,
            "migrationUID": uid,
            "routes": [route] if state in {"Base", "Live", "TimeWait"} else [],
        }
        if state in {"Target", "Live"}:
            status["role"] = "target"
        path = self.path(Kind.ENDPOINT, endpoint) + "/status"
        await self.api.call("PATCH", path, {"status": status})

    async def events(self, about: str) -> list[str]:
        """Return the reasons of the Events about an object."""
        found = await self.api.call("GET", f"/api/v1/namespaces/{self.namespace}/events")
        return [
            event["reason"] for event in found["items"] if event["involvedObject"]["name"] == about
        ]

    async def versions(self) -> dict[str, str]:
        """Return the resourceVersion of every object of ours."""
        return {
            f"{kind} {raw['metadata']['name']}": raw["metadata"]["resourceVersion"]
            for kind in (Kind.ENDPOINT, Kind.MIGRATION)
            for raw in await self.objects(kind)
        }

    async def note(self) -> None:
        """Note what is said in every version of every endpoint, until cancelled."""
        async for kind, raw in self.api.watch(self.path(Kind.ENDPOINT)):
            told = self.history.setdefault(raw["metadata"]["name"], [])
            if kind != "DELETED" and (not told or told[-1] != said(raw)):
                told.append(said(raw))


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start a control plane with controllers, so that owner references collect.

    The collector looks for new kinds twice a minute only, so they are there before it starts.
    """
    try:
        plane = ControlPlane.start(tmp_path_factory.mktemp("plane"))
    except ToolsError as error:
        pytest.skip(str(error))
    try:
        asyncio.run(furnish(plane))
        plane._start_controllers()
        yield plane
    finally:
        plane.stop()


async def furnish(plane: ControlPlane) -> None:
    """Make our kinds, KubeVirt's and the nodes."""
    async with Api.connect(plane.kubeconfig) as api:
        for file in sorted(CRDS.glob("*.yaml")):
            await api.call("POST", CRD, yaml.safe_load(file.read_text()))
        for name in NODES:
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            await api.call("POST", "/api/v1/nodes", node)
        for kind in Kind:
            path = kinds.collection(kind)
            await until(lambda path=path: api.exists(path), bool)  # type: ignore[misc]
        await KubeVirt(api, "default").install()


@pytest.fixture
async def api(api_server: ControlPlane) -> AsyncIterator[Api]:
    """Connect."""
    async with Api.connect(api_server.kubeconfig) as api:
        yield api


@pytest.fixture
async def bare_desk(api: Api) -> AsyncIterator[Desk]:
    """Make a namespace, whether there is a KubeVirt or not; remove its pods in the end."""
    namespace = f"vms-{uuid.uuid4().hex[:8]}"
    await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    desk = Desk(api, namespace)
    yield desk
    await api.call("DELETE", POD.format(namespace))


@pytest.fixture
async def desk(bare_desk: Desk) -> AsyncIterator[Desk]:
    """Have a KubeVirt, and note every version of the endpoints."""
    await bare_desk.kubevirt.install()
    noting = asyncio.create_task(bare_desk.note())
    yield bare_desk
    noting.cancel()
    await asyncio.gather(noting, return_exceptions=True)


@pytest.fixture(scope="session")
def release(api_server: ControlPlane) -> Release:
    """Have all that the chart brings but its pods."""
    return asyncio.run(Release.install(api_server, start=operator_process.Fork))


@pytest.fixture(scope="module")
def the_operator(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """Have one operator for all tests of a module."""
    operator = release.replica(tmp_path_factory.mktemp("operator") / "log")
    yield operator
    operator.stop()
    assert operator.refusals() == []


@pytest.fixture
async def operator(
    the_operator: Replica,
    release: Release,
    desk: Desk,  # noqa: ARG001  kinds first
) -> Replica:
    """Have an operator that is ready."""
    if not the_operator.runs:
        await release.free_lease()
    await the_operator.start()
    return the_operator


@pytest.fixture
async def new_operator(
    release: Release, the_operator: Replica, tmp_path: Path
) -> AsyncIterator[Callable[..., Replica]]:
    """Make operators of a test's own, not started yet; the one of all tests is ended.

    They have the values of *replaced* in the place of these dotted names.
    """
    the_operator.stop()
    await release.free_lease()
    made: list[Replica] = []

    def make(
        kubeconfig: Path | None = None, replaced: Mapping[str, object] = {}, **env: str
    ) -> Replica:
        leads_to = {} if kubeconfig is None else {"KUBECONFIG": str(kubeconfig)}
        log = tmp_path / f"operator-{len(made)}.log"
        start = functools.partial(operator_process.Fork, replaced=replaced)
        made.append(dataclasses.replace(release, start=start).replica(log, leads_to | env))
        return made[-1]

    yield make
    for operator in made:
        operator.stop()
        assert operator.refusals() == []
    await release.free_lease()
