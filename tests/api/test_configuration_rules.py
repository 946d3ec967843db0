"""What the API server says to a HandoverConfiguration, and that the agents would say the same."""

import uuid
from typing import Any, Final

import pydantic
import pytest

from handover_api.configuration import Settings
from handover_api.names import CONFIGURATIONS

api_server = pytest.mark.api

Spec = dict[str, Any]

CONVERGENCE: Final = (
    "spec.liveMigrationRouteConvergenceTime must be a duration such as 30s, above 0 and at most 1h"
)
TARGET_TIMEOUT: Final = "spec.targetTimeout must be a duration such as 10m, above 0"
PROBE: Final = "spec.probeInterval must be 0 (off) or a duration such as 200ms, at least 20ms"
PROTOCOL: Final = (
    "spec.routeProtocol must not be one that BIRD (12) or FRR (11, 186..197) uses, nor the one"
    " before it"
)
PORTS: Final = (
    "spec.redirectPort (default 7472) must be neither spec.peerPort (default 7473) nor the port"
    " after it"
)
NETWORKS: Final = (
    "spec.allowedCIDRs must hold networks such as 10.0.0.0/8 or fd00::/8, with no bits set after"
    " the prefix"
)
GATEWAYS: Final = "spec.gateways must hold IPv4 or IPv6 addresses such as 10.0.0.1 or fd00::1"
NAME: Final = "metadata.name must be default (for all nodes), or node. and the name of a node"
PRIORITIES: Final = [
    f"{family}{level}RoutePriority"
    for family in ("ipv4", "ipv6")
    for level in ("Normal", "Elevated")
]
PORTS_OF: Final = ("redirectPort", "peerPort")
TOO_LONG: Final = "may not be more than 20 bytes"


def lower(family: str) -> str:
    """Return the sentence on the order of priorities."""
    return (
        f"spec.{family}ElevatedRoutePriority (default 512) must be lower than"
        f" spec.{family}NormalRoutePriority (default 1024)"
    )


def apart(family: str) -> str:
    """Return the sentence on priorities that leave no room for other nodes' guests."""
    return (
        f"spec.{family}NormalRoutePriority (default 1024) must be 2 above"
        f" spec.{family}ElevatedRoutePriority (default 512) with advertise agents, the default"
    )


def immutable(field: str) -> str:
    """Return the sentence on a field that stays."""
    return f"spec.{field} is immutable; it can neither be added, changed nor removed later"


def durations(field: str, sentence: str, *values: str) -> dict[str, tuple[Spec, str, str]]:
    """Return a case per value."""
    return {f"{field} {value!r}": ({field: value}, f"spec.{field}", sentence) for value in values}


def protocols(*numbers: int) -> dict[str, tuple[Spec, str, str]]:
    """Return a case per number."""
    return {
        f"route protocol {number}": ({"routeProtocol": number}, "spec.routeProtocol", PROTOCOL)
        for number in numbers
    }


NO_DURATIONS: Final = ("", "30", "-30s", "+30s", "30 s", "1d", ".5s", "1.2345s", "0.5us", "5ns")

