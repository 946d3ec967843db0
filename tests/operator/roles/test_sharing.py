"""An address that two nodes serve without a migration between them is said of both."""

import dataclasses
import datetime as dt
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_operator.roles.model import Endpoint
from handover_operator.roles.sharing import SHARED_FOR, Sharing

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
LATER = NOW + SHARED_FOR
A, B = ip_address("10.0.0.1"), ip_address("fd00::2")

Build = Callable[..., Endpoint]


def key(name: str) -> ObjectKey:
    """Return the key of an endpoint."""
    return ObjectKey("default", name)


@pytest.fixture
def serve(endpoint: Build) -> Callable[..., Endpoint]:
    """Build an endpoint that is back in Base with its routes."""

    def build(name: str, **fields: Any) -> Endpoint:
        return endpoint(name, **({"ips": (A,), "state": State.BASE, "routed": True} | fields))

    return build


def told(*endpoints: Endpoint) -> dict[str, str]:
    """Return what is said of each after it has lasted."""
    sharing = Sharing()
    for each in endpoints:
        sharing.put(each)
    sharing.settle(NOW)
    sharing.settle(LATER)
    return {each.key.name: sharing.message(each.key, LATER) for each in endpoints}


def test_both_are_named_to_each_other(serve: Build) -> None:
    assert told(serve("a"), serve("b", ips=(B, A)), serve("c", ips=(B,), node="node-b")) == {
        "a": "10.0.0.1 is also served by default/b on node-b",
        "b": "10.0.0.1 is also served by default/a on node-a",
        "c": "",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"routed": False},
        {"state": State.REDIRECTED},
        {"node": "node-a"},
        {"ips": (B,)},
    ],
)
def test_that_is_no_sharing(serve: Build, fields: dict[str, Any]) -> None:
    assert set(told(serve("a"), serve("b", **fields)).values()) == {""}


@pytest.mark.parametrize(
    ("first", "second", "states", "shared"),
    [
        ("source of m1", "target of m1", (State.BASE, State.LIVE), False),
        ("source of m1", "target of m1", (State.BASE, State.BASE), False),
        ("source of m1 Aborted", "target of m1 Aborted", (State.BASE, State.TIME_WAIT), False),
        ("source of m1 Succeeded", "target of m1 Succeeded", (State.BASE, State.BASE), True),
        ("source of m1 Succeeded", "target of m2", (State.BASE, State.LIVE), True),
        (None, "target of m1 Succeeded", (State.BASE, State.BASE), True),
    ],
)
def test_a_migration_between_them_explains_it_until_both_are_back_in_base(
    serve: Build,
    assignment: Any,
    first: str | None,
    second: str,
    states: tuple[State, State],
    *,
    shared: bool,
) -> None:
    said = {"assignment": assignment(first)} if first else {}
    one = serve("a", state=states[0], **said)
    other = serve("b", state=states[1], assignment=assignment(second))
    assert [bool(text) for text in told(one, other).values()] == [shared, shared]


def test_it_must_last_and_then_wakes_once(serve: Build) -> None:
    sharing = Sharing()
    sharing.put(serve("a"))
    sharing.put(serve("b"))
    assert sharing.settle(NOW) == {key("a"), key("b")}
    assert (sharing.message(key("a"), NOW), sharing.wake(NOW)) == ("", LATER)
    soon = LATER - dt.timedelta(microseconds=1)
    assert (sharing.settle(soon), sharing.message(key("a"), soon)) == (frozenset(), "")
    assert sharing.settle(LATER) == {key("a"), key("b")}
    assert sharing.message(key("a"), LATER)
    assert sharing.wake(LATER) is None


@pytest.mark.parametrize("how", ["gone", "withdrawn", "another address", "another node"])
def test_it_is_over_for_both(serve: Build, how: str) -> None:
    sharing = Sharing()
    sharing.put(serve("a"))
    sharing.put(serve("b"))
    sharing.settle(NOW)
    sharing.settle(LATER)
    match how:
        case "gone":
            sharing.drop(key("b"))
        case "withdrawn":
            sharing.put(serve("b", routed=False))
        case "another address":
            sharing.put(serve("b", ips=(B,)))
        case _:
            sharing.put(serve("b", node="node-a"))
    assert sharing.settle(LATER) == {key("a"), key("b")}
    assert (sharing.message(key("a"), LATER), sharing.message(key("b"), LATER)) == ("", "")
    assert sharing.wake(LATER) is None


def test_who_was_named_stays_named_when_a_third_one_comes(serve: Build) -> None:
    sharing = Sharing()
    for name in "ab":
        sharing.put(serve(name))
    sharing.settle(NOW)
    before = sharing.message(key("a"), LATER)
    for number in range(50):
        sharing.put(serve(f"c{number}"))
    sharing.settle(LATER)
    assert sharing.message(key("a"), LATER) == before


def test_another_version_that_serves_alike_marks_nothing(serve: Build) -> None:
    sharing = Sharing()
    found = serve("a")
    sharing.put(found)
    sharing.put(serve("b"))
    sharing.settle(NOW)
    sharing.put(dataclasses.replace(found, resource_version="9", listening=True))
    assert sharing.settle(NOW) == frozenset()


def test_nothing_is_kept_of_what_is_gone(serve: Build) -> None:
    sharing = Sharing()
    for name in "abc":
        sharing.put(serve(name))
    sharing.settle(NOW)
    for name in "abc":
        sharing.drop(key(name))
    sharing.settle(LATER)
    assert len(sharing) == 0
    assert (sharing._serving, sharing._since, sharing._stale | sharing._waiting) == ({}, {}, set())
