"""What bounds a redirect, as text: each change from what was to what is, and what was counted."""

import dataclasses
import json
from ipaddress import ip_address

import pytest

from handover_nodeagent.kernel.redirect_table import rules
from handover_nodeagent.kernel.redirect_table.rules import Redirects

V4, V6 = ip_address("10.65.0.2"), ip_address("fd00:65::2")
PEER, PEER_6 = ip_address("192.0.2.2"), ip_address("fd00:66::2")
NOTHING = Redirects(7472, 7473)
ALL = Redirects(
    *(7472, 7473, frozenset({"tap0", "tap1"}), frozenset({PEER, PEER_6}), frozenset({V4, V6})),
    *(7474, frozenset({PEER}), frozenset({V4}), frozenset({"eth0"})),
)


def test_nothing_is_to_be_done_where_nothing_changes() -> None:
    assert rules.render_change(ALL, ALL) == ""


def changed(**to: frozenset[object] | int) -> str:
    return rules.render_change(ALL, dataclasses.replace(ALL, **to))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        (
            changed(redirected=frozenset({V4, V6, V4 + 1})),
            "add element inet handover redirected4 { 10.65.0.3 }\n",
        ),
        (
            changed(redirected=frozenset({V6})),
            (
                "add element inet handover redirected4 { 10.65.0.2 }\n"
                "delete element inet handover redirected4 { 10.65.0.2 }\n"
            ),
        ),
        (
            changed(peers=frozenset({PEER, PEER_6, PEER + 1, PEER + 2, PEER_6 + 1})),
            (
                "add element inet handover peers4 { 192.0.2.3, 192.0.2.4 }\n"
                "add element inet handover peers6 { fd00:66::3 }\n"
            ),
        ),
        (
            changed(ports=frozenset({"tap1", "tap2", 'odd"'})),
            (
                'add element inet handover ports { "tap2" }\n'
                'add element inet handover ports { "tap0" }\n'
                'delete element inet handover ports { "tap0" }\n'
            ),
        ),
        (
            changed(nodes=frozenset()),
            (
                "add element inet handover nodes4 { 192.0.2.2 }\n"
                "delete element inet handover nodes4 { 192.0.2.2 }\n"
            ),
        ),
        (
            changed(away=frozenset({V4, V4 + 1, V6}), uplinks=frozenset({"eth0", "eth1"})),
            (
                'add element inet handover uplinks { "eth1" }\n'
                "add element inet handover away4 { 10.65.0.3 }\n"
                f"add element inet handover away6 {{ {V6} }}\n"
            ),
        ),
        (changed(away=frozenset()), rules.render(dataclasses.replace(ALL, away=frozenset()))),
        (
            changed(away=frozenset(), uplinks=frozenset()),
            rules.render(dataclasses.replace(ALL, away=frozenset(), uplinks=frozenset())),
        ),
        (
            changed(distribution_port=0),
            rules.render(dataclasses.replace(ALL, distribution_port=0)),
        ),
        (changed(tunnel_port=7999), rules.render(dataclasses.replace(ALL, tunnel_port=7999))),
    ],
    ids=[
        *("redirected", "no more", "peers", "ports", "nodes", "away", "nobody away", "no uplinks"),
        *("no second tunnel", "another port"),
    ],
)
def test_a_change_names_what_changes(commands: str, expected: str) -> None:
    assert commands == expected


def test_without_a_second_tunnel_its_port_is_anybodys() -> None:
    text = rules.render(NOTHING)
    assert "handover1" not in text
    assert "nodes" not in text
    assert "7474" not in text
    assert "away" not in text
    assert "uplinks" not in text
    assert "element" not in text


def test_what_is_forwarded_is_counted_by_address() -> None:
    element = {"elem": {"val": "10.65.0.2", "counter": {"packets": 7, "bytes": 588}}}
    sixth = {"elem": {"val": "fd00:65::2", "counter": {"packets": 1, "bytes": 84}}}
    listing = {
        "nftables": [
            {"metainfo": {}},
            {"set": {"name": "redirected4", "elem": [element, "10.65.0.3"]}},
            {"set": {"name": "redirected6", "elem": [sixth]}},
            {"set": {"name": "peers4", "elem": ["192.0.2.2"]}},
            {"chain": {"name": "redirected4"}},
        ]
    }
    assert rules.forwarded(json.dumps(listing)) == {V4: 7, V6: 1}


@pytest.mark.parametrize("listing", ["", "[]", "{}", "no JSON"])
def test_a_listing_that_is_none_counts_nothing(listing: str) -> None:
    assert rules.forwarded(listing) == {}
