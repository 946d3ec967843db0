"""Roles, phases and outcomes, as the operator's process gives them."""

import asyncio
import contextlib
import datetime as dt
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from handover_api import __version__, names
from handover_lab.cluster.controlplane import ControlPlane
from handover_operator.kinds import Kind
from handover_operator.kube.errors import Absent

pytestmark = pytest.mark.api

CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


async def test_a_migration_from_pending_to_succeeded(operator: Any, desk: Any) -> None:
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
    gone = desk.until(lambda: exists(desk, Kind.MIGRATION, "m1"), lambda there: not there)
    await gone  # one second after it has finished
    annotations = (await desk.get(Kind.ENDPOINT, "a"))["metadata"]["annotations"]
    assert annotations["mine"] == "stays"
    reasons = [event.partition(":")[0] for event in await desk.events("m1")]
    assert sorted(reasons) == ["CutOver", "Ready", "Succeeded"]
    assert operator.kill(signal.SIGTERM) == 0


@pytest.mark.usefixtures("operator")
async def test_agents_are_named_to_each_other_and_a_source_that_sends_on_is_waited_for(
    desk: Any,
) -> None:
    uid = await desk.pair()
    keys = {name: await desk.publish(name) for name in "ab"}
    [target] = await desk.until(lambda: desk.peers("a"), bool)
    [source] = await desk.until(lambda: desk.peers("b"), bool)
    assert (target["uid"], target["endpoint"], target["role"]) == (uid, "b", "target")
    assert (source["uid"], source["endpoint"], source["role"]) == (uid, "a", "source")
    assert {"a": source["publicKey"], "b": target["publicKey"]} == keys
    await desk.report("b", "Live", uid)
    await desk.until(lambda: desk.annotation("a", names.PEER_LIVE), lambda live: live == uid)
    # Its routes lead to the target, and others still hear of them.
    await desk.report("a", "Redirected", uid, routed=True)
    await desk.end("Succeeded")
    await desk.until_said("a", "source of m1 Succeeded")
    await desk.until_phase("Converging")
    assert await desk.said("b") == "target of m1"
    # From here on nobody hears of them, though it still sends on.
    await desk.report("a", "Redirected", uid)
    await desk.until_said("b", "target of m1 Succeeded")
    await desk.report("b", "TimeWait", uid)
    await desk.report("b", "Base", uid)
    await desk.until_phase("Succeeded")
    assert [each["endpoint"] for each in await desk.peers("b")] == ["a"]
    await desk.delete(Kind.ENDPOINT, "a")
    await desk.until(lambda: desk.annotation("b", names.PEER), lambda text: text is None)


async def exists(desk: Any, kind: Kind, name: str) -> bool:
    """Return whether an object exists."""
    try:
        await desk.get(kind, name)
    except Absent:
        return False
    return True


@pytest.mark.usefixtures("operator")
async def test_a_target_on_a_node_that_does_not_exist_is_told_from_a_silent_agent(
    desk: Any,
) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-b"}}
    await desk.endpoint("a")
    await desk.endpoint("b")
    await desk.migration("m1", "a", "b")
    await desk.until_phase("Preparing")
    await begin_earlier(desk, 20)
    told = ("False", "NodeAbsent")
    await desk.until(lambda: desk.condition("TargetReady"), lambda found: found == told)
    await desk.until(lambda: desk.events("m1"), lambda said: any("NodeAbsent" in s for s in said))
    await desk.api.call("POST", "/api/v1/nodes", body=node)
    try:
        await begin_earlier(desk, 30)
        told = ("False", "AgentSilent")
        await desk.until(lambda: desk.condition("TargetReady"), lambda found: found == told)
    finally:
        await desk.api.call("DELETE", "/api/v1/nodes/node-b")


