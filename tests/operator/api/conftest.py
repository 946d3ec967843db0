"""The operator as a process of its own, against a real API server with the real CRDs."""

import asyncio
import base64
import contextlib
import dataclasses
import functools
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_asyncio import client, config

from handover_api import names
from handover_api.names import ObjectKey
from handover_lab.cluster import operator_process
from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.cluster.release import RIGHTS, Release
from handover_lab.cluster.replica import Replica
from handover_lab.processes.waiting import PATIENCE, until
from handover_operator import kinds
from handover_operator.kinds import Kind
from handover_operator.kube.client import Cluster
from handover_operator.kube.connection import Connection
from handover_operator.kube.errors import Absent, Conflict
from handover_operator.kube.requests import JSON, HttpRequest

CRDS = Path(__file__).parents[3] / "crds"
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WHEN = "2026-11-24T12:00:00Z"


class Api(Cluster):
    """The API server as the operator sees it, and any other request that a test needs."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.connection = connection

    async def call(
        self, method: str, path: str, body: Any = None, content_type: str = JSON
    ) -> dict[str, Any]:
        """Ask whatever a person might."""
        request = HttpRequest(method, path, body=body, content_type=content_type)
        return await self.connection.call(request)


class Desk:
    """One namespace, used as a person, a driver and the agents would."""

    until = staticmethod(until)

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self._made: set[tuple[Kind, ObjectKey]] = set()

    async def create(self, kind: Kind, name: str, spec: object, **metadata: object) -> str:
        """Create an object; return its uid."""
        key = self.key(kind, name)
        body = {
            "apiVersion": names.API_VERSION,
            "kind": kind.value,
            "metadata": {"name": name, "namespace": key.namespace or None, **metadata},
            "spec": spec,
        }
        path = kinds.collection(kind, key.namespace)
        made = await self.api.call("POST", path, body=body)
        self._made.add((kind, key))
        uid = made["metadata"]["uid"]
        assert isinstance(uid, str)
        return uid

    async def endpoint(self, name: str, **metadata: object) -> str:
        """Create an endpoint on a node of its own, as a workload of its own."""
        spec = {"node": f"node-{name}", "workload": f"vm-{name}", "ips": ["10.65.0.2"]}
        return await self.create(Kind.ENDPOINT, name, spec, **metadata)

    async def migration(self, name: str, source: str, target: str, **spec: object) -> str:
        """Create a LiveMigration between two workloads."""
        sides = {
            "source": {"workload": {"name": f"vm-{source}"}},
            "target": {"workload": {"name": f"vm-{target}"}},
        }
        return await self.create(Kind.MIGRATION, name, sides | spec)

    async def pair(self) -> str:
        """Create endpoints a and b and migration m1; the agents have taken up their roles."""
        await self.endpoint("a")
        await self.endpoint("b")
        uid = await self.migration("m1", "a", "b")
        await self.until_said("a", "source of m1")
        await self.until_said("b", "target of m1")
        await self.report("a", "Base", uid)
        await self.report("b", "Target", uid)
        await self.until_phase("Ready")
        return uid

    async def change(self, kind: Kind, name: str, patch: Mapping[str, object]) -> None:
        """Merge a patch into an object."""
        await self.api.patch(kind, self.key(kind, name), patch)

    async def end(self, outcome: str, name: str = "m1") -> None:
        """Say how a migration ended."""
        await self.change(Kind.MIGRATION, name, {"spec": {"outcome": outcome}})

    async def publish(self, name: str) -> str:
        """Publish the address of the endpoint's agent, as that does; return its key."""
        key = base64.b64encode(name.encode().ljust(32, b".")).decode()
        agent = {"publicKey": key, "addresses": ["192.0.2.1"], "port": 7473}
        patch = {"status": {"agent": agent}}
        await self.api.patch(
            Kind.ENDPOINT, self.key(Kind.ENDPOINT, name), patch, subresource="/status"
        )
        return key

    async def annotation(self, name: str, wanted: str) -> str | None:
        """Return an annotation of an endpoint."""
        metadata = (await self.get(Kind.ENDPOINT, name))["metadata"]
        found = metadata.get("annotations", {}).get(wanted)
        assert found is None or isinstance(found, str)
        return found

    async def peers(self, name: str) -> list[dict[str, Any]]:
        """Return the peers that are named to the agent of an endpoint."""
        found = json.loads(await self.annotation(name, names.PEER) or "[]")
        assert isinstance(found, list)
        return found

    async def report(self, name: str, state: str, uid: str, *, routed: bool | None = None) -> None:
        """Report as the endpoint's agent; *routed* where the state alone does not tell it."""
        if routed is None:
            routed = state in {"Base", "Live", "TimeWait"}
        route = {"address": "10.65.0.2", "metric": 1024, "table": 254, "protocol": 88}
        status: dict[str, Any] = {
            "state": state,
            "migrationUID": uid,
            "routes": [route] if routed else [],
            "conditions": [
                {
                    "type": "Listening",
                    "status": "True" if state == "Target" else "False",
                    "reason": "Listening",
                    "message": "",
                    "lastTransitionTime": WHEN,
                }
            ],
        }
        if state == "Live":
            status["lastCutover"] = {
                "signal": "RARP",
                "announcementToRouteMicroseconds": 210,
                "time": "2026-11-24T12:00:00.000123Z",
                "migrationUID": uid,
            }
        patch = {"status": status}
        await self.api.patch(
            Kind.ENDPOINT, self.key(Kind.ENDPOINT, name), patch, subresource="/status"
        )

    async def get(self, kind: Kind, name: str) -> Mapping[str, Any]:
        """Read an object."""
        return await self.api.get(kind, self.key(kind, name))

    async def delete(self, kind: Kind, name: str) -> None:
        """Delete an object."""
        with contextlib.suppress(Absent):
            key = self.key(kind, name)
            await self.api.call("DELETE", f"{kinds.collection(kind, key.namespace)}/{key.name}")

    async def said(self, name: str) -> str:
        """Return what the annotations say: ``target of m1``, ``source of m1 Succeeded``."""
        return self.say(await self.get(Kind.ENDPOINT, name))

    @staticmethod
    def say(raw: Mapping[str, Any]) -> str:
        """Write the short way what the annotations of an endpoint say."""
        annotations = raw["metadata"].get("annotations", {})
        role = annotations.get(names.ROLE) or annotations.get(names.ENDED_ROLE)
        if role is None:
            return "-"
        outcome = annotations.get(names.OUTCOME)
        return f"{role} of {annotations[names.MIGRATION]}" + (f" {outcome}" if outcome else "")

    async def status(self, name: str = "m1") -> Mapping[str, Any]:
        """Return the status of a migration."""
        status = (await self.get(Kind.MIGRATION, name)).get("status", {})
        assert isinstance(status, dict)
        return status

    async def until_said(self, name: str, wanted: str) -> None:
        """Wait until the annotations of an endpoint say this."""
        await until(lambda: self.said(name), lambda said: said == wanted)

    async def until_phase(self, wanted: str, name: str = "m1") -> Mapping[str, Any]:
        """Wait for a phase; return the status."""
        return await until(lambda: self.status(name), lambda status: status.get("phase") == wanted)

    async def condition(self, wanted: str, name: str = "m1") -> tuple[str, str] | None:
        """Return status and reason of a condition of a migration."""
        for found in (await self.status(name)).get("conditions", []):
            if found["type"] == wanted:
                return found["status"], found["reason"]
        return None

    async def events(self, about: str) -> list[str]:
        """Return the reasons of the Events about an object."""
        namespace = self.namespace if about != "default" else "default"
        found = await self.api.call("GET", f"/api/v1/namespaces/{namespace}/events")
        return [
            f"{event['reason']}: {event['message']}"
            for event in found["items"]
            if event["involvedObject"]["name"] == about
        ]

    async def versions(self) -> dict[str, str]:
        """Return the resourceVersion of every object here."""
        return {
            f"{kind} {key.name}": (await self.api.get(kind, key))["metadata"]["resourceVersion"]
            for kind, key in self._made
        }

    @contextlib.asynccontextmanager
    async def told(self) -> AsyncIterator[dict[str, list[str]]]:
        """Note, for each endpoint, every other thing that its annotations come to say."""
        history: dict[str, list[str]] = {}
        watching = asyncio.Event()
        task = asyncio.create_task(self._note(history, watching))
        await asyncio.wait_for(watching.wait(), PATIENCE)
        yield history
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _note(self, history: dict[str, list[str]], watching: asyncio.Event) -> None:
        path = kinds.collection(Kind.ENDPOINT, self.namespace)
        start = await self.api.call("GET", path)
        query = {"watch": "1", "resourceVersion": start["metadata"]["resourceVersion"]}
        answer = await self.api.connection._api.call_api(
            path,
            "GET",
            query_params=list(query.items()),
            auth_settings=["BearerToken"],
            _preload_content=False,
        )
        watching.set()
        async with answer:
            async for line in answer.content:
                found = json.loads(line)["object"]
                said = self.say(found)
                told = history.setdefault(found["metadata"]["name"], [])
                if said != (told[-1] if told else "-"):
                    told.append(said)

    async def clear(self) -> None:
        """Delete what was made, what is told of it first."""
        for kind, key in sorted(self._made, key=lambda made: made[0] is not Kind.ENDPOINT):
            await self.delete(kind, key.name)

    def key(self, kind: Kind, name: str) -> ObjectKey:
        """Return the key of an object here."""
        return ObjectKey("" if kind is Kind.CONFIGURATION else self.namespace, name)


