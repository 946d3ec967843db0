"""Only real changes are told on, whether a list says them or a watch."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_api.names import ObjectKey
from handover_nodeagent.api import collection
from handover_nodeagent.api.collection import Changes, Identity, Known, Listed
from handover_nodeagent.api.errors import Unavailable

Object = Mapping[str, Any]

A = ObjectKey("ns", "a")


def build(name: str, version: int = 1, uid: str = "") -> Object:
    metadata = {"namespace": "ns", "name": name, "uid": uid or f"uid-{name}"}
    return {"metadata": {**metadata, "resourceVersion": str(version)}}


def as_listed(objects: Sequence[Object]) -> Listed:
    """Return a list as it is gathered from its pages."""
    found = [(collection.identity(raw), raw) for raw in objects]
    return {key: (identity, raw) for (key, identity), raw in found}


KNOWN = {A: Identity("uid-a", "1")}


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ([build("a")], Changes()),
        ([build("a", 2)], Changes(puts=(build("a", 2),))),
        ([build("a", 0)], Changes(puts=(build("a", 0),))),
        ([], Changes(drops=((A, "uid-a"),))),
        (
            [build("a", 2, "new")],
            Changes(((A, "uid-a"),), (build("a", 2, "new"),)),
        ),
        ([build("a"), build("b")], Changes(puts=(build("b"),))),
    ],
    ids=["unchanged", "changed", "older", "gone", "made anew", "new"],
)
def test_a_list_tells_real_changes_only(listed: list[Object], expected: Changes) -> None:
    assert collection.diff(KNOWN, as_listed(listed)) == expected


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        ("ADDED", build("a"), Changes()),
        ("ADDED", build("b"), Changes(puts=(build("b"),))),
        ("MODIFIED", build("a", 2), Changes(puts=(build("a", 2),))),
        ("MODIFIED", build("a", 0), Changes(puts=(build("a", 0),))),
        ("ADDED", build("a", 5, "new"), Changes(((A, "uid-a"),), (build("a", 5, "new"),))),
        ("DELETED", build("a", 3), Changes(drops=((A, "uid-a"),))),
        ("DELETED", build("a", 3, "of another one"), Changes()),
        ("DELETED", build("never seen", 3), Changes()),
    ],
    ids=[
        *("repeated", "new", "changed", "older", "made anew"),
        *("gone", "another one is gone", "unknown is gone"),
    ],
)
def test_a_message_tells_real_changes_only(kind: str, raw: Object, expected: Changes) -> None:
    assert collection.change(KNOWN, kind, raw) == expected


def applied(known: Known, changes: Changes) -> Known:
    """Know what was told."""
    now = dict(known)
    for key, uid in changes.drops:
        assert now.pop(key).uid == uid
    return now | dict(map(collection.identity, changes.puts))


objects = st.builds(
    build, st.sampled_from("abc"), st.integers(1, 3), st.sampled_from(["old", "new"])
)
collections = st.lists(objects, unique_by=lambda raw: raw["metadata"]["name"])


@given(collections, collections)
def test_after_a_list_all_of_it_is_known_and_nothing_else(
    before: list[Object], now: list[Object]
) -> None:
    known = dict(map(collection.identity, before))
    changes = collection.diff(known, as_listed(now))
    assert applied(known, changes) == dict(map(collection.identity, now))
    assert collection.diff(applied(known, changes), as_listed(now)) == Changes()


@given(collections, objects)
def test_a_message_that_comes_twice_is_told_once(before: list[Object], raw: Object) -> None:
    known = dict(map(collection.identity, before))
    for kind in ("MODIFIED", "DELETED"):
        known = dict(applied(known, collection.change(known, kind, raw)))
        assert collection.change(known, kind, raw) == Changes()
    assert collection.identity(raw)[0] not in known


def test_an_object_of_the_whole_cluster_has_no_namespace() -> None:
    raw = {"metadata": {"name": "default", "uid": "u", "resourceVersion": "1"}}
    assert collection.identity(raw) == (ObjectKey("", "default"), Identity("u", "1"))


@pytest.mark.parametrize("missing", ["name", "uid", "resourceVersion"])
def test_an_object_without_an_identity_is_unavailable(missing: str) -> None:
    metadata = dict(build("a")["metadata"])
    del metadata[missing]
    with pytest.raises(Unavailable, match=rf"an object without metadata\.{missing}"):
        collection.identity({"metadata": metadata})


@pytest.mark.parametrize("raw", [{}, {"metadata": 7}, {"metadata": {"resourceVersion": 7}}])
def test_a_bookmark_without_a_version_is_unavailable(raw: Object) -> None:
    with pytest.raises(Unavailable):
        collection.version(raw)
