"""The frozen types: what they read, refuse and write."""

import datetime as dt
import re
from ipaddress import ip_address, ip_network
from typing import Any

import pydantic
import pytest

import handover_api
from handover_api.configuration import HandoverConfiguration, Mode, Settings, private_metric
from handover_api.livemigration import LiveMigration, Outcome, Phase
from handover_api.model import Condition
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role, Signal, State, WorkloadEndpoint

METADATA = {"name": "vm-b", "namespace": "prod", "uid": "uid-1"}
ENDPOINT = {"node": "node-b", "workload": "vm", "ips": ["10.65.0.2", "fd00::2"]}
TIME = "2026-11-24T12:00:00.000123Z"
INSTANT = dt.datetime(2026, 11, 24, 12, 0, 0, 123, dt.UTC)


def migration(spec: dict[str, Any], **metadata: object) -> LiveMigration:
    """Read a LiveMigration with this spec."""
    return LiveMigration.model_validate({"metadata": METADATA | metadata, "spec": spec})


def test_the_package_has_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", handover_api.__version__)


def test_an_endpoint_is_read() -> None:
    status = {
        "state": "Live",
        "since": TIME,
        "role": "target",
        "migrationUID": "uid-m",
        "routes": [{"address": "10.65.0.2", "metric": 512, "table": 254, "protocol": 88}],
        "lastCutover": {
            "signal": "RARP",
            "announcementToRouteMicroseconds": 210,
            "time": TIME,
            "migrationUID": "uid-m",
        },
        "notYetKnown": True,
    }
    spec = ENDPOINT | {"mac": "02:00:00:00:00:AB", "gateways": ["fe80::1"], "awaitRole": True}
    endpoint = WorkloadEndpoint.model_validate(
        {"metadata": METADATA, "spec": spec, "status": status}
    )
    assert endpoint.key == ObjectKey("prod", "vm-b")
    assert str(endpoint.key) == "prod/vm-b"
    assert endpoint.spec.mac == "02:00:00:00:00:ab"
    assert endpoint.spec.ips == (ip_address("10.65.0.2"), ip_address("fd00::2"))
    assert endpoint.spec.await_role
    assert endpoint.status.state is State.LIVE
    assert endpoint.status.role is Role.TARGET
    assert endpoint.status.since == INSTANT
    assert endpoint.status.last_cutover is not None
    assert endpoint.status.last_cutover.signal is Signal.RARP
    assert endpoint.status.last_cutover.migration_uid == "uid-m"
    assert endpoint.status.routes[0].metric == 512


def test_what_is_absent_has_its_default() -> None:
    endpoint = WorkloadEndpoint.model_validate({"metadata": METADATA, "spec": ENDPOINT})
    assert endpoint.spec.mac is None
    assert endpoint.spec.interface is None
    assert endpoint.spec.gateways == ()
    assert not endpoint.spec.await_role
    assert endpoint.status.state is None
    assert migration({}).spec.armed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ips", ["10.65.0.2/32"]),
        ("ips", ["vm.example"]),
        ("gateways", ["169.254.1"]),
        ("mac", "02:00:00:00:00"),
        ("mac", 2),
        ("interface", "a-name-of-16-char"),
        ("interface", ""),
        ("node", None),
    ],
)
def test_a_wrong_value_is_named(field: str, value: object) -> None:
    with pytest.raises(pydantic.ValidationError) as raised:
        WorkloadEndpoint.model_validate({"metadata": METADATA, "spec": ENDPOINT | {field: value}})
    assert raised.value.errors()[0]["loc"][:2] == ("spec", field)


def test_a_value_is_frozen() -> None:
    endpoint = WorkloadEndpoint.model_validate({"metadata": METADATA, "spec": ENDPOINT})
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        endpoint.spec.node = "node-a"  # type: ignore[misc]


