"""What a person sees of the three kinds with kubectl."""

import concurrent.futures
import datetime as dt
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from handover_api.conditions import ConfigurationCondition, EndpointCondition
from handover_api.livemigration import LiveMigrationStatus, Phase, SideStatus
from handover_api.model import Condition
from handover_api.names import CONFIGURATIONS, LIVE_MIGRATIONS, WORKLOAD_ENDPOINTS
from handover_api.workloadendpoint import (
    AgentAddress,
    Cutover,
    Hold,
    HoldReason,
    RedirectStatus,
    Role,
    RouteStatus,
    Signal,
    State,
    WorkloadEndpointStatus,
)

pytestmark = pytest.mark.api

Kubectl = Callable[..., str]
Schema = Mapping[str, Any]

CRDS: Final = Path(__file__).parents[2] / "crds"
SCHEMAS: Final = {
    crd["spec"]["names"]["plural"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for crd in (yaml.safe_load(path.read_text()) for path in sorted(CRDS.glob("*.yaml")))
}
PATIENCE: Final = 20
WHEN: Final = dt.datetime(2026, 11, 24, 12, 0, 0, 123, dt.UTC)
CONDITION: Final = Condition(
    type=EndpointCondition.PROGRAMMED,
    status="True",
    reason="InKernel",
    message="all routes are in",
    last_transition_time=WHEN.replace(microsecond=0),
    observed_generation=1,
)
REDIRECTABLE: Final = CONDITION.model_copy(
    update={"type": EndpointCondition.REDIRECTABLE, "reason": "Ready"}
)
HOLD: Final = Hold(held=12, resent=11, doubled=1, dropped=3, reason=HoldReason.TOO_MUCH)
CUTOVER: Final = Cutover(
    signal=Signal.RARP,
    announcement_to_route_microseconds=210,
    time=WHEN,
    announcement_to_redirect_microseconds=640,
    announcement_to_last_node_microseconds=900,
    nodes_followed=7,
    nodes_silent=1,
    guest_silence_microseconds=48_000,
    clock_error_microseconds=35,
    roll_backs=0,
    forwarded=12,
    hold=HOLD,
)
AGENT: Final = {
    "publicKey": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    "addresses": ["192.0.2.1", "2001:db8::1"],
    "port": 7473,
}

MANIFESTS: Final = """\
apiVersion: handover.dev/v1alpha1
kind: WorkloadEndpoint
metadata:
  name: vm-a
  annotations: {handover.dev/role: source, handover.dev/migration: m1}
spec: {node: node-a, workload: vm-a, ips: [10.65.0.2, "fd00::2"]}
---
apiVersion: handover.dev/v1alpha1
kind: WorkloadEndpoint
metadata: {name: vm-b}
spec: {node: node-b, workload: vm-b, ips: [10.65.0.2]}
---
apiVersion: handover.dev/v1alpha1
kind: LiveMigration
metadata: {name: m1}
spec: {source: {workload: {name: vm-a}}, target: {selector: {matchLabels: {app: vm}}}}
---
apiVersion: handover.dev/v1alpha1
kind: LiveMigration
metadata: {name: m2}
spec: {source: {endpoint: {name: vm-b}}}
"""
CONFIGURATION: Final = """\
apiVersion: handover.dev/v1alpha1
kind: HandoverConfiguration
metadata: {name: node.kubectl}
spec: {mode: observe, probeInterval: 100ms}
"""

ENDPOINT_STATUS: Final = WorkloadEndpointStatus(
    state=State.LIVE,
    since=WHEN,
    deadline=WHEN + dt.timedelta(seconds=30),
    role=Role.TARGET,
    migration_uid="uid-1",
    interface="tap0",
    routes=tuple(
        RouteStatus.model_validate(
            {"address": address, "metric": 512, "table": 4294967295, "protocol": 88}
        )
        for address in ("10.65.0.2", "fd00::2")
    ),
    last_cutover=CUTOVER.model_copy(update={"migration_uid": "uid-1"}),
    agent=AgentAddress.model_validate(AGENT),
    advertised=True,
    redirect=RedirectStatus(migration_uid="uid-1", forwarded=12, roll_backs=1, hold=HOLD),
    conditions=(CONDITION, REDIRECTABLE),
)
MIGRATION_STATUS: Final = LiveMigrationStatus(
    phase=Phase.LIVE,
    observed_generation=1,
    source=(SideStatus(endpoint="vm-a", node="node-a", state=State.BASE),),
    target=(
        SideStatus(endpoint="vm-b", node="node-b", state=State.LIVE, cutover=CUTOVER),
        SideStatus(endpoint="vm-c", node="node-c", state=State.TARGET),
    ),
    start_time=WHEN,
    ready_time=WHEN,
    cutover_time=WHEN,
    completion_time=WHEN,
    conditions=(CONDITION, REDIRECTABLE),
)
ACCEPTED: Final = CONDITION.model_copy(
    update={"type": ConfigurationCondition.ACCEPTED, "reason": "Valid"}
)


@pytest.fixture(scope="module")
def here(kubectl: Kubectl, namespace: str) -> Iterator[Kubectl]:
    """Return kubectl in our namespace, in which our objects are and have their status."""

    def run(*arguments: str, **options: str) -> str:
        """Run kubectl in the namespace."""
        return kubectl("--namespace", namespace, *arguments, **options)

    run("apply", "-f", "-", stdin=MANIFESTS)
    run("apply", "-f", "-", stdin=CONFIGURATION)
    for name, status in (
        ("wep/vm-a", ENDPOINT_STATUS.to_object()),
        ("lm/m1", MIGRATION_STATUS.to_object()),
        ("hc/node.kubectl", {"mode": "observe", "conditions": [ACCEPTED.to_object()]}),
    ):
        patch = json.dumps({"status": status})
        run("patch", name, "--subresource", "status", "--type", "merge", "--patch", patch)
    yield run
    run("delete", "-f", "-", stdin=MANIFESTS)
    run("delete", "-f", "-", stdin=CONFIGURATION)


def table(printed: str) -> list[list[str]]:
    """Split what kubectl printed into cells, by the places of its headings."""
    lines = printed.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", lines[0])]
    ends = [*starts[1:], None]
    return [[line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in lines]


def test_migrations_in_columns(here: Kubectl) -> None:
    heads, first, second = table(here("get", "lm"))
    assert heads == [
        "NAME",
        "PHASE",
        "SOURCE-NODE",
        "TARGET-NODE",
        "ANNOUNCEMENT-TO-ROUTE(USEC)",
        "AGE",
    ]
    assert first[:-1] == ["m1", "Live", "node-a", "node-b", "210"]
    assert re.fullmatch(r"\d+m?s?\d*s?", first[-1])
    assert second[:-1] == ["m2", "", "", "", ""]


def test_endpoints_in_columns(here: Kubectl) -> None:
    heads, *rows = table(here("get", "wep"))
    assert heads == [
        *("NAME", "NODE", "INTERFACE", "IPS", "ROLE", "STATE"),
        *("PROGRAMMED", "REASON", "AGE"),
    ]
    ips = '["10.65.0.2","fd00::2"]'
    assert [row[:-1] for row in rows] == [
        ["vm-a", "node-a", "tap0", ips, "source", "Live", "True", CONDITION.reason],
        ["vm-b", "node-b", "", '["10.65.0.2"]', "", "", "", ""],
    ]


def test_configurations_in_columns(here: Kubectl) -> None:
    heads, row = table(here("get", "hc", "node.kubectl"))
    assert heads == ["NAME", "MODE", "ACCEPTED", "REASON", "APPLIED", "OVERRIDDEN", "AGE"]
    assert row[:-1] == ["node.kubectl", "observe", "True", "Valid", "", ""]


@pytest.mark.parametrize(
    ("name", "heads", "cells"),
    [
        (
            "lm/m1",
            [
                *("SIGNAL", "REDIRECTABLE", "REDIRECT(USEC)", "LAST-NODE(USEC)", "SILENCE(USEC)"),
                "OUTCOME",
            ],
            ["RARP", "True", "640", "900", "48000", ""],
        ),
        (
            "wep/vm-a",
            ["WORKLOAD", "MIGRATION", "REDIRECTABLE", "ADVERTISED"],
            ["vm-a", "m1", "Ready", "true"],
        ),
    ],
)
def test_more_columns_when_wide(
    here: Kubectl, name: str, heads: list[str], cells: list[Any]
) -> None:
    found_heads, found = table(here("get", name, "-o", "wide"))
    assert found_heads[-len(heads) :] == heads
    wanted = [b if a is ... else a for a, b in zip(cells, found[-len(cells) :], strict=True)]
    assert found[-len(cells) :] == wanted


def test_everything_of_handover_is_listed_by_its_category(here: Kubectl) -> None:
    names = set(here("get", "handover", "-o", "name").split())
    assert names >= {
        f"{WORKLOAD_ENDPOINTS[:-1]}.handover.dev/vm-a",
        f"{WORKLOAD_ENDPOINTS[:-1]}.handover.dev/vm-b",
        f"{LIVE_MIGRATIONS[:-1]}.handover.dev/m1",
        f"{LIVE_MIGRATIONS[:-1]}.handover.dev/m2",
        f"{CONFIGURATIONS[:-1]}.handover.dev/node.kubectl",
    }


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("spec.node=node-a", ["vm-a"]),
        ("spec.node=node-b", ["vm-b"]),
        ("spec.node!=node-a", ["vm-b"]),
        ("spec.node=node", []),
        ("status.advertised=true", ["vm-a"]),
        ("status.advertised!=true", ["vm-b"]),
        ("spec.node=node-b,status.advertised=true", []),
    ],
)
def test_endpoints_are_selected_by_node_and_by_what_concerns_all_nodes(
    here: Kubectl, selector: str, expected: list[str]
) -> None:
    found = here("get", "wep", "--field-selector", selector, "-o", "name")
    assert found.split() == [f"workloadendpoint.handover.dev/{name}" for name in expected]