REFUSED: Final[dict[str, tuple[Spec, str, str]]] = {
    "another mode": (
        {"mode": "passive"},
        "spec.mode",
        'supported values: "active", "observe", "paused"',
    ),
    "another ownership": (
        {"routeOwnership": "mine"},
        "spec.routeOwnership",
        'supported values: "all", "migrations"',
    ),
    "another uninstall": (
        {"onUninstall": "hand-back"},
        "spec.onUninstall",
        'supported values: "keep", "handBack"',
    ),
    **{
        f"{field} 0": ({field: 0}, f"spec.{field}", "should be greater than or equal to 1")
        for field in PRIORITIES
        if "Elevated" in field
    },
    **{
        f"{field} 2147483647": (
            {field: 2147483647},
            f"spec.{field}",
            "should be less than or equal to 2147483646",
        )
        for field in PRIORITIES
        if "Normal" in field
    },
    **{
        f"{case} ({family})": (
            {f"{family}{field}": value for field, value in given.items()},
            f"spec.{family}ElevatedRoutePriority",
            lower(family),
        )
        for family in ("ipv4", "ipv6")
        for case, given in {
            "equal priorities": {"ElevatedRoutePriority": 100, "NormalRoutePriority": 100},
            "priorities in the wrong order": {
                "ElevatedRoutePriority": 101,
                "NormalRoutePriority": 100,
            },
            "elevated as the default of normal": {"ElevatedRoutePriority": 1024},
            "normal as the default of elevated": {"NormalRoutePriority": 512},
        }.items()
    },
    **durations(
        "liveMigrationRouteConvergenceTime",
        CONVERGENCE,
        *NO_DURATIONS,
        *("0", "0s", "1h1us", "61m", "999999h999999h"),
    ),
    **durations("targetTimeout", TARGET_TIMEOUT, *NO_DURATIONS, "0", "0m"),
    **durations("probeInterval", PROBE, *NO_DURATIONS, "19ms", "19.999ms", "1us", "off"),
    **{
        f"a long {field}": ({field: "1h1m1s1ms1us1h1m1s1ms"}, f"spec.{field}", TOO_LONG)
        for field in ("liveMigrationRouteConvergenceTime", "targetTimeout", "probeInterval")
    },
    "route protocol 4": (
        {"routeProtocol": 4},
        "spec.routeProtocol",
        "should be greater than or equal to 5",
    ),
    "route protocol 255": (
        {"routeProtocol": 255},
        "spec.routeProtocol",
        "should be less than or equal to 254",
    ),
    **protocols(10, 11, 12, *range(185, 198)),
    "another way to advertise": (
        {"advertise": "ospf"},
        "spec.advertise",
        'supported values: "bgp", "agents", "none"',
    ),
    "another redirect": (
        {"sourceRedirect": "on"},
        "spec.sourceRedirect",
        'supported values: "auto", "link", "off"',
    ),
    "another hold": (
        {"holdPackets": "on"},
        "spec.holdPackets",
        'supported values: "auto", "off"',
    ),
    **{
        f"{field} {port}": ({field: port}, f"spec.{field}", f"{bound} than or equal to {limit}")
        for field in PORTS_OF
        for port, bound, limit in (
            (0, "should be greater", 1),
            (65535, "should be less", 65534),
        )
    },
    **{
        f"the same ports: {given}": (given, "spec.redirectPort", PORTS)
        for given in (
            {"redirectPort": 7473},
            {"redirectPort": 7474},
            {"peerPort": 7472},
            {"peerPort": 7471},
            {"redirectPort": 9000, "peerPort": 9000},
        )
    },
    **{
        f"{case} ({family})": (
            given,
            f"spec.{family}NormalRoutePriority",
            apart(family),
        )
        for family in ("ipv4", "ipv6")
        for case, given in {
            "normal just above elevated with agents": {f"{family}NormalRoutePriority": 513},
            "elevated just below normal with agents": {f"{family}ElevatedRoutePriority": 1023},
        }.items()
    },
    "route table 0": (
        {"routeTable": 0},
        "spec.routeTable",
        "should be greater than or equal to 1",
    ),
    "route table 2^32": (
        {"routeTable": 1 << 32},
        "spec.routeTable",
        "should be less than or equal to 4294967295",
    ),
    "bits after the prefix": (
        {"allowedCIDRs": ["10.0.0.1/8"]},
        "spec.allowedCIDRs[0]",
        NETWORKS,
    ),
    "bits after an IPv6 prefix": (
        {"allowedCIDRs": ["::/0", "fd00::1/64"]},
        "spec.allowedCIDRs[1]",
        NETWORKS,
    ),
    "a mask": ({"allowedCIDRs": ["10.0.0.0/33"]}, "spec.allowedCIDRs[0]", NETWORKS),
    "no network": ({"allowedCIDRs": ["pods"]}, "spec.allowedCIDRs[0]", NETWORKS),
    "an address": ({"allowedCIDRs": ["10.0.0.1"]}, "spec.allowedCIDRs[0]", NETWORKS),
    "a gateway's network": ({"gateways": ["10.0.0.1/24"]}, "spec.gateways[0]", GATEWAYS),
    "no gateway": ({"gateways": ["fd00::1", "router"]}, "spec.gateways[1]", GATEWAYS),
    "no networks": ({"allowedCIDRs": []}, "spec.allowedCIDRs", "should have at least 1 items"),
}
MORE_LENIENT: Final = {"an address", "no networks"}
"""Python reads an address as the network of that one address; what was stored by an older version
without networks is still followed: nothing is allowed."""

