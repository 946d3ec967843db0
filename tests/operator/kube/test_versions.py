"""Which versions count, in every order in which they may be told."""

import itertools

import pytest

from handover_api.names import ObjectKey
from handover_operator.kube import versions
from handover_operator.kube.versions import Version, Versions

KEY = ObjectKey("vms", "a")
LIFE = (Version("first", 1), Version("first", 3), None, Version("second", 6))
"""Made, changed, deleted at version 5, and made anew."""


@pytest.mark.parametrize("order", list(itertools.permutations(LIFE)))
def test_in_every_order_the_newest_object_is_the_one_that_is_known(
    order: tuple[Version | None, ...],
) -> None:
    known = Versions()
    for version in order:
        if version is None:
            known.bury(KEY, Version("first", 5))
        else:
            known.take(KEY, version)
    assert known.uid(KEY) == "second"


@pytest.mark.parametrize("order", list(itertools.permutations(LIFE[:3])))
def test_in_every_order_what_is_gone_stays_so(order: tuple[Version | None, ...]) -> None:
    known = Versions()
    for version in order:
        if version is None:
            known.bury(KEY, Version("first", 5))
        else:
            known.take(KEY, version)
    assert known.uid(KEY) is None
    assert len(known) == 0


def test_what_left_the_selection_may_come_back() -> None:
    known = Versions()
    known.take(KEY, Version("first", 1))
    assert known.bury(KEY, Version("first", 2))
    assert known.take(KEY, Version("first", 3))
    assert known.uid(KEY) == "first"


def test_the_end_of_another_object_of_that_name_changes_nothing() -> None:
    known = Versions()
    known.take(KEY, Version("second", 6))
    assert not known.bury(KEY, Version("first", 5))
    assert known.uid(KEY) == "second"


def test_a_list_misses_only_what_it_could_know() -> None:
    known = Versions()
    other = ObjectKey("vms", "b")
    known.take(KEY, Version("first", 3))
    known.take(other, Version("newer", 9))
    assert known.missing({}, 5) == [(KEY, Version("first", 5))]
    assert known.missing({KEY: "first"}, 5) == []
    assert known.missing({KEY: "of-another"}, 5) == [(KEY, Version("first", 5))]


def test_the_ends_of_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "GRAVES", 2)
    known = Versions()
    for number, uid in enumerate(("one", "two", "three")):
        known.bury(KEY, Version(uid, number + 10))
    assert known.take(KEY, Version("one", 1))
    assert not known.take(KEY, Version("two", 2))


def test_a_list_of_an_older_history_is_told_from_a_late_event() -> None:
    versions = Versions()
    assert not versions.is_rewound(10)
    versions.take(KEY, Version("u", 12))
    assert not versions.is_rewound(11)  # it was under way when the event came
    assert versions.is_rewound(5)
    assert not versions.is_rewound(5)


def test_after_a_rewind_everything_is_news_and_what_is_missing_is_found() -> None:
    versions = Versions()
    gone = ObjectKey("default", "gone")
    versions.take(KEY, Version("u", 12))
    versions.take(gone, Version("g", 13))
    versions.bury(ObjectKey("default", "c"), Version("c", 14))
    versions.rewind()
    assert versions.take(KEY, Version("u", 4))
    assert not versions.take(KEY, Version("u", 3))
    assert versions.take(ObjectKey("default", "c"), Version("c", 2))
    assert versions.missing({KEY: "u", ObjectKey("default", "c"): "c"}, 5) == [
        (gone, Version("g", 5))
    ]
