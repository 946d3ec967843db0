"""From which version a watch goes on after what, and for how long it waits."""

from typing import Any

import pytest

from handover_operator.kube.errors import Denied, Expired, Temporary, Unavailable
from handover_operator.kube.position import Outage, Position


def told(version: str) -> dict[str, Any]:
    """Compose an object of this version."""
    return {"metadata": {"resourceVersion": version}}


@pytest.fixture
def position() -> Position:
    """Stand behind a list and a change."""
    position = Position()
    position.note_list(7)
    position.note_change("ADDED", told("8"))
    return position


def test_it_stands_where_the_last_message_was(position: Position) -> None:
    versions = [position.version]
    position.note_change("BOOKMARK", told("12"))

    assert [*versions, position.version] == ["8", "12"]
    assert position.lists == 1


@pytest.mark.parametrize(
    ("code", "kind", "text"), [(410, Expired, "410: too old"), (500, Temporary, "500: too old")]
)
def test_an_error_among_the_changes_is_the_watch_s_end(
    position: Position, code: int, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        position.note_change("ERROR", {"code": code, "message": "too old"})


@pytest.mark.parametrize(
    ("reason", "version", "outage"),
    [
        (Unavailable("reset"), "8", Outage(is_news=True, retry_after=0)),
        (Unavailable("busy", 7), "8", Outage(is_news=True, retry_after=7)),
        (Expired("410"), "", Outage(is_news=False, retry_after=0)),
        (Temporary("500"), "", Outage(is_news=True, retry_after=0)),
        (Denied("403"), "", Outage(is_news=True, retry_after=0.2)),
        (KeyError("uid"), "", Outage(is_news=True, retry_after=0)),
    ],
    ids=["broken line", "busy", "too old", "error", "refused", "defect"],
)
def test_an_end_is_gone_on_from_or_made_good_by_a_list(
    position: Position, reason: Exception, version: str, outage: Outage
) -> None:
    assert position.note_end(reason) == outage
    assert position.version == version


def test_a_reason_is_told_once_until_something_was_heard(position: Position) -> None:
    def ends() -> list[bool]:
        return [position.note_end(Unavailable("reset")).is_news for _ in range(2)]

    before = ends()
    position.note_change("BOOKMARK", told("9"))

    assert (before, ends()) == ([True, False], [True, False])


def test_who_is_refused_asks_ever_more_seldom(position: Position) -> None:
    waits = [position.note_end(Denied("403")).retry_after for _ in range(3)]

    assert waits == [0.2, 0.4, 0.8]