ACCEPTED: Final[dict[str, Spec]] = {
    "nothing": {},
    **{f"mode {mode}": {"mode": mode} for mode in ("active", "observe", "paused")},
    "the least priorities": {
        "advertise": "bgp",
        "ipv4ElevatedRoutePriority": 1,
        "ipv4NormalRoutePriority": 2,
        "ipv6ElevatedRoutePriority": 1,
        "ipv6NormalRoutePriority": 2,
    },
    "the highest priorities": {
        "ipv4ElevatedRoutePriority": 2147483644,
        "ipv4NormalRoutePriority": 2147483646,
    },
    "elevated just below the default of normal": {"ipv4ElevatedRoutePriority": 1022},
    "normal just above the default of elevated": {"ipv6NormalRoutePriority": 514},
    **{
        f"liveMigrationRouteConvergenceTime {text}": {"liveMigrationRouteConvergenceTime": text}
        for text in ("1us", "1µs", "30s", "1m30s", "1.5m", "1h", "60m")
    },
    **{f"targetTimeout {text}": {"targetTimeout": text} for text in ("1us", "24h", "999999h")},
    **{
        f"probeInterval {text}": {"probeInterval": text}
        for text in ("0", "0s", "0.0ms", "20ms", "0.02s", "20000us", "1h")
    },
    **{
        f"route protocol {number}": {"routeProtocol": number}
        for number in (5, 9, 13, 184, 198, 254)
    },
    **{f"route table {table}": {"routeTable": table} for table in (1, 4294967295)},
    "ownership": {"routeOwnership": "migrations"},
    "uninstall": {"onUninstall": "handBack"},
    **{f"advertise {name}": {"advertise": name} for name in ("bgp", "agents", "none")},
    **{f"holdPackets {name}": {"holdPackets": name} for name in ("auto", "off")},
    **{f"sourceRedirect {name}": {"sourceRedirect": name} for name in ("auto", "link", "off")},
    **{f"{field} {port}": {field: port} for field in PORTS_OF for port in (1, 65534)},
    "the nearest other ports": {"redirectPort": 7475},
    "the nearest other port of agents": {"peerPort": 7470},
    "room for other nodes' guests": {
        "ipv4NormalRoutePriority": 514,
        "ipv6ElevatedRoutePriority": 1022,
    },
    "no room where agents tell nobody": {"advertise": "none", "ipv4NormalRoutePriority": 513},
    "networks": {"allowedCIDRs": ["10.0.0.0/8", "192.168.7.9/32", "fd00::/8", "::/0"]},
    "gateways": {"gateways": ["10.0.0.1", "fe80::1"]},
}

NOT_CHANGED: Final[dict[str, tuple[Spec | None, Spec | None, str]]] = {
    f"{field} {case}": (before, after, field)
    for field, value in (
        *(("routeProtocol", 88), ("routeTable", 254)),
        *(("redirectPort", 9000), ("peerPort", 9000)),
    )
    for case, before, after in (
        ("added", {}, {field: value}),
        ("added with the spec", None, {field: value}),
        ("changed", {field: value}, {field: value + 1}),
        ("removed", {field: value}, {field: None}),
        ("removed with the spec", {field: value}, None),
    )
}


@api_server
@pytest.mark.parametrize(("spec", "field", "sentence"), REFUSED.values(), ids=REFUSED)
async def test_a_wrong_configuration_is_refused(
    api: Any, spec: Spec, field: str, sentence: str
) -> None:
    with pytest.raises(api.refused) as raised:
        await api.create(CONFIGURATIONS, spec, "default")
    assert list(raised.value.causes) == [field]
    assert raised.value.causes[field].endswith(sentence)


@pytest.mark.parametrize("case", REFUSED.keys() - MORE_LENIENT)
def test_an_agent_refuses_it_as_well(case: str) -> None:
    spec, *_ = REFUSED[case]
    with pytest.raises(pydantic.ValidationError):
        Settings.model_validate(spec)


@api_server
@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED)
async def test_the_nearest_right_configuration_is_accepted(api: Any, spec: Spec) -> None:
    stored = await api.create(CONFIGURATIONS, spec, "default")
    assert stored["spec"] == spec


