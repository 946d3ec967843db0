"""The operator as a process of its own, against a real API server with the real CRDs."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
import yaml
from kubernetes_asyncio import client, config

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator import cluster
from handover_operator.cluster import Absent, Cluster, Conflict
from handover_operator.kinds import Kind

pytestmark = pytest.mark.api

T = TypeVar("T")

CRDS = Path(__file__).parents[2] / "crds"
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PATIENCE = 20.0
WHEN = "2026-11-24T12:00:00Z"


async def until(read: Callable[[], Awaitable[T]], wanted: Callable[[T], object]) -> T:
    """Read until the value is the wanted one; fail with the last value."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while not wanted(found := await read()):
        if loop.time() > deadline:
            pytest.fail(f"never seen; the last was {found}")
        await asyncio.sleep(0.02)
    return found


class Desk:
    """One namespace, used as a person, a driver and the agents would."""

    def __init__(self, api: Cluster, namespace: str) -> None:
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
        path = cluster._path(kind, key).rsplit("/", 1)[0]
        made = await self.api._call("POST", path, body=body)
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

    async def report(self, name: str, state: str, uid: str) -> None:
        """Report as the endpoint's agent."""
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
            await self.api._call("DELETE", cluster._path(kind, self.key(kind, name)))

    async def said(self, name: str) -> str:
        """Return what the annotations say: ``target of m1``, ``source of m1 Succeeded``."""
        annotations = (await self.get(Kind.ENDPOINT, name))["metadata"].get("annotations", {})
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
        found = await self.api._call("GET", f"/api/v1/namespaces/{namespace}/events")
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

    async def clear(self) -> None:
        """Delete what was made."""
        for kind, key in self._made:
            await self.delete(kind, key.name)

    def key(self, kind: Kind, name: str) -> ObjectKey:
        """Return the key of an object here."""
        return ObjectKey("" if kind is Kind.CONFIGURATION else self.namespace, name)


