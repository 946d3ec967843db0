"""API objects become values; what breaks the contract is named by its field."""

import copy
from typing import Any

import pytest

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_operator.roles import parse
from handover_operator.roles.parse import Unreadable

ENDPOINT: dict[str, Any] = {
    "metadata": {
        "name": "b",
        "namespace": "default",
        "uid": "u",
        "resourceVersion": "7",
        "labels": {"app": "web"},
        "annotations": {
            "handover.dev/role": "target",
            "handover.dev/migration": "m1",
            "handover.dev/migration-uid": "x",
            "handover.dev/armed": "false",
            "unrelated": "kept by others",
        },
    },
    "spec": {"node": "n2", "workload": "vm", "ips": ["10.0.0.1", "fd00::1"]},
    "status": {
        "state": "Live",
        "role": "target",
        "migrationUID": "x",
        "routes": [{"address": "10.0.0.1", "metric": 512, "table": 254, "protocol": 88}],
        "lastCutover": {
            "signal": "RARP",
            "announcementToRouteMicroseconds": 99,
            "time": "2026-11-24T12:00:00.000001Z",
            "migrationUID": "x",
        },
        "conditions": [
            {
                "type": "Listening",
                "status": "True",
                "reason": "Open",
                "lastTransitionTime": "2026-11-24T12:00:00Z",
            }
        ],
    },
}
MIGRATION: dict[str, Any] = {
    "metadata": {"name": "m1", "namespace": "default", "uid": "u"},
    "spec": {"target": {"selector": {"matchLabels": {"app": "web"}}}, "id": "x"},
}


def changed(raw: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return a copy in which the field at *path* is another."""
    raw = copy.deepcopy(raw)
    *parents, last = path.split(".")
    at = raw
    for part in parents:
        at = at[part]
    at[last] = value
    return raw


def test_an_endpoint_is_read_with_what_its_agent_reports() -> None:
    found = parse.endpoint(ENDPOINT)
    assert not isinstance(found, Unreadable)
    assert found.key == ObjectKey("default", "b")
    assert (found.node, found.workload, found.labels) == ("n2", "vm", {"app": "web"})
    assert (found.state, found.acted_uid, found.routed) == (State.LIVE, "x", True)
    assert (found.listening, found.resource_version) == (True, "7")
    assert found.is_alive_for("x")
    assert (found.assignment.role, found.assignment.armed) == ("target", False)


@pytest.mark.parametrize(
    "conditions",
    [
        [],
        [{**ENDPOINT["status"]["conditions"][0], "status": "False"}],
        [{**ENDPOINT["status"]["conditions"][0], "type": "Programmed"}],
    ],
)
def test_without_its_condition_an_endpoint_is_not_listening(conditions: list[Any]) -> None:
    found = parse.endpoint(changed(ENDPOINT, "status.conditions", conditions))
    assert not isinstance(found, Unreadable)
    assert not found.listening


def test_a_version_that_differs_in_nothing_we_know_is_equal() -> None:
    other = changed(ENDPOINT, "metadata.resourceVersion", "8")
    assert parse.endpoint(other) == parse.endpoint(ENDPOINT)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("spec.node", None, "spec.node"),
        ("spec.ips", ["10.0.0.256"], "spec.ips.0"),
        ("spec", "nothing", "spec"),
    ],
)
def test_a_malformed_endpoint_is_named_by_its_field(path: str, value: object, field: str) -> None:
    found = parse.endpoint(changed(ENDPOINT, path, value))
    assert isinstance(found, Unreadable)
    assert (found.key, found.field) == (ObjectKey("default", "b"), field)
    assert found.message


@pytest.mark.parametrize(
    ("spec", "uid"),
    [
        ({"id": "x", "armed": "perhaps"}, "x"),
        ({"id": 7, "armed": "perhaps"}, "u"),
        ("nothing", "u"),
    ],
)
def test_a_malformed_migration_is_still_known_by_its_uid(spec: object, uid: str) -> None:
    found = parse.migration(changed(MIGRATION, "spec", spec))
    assert isinstance(found, Unreadable)
    assert found.migration_uid == uid


def test_a_migration_is_read() -> None:
    found = parse.migration(MIGRATION)
    assert not isinstance(found, Unreadable)
    assert (found.migration_uid, found.is_controlled) == ("x", False)


def test_a_configuration_is_read_or_named() -> None:
    raw = {"metadata": {"name": "default"}, "spec": {"mode": "observe"}}
    found = parse.configuration(raw)
    assert not isinstance(found, Unreadable)
    assert found.spec == {"mode": "observe"}
    broken = parse.configuration({**raw, "spec": []})
    assert isinstance(broken, Unreadable)
    assert (broken.key, broken.field) == (ObjectKey("", "default"), "spec")