@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED)
def test_an_agent_accepts_it_as_well(spec: Spec) -> None:
    Settings.model_validate(spec)


@api_server
@pytest.mark.parametrize(
    ("field", "pattern"), [("allowedCIDRs", "10.0.{}.0/24"), ("gateways", "10.0.{}.1")]
)
async def test_more_than_64_of_a_list_are_refused(api: Any, field: str, pattern: str) -> None:
    values = [pattern.format(number) for number in range(65)]
    await api.create(CONFIGURATIONS, {field: values[:64]}, "default")
    with pytest.raises(api.refused) as raised:
        await api.create(CONFIGURATIONS, {field: values}, "default")
    assert raised.value.causes[f"spec.{field}"].endswith("must have at most 64 items")


@api_server
@pytest.mark.parametrize("name", ["defaults", "node-a", "node", "nodes.a"])
async def test_another_name_is_refused(api: Any, name: str) -> None:
    with pytest.raises(api.refused) as raised:
        await api.create(CONFIGURATIONS, {}, name)
    [(_, message)] = raised.value.causes.items()
    assert message.endswith(NAME)


@api_server
@pytest.mark.parametrize("name", ["default", "node.a", "node.node-1.example.org", "node.default"])
@pytest.mark.parametrize("spec", [None, {}, {"mode": "observe"}])
async def test_default_and_a_node_s_name_are_accepted(
    api: Any, name: str, spec: Spec | None
) -> None:
    await api.create(CONFIGURATIONS, spec, name)


@api_server
@pytest.mark.parametrize("field", PRIORITIES)
async def test_a_priority_is_refused_for_one_node(api: Any, field: str) -> None:
    value = {field: 600 if "Normal" in field else 400}
    await api.create(CONFIGURATIONS, value, "default")
    with pytest.raises(api.refused) as raised:
        await api.create(CONFIGURATIONS, value, "node.a")
    [(path, message)] = raised.value.causes.items()
    assert path == f"spec.{field}"
    assert message.endswith(
        f"spec.{field} may be set in default only, since routers compare it between nodes"
    )


@api_server
@pytest.mark.parametrize("field", PORTS_OF)
async def test_a_port_is_refused_for_one_node(api: Any, field: str) -> None:
    await api.create(CONFIGURATIONS, {field: 9000}, "default")
    with pytest.raises(api.refused) as raised:
        await api.create(CONFIGURATIONS, {field: 9000}, "node.a")
    assert set(raised.value.causes) == {f"spec.{field}"}
    assert raised.value.causes[f"spec.{field}"].endswith(
        f"spec.{field} may be set in default only, since all nodes must have the same"
    )


@api_server
@pytest.mark.parametrize(("before", "after", "field"), NOT_CHANGED.values(), ids=NOT_CHANGED)
async def test_what_stays_cannot_be_changed(
    api: Any, before: Spec | None, after: Spec | None, field: str
) -> None:
    name = "default" if field in PORTS_OF else f"node.{uuid.uuid4().hex}"
    await api.create(CONFIGURATIONS, before, name, dry=False)
    try:
        with pytest.raises(api.refused) as raised:
            await api.change(CONFIGURATIONS, {"spec": after}, name)
        [(path, message)] = raised.value.causes.items()
        assert path == f"spec.{field}"
        assert message.endswith(immutable(field))
    finally:
        await api.delete(CONFIGURATIONS, name)


@api_server
async def test_all_else_may_change(api: Any) -> None:
    name = f"node.{uuid.uuid4().hex}"
    stays = {"routeProtocol": 99, "routeTable": 100}
    await api.create(CONFIGURATIONS, stays | {"mode": "paused"}, name, dry=False)
    try:
        after = {
            "mode": "active",
            "probeInterval": "1s",
            "targetTimeout": "1m",
            "liveMigrationRouteConvergenceTime": "1m",
            "routeOwnership": "migrations",
            "onUninstall": "handBack",
            "allowedCIDRs": ["10.0.0.0/8"],
            "advertise": "bgp",
            "sourceRedirect": "link",
            "holdPackets": "off",
        }
        changed = await api.change(CONFIGURATIONS, {"spec": after | stays}, name)
        assert changed["spec"] == after | stays
    finally:
        await api.delete(CONFIGURATIONS, name)