def test_the_server_keeps_a_status_whole(here: Kubectl) -> None:
    endpoint = json.loads(here("get", "wep", "vm-a", "-o", "json"))
    assert endpoint["status"] == ENDPOINT_STATUS.to_object()
    migration = json.loads(here("get", "lm", "m1", "-o", "json"))
    assert migration["status"] == MIGRATION_STATUS.to_object()


async def test_a_status_is_written_by_its_own_way_only(api: Any, here: Kubectl) -> None:
    before = json.loads(here("get", "wep", "vm-a", "-o", "json"))
    both = {"spec": {"workload": "other"}, "status": {"state": "Base"}}
    by_spec = await api.change(WORKLOAD_ENDPOINTS, both, "vm-a")
    assert by_spec["spec"]["workload"] == "other"
    assert by_spec["status"] == before["status"]
    by_status = await api.change(WORKLOAD_ENDPOINTS, both, "vm-a", part="status")
    assert by_status["spec"] == before["spec"]
    assert by_status["status"] == {**before["status"], "state": "Base"}
    assert by_status["metadata"]["generation"] == before["metadata"]["generation"]


async def test_an_object_is_born_without_status(api: Any) -> None:
    spec = {"node": "node-a", "workload": "vm", "ips": ["10.65.0.2"]}
    made = await api.create(WORKLOAD_ENDPOINTS, spec, status={"state": "Live"})
    assert "status" not in made


