"""What a file of the memory says is read again as it was, and what is damaged counts as none."""

import datetime as dt
import json
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, Role, Signal, State, WorkloadEndpoint
from handover_nodeagent.fsm.machine import NO_RETURNS, Redirect, Returns, RouteLevel
from handover_nodeagent.fsm.restart import Remembered
from handover_nodeagent.memory import record
from handover_nodeagent.memory.record import Decoded, Record
from handover_nodeagent.network.model import Route

NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
KEY = ObjectKey("default", "vm")
MAC = "52:54:00:65:00:02"
METADATA = {"name": "vm", "namespace": "default", "uid": "u", "resourceVersion": "1"}
SPEC = {"node": "n", "workload": "vm", "ips": ["10.65.0.2"]}
ENDPOINT = WorkloadEndpoint.model_validate({"metadata": METADATA, "spec": SPEC})
CUTOVER = Cutover(signal=Signal.RARP, announcement_to_route_microseconds=312, time=NOW)

uids = st.none() | st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1)
redirects = st.builds(Redirect, uids, st.sampled_from(Role), st.sampled_from(RouteLevel))
stands = st.builds(
    Remembered,
    st.sampled_from([state for state in State if state is not State.REDIRECTED]),
    st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC)),  # noqa: DTZ001  hypothesis adds the zone
    uids,
    st.booleans(),
    in_doubt=st.booleans(),
    redirect=st.none(),
    returns=st.just(NO_RETURNS) | st.builds(Returns, uids, st.integers(0, 9)),
) | st.builds(
    Remembered,
    st.just(State.REDIRECTED),
    st.just(NOW),
    uids,
    redirect=redirects,
)
addresses = st.ip_addresses()
routes = st.builds(
    Route,
    addresses,
    st.integers(1, 2**31 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(1, 2**32 - 1),
    st.integers(0, 255),
)


def written(**fields: Any) -> str:
    """Return a file with these fields, whoever wrote it."""
    return json.dumps(fields)


@given(stands)
def test_where_an_endpoint_stood_is_read_as_it_was_written(stood: Remembered) -> None:
    kept = Record.of(ENDPOINT, stood, CUTOVER, MAC, "tap0")
    found = record.decode("default.vm", record.encode(kept))
    assert found == Decoded(KEY, kept)
    assert found.record
    assert found.record.remembered == stood


@given(st.lists(routes, min_size=1, max_size=4), st.lists(addresses, max_size=2))
def test_routes_without_an_endpoint_are_read_as_they_were_written(
    left: list[Route], gateways: list[Any]
) -> None:
    kept = Record.of_orphans(left, MAC, gateways)
    found = record.decode("default.vm", record.encode(kept))
    assert found == Decoded(KEY, kept)
    assert found.record
    assert found.record.routes == tuple(left)


def test_a_restart_needs_neither_labels_nor_owners() -> None:
    metadata = {
        **METADATA,
        "labels": {"of": "no use"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p"}],
    }
    endpoint = WorkloadEndpoint.model_validate({"metadata": metadata, "spec": SPEC})
    kept = Record.of(endpoint, Remembered(State.LIVE, NOW), None, None, None).endpoint
    assert kept == ENDPOINT


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"orphans": 7}', "\0"])
def test_a_damaged_file_is_no_record_and_says_why(text: str) -> None:
    key, found, complaint = record.decode("default.vm", text)
    assert (key, found) == (KEY, None)
    assert complaint.startswith("is ignored: ")


def test_a_file_that_says_nothing_is_no_record() -> None:
    assert record.decode("default.vm", "{}") == Decoded(KEY, None)


def test_what_one_field_of_a_newer_agent_says_costs_no_other() -> None:
    text = written(
        endpoint={"metadata": METADATA, "spec": SPEC}, stood={"state": "New"}, interface="tap0"
    )
    found = record.decode("default.vm", text).record
    assert found == Record(endpoint=ENDPOINT, interface="tap0")
    assert found.remembered is None


def test_the_addresses_of_an_endpoint_that_cannot_be_read_are_known() -> None:
    newer = {"metadata": METADATA, "spec": {"node": 7, "ips": ["10.65.0.2", "new"]}}
    key, found, complaint = record.decode("default.of-another-name", written(endpoint=newer))
    assert (key, complaint) == (KEY, "has an endpoint that nobody can read")
    assert found
    assert (found.endpoint, found.spared) == (None, (ip_address("10.65.0.2"),))


def test_what_is_spared_is_never_written() -> None:
    assert "spared" not in record.encode(Record(spared=(ip_address("10.65.0.2"),)))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (KEY, "default.vm.json"),
        (ObjectKey("default", "vm.net1"), "default.vm.net1.json"),
        (ObjectKey("", "10.65.0.2"), ".10.65.0.2.json"),
    ],
)
def test_a_file_is_named_after_its_endpoint(key: ObjectKey, expected: str) -> None:
    assert record.file_name(key) == expected


def test_a_name_that_is_too_long_is_named_by_its_digest() -> None:
    """NAME_MAX is 255, the longest name of an object 253."""
    names = {record.file_name(ObjectKey("n" * 63, "a" * 252 + last)) for last in "ab"}
    assert len(names) == 2
    assert all(len(name) < 255 - len(".draft") for name in names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("{", None),
        ("[]", None),
        ("{}", {}),
        ('{"default": {"mode": "observe"}, "n": 7}', {"default": {"mode": "observe"}}),
    ],
)
def test_configurations_are_remembered_by_name(text: str, expected: object) -> None:
    assert record.decode_configurations(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("", set()), ("{}", set()), ("7", set()), ('["a", "b"]', {"a", "b"})]
)
def test_paused_namespaces_are_remembered(text: str, expected: set[str]) -> None:
    assert record.decode_paused(text) == expected


def test_a_redirect_to_nobody_knows_whom_only_says_that_no_guest_was_here() -> None:
    stood = {"state": "Redirected", "since": NOW.isoformat(), "redirect": {"peer": "nobody"}}
    endpoint = ENDPOINT.to_object()
    found = record.decode("default.vm", written(endpoint=endpoint, stood=stood)).record
    assert found
    assert found.remembered == Remembered(State.WITHDRAWN, NOW)