def test_what_is_written_is_json_without_absent_fields() -> None:
    spec = {
        "source": {"endpoint": {"name": "vm-a"}},
        "target": {
            "selector": {
                "matchLabels": {"app": "vm"},
                "matchExpressions": [{"key": "app", "operator": "In", "values": ["vm"]}],
            }
        },
        "armed": False,
        "outcome": "Succeeded",
        "ttlSecondsAfterFinished": 0,
    }
    assert migration(spec).spec.to_object() == spec
    when = Condition(type="Finished", status="True", reason="Aborted", last_transition_time=INSTANT)
    assert when.to_object() == {
        "type": "Finished",
        "status": "True",
        "reason": "Aborted",
        "message": "",
        "lastTransitionTime": TIME,
        "observedGeneration": 0,
    }


def test_a_migration_is_known_by_its_id_or_else_by_its_uid() -> None:
    assert migration({}).migration_uid == "uid-1"
    assert migration({"id": "vmim-uid"}).migration_uid == "vmim-uid"
    assert migration({}).key == ObjectKey("prod", "vm-b")


def test_only_an_owner_that_controls_drives_a_migration() -> None:
    owner = {"kind": "VirtualMachineInstanceMigration", "name": "m", "uid": "u"}
    assert not migration({}).is_controlled
    assert not migration({}, ownerReferences=[owner]).is_controlled
    assert migration({}, ownerReferences=[owner, owner | {"controller": True}]).is_controlled


def test_phases_and_outcomes_are_spelled_alike() -> None:
    assert {outcome.value for outcome in Outcome} < {phase.value for phase in Phase}


def test_a_configuration_keeps_only_what_it_sets() -> None:
    configuration = HandoverConfiguration.model_validate(
        {"metadata": {"name": "node.b"}, "spec": {"mode": "observe"}}
    )
    assert configuration.spec == {"mode": "observe"}
    assert configuration.status.conditions == ()


def test_settings_are_read_and_written() -> None:
    given = {
        "mode": "paused",
        "probeInterval": "1s",
        "targetTimeout": dt.timedelta(minutes=1),
        "allowedCIDRs": ["10.0.0.0/8"],
    }
    settings = Settings.model_validate(given)
    assert settings.mode is Mode.PAUSED
    assert settings.probe_interval == dt.timedelta(seconds=1)
    assert settings.allowed_cidrs == (ip_network("10.0.0.0/8"),)
    written = settings.to_object()
    assert written["targetTimeout"] == "1m"
    assert written["allowedCIDRs"] == ["10.0.0.0/8"]
    assert Settings.model_validate(written) == settings


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"ipv4ElevatedRoutePriority": 1024},
            "ipv4ElevatedRoutePriority must be lower than ipv4NormalRoutePriority",
        ),
        (
            {"ipv6NormalRoutePriority": 512},
            "ipv6ElevatedRoutePriority must be lower than ipv6NormalRoutePriority",
        ),
        ({"routeProtocol": 12}, "routeProtocol must not be one that BIRD or FRR uses"),
        ({"routeProtocol": 185}, "nor the one before it"),
        ({"redirectPort": 7474}, "redirectPort must be neither peerPort nor the port after it"),
        (
            {"advertise": "agents", "ipv6NormalRoutePriority": 513},
            "advertise agents, the default, needs each normal priority 2 above the elevated one",
        ),
        (
            {"liveMigrationRouteConvergenceTime": "0s"},
            "liveMigrationRouteConvergenceTime must be above 0 and at most 1h",
        ),
        (
            {"liveMigrationRouteConvergenceTime": "1h1us"},
            "liveMigrationRouteConvergenceTime must be above 0 and at most 1h",
        ),
        ({"targetTimeout": "0"}, "targetTimeout must be above 0"),
        ({"probeInterval": "19ms"}, "probeInterval must be 0 (off) or at least 20ms"),
        ({"probeInterval": "soon"}, "'soon' is not a duration such as 200ms, 30s or 10m"),
        ({"ipv4NormalRoutePriority": 0}, "greater than or equal to 1"),
        ({"routeTable": 0}, "greater than or equal to 1"),
        ({"allowedCIDRs": ["10.0.0.1/8"]}, "not a valid IPv4 network"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=re.escape(sentence)):
        Settings.model_validate(given)


