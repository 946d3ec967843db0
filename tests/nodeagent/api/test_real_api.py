"""Watch and reports against a real API server with the real CRDs, which dies when we say so."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.nodeagent.api.test_watch import Recorder
from tests.nodeagent.fake_api import running

from handover_api import names
from handover_api.model import Condition
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import (
    Cutover,
    RouteStatus,
    Signal,
    State,
    WorkloadEndpoint,
    WorkloadEndpointStatus,
)
from handover_lab.cluster.certificates import Authority
from handover_lab.cluster.controlplane import ControlPlane
from handover_nodeagent.api import client, credentials, errors, watch
from handover_nodeagent.api.access import Access, Pem
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.api.errors import Absent, Conflict, Gone, Refused, Unreachable
from handover_nodeagent.api.watch import Timing, Watch
from handover_nodeagent.status import report
from handover_nodeagent.status.kubernetes_events import Event
from handover_nodeagent.status.report import Reporter

pytestmark = pytest.mark.api

CRDS = Path(__file__).parents[3] / "crds"
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ENDPOINTS = f"/apis/{names.API_VERSION}/{names.WORKLOAD_ENDPOINTS}"
NOW = dt.datetime(2026, 11, 24, 12, 0, 0, 250000, tzinfo=dt.UTC)
QUICK = Timing(first_wait=0.05, last_wait=0.5)
PATIENCE = 60.0


class Objects:
    """One namespace, and what a person would do there."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.namespace = f"agent-{uuid.uuid4().hex[:8]}"
        self.node = f"node-{self.namespace}"

    def path(self, name: str = "") -> str:
        """The path of an endpoint, or of all of this namespace."""
        root = f"/apis/{names.API_VERSION}/namespaces/{self.namespace}"
        return f"{root}/{names.WORKLOAD_ENDPOINTS}{f'/{name}' if name else ''}"

    def key(self, name: str) -> ObjectKey:
        return ObjectKey(self.namespace, name)

    async def create(self, name: str, node: str = "") -> str:
        """Create an endpoint; return its uid."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "WorkloadEndpoint",
            "metadata": {"name": name},
            "spec": {"node": node or self.node, "workload": name, "ips": ["10.65.0.2"]},
        }
        made = await self.api.create(self.path(), body)
        uid = made["metadata"]["uid"]
        assert isinstance(uid, str)
        return uid

    async def delete(self, name: str) -> None:
        await delete(self.api, self.path(name))

    async def annotate(self, name: str, **annotations: str) -> None:
        operation = {"op": "add", "path": "/metadata/annotations", "value": annotations}
        await self.api.patch(self.path(name), [operation])

    async def status(self, name: str) -> Mapping[str, Any]:
        """Return what the API has."""
        found: Mapping[str, Any] = (await self.api.get(self.path(name))).get("status", {})
        return found

    def watch(self, sink: watch.Sink) -> Watch:
        """Watch this node's endpoints."""
        selector = f"spec.node={self.node}"
        return Watch(self.api, ENDPOINTS, sink=sink, field_selector=selector, timing=QUICK)


class Names(Recorder):
    """Says names only: versions are the API server's business."""

    def put(self, raw: Mapping[str, Any]) -> None:
        self._say(f"put {raw['metadata']['name']}")

    def outage(self, reason: str, *, is_absent: bool) -> None:  # noqa: ARG002
        if self.said[-1:] != ["outage"]:
            self._say("outage")
        self.reason = reason


async def delete(api: ApiServer, path: str) -> None:
    await api._call(client._Request("DELETE", path, {}))


async def install(api: ApiServer, crd: Mapping[str, Any]) -> None:
    """Create a CRD, unless it is there, and wait until it is served."""
    with contextlib.suppress(Conflict):
        await api.create(CRD_PATH, crd)
    await served(api, crd, wanted=True)


async def served(api: ApiServer, crd: Mapping[str, Any], *, wanted: bool) -> None:
    """Wait until the CRD's objects can be listed, or cannot."""
    spec = crd["spec"]
    path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await api.get(path)
                found = True
            except errors.ApiError:
                found = False
            if found is wanted:
                return
            await asyncio.sleep(0.05)


@pytest.fixture
async def api(api_server: ControlPlane) -> AsyncIterator[ApiServer]:
    found = credentials.find({"KUBECONFIG": str(api_server.kubeconfig)})
    async with ApiServer(found, page=2) as made:
        for path in sorted(CRDS.glob("*.yaml")):
            await install(made, yaml.safe_load(path.read_text()))
        yield made


@pytest.fixture
async def objects(api: ApiServer) -> AsyncIterator[Objects]:
    made = Objects(api)
    await api.create("/api/v1/namespaces", {"metadata": {"name": made.namespace}})
    yield made
    async for page in api.pages(made.path()):
        for raw in page.items:
            await made.delete(raw["metadata"]["name"])


