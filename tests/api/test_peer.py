"""What agents may believe of each other: written by the operator, read by agents."""

import base64
import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_api import peer
from handover_api.peer import Peer
from handover_api.workloadendpoint import AgentAddress, Role, WorkloadEndpoint

KEY: Final = bytes(range(32))
ENTRY: Final[dict[str, Any]] = {
    "uid": "uid-1",
    "endpoint": "vm-a",
    "node": "node-a",
    "role": "source",
    "publicKey": base64.b64encode(KEY).decode(),
    "addresses": ["192.0.2.1", "2001:db8::1"],
    "port": 7473,
}
ONE: Final = Peer.model_validate(ENTRY)


def annotated(value: object) -> dict[str, str]:
    """Return annotations with *value* for the peers."""
    return {"handover.dev/peer": value if isinstance(value, str) else json.dumps(value)}


def node_address(number: int) -> IPv4Address | IPv6Address:
    """Return an address of one family or the other."""
    if number % 2:
        return IPv4Address(0x0A000000 + number)
    return IPv6Address((0xFD << 120) + number)


peers = st.fixed_dictionaries(
    {
        "uid": st.text(),
        "endpoint": st.text(max_size=253),
        "node": st.text(max_size=253),
        "role": st.sampled_from(Role),
        "public_key": st.binary(min_size=32, max_size=32).map(
            lambda key: base64.b64encode(key).decode()
        ),
        "addresses": st.lists(st.integers(1, 1 << 20).map(node_address), min_size=1, max_size=4),
        "port": st.integers(1, 65535),
    }
).map(Peer.model_validate)


def test_a_peer_is_read() -> None:
    [read] = peer.peers_from_annotations(annotated([ENTRY]))

    assert (read.uid, read.endpoint, read.node, read.role) == (
        *("uid-1", "vm-a", "node-a"),
        Role.SOURCE,
    )
    assert (read.key, read.port) == (KEY, 7473)
    assert read.addresses == (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))


def test_it_is_what_its_agent_has_published() -> None:
    published = {name: ENTRY[name] for name in ("publicKey", "addresses", "port")}
    endpoint = WorkloadEndpoint.model_validate(
        {
            "metadata": {"name": "vm-a"},
            "spec": {"node": "node-a", "workload": "vm", "ips": ["10.65.0.2"]},
            "status": {"agent": published, "advertised": True},
        }
    )

    assert endpoint.status.agent == AgentAddress.model_validate(published)
    assert endpoint.status.agent.to_object() == published
    assert endpoint.status.advertised


@given(st.lists(peers, max_size=4))
def test_what_is_written_is_read_back(some: list[Peer]) -> None:
    text = peer.peers_to_annotation(some)

    if text is not None and len(text) <= 8192:
        assert peer.peers_from_annotations({"handover.dev/peer": text}) == tuple(some)
    assert (text is None) == (not some)


def test_the_longest_that_kubernetes_allows_are_read_back() -> None:
    name = "n" * 253
    longest = ENTRY | {"uid": name, "endpoint": name, "node": name}
    longest["addresses"] = [f"2001:db8:aaaa:bbbb:cccc:dddd:eeee:fff{n}" for n in range(4)]
    four = (Peer.model_validate(longest),) * 4
    text = peer.peers_to_annotation(four)

    assert text is not None
    assert peer.peers_from_annotations({"handover.dev/peer": text}) == four


def test_the_text_is_the_same_for_the_same_peers() -> None:
    backwards = Peer.model_validate(dict(reversed(ENTRY.items())))

    assert peer.peers_to_annotation([ONE]) == peer.peers_to_annotation([backwards])


def test_more_than_four_are_neither_written_nor_read() -> None:
    five = [ONE.model_copy(update={"uid": f"uid-{n}"}) for n in range(5)]
    text = peer.peers_to_annotation(five)

    assert text is not None
    assert [each["uid"] for each in json.loads(text)] == ["uid-0", "uid-1", "uid-2", "uid-3"]
    every = [each.to_object() for each in five]
    assert peer.peers_from_annotations(annotated(every)) == tuple(five[:4])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "7",
        '"peer"',
        "null",
        '{"uid": "u"}',
        "[" * 8000,
        "1" * 5000,
        "[" + " " * 9000,
    ],
    ids=lambda text: text[:8],
)
def test_odd_text_counts_as_absent(text: str) -> None:
    assert peer.peers_from_annotations(annotated(text)) == ()


@pytest.mark.parametrize(
    "change",
    [
        *({name: None} for name in ENTRY),
        {"uid": 7},
        {"role": "both"},
        {"publicKey": "short"},
        {"publicKey": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURp="},
        {"publicKey": base64.b64encode(b"x" * 33).decode()},
        {"publicKey": "!" * 43 + "="},
        {"addresses": []},
        {"addresses": ["192.0.2.1"] * 5},
        {"addresses": ["node-a"]},
        {"addresses": ["127.0.0.1"]},
        {"addresses": ["224.0.0.1"]},
        {"addresses": ["255.255.255.255"]},
        {"addresses": ["fe80::1"]},
        {"addresses": ["::"]},
        {"port": 0},
        {"port": 65536},
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_read_costs_no_other(change: dict[str, Any]) -> None:
    assert peer.peers_from_annotations(annotated([ENTRY | change, 7, ENTRY])) == (ONE,)


def test_what_a_newer_operator_adds_is_ignored() -> None:
    assert peer.peers_from_annotations(annotated([ENTRY | {"boot": 3}])) == (ONE,)


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_no_text_whatsoever_is_an_error(text: str) -> None:
    peer.peers_from_annotations({"handover.dev/peer": text})


@pytest.mark.parametrize(
    ("annotations", "uid"),
    [({}, None), ({"handover.dev/peer-live": ""}, None), ({"handover.dev/peer-live": "u"}, "u")],
)
def test_who_has_the_guest_is_told_by_the_migration_s_uid(
    annotations: dict[str, str], uid: str | None
) -> None:
    assert peer.peer_live_from_annotations(annotations) == uid
