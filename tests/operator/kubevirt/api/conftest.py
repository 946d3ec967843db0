"""A whole control plane with a played KubeVirt, and the operator as a process of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
import yaml

from handover_api import names
from handover_lab import controlplane
from handover_lab.controlplane import ControlPlane
from handover_lab.puppets import CRD, POD, Puppets
from handover_lab.rest import Api, ApiError
from handover_lab.scripted import KubeVirt
from handover_lab.tools import ToolsError
from handover_operator import kinds
from handover_operator.kinds import Kind

T = TypeVar("T")

CRDS: Final = Path(__file__).parents[4] / "crds"
NODES: Final = ("node-a", "node-b", "node-c")
PATIENCE: Final = 20.0

Raw = dict[str, Any]


async def until(read: Callable[[], Awaitable[T]], wanted: Callable[[T], object]) -> T:
    """Read until the value is the wanted one; fail with the last value."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while not wanted(found := await read()):
        if loop.time() > deadline:
            pytest.fail(f"never seen; the last was {found}")
        await asyncio.sleep(0.03)
    return found


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
        self.kubevirt: Puppets = KubeVirt(api, namespace) if played else Puppets(api, namespace)
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
        """Report as an endpoint's agent."""
        routed = state in {"Base", "Live", "TimeWait"}
        route = {"address": "10.65.0.2", "metric": 1024, "table": 254, "protocol": 88}
        status = {"state": state, "migrationUID": uid, "routes": [route] if routed else []}
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


class Operator:
    """The operator's process; it can be killed and started again."""

    def __init__(self, kubeconfig: Path, log: Path, **env: str) -> None:
        port = controlplane.free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self._env = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(kubeconfig),
            "HANDOVER_PORT": str(port),
            "HANDOVER_LISTEN_ADDRESS": "127.0.0.1",
            **env,
        }
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it unless it runs, and wait until it is ready."""
        if self._process is None or self._process.poll() is not None:
            self._launch()
        await until(self._is_ready, bool)

    def _launch(self) -> None:
        program = Path(sys.executable).with_name("handover-operator")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([program, "run"], env=self._env, stderr=log)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End the process; return its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(PATIENCE)

    def stop(self) -> None:
        """Clean up."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def logged(self, event: str) -> int:
        """Count the lines of the log about this."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return sum(line["event"] == event for line in lines)

    def faults(self) -> list[str]:
        """Return what the log calls an error."""
        return [line for line in self.log.read_text().splitlines() if '"error"' in line]

    async def _is_ready(self) -> bool:
        return await asyncio.to_thread(self._ask, "/readyz") is not None

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        text = await asyncio.to_thread(self._ask, "/metrics") or ""
        found = [line.rpartition(" ") for line in text.splitlines() if line.startswith(name)]
        return sum(float(value) for _, _, value in found)

    def _ask(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:  # noqa: S310  http
                text: str = answer.read().decode()
                return text
        except OSError:
            return None


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


@pytest.fixture(scope="module")
def the_operator(
    api_server: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """Have one operator for all tests of a module."""
    operator = Operator(api_server.kubeconfig, tmp_path_factory.mktemp("operator") / "log")
    yield operator
    operator.stop()


@pytest.fixture
async def operator(the_operator: Operator, desk: Desk) -> Operator:  # noqa: ARG001  kinds first
    """Have an operator that is ready."""
    await the_operator.start()
    return the_operator


@pytest.fixture
def new_operator(
    api_server: ControlPlane, the_operator: Operator, tmp_path: Path
) -> Iterator[Callable[..., Operator]]:
    """Make operators of a test's own, not started yet; the one of all tests is ended."""
    the_operator.stop()
    made: list[Operator] = []

    def make(kubeconfig: Path | None = None, **env: str) -> Operator:
        log = tmp_path / f"operator-{len(made)}.log"
        made.append(Operator(kubeconfig or api_server.kubeconfig, log, **env))
        return made[-1]

    yield make
    for operator in made:
        operator.stop()