@pytest.mark.usefixtures("here")
async def test_what_a_newer_agent_says_is_kept(api: Any) -> None:
    status = {"status": {"state": "Redirected", "role": "both"}}
    after = await api.change(WORKLOAD_ENDPOINTS, status, "vm-a", part="status")
    assert (after["status"]["state"], after["status"]["role"]) == ("Redirected", "both")


@pytest.mark.parametrize(
    ("status", "field"),
    [
        ({"since": "noon"}, "status.since"),
        ({"routes": [{"address": "10.65.0.2"}]}, "status.routes[0].metric"),
        ({"conditions": [{"type": "Programmed"}]}, "status.conditions[0].status"),
        ({"agent": AGENT | {"port": None}}, "status.agent.port"),
        ({"agent": AGENT | {"publicKey": "x" * 44}}, "status.agent.publicKey"),
        # Its last character has bits beyond the 32 bytes: another text of the same key.
        (
            {"agent": AGENT | {"publicKey": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURp="}},
            "status.agent.publicKey",
        ),
        ({"agent": AGENT | {"addresses": []}}, "status.agent.addresses"),
        ({"agent": AGENT | {"addresses": ["127.0.0.1"]}}, "status.agent.addresses[0]"),
        ({"agent": AGENT | {"addresses": ["fe80::1"]}}, "status.agent.addresses[0]"),
        ({"agent": AGENT | {"addresses": ["node-a"]}}, "status.agent.addresses[0]"),
        ({"agent": AGENT | {"addresses": ["192.0.2.1"] * 5}}, "status.agent.addresses"),
        ({"agent": AGENT | {"port": 65536}}, "status.agent.port"),
    ],
)
@pytest.mark.usefixtures("here")
async def test_a_status_outside_of_the_contract_is_refused(
    api: Any, status: dict[str, Any], field: str
) -> None:
    with pytest.raises(api.refused) as raised:
        await api.change(WORKLOAD_ENDPOINTS, {"status": status}, "vm-a", part="status")
    assert field in raised.value.causes


@pytest.mark.parametrize(
    ("kind", "name", "spec", "sentence"),
    [
        (
            "LiveMigration",
            "wrong",
            "{armed: false}",
            "spec: Invalid value: spec must have at least one of source and target",
        ),
        (
            "WorkloadEndpoint",
            "wrong",
            "{node: a, workload: vm, ips: [10.65.0.2/32]}",
            'spec.ips[0]: Invalid value: "10.65.0.2/32": spec.ips must hold IPv4 or IPv6 addresses',
        ),
        (
            "HandoverConfiguration",
            "mine",
            "{}",
            "Invalid value: metadata.name must be default (for all nodes), or node. and the name",
        ),
        ("WorkloadEndpoint", "wrong", "{nodes: a}", 'unknown field "spec.nodes"'),
    ],
)
def test_apply_refuses_with_a_sentence(
    here: Kubectl, kind: str, name: str, spec: str, sentence: str
) -> None:
    manifest = (
        f"{{apiVersion: handover.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}}},"
        f" spec: {spec}}}"
    )
    with pytest.raises(AssertionError, match=re.escape(sentence)):
        here("apply", "-f", "-", stdin=manifest)


def objects(schema: Schema, path: str) -> Iterator[tuple[str, Mapping[str, Schema]]]:
    """Walk all objects of a schema that have fields, with the paths that explain understands."""
    fields = schema.get("properties", {})
    if fields:
        yield path, fields
    for name, each in fields.items():
        yield from objects(each.get("items", each), f"{path}.{name}")


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("plural", SCHEMAS)
def test_explain_answers_for_every_field(kubectl: Kubectl, plural: str) -> None:
    def explain(path: str) -> str:
        """Return the explanation, its folded lines joined."""
        return " ".join(kubectl("explain", path).split())

    paths = dict(objects(SCHEMAS[plural], plural))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        explained = dict(zip(paths, pool.map(explain, paths), strict=True))
    for path, fields in paths.items():
        for name, each in fields.items():
            described = " ".join(each["description"].split())
            assert re.search(rf"\b{name} <[^>]+>.* {re.escape(described)}", explained[path]), path


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("plural", SCHEMAS)
def test_explain_shows_all_fields_at_once(kubectl: Kubectl, plural: str) -> None:
    printed = kubectl("explain", plural, "--recursive")
    shown = re.findall(r"^ +(\w+)\t<", printed, re.MULTILINE)
    for path, fields in objects(SCHEMAS[plural], plural):
        assert fields.keys() <= set(shown), path