async def begin_earlier(desk: Any, seconds: int) -> None:
    """Let a migration have begun earlier, which is quicker than to wait."""
    began = dt.datetime.fromisoformat((await desk.status())["startTime"])
    earlier = (began - dt.timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    key = desk.key(Kind.MIGRATION, "m1")
    await desk.api.patch(
        Kind.MIGRATION, key, {"status": {"startTime": earlier}}, subresource="/status"
    )


@pytest.mark.usefixtures("operator")
async def test_an_abort_is_told_to_both_sides(desk: Any) -> None:
    await desk.pair()
    await desk.end("Aborted")
    await desk.until_said("a", "source of m1 Aborted")
    await desk.until_said("b", "target of m1 Aborted")
    await desk.until_phase("Aborted")
    assert await desk.condition("Finished") == ("True", "Aborted")


@pytest.mark.usefixtures("operator")
async def test_a_lost_source_decides_after_five_seconds(desk: Any) -> None:
    uid = await desk.pair()
    await desk.report("b", "Live", uid)
    await desk.delete(Kind.ENDPOINT, "a")
    await desk.until_said("b", "target of m1 Succeeded")
    await desk.report("b", "Base", uid)
    await desk.until_phase("Succeeded")


@pytest.mark.usefixtures("operator")
async def test_a_deleted_migration_succeeds_after_life(desk: Any) -> None:
    uid = await desk.pair()
    await desk.report("b", "Live", uid)
    await desk.until_phase("Live")
    await desk.delete(Kind.MIGRATION, "m1")
    await desk.until_said("a", "source of m1 Succeeded")
    assert await desk.said("b") == "target of m1"
    await desk.report("a", "Withdrawn", uid)
    await desk.until_said("b", "target of m1 Succeeded")


@pytest.mark.usefixtures("operator")
async def test_a_deleted_migration_without_life_is_aborted(desk: Any) -> None:
    await desk.pair()
    await desk.delete(Kind.MIGRATION, "m1")
    await desk.until_said("a", "source of m1 Aborted")
    await desk.until_said("b", "target of m1 Aborted")


@pytest.mark.usefixtures("operator")
async def test_two_migrations_in_conflict_stop_no_third(desk: Any) -> None:
    await desk.pair()
    await desk.endpoint("c")
    await desk.migration("m2", "c", "b", id="later")
    await desk.until(
        lambda: desk.condition("Conflicted", "m2"),
        lambda found: found == ("True", "EndpointClaimed"),
    )
    await desk.until(
        lambda: desk.condition("Conflicted", "m1"),
        lambda found: found == ("True", "EndpointClaimed"),
    )
    await desk.until(
        lambda: desk.events("m2"), lambda told: any("EndpointClaimed" in t for t in told)
    )
    await desk.endpoint("x")
    await desk.endpoint("y")
    await desk.migration("m3", "x", "y")
    await desk.until_said("y", "target of m3")


async def test_a_restart_rewrites_nothing(operator: Any, desk: Any) -> None:
    uid = await desk.pair()
    for name in "ab":
        await desk.publish(name)
    await desk.report("b", "Live", uid)
    await desk.until(lambda: desk.annotation("a", names.PEER_LIVE), bool)
    await desk.end("Succeeded")
    await desk.until_phase("Converging")
    await desk.endpoint("x")
    await desk.migration("m2", "x", "y")
    await desk.until_said("x", "source of m2")
    await desk.until_phase("Pending", "m2")
    await desk.until(
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
async def test_killed_in_any_phase_it_goes_on(operator: Any, desk: Any, phase: str) -> None:
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


async def resume(operator: Any, *, down: bool) -> None:
    """Start the operator again if it was killed."""
    if down:
        await operator.start()


@pytest.mark.parametrize(("state", "outcome"), [("Target", "Aborted"), ("Live", "Succeeded")])
async def test_what_is_deleted_while_it_is_down_is_told_afterwards(
    operator: Any, desk: Any, state: str, outcome: str
) -> None:
    uid = await desk.pair()
    await desk.report("b", state, uid)
    operator.kill()
    await desk.delete(Kind.MIGRATION, "m1")
    await operator.start()
    await desk.until_said("a", f"source of m1 {outcome}")


async def test_a_malformed_object_is_named_and_stops_nobody(operator: Any, desk: Any) -> None:
    async with any_address_allowed(desk.api):
        await desk.pair()
        await desk.endpoint("broken")
        key = desk.key(Kind.ENDPOINT, "broken")
        await desk.api.patch(Kind.ENDPOINT, key, {"spec": {"ips": ["elsewhere"]}})
        await desk.until(lambda: desk.events("broken"), bool)
        [told] = await desk.events("broken")
        assert told.startswith("Malformed: spec.ips")
        assert any(
            line["event"] == "malformed_object"
            and line["object"] == f"{desk.namespace}/broken"
            and line["field"].startswith("spec.ips")
            for line in operator.lines()
        )
        await desk.end("Aborted")
        await desk.until_phase("Aborted")
        await desk.delete(Kind.ENDPOINT, "broken")


async def test_a_namespace_that_goes_stops_nobody(operator: Any, desk: Any) -> None:
    await desk.pair()
    await desk.api.call("DELETE", f"/api/v1/namespaces/{desk.namespace}")
    await desk.end("Aborted")
    await desk.until_said("b", "target of m1 Aborted")
    await desk.until_phase("Aborted")
    await operator.until_idle(0)  # an Event that is refused is not tried for ever
    assert any(
        line["event"] == "event_lost" and desk.namespace in line["about"]
        for line in operator.lines()
    )
    other = type(desk)(desk.api, "default")
    await other.endpoint("a")
    await other.migration("m1", "a", "b")
    await other.until_said("a", "source of m1")
    await other.clear()


async def test_the_metrics_tell_of_a_migration(new_operator: Callable[..., Any], desk: Any) -> None:
    operator = new_operator()
    await operator.start()
    uid = await desk.pair()
    await desk.report("b", "Live", uid)
    await desk.end("Succeeded")
    await desk.until_said("a", "source of m1 Succeeded")
    await desk.report("a", "Withdrawn", uid)
    await desk.until_said("b", "target of m1 Succeeded")
    await desk.report("b", "Base", uid)
    await desk.until_phase("Succeeded")
    await operator.until_idle(0)
    # Those of other tests, too: the API server is everybody's.
    there, _ = await desk.api.identities(Kind.ENDPOINT)
    _, text = await operator.get("/metrics")
    told = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    removed = 'handover_operator_roles_total{{change="removed",reason="Succeeded",role="{}"}}'
    given = 'handover_operator_roles_total{{change="given",reason="{}ByName",role="{}"}}'
    expected = {
        given.format("Source", "source"): "1.0",
        given.format("Target", "target"): "1.0",
        removed.format("source"): "1.0",
        removed.format("target"): "1.0",
        'handover_operator_migrations{phase="Succeeded"}': "1.0",
        'handover_operator_migrations{phase="Live"}': "0.0",
        'handover_operator_objects{kind="WorkloadEndpoint"}': f"{len(there)}.0",
        'handover_operator_writes_total{kind="WorkloadEndpoint",result="done"}': "4.0",
        'handover_operator_announcement_to_route_seconds_count{signal="RARP"}': "1.0",
        'handover_operator_announcement_to_route_seconds_sum{signal="RARP"}': "0.00021",
        "handover_operator_start_to_ready_seconds_count": "1.0",
        'handover_operator_start_to_end_seconds_count{outcome="Succeeded"}': "1.0",
        "handover_operator_queue_length": "0.0",
        "handover_operator_leader": "1.0",
    }
    assert expected == {name: told.get(name) for name in expected}
    assert f'handover_operator_build_info{{version="{__version__}"}}' in told


@contextlib.asynccontextmanager
async def any_address_allowed(api: Any) -> AsyncIterator[None]:
    """Let the API server take any words for an endpoint's addresses, as a newer CRD might."""
    path = f"{CRD_PATH}/{Kind.ENDPOINT.plural}.{names.GROUP}"
    crd = await api.call("GET", path)
    version = crd["spec"]["versions"][0]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    kept = spec["properties"]["ips"]
    await put_ips_schema(api, path, {"type": "array", "items": {"type": "string"}, "maxItems": 16})
    try:
        yield
    finally:
        await put_ips_schema(api, path, kept)


async def put_ips_schema(api: Any, path: str, schema: object) -> None:
    """Replace the schema of ``spec.ips``; the API server needs a moment to serve it."""
    patch = [
        {
            "op": "replace",
            "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/ips",
            "value": schema,
        }
    ]
    await api.call("PATCH", path, body=patch, content_type="application/json-patch+json")
    await asyncio.sleep(1)  # nothing tells when the new schema is in force


async def test_writers_that_are_faster_delay_nothing_for_long(operator: Any, desk: Any) -> None:
    await desk.pair()

    async def disturb(number: int) -> None:
        labels = {"metadata": {"labels": {"n": str(number)}}}
        await desk.change(Kind.ENDPOINT, "b", labels)

    for number in range(30):
        armed = {"spec": {"armed": bool(number % 2)}}
        await asyncio.gather(disturb(number), desk.change(Kind.MIGRATION, "m1", armed))
    await desk.change(Kind.MIGRATION, "m1", {"spec": {"armed": False}})
    await desk.until(
        lambda: desk.get(Kind.ENDPOINT, "b"),
        lambda found: found["metadata"]["annotations"].get(names.ARMED) == "false",
    )
    await operator.until_idle(0)


async def test_the_default_configuration_is_applied_and_all_are_judged(
    new_operator: Callable[..., Any], desk: Any, tmp_path: Path
) -> None:
    file, node = tmp_path / "default.yaml", f"node.{desk.namespace}"
    file.write_text("probeInterval: 100ms\n")
    operator = new_operator(HANDOVER_CONFIGURATION_FILE=str(file))
    await operator.start()
    await desk.until(lambda: accepted(desk, "default"), bool)
    await desk.until(
        lambda: desk.get(Kind.CONFIGURATION, "default"),
        lambda found: (found.get("spec") or {}).get("probeInterval") == "100ms",
    )
    await desk.until(lambda: accepted(desk, "default"), lambda found: found == ("True", "Valid"))
    await desk.create(Kind.CONFIGURATION, node, {"mode": "observe"})
    await desk.until(lambda: accepted(desk, node), lambda found: found == ("True", "Valid"))
    before = (await desk.get(Kind.CONFIGURATION, "default"))["metadata"]["resourceVersion"]
    operator.kill()
    await operator.start()
    await operator.until_idle(2)
    after = (await desk.get(Kind.CONFIGURATION, "default"))["metadata"]["resourceVersion"]
    assert after == before
    await desk.delete(Kind.CONFIGURATION, "default")


async def test_a_persons_pause_outlives_a_new_leader_and_a_deletion_is_healed(
    new_operator: Callable[..., Any], desk: Any, tmp_path: Path
) -> None:
    file = tmp_path / "default.yaml"
    file.write_text("{mode: active, probeInterval: 100ms}\n")
    operator = new_operator(HANDOVER_CONFIGURATION_FILE=str(file))
    await operator.start()
    await desk.until(lambda: said(desk, "Applied"), lambda found: found == ("True", "Applied"))
    await desk.change(Kind.CONFIGURATION, "default", {"spec": {"mode": "paused"}})
    overridden = ("True", "SetElsewhere")
    await desk.until(lambda: said(desk, "Overridden"), lambda found: found == overridden)
    operator.kill()
    file.write_text("{mode: active, probeInterval: 200ms}\n")
    await operator.start()
    await desk.until(
        lambda: desk.get(Kind.CONFIGURATION, "default"),
        lambda found: found["spec"] == {"mode": "paused", "probeInterval": "200ms"},
    )
    await desk.change(Kind.CONFIGURATION, "default", {"spec": {"mode": None}})
    await desk.until(lambda: said(desk, "Overridden"), lambda found: found == ("False", "AsGiven"))
    uid = (await desk.get(Kind.CONFIGURATION, "default"))["metadata"]["uid"]
    await desk.delete(Kind.CONFIGURATION, "default")
    made = await desk.until(
        lambda: existing(desk), lambda found: found and found["metadata"]["uid"] != uid
    )
    assert made["spec"] == {"mode": "active", "probeInterval": "200ms"}
    operator.kill()
    file.write_text("{}\n")
    await operator.start()
    # The last field goes: an apply of {} alone would leave null, which is refused.
    await desk.until(
        lambda: desk.get(Kind.CONFIGURATION, "default"), lambda found: not found.get("spec")
    )
    operator.kill()
    await desk.delete(Kind.CONFIGURATION, "default")


async def test_a_refused_default_is_told_by_an_event_though_there_is_no_object(
    new_operator: Callable[..., Any], desk: Any, tmp_path: Path
) -> None:
    file = tmp_path / "default.yaml"
    file.write_text("{mode: observe, probeInterval: 1ms}\n")
    operator = new_operator(HANDOVER_CONFIGURATION_FILE=str(file))
    operator.launch()
    events = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=default"
    await desk.until(
        lambda: desk.api.read(events),
        lambda found: [
            each
            for each in found["items"]
            if each["reason"] == "Refused" and "spec.probeInterval must be 0" in each["message"]
        ],
    )
    assert await existing(desk) is None
    status, why = await operator.get("/readyz")
    assert (status, "HandoverConfiguration default is refused: " in why) == (503, True)


async def existing(desk: Any) -> Any:
    """Return ``default``, or None."""
    try:
        return await desk.get(Kind.CONFIGURATION, "default")
    except Absent:
        return None


async def accepted(desk: Any, name: str) -> tuple[str, str] | None:
    """Return status and reason of the condition Accepted."""
    return await said(desk, "Accepted", name)


async def said(desk: Any, kind: str, name: str = "default") -> tuple[str, str] | None:
    """Return status and reason of a condition."""
    try:
        found = await desk.get(Kind.CONFIGURATION, name)
    except Absent:
        return None
    for condition in found.get("status", {}).get("conditions", []):
        if condition["type"] == kind:
            return condition["status"], condition["reason"]
    return None


def dead_end(api_server: ControlPlane, folder: Path) -> Path:
    """Write a kubeconfig that leads to a port where nobody listens."""
    kubeconfig = yaml.safe_load(api_server.kubeconfig.read_text())
    kubeconfig["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig))
    return path


async def test_a_dead_api_server_is_waited_for_with_one_line(
    api_server: ControlPlane, new_operator: Callable[..., Any], desk: Any, tmp_path: Path
) -> None:
    operator = new_operator(dead_end(api_server, tmp_path))
    operator.launch()
    await desk.until(lambda: operator.get("/healthz"), lambda answer: answer[0] == 200)
    assert (await operator.get("/readyz"))[0] == 503
    await asyncio.sleep(1.5)  # several attempts
    waiting = [line for line in operator.lines() if line["level"] != "info"]
    assert [line["event"] for line in waiting] == ["waiting"]
    assert "127.0.0.1:9" in waiting[0]["reason"]
    assert operator.kill(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"KUBECONFIG": "/nonexistent"}, "set KUBECONFIG"),
        ({"HANDOVER_PORT": "many"}, "HANDOVER_PORT"),
        ({"HANDOVER_CONFIGURATION_FILE": "/nonexistent"}, "HANDOVER_CONFIGURATION_FILE"),
    ],
)
def test_what_is_set_wrongly_is_said_in_one_sentence(
    new_operator: Callable[..., Any], env: dict[str, str], said: str
) -> None:
    operator = new_operator(**env)
    operator.launch()
    assert operator._process.wait(20) != 0
    text = operator.log.read_text()
    assert said in text.splitlines()[-1]
    assert "Traceback" not in text
