"""What a person sees of a running agent."""

import datetime as dt
import json
from ipaddress import ip_address

import pytest
from typer.testing import CliRunner

from handover_api.assignment import Assignment
from handover_api.configuration import Settings
from handover_api.model import Condition
from handover_api.workloadendpoint import (
    Cutover,
    Role,
    RouteStatus,
    Signal,
    State,
    WorkloadEndpoint,
    WorkloadEndpointStatus,
)
from handover_nodeagent import cli
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.fsm.restart import Found, resume
from handover_nodeagent.kernel.netlink.nhmsg import NextHop
from handover_nodeagent.network.admission import Admission
from handover_nodeagent.network.model import Encapsulated, IPAddress, Link, Route, Via, Way
from handover_nodeagent.status import inspection, local_socket
from handover_nodeagent.status.conditions import Facts
from handover_nodeagent.status.inspection import Entry, Snapshot

NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
CUTOVER = Cutover(
    signal=Signal.RARP,
    announcement_to_route_microseconds=143,
    time=NOW - dt.timedelta(seconds=9),
)


def condition(kind: str, status: str, reason: str, message: str = "") -> Condition:
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=NOW,
        observed_generation=1,
    )


LIVE = Entry(
    namespace="default",
    name="vm",
    status=WorkloadEndpointStatus(
        state=State.LIVE,
        since=NOW - dt.timedelta(minutes=3),
        role=Role.TARGET,
        interface="tap0",
        routes=(RouteStatus(address="10.65.0.2", metric=512, table=254, protocol=88),),
        last_cutover=CUTOVER,
        conditions=(
            condition("Programmed", "True", "Programmed"),
            condition("Listening", "False", "NotNeeded"),
            condition("Configured", "True", "Accepted"),
        ),
    ),
)
DEAF = Entry(
    namespace="a",
    name="deaf",
    status=WorkloadEndpointStatus(
        state=State.TARGET,
        conditions=(
            condition("Programmed", "True", "Suppressed", "no route before the guest runs here"),
            condition("Listening", "False", "CannotListen", "the interface is down"),
            condition("AddressShared", "True", "Shared", "10.65.0.2 is also named by default/vm"),
            condition("Unguarded", "True", "GuardRefused"),
            condition("InterfaceDoubted", "True", "WouldBeRefused"),
        ),
    ),
)
SNAPSHOT = Snapshot(
    node="node-a", version="0.1.0", mode="active", synced=True, endpoints=(LIVE, DEAF)
)


def test_the_table_shows_each_endpoint_and_what_is_wrong_with_it() -> None:
    title, headings, *rows = inspection.table(SNAPSHOT, NOW).splitlines()
    assert title == "node node-a, agent 0.1.0, mode active, in step with the API"
    assert headings.split() == [
        *("ENDPOINT", "ROLE", "STATE", "INTERFACE", "ROUTES", "SINCE", "LAST", "CUTOVER"),
        "TROUBLE",
    ]
    assert [" ".join(row.split()) for row in rows] == [
        (
            "a/deaf - Target - - - - CannotListen: the interface is down; "
            "Shared: 10.65.0.2 is also named by default/vm; GuardRefused; WouldBeRefused"
        ),
        "default/vm target Live tap0 10.65.0.2 metric 512 3m RARP 143 µs, 9s ago -",
    ]


B, C, GUEST = ip_address("192.0.2.2"), ip_address("192.0.2.3"), ip_address("10.65.0.2")
NODES = {B: "node-b", C: "node-c"}


@pytest.mark.parametrize(
    ("way", "text"),
    [
        (Encapsulated(B, C), "10.65.0.2 metric 1024 to node-b by tunnel to 192.0.2.2"),
        (Via(C), "10.65.0.2 metric 1024 to node-c by gateway 192.0.2.3"),
        # The peer is named no more: who it was, only its address tells.
        (Encapsulated(B + 7), "10.65.0.2 metric 1024 by tunnel to 192.0.2.9"),
        (None, "10.65.0.2 metric 1024 by its device"),
    ],
)
def test_a_redirect_is_shown_with_where_it_leads(way: Way | None, text: str) -> None:
    route = Route(GUEST, 7, 1024, 254, 88, way=way)
    assert str(inspection.led(route, NODES)) == text


def test_a_redirected_endpoint_shows_its_way_also_where_nobody_exports_it() -> None:
    exported = Route(GUEST, 7, 512, 254, 88, way=Encapsulated(B))
    private = Route(GUEST + 1, 7, 1026, 254, 89, way=Encapsulated(B))
    redirects = tuple(inspection.led(route, NODES) for route in (exported, private))
    sent_on = LIVE.model_copy(update={"redirects": redirects})
    snapshot = SNAPSHOT.model_copy(update={"endpoints": (sent_on,)})
    assert (
        "10.65.0.2 metric 512 to node-b by tunnel to 192.0.2.2, "
        "10.65.0.3 metric 1026 to node-b by tunnel to 192.0.2.2"
    ) in inspection.table(snapshot, NOW)


