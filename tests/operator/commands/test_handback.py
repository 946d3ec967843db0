"""Whom an uninstall waits for, and what it leaves as it is."""

from typing import Any

import pytest

from handover_operator.commands import handback

ROUTE = {"address": "10.65.0.9", "metric": 1024, "table": 254, "protocol": 88}


@pytest.mark.parametrize(
    ("specs", "is_asked_for"),
    [
        ({}, False),
        ({"default": {"onUninstall": "keep"}}, False),
        ({"default": {}, "node.b": {"onUninstall": "handBack"}}, True),
    ],
)
def test_agents_are_asked_where_any_node_is_to_be_handed_back(
    specs: dict[str, dict[str, str]], *, is_asked_for: bool
) -> None:
    assert handback.is_asked_for(specs) is is_asked_for


def test_only_nodes_that_hand_back_are_waited_for() -> None:
    def endpoint(name: str, node: str, *routes: object) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "default"}
        return {"metadata": metadata, "spec": {"node": node}, "status": {"routes": list(routes)}}

    specs = {"default": {"onUninstall": "handBack"}, "node.b": {"onUninstall": "keep"}}
    found = [endpoint("x", "a", ROUTE), endpoint("y", "a"), endpoint("z", "b", ROUTE)]

    assert handback.left(found, specs) == (("default/x on a",), ())


def test_a_route_that_nothing_replaces_is_kept_and_not_waited_for() -> None:
    """Guards: a guest that only our route serves is not cut off by an uninstall."""
    metadata = {"name": "x", "namespace": "default"}
    condition = {"type": "Programmed", "status": "False", "reason": "HandedBack"}
    status = {"routes": [ROUTE], "conditions": [condition]}
    found = [{"metadata": metadata, "spec": {"node": "a"}, "status": status}]

    left = handback.left(found, {"default": {"onUninstall": "handBack"}})

    assert left == ((), ("default/x on a",))