@pytest.mark.parametrize(
    "given",
    [
        {"probeInterval": "0"},
        {"probeInterval": "20ms"},
        {"liveMigrationRouteConvergenceTime": "1h"},
        {"ipv4ElevatedRoutePriority": 1022},
        {"ipv6NormalRoutePriority": 514},
        {"advertise": "bgp", "ipv6NormalRoutePriority": 513},
        {"routeProtocol": 13},
    ],
)
def test_the_nearest_legal_settings_are_accepted(given: dict[str, object]) -> None:
    Settings.model_validate(given)


def test_what_is_private_stands_beside_what_is_exported() -> None:
    settings = Settings.model_validate({"routeProtocol": 99, "peerPort": 9000})
    assert (settings.private_route_protocol, settings.distribution_port) == (100, 9001)
    assert private_metric(settings.ipv4_elevated_route_priority) == 513


@pytest.mark.parametrize(
    ("status", "left"),
    [
        ({"state": "FromTheFuture", "interface": "tap0"}, {"interface": "tap0"}),
        ({"since": "1969-12-31T23:59:60Z", "state": "Base"}, {"state": "Base"}),
        ({"lastCutover": {"signal": "Telepathy"}, "role": "source"}, {"role": "source"}),
        ({"conditions": [{"type": "New"}], "migrationUID": "m"}, {"migrationUID": "m"}),
        ({"routes": 7}, {}),
        (
            {"agent": {"publicKey": "new", "addresses": [], "port": 1}, "advertised": True},
            {"advertised": True},
        ),
        # Nothing can be counted on from there, and what has no zone is no moment.
        ({"since": "9999-12-31T23:59:59Z", "migrationUID": "m"}, {"migrationUID": "m"}),
        ({"since": "2026-11-24T12:00:00", "migrationUID": "m"}, {"migrationUID": "m"}),
        (7, {}),
    ],
)
def test_of_a_newer_versions_status_the_rest_is_read(status: object, left: object) -> None:
    read = WorkloadEndpoint.model_validate(
        {"metadata": METADATA, "spec": ENDPOINT, "status": status}
    )
    expected = WorkloadEndpoint.model_validate(
        {"metadata": METADATA, "spec": ENDPOINT, "status": left}
    )
    assert read.status == expected.status


def test_a_reason_of_a_newer_version_costs_no_count() -> None:
    """Nor what was measured beside it: without a cutover the migration would seem to go on."""
    counts = {"held": 12, "resent": 9, "doubled": 1, "dropped": 3}
    hold = counts | {"reason": "FromTheFuture"}
    cutover = {"signal": "RARP", "announcementToRouteMicroseconds": 210, "time": TIME}
    status = {"lastCutover": cutover | {"hold": hold}, "redirect": {"hold": hold, "forwarded": 7}}
    read = WorkloadEndpoint.model_validate(
        {"metadata": METADATA, "spec": ENDPOINT, "status": status}
    ).status.to_object()
    assert read["lastCutover"] == cutover | {"hold": counts}
    assert read["redirect"] == {"hold": counts, "forwarded": 7}


@pytest.mark.parametrize("field", ["startTime", "readyTime", "cutoverTime", "completionTime"])
def test_a_time_from_which_nothing_can_be_counted_on_is_absent(field: str) -> None:
    status = {"phase": "Live", field: "9999-12-31T23:59:59Z"}
    read = LiveMigration.model_validate({"metadata": METADATA, "spec": {}, "status": status})
    assert (
        read.status
        == LiveMigration.model_validate(
            {"metadata": METADATA, "spec": {}, "status": {"phase": "Live"}}
        ).status
    )


def test_the_other_kinds_statuses_are_read_leniently_too() -> None:
    newer = {"phase": "Redirecting", "startTime": TIME}
    read = LiveMigration.model_validate({"metadata": METADATA, "spec": {}, "status": newer})
    assert (read.status.phase, read.status.start_time) == (None, INSTANT)
    configuration = HandoverConfiguration.model_validate({"metadata": METADATA, "status": 7})
    assert configuration.status.conditions == ()