def test_routes_to_guests_of_other_nodes_stand_below() -> None:
    """Also where no endpoint is on this node."""
    hops = (
        NextHop(4, 3, B),
        NextHop(4, 3),
        NextHop(4, 9, tunnel=Encapsulated(C, B)),
        None,
    )
    names = ("node-b", "node-b", "node-c", "")
    led = [
        inspection.distributed(GUEST + 9 - number, 513, name, hop)
        for number, (name, hop) in enumerate(zip(names, hops, strict=True))
    ]
    snapshot = SNAPSHOT.model_copy(update={"endpoints": (), "led": tuple(led)})
    _, _, _, headings, *rows = inspection.table(snapshot, NOW).splitlines()
    assert headings.split() == ["GUEST", "OF", "ANOTHER", "NODE", "METRIC", "NODE", "BY"]
    assert [" ".join(row.split()) for row in rows] == [
        "10.65.0.8 513 - a nexthop object that is gone",
        "10.65.0.9 513 node-c tunnel to 192.0.2.3",
        "10.65.0.10 513 node-b its device",
        "10.65.0.11 513 node-b gateway 192.0.2.2",
    ]
    # As JSON, too, by which the command reads it.
    assert Snapshot.model_validate_json(snapshot.model_dump_json()) == snapshot


def test_an_empty_node_is_told_in_a_sentence() -> None:
    empty = Snapshot(node="n", version="1", mode="paused", synced=False)
    assert inspection.table(empty, NOW).splitlines() == [
        "node n, agent 1, mode paused, not all endpoints are known yet",
        "No endpoint is on this node.",
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (200000, "2d")],
)
def test_ages_are_short(seconds: int, expected: str) -> None:
    assert inspection.age(NOW - dt.timedelta(seconds=seconds), NOW) == expected
    assert inspection.age(None, NOW) == "-"


def test_an_entry_is_the_status_that_is_reported() -> None:
    endpoint = WorkloadEndpoint.model_validate(
        {
            "metadata": {"name": "vm", "namespace": "default", "uid": "u", "resourceVersion": "1"},
            "spec": {"node": "n", "workload": "vm", "ips": ["10.65.0.2"]},
        }
    )
    assignment = Assignment.from_annotations({})
    found = Found(assignment, RouteLevel.NONE, None, await_role=False, episode=1)
    machine = resume(found, NOW).machine
    assert machine is not None
    none: dict[IPAddress, str] = {}
    described = Facts(
        endpoint, machine, Link(1, "tap0", "", up=True), Admission((), none), Settings()
    )
    shown = inspection.entry(described, NOW, {})
    assert (shown.namespace, shown.name) == ("default", "vm")
    assert shown.status.state is State.BASE
    assert shown.status.interface == "tap0"


def test_a_snapshot_survives_its_json() -> None:
    text = SNAPSHOT.model_dump_json(exclude_none=True)
    assert Snapshot.model_validate_json(text) == SNAPSHOT


class TestCommand:
    """The subcommand, with an answer as the agent gives it."""

    def run(self, monkeypatch: pytest.MonkeyPatch, answer: bytes, *argv: str) -> tuple[int, str]:
        monkeypatch.setattr(local_socket, "ask", lambda _: answer)
        result = CliRunner().invoke(cli.app, ["status", *argv])
        return result.exit_code, result.output

    def test_json_is_the_agents_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answer = SNAPSHOT.model_dump_json(exclude_none=True).encode()
        code, output = self.run(monkeypatch, answer, "-o", "json")
        assert code == 0
        assert json.loads(output)["endpoints"][0]["status"]["lastCutover"]["signal"] == "RARP"

    def test_the_table_is_what_is_shown_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answer = SNAPSHOT.model_dump_json(exclude_none=True).encode()
        code, output = self.run(monkeypatch, answer)
        assert code == 0
        assert "default/vm" in output

    def test_another_version_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        code, output = self.run(monkeypatch, b'{"node": 1}')
        assert code == 1
        assert "another version" in output

    def test_without_an_agent_there_is_a_sentence(self, tmp_path: object) -> None:
        result = CliRunner().invoke(cli.app, ["status", "--state-directory", str(tmp_path)])
        assert result.exit_code == 1
        assert "no agent runs on this node" in result.output


def test_an_agent_that_hears_nothing_of_the_api_says_so() -> None:
    why = "/apis/handover.dev/v1alpha1/workloadendpoints: 404: the server could not find it"
    cut_off = SNAPSHOT.model_copy(update={"outage": why})
    title = inspection.table(cut_off, NOW).splitlines()[0]
    assert title == f"node node-a, agent 0.1.0, mode active, NOT in step with the API ({why})"
