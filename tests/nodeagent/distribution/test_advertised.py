"""An endpoint is advertised while others need it, and says by its routes what it attracts."""

import datetime as dt
from ipaddress import IPv4Network, ip_address

import pytest
from tests.nodeagent.distribution.cluster import ELEVATED, GUEST4, GUEST6, NORMAL, A, B

from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role, State, WorkloadEndpoint
from handover_nodeagent.distribution import advertised
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.network.model import IPAddress

BOTH = (GUEST4, GUEST6)


@pytest.mark.parametrize(
    ("state", "role", "routed", "node", "expected"),
    [
        (State.TARGET, Role.TARGET, (), A, True),
        (State.LIVE, Role.TARGET, BOTH, A, True),
        (State.TIME_WAIT, None, BOTH, A, True),
        (State.WITHDRAWN, None, (), A, True),
        (State.ASKING, Role.TARGET, (), A, True),
        (State.BASE, None, BOTH, A, False),
        (State.BASE, Role.SOURCE, BOTH, A, False),
        (State.BASE, None, BOTH, B, True),
        (State.BASE, None, (), B, False),
        (State.ASKING, None, BOTH, B, True),
        (State.BASE, None, BOTH, None, True),
        (State.BASE, None, BOTH, Node("b"), True),
        (State.BASE, None, (GUEST4, ip_address("198.51.100.1")), A, True),
    ],
)
def test_who_is_advertised(
    state: State,
    role: Role | None,
    routed: tuple[IPAddress, ...],
    node: Node | None,
    expected: bool,  # noqa: FBT001
) -> None:
    assert advertised.is_advertised(state, role, routed, node) is expected


def raw(**status: object) -> WorkloadEndpoint:
    return WorkloadEndpoint.model_validate(
        {
            "metadata": {
                "namespace": "vms",
                "name": "vm",
                "uid": "u",
                "annotations": {
                    "handover.dev/role": "target",
                    "handover.dev/migration-uid": "m2",
                },
            },
            "spec": {
                "node": "b",
                "workload": "vm",
                "ips": [str(GUEST4), str(GUEST6), "127.0.0.1", "192.0.2.99"],
            },
            "status": status,
        }
    )


def route(address: object, metric: int, table: int = 254, protocol: int = 88) -> dict[str, object]:
    return {"address": str(address), "metric": metric, "table": table, "protocol": protocol}


def test_what_an_endpoint_says() -> None:
    found = advertised.read(
        raw(
            state="Live",
            migrationUID="m1",
            routes=[
                route(GUEST4, 512),
                route(GUEST4, 1024),
                route(GUEST6, 1024),
                route("127.0.0.1", 512),
                route("198.51.100.9", 512),
            ],
            lastCutover={
                "signal": "RARP",
                "announcementToRouteMicroseconds": 300,
                "time": "2026-08-01T12:00:00.000001Z",
                "migrationUID": "m1",
            },
        ),
        Settings(),
        frozenset({ip_address("192.0.2.99")}),
    )
    assert found.key == ObjectKey("vms", "vm")
    assert (found.uid, found.node, found.state) == ("u", "b", State.LIVE)
    # Neither loopback nor the API server's, whatever the object says.
    assert found.addresses == BOTH
    assert found.levels == {GUEST4: ELEVATED, GUEST6: NORMAL}
    assert found.migration_uids == {"m1", "m2"}
    assert (found.cutover_uid, found.cutover.microsecond) == ("m1", 1)
    assert found.has_arrived
    assert not found.is_source
    assert not found.is_redirected


@pytest.mark.parametrize(
    "one", [route(GUEST4, 512, table=100), route(GUEST4, 512, protocol=89)], ids=("table", "own")
)
def test_a_route_that_is_not_exported_attracts_nothing(one: dict[str, object]) -> None:
    found = advertised.read(raw(state="Live", routes=[one]), Settings())
    assert found.levels == {}
    assert not found.has_arrived


def test_what_was_never_told_is_long_ago() -> None:
    found = advertised.read(raw(), Settings())
    assert found.cutover == found.created_at == dt.datetime.min.replace(tzinfo=dt.UTC)
    assert (found.state, found.cutover_uid) == (None, None)


def test_allowed_cidrs_bound_what_others_may_have_moved() -> None:
    settings = Settings(allowed_cidrs=(IPv4Network("10.0.0.0/8"),))
    found = advertised.read(raw(state="Base", routes=[route(GUEST6, 1024)]), settings)
    assert (found.addresses, found.levels) == ((GUEST4,), {})


def test_a_distributed_route_yields_to_its_nodes_own() -> None:
    settings = Settings(ipv6_normal_route_priority=2000, ipv6_elevated_route_priority=100)
    assert advertised.metric(GUEST4, ELEVATED, settings) == 513
    assert advertised.metric(GUEST4, NORMAL, settings) == 1025
    assert advertised.metric(GUEST6, ELEVATED, settings) == 101
    assert advertised.metric(GUEST6, NORMAL, settings) == 2001
