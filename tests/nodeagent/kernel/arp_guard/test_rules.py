"""The guard's text form, and how a listing that we would not have made is told from ours."""

import json
from ipaddress import IPv4Address
from typing import Any

import pytest

from handover_nodeagent.kernel.arp_guard import rules

ONE = IPv4Address("10.65.0.2")
TWO = IPv4Address("10.65.0.3")


def test_whole_table_is_one_text() -> None:
    expected = """\
add table arp handover
delete table arp handover
add table arp handover
add map arp handover workloads { typeof oifname : verdict; }
add chain arp handover output { type filter hook output priority 0; policy accept; }
add rule arp handover output oifname vmap @workloads
add chain arp handover to-tap0
flush chain arp handover to-tap0
add rule arp handover to-tap0 arp operation reply arp saddr ip 10.65.0.2 counter drop
add rule arp handover to-tap0 arp operation reply arp saddr ip 10.65.0.3 counter drop
add element arp handover workloads { "tap0" : jump to-tap0 }
"""
    nobody: frozenset[IPv4Address] = frozenset()
    guard = {"tap1": nobody, "tap0": frozenset({TWO, ONE}), 'a"': frozenset({ONE})}
    assert expected == rules.render(guard)


def test_an_interface_without_addresses_is_taken_out_from_whatever_state() -> None:
    expected = """\
add chain arp handover to-tap0
flush chain arp handover to-tap0
add element arp handover workloads { "tap0" : jump to-tap0 }
delete element arp handover workloads { "tap0" }
delete chain arp handover to-tap0
"""
    assert expected == rules.render_change("tap0", frozenset())


@pytest.mark.parametrize(
    ("interface", "chain"),
    [("tap0", "to-tap0"), ("output", "to-output"), ("drop", "to-drop"), ("a@b", "hex-614062")],
)
def test_a_chain_has_a_name_that_nft_takes_for_nothing_else(interface: str, chain: str) -> None:
    text = rules.render_change(interface, frozenset({ONE}))
    assert f"add chain arp handover {chain}\n" in text


def match(field: str, right: Any) -> Any:
    """Return a comparison as nft lists it."""
    left = {"payload": {"protocol": "arp", "field": field}}
    return {"match": {"op": "==", "left": left, "right": right}}


def rule(chain: str, *expression: Any) -> Any:
    """Return a rule as nft lists it."""
    return {"rule": {"family": "arp", "table": "handover", "chain": chain, "expr": [*expression]}}


OURS: list[Any] = [
    {"metainfo": {"version": "1.0.6"}},
    {"table": {"family": "arp", "name": "handover"}},
    {"map": {"name": "workloads", "elem": [["tap0", {"jump": {"target": "to-tap0"}}]]}},
    {"chain": {"name": "output", "hook": "output", "prio": 0, "policy": "accept"}},
    {"chain": {"name": "to-tap0"}},
    rule("output", {"vmap": {"key": {"meta": {"key": "oifname"}}, "data": "@workloads"}}),
    rule(
        "to-tap0",
        match("operation", "reply"),
        match("saddr ip", "10.65.0.2"),
        {"counter": {"packets": 7, "bytes": 196}},
        {"drop": None},
    ),
]
DROP = OURS[-1]["rule"]["expr"]


def listing(items: list[Any]) -> str:
    """Return nft's JSON."""
    return json.dumps({"nftables": items})


def test_our_own_listing_is_read_back() -> None:
    assert rules.parse(listing(OURS)) == {"tap0": frozenset({ONE})}


def test_an_empty_table_is_an_empty_guard() -> None:
    empty = [{"map": {"name": "workloads"}}, OURS[3], OURS[5]]
    assert rules.parse(listing(empty)) == {}


STRANGE = {
    "nothing": [],
    "no base chain": [*OURS[:3], *OURS[4:]],
    "a base chain that drops": [
        *OURS[:3],
        {"chain": {**OURS[3]["chain"], "policy": "drop"}},
        *OURS[4:],
    ],
    "nothing leads to the workloads": [*OURS[:5], OURS[6]],
    "a rule twice": [*OURS, OURS[6]],
    "a chain that nothing leads to": [*OURS, {"chain": {"name": "extra"}}],
    "a rule in front": [*OURS, rule("output", {"accept": None})],
    "a rule that accepts": [*OURS[:6], rule("to-tap0", *DROP[:3], {"accept": None})],
    "a rule that drops requests": [
        *OURS[:6],
        rule("to-tap0", match("operation", "request"), *DROP[1:]),
    ],
    "a rule for a network": [
        *OURS[:6],
        rule("to-tap0", DROP[0], match("saddr ip", {"prefix": {"addr": "10.0.0.0"}}), *DROP[2:]),
    ],
    "an element that accepts": [
        *OURS[:2],
        {"map": {"name": "workloads", "elem": [["tap0", {"accept": None}]]}},
        *OURS[3:],
    ],
    "a set of somebody's": [*OURS, {"set": {"name": "x"}}],
}


@pytest.mark.parametrize("items", STRANGE.values(), ids=STRANGE.keys())
def test_what_we_would_not_have_made_is_not_ours(items: list[Any]) -> None:
    assert rules.parse(listing(items)) is None


def test_an_absent_table_is_none() -> None:
    assert rules.parse("") is None
