"""A Node says where it is reached and what is at home there; what it leaves out is no error."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.distribution import nodes
from handover_nodeagent.distribution.nodes import Node

V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
PODS4, PODS6 = ip_network("10.244.1.0/24"), ip_network("fd00:10:244:1::/64")


def raw(**parts: object) -> dict[str, object]:
    return {"metadata": {"name": "a"}, **parts}


def addresses(*pairs: tuple[object, object]) -> dict[str, object]:
    return {"addresses": [{"type": kind, "address": text} for kind, text in pairs]}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (raw(), Node("a")),
        (
            raw(
                spec={"podCIDR": str(PODS4), "podCIDRs": [str(PODS4), str(PODS6)]},
                status=addresses(
                    ("Hostname", "a"),
                    ("ExternalIP", "203.0.113.9"),
                    ("InternalIP", str(V4)),
                    ("InternalIP", str(V6)),
                ),
            ),
            Node("a", (V4, V6), (PODS4, PODS6)),
        ),
        (raw(spec={"podCIDR": str(PODS6)}), Node("a", (), (PODS6,))),
        (raw(spec={"podCIDRs": ["10.244.1.7/24", "no", 7, None]}), Node("a", (), (PODS4,))),
        (raw(status=addresses(("InternalIP", 3221225985), ("InternalIP", "x"))), Node("a")),
        (raw(status={"addresses": {"InternalIP": str(V4)}}, spec=["podCIDR"]), Node("a")),
        ({"metadata": {}}, None),
        ({"metadata": {"name": 7}}, None),
        ("a", None),
        (None, None),
    ],
)
def test_a_node_is_read_as_far_as_it_can_be(found: object, expected: Node | None) -> None:
    assert nodes.read(found) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "name", "spec", "status", "addresses", "type", "address", "podCIDRs"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_nothing_that_is_read_raises(found: object) -> None:
    assert isinstance(nodes.read(found), Node | None)


def test_the_first_address_of_a_family_is_where_a_node_is_reached() -> None:
    node = Node("a", (V6, V4, V4 + 1), (PODS6, PODS4))
    assert (node.address(4), node.address(6)) == (V4, V6)
    assert (node.pod_cidr(4), node.pod_cidr(6)) == (PODS4, PODS6)
    assert (Node("a").address(4), Node("a").pod_cidr(6)) == (None, None)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["10.244.1.9"], True),
        (["10.244.1.9", "fd00:10:244:1::9"], True),
        (["10.244.2.9"], False),
        (["10.244.1.9", "fd00:10:244:2::9"], False),
    ],
)
def test_home_is_where_all_addresses_lead(texts: list[str], expected: bool) -> None:  # noqa: FBT001
    node = Node("a", (), (PODS4, PODS6))
    assert node.is_home(map(ip_address, texts)) is expected


def test_without_networks_of_pods_nothing_is_at_home() -> None:
    assert not Node("a").is_home([ip_address("10.244.1.9")])


def test_what_a_newer_version_leaves_out_stays() -> None:
    before = Node("a", (V4, V6), (PODS4,))
    assert nodes.succeed(before, Node("a")) == before
    assert nodes.succeed(before, Node("a", (V4 + 1,), (PODS6,))) == Node(
        "a", (V4 + 1, V6), (PODS6,)
    )
    assert nodes.succeed(None, Node("a")) == Node("a")
