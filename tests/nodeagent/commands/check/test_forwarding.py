"""What is judged of tunnel, conntrack and others' policies, and that each says what to do."""

import json
from typing import Any

import pytest
from tests.nodeagent.commands.check.test_traps import told

from handover_api.conditions import EndpointReason
from handover_nodeagent.commands.check import forwarding
from handover_nodeagent.commands.check.findings import Verdict

OK, WARN = Verdict.OK, Verdict.WARN


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        (EndpointReason.PORT_TAKEN, "set redirectPort to a UDP port that is free on every node"),
        (EndpointReason.DEVICE_TAKEN, "rename or remove it: the agent needs this name"),
        (EndpointReason.TUNNEL_REFUSED, "modprobe vxlan, and CAP_NET_ADMIN, are needed"),
    ],
)
def test_without_a_tunnel_migrations_lose_some_and_that_is_all(
    reason: EndpointReason, remedy: str
) -> None:
    (found,) = forwarding.tunnel(reason, "why")
    assert (found.verdict, found.remedy) == (WARN, remedy)
    assert found.message.startswith("why: migrations work, but")
    assert told(forwarding.tunnel(None, "there")) == [(OK, "there")]


@pytest.mark.parametrize(("value", "verdict"), [(0, WARN), (1, OK), (None, OK)])
def test_conntrack_has_to_take_up_what_it_has_not_seen_begin(
    value: int | None, verdict: Verdict
) -> None:
    assert [one for one, _ in told(forwarding.conntrack(value))] == [verdict]


def chain(name: str, hook: str = "", policy: str = "") -> dict[str, Any]:
    base = {"hook": hook, "policy": policy} if hook else {}
    return {"chain": {"family": "ip", "table": "filter", "name": name, **base}}


def rule(name: str, *statements: Any) -> dict[str, Any]:
    return {"rule": {"family": "ip", "table": "filter", "chain": name, "expr": [*statements]}}


def state(*names: str) -> dict[str, Any]:
    left = {"ct": {"key": "state"}}
    return {"match": {"op": "in", "left": left, "right": [*names] if names[1:] else names[0]}}


ACCEPT: dict[str, Any] = {"accept": None}
FORWARD = chain("FORWARD", "forward", "drop")
DEVICE = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "tap0"}}
XT = {"xt": {"type": "match", "name": "conntrack"}}
BY_STATE = {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["established", ACCEPT]]}}}
BY_DEVICE = {"vmap": {"key": {"meta": {"key": "iifname"}}, "data": "@ports"}}


@pytest.mark.parametrize(
    ("items", "verdict"),
    [
        ([FORWARD, rule("FORWARD", state("established", "related"), ACCEPT)], WARN),
        ([FORWARD, rule("FORWARD", state("established"), ACCEPT)], WARN),
        ([FORWARD, rule("FORWARD", XT, {"counter": {}}, ACCEPT)], WARN),
        ([FORWARD, rule("FORWARD", BY_STATE)], WARN),
        (
            [
                FORWARD,
                rule("FORWARD", {"jump": {"target": "known"}}),
                chain("known"),
                rule("known", state("established"), ACCEPT),
                rule("known", {"goto": {"target": "known"}}),
            ],
            WARN,
        ),
        ([FORWARD], OK),
        ([FORWARD, rule("FORWARD", state("established", "new"), ACCEPT)], OK),
        (
            [
                FORWARD,
                rule("FORWARD", state("established"), ACCEPT),
                rule("FORWARD", DEVICE, ACCEPT),
            ],
            OK,
        ),
        (
            [
                FORWARD,
                rule("FORWARD", state("established"), ACCEPT),
                rule("FORWARD", {"jump": {"target": "pods"}}),
                rule("pods", ACCEPT),
            ],
            OK,
        ),
        ([FORWARD, rule("FORWARD", state("established"), ACCEPT), rule("FORWARD", BY_DEVICE)], OK),
        (
            [
                FORWARD,
                rule("FORWARD", state("established"), ACCEPT),
                rule("FORWARD", {"xt": {"type": "target", "name": "MARK"}}),
            ],
            OK,
        ),
        (
            [
                chain("FORWARD", "forward", "accept"),
                rule("FORWARD", state("established"), ACCEPT),
            ],
            OK,
        ),
        ([chain("INPUT", "input", "drop"), rule("INPUT", state("established"), ACCEPT)], OK),
        ([{"metainfo": {}}, {"table": {}}], OK),
    ],
    ids=[
        *("established and related", "established", "iptables'", "a map", "by a jump"),
        *("nothing at all", "new ones too", "a device", "another chain", "a map of devices"),
        *("a target that nobody knows", "policy accept", "input", "no chain"),
    ],
)
def test_a_policy_is_found_that_accepts_by_state_alone(
    items: list[dict[str, Any]], verdict: Verdict
) -> None:
    found = told(forwarding.policies(json.dumps({"nftables": items})))
    assert [one for one, _ in found] == [verdict]
    if verdict is WARN:
        assert found[0][1].startswith("ip filter FORWARD accepts only what is established")


@pytest.mark.parametrize("listing", ["", "{}", "[]"])
def test_what_cannot_be_listed_is_not_called_well(listing: str) -> None:
    assert [one for one, _ in told(forwarding.policies(listing))] == [WARN]