async def test_an_agent_hears_of_its_own_node_only(objects: Objects) -> None:
    for name in ("a", "b", "c"):
        await objects.create(name)
    await objects.create("elsewhere", node="another")
    sink = Names()
    async with running(objects.watch(sink)):
        assert await sink.until("synced") == ["put a", "put b", "put c", "synced"]
        await objects.annotate("elsewhere", x="1")
        await objects.annotate("b", x="1")
        uid = await objects.create("d")
        await objects.delete("d")
        said = await sink.until(f"drop d {uid}")
    assert said[4:] == ["put b", "put d", f"drop d {uid}"]


async def test_what_happened_between_two_watches_is_told_as_changes(objects: Objects) -> None:
    uids = {name: await objects.create(name) for name in ("stays", "changes", "goes", "returns")}
    sink = Names()
    watch = objects.watch(sink)
    async with running(watch):
        await sink.until("synced")
    for name in ("goes", "returns"):
        await objects.delete(name)
    await objects.create("returns")
    await objects.annotate("changes", x="1")
    await objects.create("new")
    sink.said.clear()
    async with running(watch):
        said = await sink.until("synced")
    assert set(said[:2]) == {f"drop goes {uids['goes']}", f"drop returns {uids['returns']}"}
    assert said[2:] == ["put changes", "put new", "put returns", "synced"]


async def test_the_death_of_the_api_server_is_survived(
    objects: Objects, api_server: ControlPlane
) -> None:
    """Nothing is dropped, nothing is told twice, and reports of the time between arrive."""
    uid = await objects.create("a")
    sink = Names()
    reporter = Reporter(objects.api, lambda: NOW, objects.node)
    async with running(objects.watch(sink)), running(reporter):
        await sink.until("synced")
        api_server.stop_api()
        try:
            await sink.until("outage")
            for number in range(100):
                status = WorkloadEndpointStatus(state=State.LIVE, interface=f"tap{number}")
                reporter.want(objects.key("a"), uid, status)
                await asyncio.sleep(0)
            assert reporter.pending == 1
        finally:
            # In this thread, with which it ends.
            api_server.start_api()
        async with asyncio.timeout(PATIENCE):
            await sink.until("synced", 2)
        reporter.retry_now()
        assert await reporter.flush(PATIENCE) == 0
        await sink.until("put a", 2)
        await objects.create("b")
        said = await sink.until("put b")
    assert said[:2] == ["put a", "synced"]
    assert "drop" not in " ".join(said)
    assert await objects.status("a") == {"state": "Live", "interface": "tap99", **EMPTY}


EMPTY: Mapping[str, Any] = {"routes": [], "conditions": []}


async def test_a_version_that_the_server_has_forgotten_is_gone(objects: Objects) -> None:
    query = {"watch": "1", "resourceVersion": "1"}
    stream = objects.api.stream(ENDPOINTS, query, silence=5.0, longest=5.0)
    with pytest.raises(Gone, match="too old resource version"):
        async for _ in stream:
            pass


THING: Mapping[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.agent.test"},
    "spec": {
        "group": "agent.test",
        "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object"}},
            }
        ],
    },
}


async def test_a_crd_that_is_removed_takes_nothing_with_it(api: ApiServer) -> None:
    """A CRD of our own, since all others' objects would be gone with the real one."""
    body = {"apiVersion": "agent.test/v1", "kind": "Thing", "metadata": {"name": "a"}}
    path = "/apis/agent.test/v1/namespaces/default/things"
    await install(api, THING)
    uid = (await api.create(path, body))["metadata"]["uid"]
    sink = Names()
    watch = Watch(api, "/apis/agent.test/v1/things", sink=sink, timing=QUICK)
    async with running(watch):
        await sink.until("synced")
    await delete(api, f"{CRD_PATH}/things.agent.test")
    await served(api, THING, wanted=False)
    async with running(watch):
        said = await sink.until("outage")
        assert said == ["put a", "synced", "outage"]
        assert sink.reason.startswith("/apis/agent.test/v1/things: 404: ")
        await install(api, THING)
        await api.create(path, body)
        await sink.until("put a", 2)
    assert f"drop a {uid}" in sink.said
    await delete(api, f"{CRD_PATH}/things.agent.test")


FULL = WorkloadEndpointStatus(
    state=State.LIVE,
    since=NOW,
    deadline=NOW + dt.timedelta(seconds=30),
    migration_uid="m",
    interface="tap0",
    routes=(
        RouteStatus.model_validate(
            {"address": "10.65.0.2", "metric": 512, "table": 254, "protocol": 88}
        ),
    ),
    last_cutover=Cutover(
        signal=Signal.RARP, announcement_to_route_microseconds=180, time=NOW, migration_uid="m"
    ),
    conditions=(
        Condition(type="Programmed", status="True", reason="Programmed", last_transition_time=NOW),
    ),
)


