"""The one way to write: what is based on old news is not written, and every answer is taken in."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest
import structlog

from handover_api.names import ObjectKey
from handover_operator.kinds import Kind
from handover_operator.kube.errors import (
    Absent,
    Conflict,
    NotLeading,
    Outdated,
    Refused,
    Temporary,
    Unavailable,
)
from handover_operator.kube.writer import Writer
from handover_operator.observability import metrics
from handover_operator.status.kubernetes_events import KubernetesEvent

KEY = ObjectKey("default", "a")
NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


class Api:
    """Answers each write with what it was given, and each read with the object as it is."""

    def __init__(self, answer: Exception | str) -> None:
        self.answer = answer

    async def get(self, *_: object) -> Mapping[str, Any]:
        """Read."""
        return raw("now")

    async def patch(self, *_: object, **__: object) -> Mapping[str, Any]:
        """Answer."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return raw(self.answer)

    create = delete = emit = patch


def raw(uid: str) -> Mapping[str, Any]:
    """Compose an object."""
    return {"metadata": {"uid": uid, "resourceVersion": "7"}}


def writer(answer: Exception | str, known: str | None = "a") -> tuple[Writer, list[str]]:
    """Have a writer to an API server that gives one answer, and what it observes."""
    observed: list[str] = []
    api: Any = Api(answer)
    return (
        Writer(api, lambda *_: known, lambda _, found: observed.append(found["metadata"]["uid"])),
        observed,
    )


def counted(result: str) -> float:
    """Return how many writes of endpoints came to this."""
    found: float = metrics.WRITES.labels(Kind.ENDPOINT.value, result)._value.get()
    return found


@pytest.mark.parametrize(("known", "observed"), [("a", ["a"]), (None, []), ("another", [])])
async def test_the_answer_to_a_patch_counts_while_the_object_is_the_same(
    known: str | None, observed: list[str]
) -> None:
    writing, found = writer("a", known)
    done = counted("done")
    assert await writing.patch(Kind.ENDPOINT, KEY, {})
    assert (found, counted("done")) == (observed, done + 1)


async def test_what_was_made_is_known_at_once() -> None:
    writing, found = writer("a", None)
    assert await writing.create(Kind.ENDPOINT, KEY, {}, as_leader=True) == raw("a")
    assert found == ["a"]


async def test_what_is_gone_is_not_written() -> None:
    writing, found = writer(Absent("gone"))
    assert not await writing.patch(Kind.ENDPOINT, KEY, {})
    assert await writing.create(Kind.ENDPOINT, KEY, {}, as_leader=True) is None
    assert found == []


async def test_where_somebody_was_faster_the_object_is_read_again() -> None:
    writing, found = writer(Conflict("another version"))
    conflicts = counted("conflict")
    with pytest.raises(Outdated, match="another version"):
        await writing.patch(Kind.ENDPOINT, KEY, {})
    with pytest.raises(Outdated, match="another version"):
        await writing.create(Kind.ENDPOINT, KEY, {}, as_leader=True)
    assert (found, counted("conflict")) == (["now", "now"], conflicts + 2)


@pytest.mark.parametrize(
    ("reason", "failures"), [(Unavailable("away"), 4), (NotLeading("another leads"), 0)]
)
async def test_only_what_was_sent_has_failed(reason: Temporary, failures: int) -> None:
    writing, _ = writer(reason)
    failed = counted("failed")
    event = KubernetesEvent("Reason", "message")
    for attempt in (
        writing.patch(Kind.ENDPOINT, KEY, {}),
        writing.create(Kind.ENDPOINT, KEY, {}, as_leader=True),
        writing.delete(Kind.ENDPOINT, KEY, "a"),
        writing.emit(Kind.ENDPOINT, KEY, "a", event, NOW),
    ):
        with pytest.raises(type(reason)):
            await attempt
    assert counted("failed") == failed + failures


@pytest.mark.parametrize("reason", [Absent("no namespace"), Conflict("twice"), Refused("quota")])
async def test_an_event_that_is_refused_is_lost(reason: Exception) -> None:
    writing, _ = writer(reason)
    with structlog.testing.capture_logs() as logs:
        await writing.emit(Kind.ENDPOINT, KEY, "a", KubernetesEvent("Reason", "message"), NOW)
    assert [each["event"] for each in logs] == ["event_lost"]