class Operator:
    """The process; it is killed at the end, and can be killed and started in between."""

    def __init__(self, kubeconfig: Path, log: Path, **env: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
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

    def launch(self) -> None:
        """Start the process; do not wait for it."""
        program = Path(sys.executable).with_name("handover-operator")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([program, "run"], env=self._env, stderr=log)

    async def start(self) -> None:
        """Start, and wait until it is ready."""
        self.launch()
        await until(lambda: self.get("/readyz"), lambda answer: answer[0] == 200)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End the process; return its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(PATIENCE)

    def stop(self) -> None:
        """Clean up."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    async def get(self, path: str) -> tuple[int, str]:
        """Ask over HTTP; 0 when nobody answers."""
        try:
            async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        _, text = await self.get("/metrics")
        values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, flags=re.MULTILINE)
        return sum(map(float, values))

    async def until_idle(self, watched: int) -> None:
        """Wait until the watches have told of so many objects and nothing is left to write."""
        await until(
            lambda: self.metric("handover_operator_events_total"), lambda told: told >= watched
        )
        await until(lambda: self.metric("handover_operator_queue_length"), lambda left: left == 0)

    def lines(self) -> list[dict[str, Any]]:
        """Return the log, which is JSON to the last line."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
async def api(api_server: Any) -> AsyncIterator[Cluster]:
    """Connect to the API server; the CRDs are installed."""
    configuration = client.Configuration()
    await config.load_kube_config(
        config_file=str(api_server.kubeconfig), client_configuration=configuration
    )
    api = Cluster(configuration)
    for path in sorted(CRDS.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            with contextlib.suppress(Conflict):
                await api._call("POST", CRD_PATH, body=document)
    for kind in Kind:
        await until(lambda kind=kind: is_served(api, kind), bool)  # type: ignore[misc]
    yield api
    await api.close()


async def is_served(api: Cluster, kind: Kind) -> bool:
    """Return whether a kind can be listed."""
    try:
        await api.identities(kind)
    except Absent:
        return False
    return True


@pytest.fixture
async def desk(api: Cluster) -> AsyncIterator[Desk]:
    """Make a namespace."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    await api._call("POST", "/api/v1/namespaces", body={"metadata": {"name": namespace}})
    desk = Desk(api, namespace)
    yield desk
    await desk.clear()


@pytest.fixture
def idle_operator(api_server: Any, tmp_path: Path) -> Iterator[Operator]:
    """Prepare an operator that is not started yet."""
    operator = Operator(Path(api_server.kubeconfig), tmp_path / "operator.log")
    yield operator
    operator.stop()


@pytest.fixture
async def operator(
    idle_operator: Operator,
    desk: Desk,  # noqa: ARG001  the CRDs are there before it starts
) -> Operator:
    """Start an operator, and wait until it is ready."""
    await idle_operator.start()
    return idle_operator


async def test_a_migration_from_pending_to_succeeded(operator: Operator, desk: Desk) -> None:
    uid = await desk.migration("m1", "a", "b", ttlSecondsAfterFinished=1)
    await desk.until_phase("Pending")
    await desk.endpoint("a", annotations={"mine": "stays"})
    await desk.endpoint("b")
    await desk.until_phase("Preparing")
    await desk.until_said("b", "target of m1")
    await desk.report("a", "Base", uid)
    await desk.report("b", "Target", uid)
    await desk.until_phase("Ready")
    await desk.report("b", "Live", uid)
    status = await desk.until_phase("Live")
    assert status["target"] == [
        {
            "endpoint": "b",
            "node": "node-b",
            "state": "Live",
            "cutover": {
                "signal": "RARP",
                "announcementToRouteMicroseconds": 210,
                "time": "2026-11-24T12:00:00.000123Z",
            },
        }
    ]
    await desk.end("Succeeded")
    await desk.until_said("a", "source of m1 Succeeded")
    assert await desk.said("b") == "target of m1"
    await desk.report("a", "Withdrawn", uid)
    await desk.until_said("b", "target of m1 Succeeded")
    await desk.report("b", "TimeWait", uid)
    await desk.report("b", "Base", uid)
    gone = until(lambda: exists(desk, Kind.MIGRATION, "m1"), lambda there: not there)
    await gone  # one second after it has finished
    annotations = (await desk.get(Kind.ENDPOINT, "a"))["metadata"]["annotations"]
    assert annotations["mine"] == "stays"
    reasons = [event.partition(":")[0] for event in await desk.events("m1")]
    assert sorted(reasons) == ["CutOver", "Ready", "Succeeded"]
    assert operator.kill(signal.SIGTERM) == 0


async def exists(desk: Desk, kind: Kind, name: str) -> bool:
    """Return whether an object exists."""
    try:
        await desk.get(kind, name)
    except Absent:
        return False
    return True


@pytest.mark.usefixtures("operator")
async def test_an_abort_is_told_to_both_sides(desk: Desk) -> None:
    await desk.pair()
    await desk.end("Aborted")
    await desk.until_said("a", "source of m1 Aborted")
    await desk.until_said("b", "target of m1 Aborted")
    await desk.until_phase("Aborted")
    assert await desk.condition("Finished") == ("True", "Aborted")


@pytest.mark.usefixtures("operator")
async def test_a_lost_source_decides_after_five_seconds(desk: Desk) -> None:
    uid = await desk.pair()
    await desk.report("b", "Live", uid)
    await desk.delete(Kind.ENDPOINT, "a")
    await desk.until_said("b", "target of m1 Succeeded")
    await desk.report("b", "Base", uid)
    await desk.until_phase("Succeeded")


@pytest.mark.usefixtures("operator")
async def test_a_deleted_migration_succeeds_after_life(desk: Desk) -> None:
    uid = await desk.pair()
    await desk.report("b", "Live", uid)
    await desk.until_phase("Live")
    await desk.delete(Kind.MIGRATION, "m1")
    await desk.until_said("a", "source of m1 Succeeded")
    assert await desk.said("b") == "target of m1"
    await desk.report("a", "Withdrawn", uid)
    await desk.until_said("b", "target of m1 Succeeded")


@pytest.mark.usefixtures("operator")
async def test_a_deleted_migration_without_life_is_aborted(desk: Desk) -> None:
    await desk.pair()
    await desk.delete(Kind.MIGRATION, "m1")
    await desk.until_said("a", "source of m1 Aborted")
    await desk.until_said("b", "target of m1 Aborted")


@pytest.mark.usefixtures("operator")
async def test_two_migrations_in_conflict_stop_no_third(desk: Desk) -> None:
    await desk.pair()
    await desk.endpoint("c")
    await desk.migration("m2", "c", "b", id="later")
    await until(
        lambda: desk.condition("Conflicted", "m2"),
        lambda found: found == ("True", "EndpointClaimed"),
    )
    await until(
        lambda: desk.condition("Conflicted", "m1"),
        lambda found: found == ("True", "EndpointClaimed"),
    )
    await until(lambda: desk.events("m2"), lambda told: any("EndpointClaimed" in t for t in told))
    await desk.endpoint("x")
    await desk.endpoint("y")
    await desk.migration("m3", "x", "y")
    await desk.until_said("y", "target of m3")


async def test_a_restart_rewrites_nothing(operator: Operator, desk: Desk) -> None:
    uid = await desk.pair()
    await desk.report("b", "Live", uid)
    await desk.end("Succeeded")
    await desk.until_phase("Converging")
    await desk.endpoint("x")
    await desk.migration("m2", "x", "y")
    await desk.until_said("x", "source of m2")
    await desk.until_phase("Pending", "m2")
    await until(
        lambda: desk.condition("SourceLingers"),
        lambda found: found == ("True", "StillRouted"),  # the last thing that time changes
    )
    await operator.until_idle(0)
    before = await desk.versions()
    for number in (signal.SIGTERM, signal.SIGKILL):
        operator.kill(number)
        await operator.start()
        await operator.until_idle(len(before))
        assert await desk.versions() == before
        assert await operator.metric("handover_operator_writes_total") == 0


@pytest.mark.parametrize("phase", ["Pending", "Preparing", "Ready", "Live", "Converging"])
async def test_killed_in_any_phase_it_goes_on(operator: Operator, desk: Desk, phase: str) -> None:
    def pause(reached: str) -> bool:
        """Kill the operator in the phase of this case."""
        if reached == phase:
            operator.kill()
            return True
        return False

    uid = await desk.migration("m1", "a", "b")
    await desk.until_phase("Pending")
    down = pause("Pending")
    await desk.endpoint("a")
    await desk.endpoint("b")
    await resume(operator, down=down)
    await desk.until_phase("Preparing")
    await desk.until_said("a", "source of m1")
    await desk.until_said("b", "target of m1")
    down = pause("Preparing")
    await desk.report("a", "Base", uid)
    await desk.report("b", "Target", uid)
    await resume(operator, down=down)
    await desk.until_phase("Ready")
    down = pause("Ready")
    await desk.report("b", "Live", uid)
    await resume(operator, down=down)
    await desk.until_phase("Live")
    down = pause("Live")
    await desk.end("Succeeded")
    await resume(operator, down=down)
    await desk.until_said("a", "source of m1 Succeeded")
    await desk.until_phase("Converging")
    assert await desk.said("b") == "target of m1"
    down = pause("Converging")
    await desk.report("a", "Withdrawn", uid)
    await resume(operator, down=down)
    await desk.until_said("b", "target of m1 Succeeded")
    await desk.report("b", "Base", uid)
    await desk.until_phase("Succeeded")


async def resume(operator: Operator, *, down: bool) -> None:
    """Start the operator again if it was killed."""
    if down:
        await operator.start()


@pytest.mark.parametrize(("state", "outcome"), [("Target", "Aborted"), ("Live", "Succeeded")])
async def test_what_is_deleted_while_it_is_down_is_told_afterwards(
    operator: Operator, desk: Desk, state: str, outcome: str
) -> None:
    uid = await desk.pair()
    await desk.report("b", state, uid)
    operator.kill()
    await desk.delete(Kind.MIGRATION, "m1")
    await operator.start()
    await desk.until_said("a", f"source of m1 {outcome}")


async def test_a_malformed_object_is_named_and_stops_nobody(operator: Operator, desk: Desk) -> None:
    async with any_status_allowed(desk.api):
        await desk.pair()
        await desk.endpoint("broken")
        await desk.api.patch(
            Kind.ENDPOINT,
            desk.key(Kind.ENDPOINT, "broken"),
            {"status": {"state": "Confused"}},
            subresource="/status",
        )
        await until(lambda: desk.events("broken"), bool)
        [told] = await desk.events("broken")
        assert told.startswith("Malformed: status.state: ")
        assert any(
            line["event"] == "malformed_object"
            and line["object"] == f"{desk.namespace}/broken"
            and line["field"] == "status.state"
            for line in operator.lines()
        )
        await desk.end("Aborted")
        await desk.until_phase("Aborted")
        await desk.delete(Kind.ENDPOINT, "broken")


@contextlib.asynccontextmanager
async def any_status_allowed(api: Cluster) -> AsyncIterator[None]:
    """Let the API server take any status of an endpoint, as a newer CRD might."""
    path = f"{CRD_PATH}/{Kind.ENDPOINT.plural}.{names.GROUP}"
    crd = await api._call("GET", path)
    version = crd["spec"]["versions"][0]
    kept = version["schema"]["openAPIV3Schema"]["properties"]["status"]
    lax = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    await put_status_schema(api, path, lax)
    try:
        yield
    finally:
        await put_status_schema(api, path, kept)


async def put_status_schema(api: Cluster, path: str, schema: object) -> None:
    """Replace the schema of the status; the API server needs a moment to serve it."""
    patch = [
        {
            "op": "replace",
            "path": "/spec/versions/0/schema/openAPIV3Schema/properties/status",
            "value": schema,
        }
    ]
    await api._call("PATCH", path, body=patch, content_type="application/json-patch+json")  # type: ignore[arg-type]
    await asyncio.sleep(1)  # nothing tells when the new schema is in force


async def test_writers_that_are_faster_delay_nothing_for_long(
    operator: Operator, desk: Desk
) -> None:
    await desk.pair()

    async def disturb(number: int) -> None:
        labels = {"metadata": {"labels": {"n": str(number)}}}
        await desk.change(Kind.ENDPOINT, "b", labels)

    for number in range(30):
        armed = {"spec": {"armed": bool(number % 2)}}
        await asyncio.gather(disturb(number), desk.change(Kind.MIGRATION, "m1", armed))
    await desk.change(Kind.MIGRATION, "m1", {"spec": {"armed": False}})
    await until(
        lambda: desk.get(Kind.ENDPOINT, "b"),
        lambda found: found["metadata"]["annotations"].get(names.ARMED) == "false",
    )
    await operator.until_idle(0)


async def test_the_default_configuration_is_applied_and_all_are_judged(
    idle_operator: Operator, desk: Desk, tmp_path: Path
) -> None:
    file, node = tmp_path / "default.yaml", f"node.{desk.namespace}"
    file.write_text("probeInterval: 100ms\n")
    idle_operator._env["HANDOVER_CONFIGURATION_FILE"] = str(file)
    await idle_operator.start()
    await until(lambda: accepted(desk, "default"), lambda found: found == ("True", "Valid"))
    found = await desk.get(Kind.CONFIGURATION, "default")
    assert found["spec"]["probeInterval"] == "100ms"
    await desk.create(Kind.CONFIGURATION, node, {"mode": "observe"})
    await until(lambda: accepted(desk, node), lambda found: found == ("True", "Valid"))
    before = (await desk.get(Kind.CONFIGURATION, "default"))["metadata"]["resourceVersion"]
    idle_operator.kill()
    await idle_operator.start()
    await idle_operator.until_idle(2)
    after = (await desk.get(Kind.CONFIGURATION, "default"))["metadata"]["resourceVersion"]
    assert after == before
    await desk.delete(Kind.CONFIGURATION, "default")


async def accepted(desk: Desk, name: str) -> tuple[str, str] | None:
    """Return status and reason of the condition Accepted."""
    try:
        found = await desk.get(Kind.CONFIGURATION, name)
    except Absent:
        return None
    for condition in found.get("status", {}).get("conditions", []):
        return condition["status"], condition["reason"]
    return None


def dead_end(api_server: Any, folder: Path) -> Path:
    """Write a kubeconfig that leads to a port where nobody listens."""
    kubeconfig = yaml.safe_load(Path(api_server.kubeconfig).read_text())
    kubeconfig["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig))
    return path


async def test_a_dead_api_server_is_waited_for_with_one_line(
    api_server: Any, tmp_path: Path
) -> None:
    operator = Operator(dead_end(api_server, tmp_path), tmp_path / "operator.log")
    operator.launch()
    try:
        await until(lambda: operator.get("/healthz"), lambda answer: answer[0] == 200)
        assert (await operator.get("/readyz"))[0] == 503
        await asyncio.sleep(1.5)  # several attempts
        waiting = [line for line in operator.lines() if line["level"] != "info"]
        assert [line["event"] for line in waiting] == ["waiting"]
        assert "127.0.0.1:9" in waiting[0]["reason"]
        assert operator.kill(signal.SIGTERM) == 0
    finally:
        operator.stop()


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"KUBECONFIG": "/nonexistent"}, "set KUBECONFIG"),
        ({"HANDOVER_PORT": "many"}, "HANDOVER_PORT"),
        ({"HANDOVER_CONFIGURATION_FILE": "/nonexistent"}, "HANDOVER_CONFIGURATION_FILE"),
    ],
)
def test_what_is_set_wrongly_is_said_in_one_sentence(
    tmp_path: Path, env: dict[str, str], said: str
) -> None:
    operator = Operator(tmp_path / "none", tmp_path / "operator.log", **env)
    operator.launch()
    assert operator._process is not None
    assert operator._process.wait(PATIENCE) != 0
    text = operator.log.read_text()
    assert said in text.splitlines()[-1]
    assert "Traceback" not in text