async def test_a_status_replaces_all_of_the_one_before(objects: Objects) -> None:
    uid = await objects.create("a")
    reporter = Reporter(objects.api, lambda: NOW, objects.node)
    smaller = FULL.model_copy(
        update={
            "deadline": None,
            "migration_uid": None,
            "last_cutover": Cutover(
                signal=Signal.PROBE, announcement_to_route_microseconds=9, time=NOW
            ),
            "conditions": (),
        }
    )
    async with running(reporter):
        for status in (FULL, smaller, WorkloadEndpointStatus()):
            reporter.want(objects.key("a"), uid, status)
            assert await reporter.flush(PATIENCE) == 0
            raw = await objects.api.get(objects.path("a"))
            assert raw["status"] == {**EMPTY, **status.to_object()}
            assert raw["spec"]["workload"] == "a"
            assert reporter.counts.failures == {}


async def test_the_echo_of_a_report_asks_for_no_other(objects: Objects) -> None:
    uid = await objects.create("a")
    reporter = Reporter(objects.api, lambda: NOW, objects.node)
    async with running(reporter):
        reporter.want(objects.key("a"), uid, FULL)
        assert await reporter.flush(PATIENCE) == 0
        echo = WorkloadEndpoint.model_validate(await objects.api.get(objects.path("a")))
        reporter.learn(objects.key("a"), uid, echo.status)
        assert reporter.pending == 0
        other = {"op": "replace", "path": "/status/state", "value": "Base"}
        await objects.api.patch(f"{objects.path('a')}/status", [other])
        echo = WorkloadEndpoint.model_validate(await objects.api.get(objects.path("a")))
        reporter.learn(objects.key("a"), uid, echo.status)
        assert await reporter.flush(PATIENCE) == 0
    assert (await objects.status("a"))["state"] == "Live"
    assert reporter.counts.written == 2


async def test_another_object_of_the_same_name_is_not_written(objects: Objects) -> None:
    uid = await objects.create("a")
    await objects.delete("a")
    path = f"{objects.path('a')}/status"
    with pytest.raises(Absent):
        await objects.api.patch(path, report.operations(uid, FULL))
    await objects.create("a")
    with pytest.raises(Refused, match="422: "):
        await objects.api.patch(path, report.operations(uid, FULL))
    assert await objects.status("a") == {}


async def test_an_event_can_be_seen_at_its_endpoint(objects: Objects) -> None:
    uid = await objects.create("a")
    reporter = Reporter(objects.api, lambda: NOW, objects.node)
    async with running(reporter):
        reporter.add_event(Event(objects.key("a"), uid, "CutOver", "RARP to route in 180 µs"))
        assert await reporter.flush(PATIENCE) == 0
    assert reporter.counts.failures == {}
    query = {"fieldSelector": f"involvedObject.uid={uid}"}
    found = await objects.api.get(f"/api/v1/namespaces/{objects.namespace}/events", query)
    (event,) = found["items"]
    assert (event["reason"], event["message"]) == ("CutOver", "RARP to route in 180 µs")
    assert (event["reportingComponent"], event["reportingInstance"]) == (
        "handover.dev/handover-nodeagent",
        objects.node,
    )


async def test_who_has_no_rights_is_refused(objects: Objects, api_server: ControlPlane) -> None:
    await objects.create("a")
    nobody = credentials.find({"KUBECONFIG": str(api_server.credentials("nobody"))})
    sink = Names()
    async with ApiServer(nobody) as api:
        with pytest.raises(Refused, match=r'403: .*User "nobody" cannot list'):
            await api.get(ENDPOINTS)
        async with running(Watch(api, ENDPOINTS, sink=sink, timing=QUICK)):
            await sink.until("outage")
    assert sink.said == ["outage"]


async def test_a_server_that_nobody_vouches_for_is_unreachable(api_server: ControlPlane) -> None:
    async with ApiServer(Access(api_server.url, token="secret")) as api:
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await api.get("/api")


async def test_a_renewed_authority_is_read_from_its_file(
    api_server: ControlPlane, tmp_path: Path
) -> None:
    file = tmp_path / "current.crt"
    file.write_bytes(Authority.make(tmp_path).pair.certificate.read_bytes())
    found = credentials.find({"KUBECONFIG": str(api_server.kubeconfig)})
    async with ApiServer(dataclasses.replace(found, authority=Pem(file))) as api:
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await api.get("/api")
        file.write_bytes(api_server.ca.read_bytes())
        assert (await api.get("/api"))["kind"] == "APIVersions"


async def test_a_wrong_token_is_unavailable(api_server: ControlPlane) -> None:
    found = credentials.find({"KUBECONFIG": str(api_server.kubeconfig)})
    wrong = Access(found.url, authority=found.authority, token="wrong")
    async with ApiServer(wrong) as api:
        with pytest.raises(errors.Unavailable, match="401: Unauthorized"):
            await api.get(ENDPOINTS)