@pytest.fixture
async def api(api_server: ControlPlane) -> AsyncIterator[Api]:
    """Connect to the API server; the CRDs are installed."""
    configuration = client.Configuration()
    await config.load_kube_config(
        config_file=str(api_server.kubeconfig), client_configuration=configuration
    )
    api = Api(Connection(configuration))
    for path in sorted(CRDS.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            with contextlib.suppress(Conflict):
                await api.call("POST", CRD_PATH, body=document)
    for kind in Kind:
        await until(lambda kind=kind: is_served(api, kind), bool)  # type: ignore[misc]
    yield api
    await api.connection.close()


async def is_served(api: Cluster, kind: Kind) -> bool:
    """Return whether a kind can be listed."""
    try:
        await api.identities(kind)
    except Absent:
        return False
    return True


@pytest.fixture
async def desk(api: Api) -> AsyncIterator[Desk]:
    """Make a namespace."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    await api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": namespace}})
    desk = Desk(api, namespace)
    yield desk
    await desk.clear()


@pytest.fixture(scope="session")
def release(api_server: ControlPlane) -> Release:
    """Have the chart's rights; its policies would bind the tests of other parts."""
    return asyncio.run(Release.install(api_server, RIGHTS, start=operator_process.Fork))


@pytest.fixture(scope="module")
def the_operator(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """Have one operator for all tests; after a test that ended it, another."""
    operator = release.replica(tmp_path_factory.mktemp("operator") / "log")
    yield operator
    operator.stop()
    assert operator.refusals() == []


@pytest.fixture
async def operator(
    the_operator: Replica,
    release: Release,
    desk: Desk,  # noqa: ARG001  the CRDs are there before it starts
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
