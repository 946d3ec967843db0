"""API objects → values, also where somebody has broken the contract."""

from typing import Any

import pytest

from handover_nodeagent.api import parse


def test_a_broken_spec_beside_a_broken_status_is_a_value() -> None:
    raw = {
        "metadata": {"name": "vm", "namespace": "default", "uid": "u", "generation": 3},
        "spec": {"node": "n", "ips": ["10.65.0.2", "10.65"]},
        "status": {"state": "Base", "since": "1969-12-31T23:59:60Z"},
    }
    found = parse.endpoint(raw)
    assert isinstance(found, parse.Unreadable)
    assert [str(address) for address in found.ips] == ["10.65.0.2"]
    assert (found.generation, found.status.state, found.status.since) == (3, "Base", None)


ODD: tuple[Any, ...] = ([], "text", 7, [{"mode": "paused"}])


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_an_odd_configuration_is_a_value(odd: Any) -> None:
    strange = {"name": "default", "generation": odd or "x", "annotations": odd}
    found = parse.configuration({"metadata": strange, "spec": odd})
    generation = 7 if odd == 7 else 0
    assert found == parse.Configuration("default", generation, None, {})
    assert parse.configuration({"metadata": odd, "spec": {}}).name == ""


def test_a_configuration_says_what_it_has() -> None:
    metadata = {"name": "node.n", "generation": 3, "annotations": {"handover.dev/paused": ""}}
    found = parse.configuration({"metadata": metadata, "spec": {"mode": "observe"}})
    expected = parse.Configuration("node.n", 3, {"mode": "observe"}, {"handover.dev/paused": ""})
    assert found == expected
    for none in ({}, {"spec": None}):
        assert parse.configuration({"metadata": metadata, **none}).spec == {}
    paused = {"metadata": metadata, "status": {"pausedNamespaces": ["a", "b"]}}
    assert parse.configuration(paused).paused_namespaces == frozenset({"a", "b"})
    untold: tuple[Any, ...] = (None, "a", {})
    for odd in untold:
        status = {"status": {"pausedNamespaces": odd}}
        assert parse.configuration({"metadata": metadata, **status}).paused_namespaces is None
    partly = {"name": "default", "annotations": {"handover.dev/uninstall": ["a"], "other": "b"}}
    assert parse.configuration({"metadata": partly}).annotations == {"other": "b"}
