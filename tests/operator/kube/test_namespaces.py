"""Which namespaces hold the brake, as lists and watches of their metadata tell."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
import structlog

from handover_operator.kinds import Plain
from handover_operator.kube import backoff
from handover_operator.kube.errors import Refused
from handover_operator.kube.namespaces import Namespaces

Change = tuple[str, Mapping[str, Any]]


def namespace(name: str, version: str = "1", **annotations: str) -> Mapping[str, Any]:
    """Compose the metadata of a namespace; ``paused`` is its annotation."""
    said = {f"handover.dev/{key}": value for key, value in annotations.items()}
    metadata = {"name": name, "uid": name, "resourceVersion": version, "annotations": said}
    return {"metadata": metadata}


class Api:
    """Lists what it was given; each watch tells its changes, and the last one goes on for ever."""

    def __init__(self, *listed: Mapping[str, Any]) -> None:
        self.listed: Sequence[Mapping[str, Any]] = listed
        self.watches: list[list[Change]] = []
        self.versions: list[str] = []
        self.refusals = 0
        self.lists = 0

    async def objects(self, kind: Plain) -> AsyncIterator[tuple[Sequence[Mapping[str, Any]], int]]:
        assert kind is Plain.NAMESPACE
        if self.refusals:
            self.refusals -= 1
            message = "403: namespaces is forbidden"
            raise Refused(message)
        self.lists += 1
        half = len(self.listed) // 2
        yield self.listed[:half], 7
        yield self.listed[half:], 7

    async def changes(
        self, kind: Plain, version: str, silence: float, lifetime: int
    ) -> AsyncGenerator[Change]:
        assert kind is Plain.NAMESPACE
        assert lifetime > silence > 60
        self.versions.append(version)
        if not self.watches:
            await asyncio.Event().wait()
        for change in self.watches.pop(0):
            yield change


async def told(api: Api, count: int) -> list[set[str]]:
    """Return what was told the first *count* times."""
    heard: list[set[str]] = []
    enough = asyncio.Event()

    def hear(paused: frozenset[str]) -> None:
        heard.append(set(paused))
        if len(heard) == count:
            enough.set()

    running = asyncio.create_task(Namespaces(api, hear).run())  # type: ignore[arg-type]
    await asyncio.wait_for(enough.wait(), 5)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return heard


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing."""
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0)
    monkeypatch.setattr(backoff, "delay", lambda _: 0)


async def test_those_with_the_annotation_are_told_once_all_are_known() -> None:
    api = Api(namespace("a"), namespace("b", paused=""), namespace("c", paused="ask Ada"))
    api.listed = [
        *api.listed,
        namespace("d", paused="false"),
        {"metadata": {"name": "e", "uid": "e"}},
    ]

    assert await told(api, 1) == [{"b", "c"}]


async def test_a_watch_tells_of_each_that_is_paused_released_or_gone() -> None:
    api = Api(namespace("a"), namespace("b", paused="true"))
    api.watches = [
        [
            ("MODIFIED", namespace("a", "8", paused="true")),
            ("BOOKMARK", {"metadata": {"resourceVersion": "9"}}),
            ("DELETED", namespace("b", "10", paused="true")),
            ("ADDED", namespace("c", "11", paused="true")),
            ("MODIFIED", namespace("a", "12")),
        ],
        [("ADDED", namespace("e", "13")), ("ADDED", namespace("d", "14", paused="true"))],
    ]

    heard = await told(api, 6)

    assert heard == [{"b"}, {"a", "b"}, {"a"}, {"a", "c"}, {"c"}, {"c", "d"}]
    assert (api.lists, api.versions[:2]) == (1, ["7", "12"])


async def test_a_watch_that_fails_is_made_good_by_a_list() -> None:
    api = Api(namespace("a"))
    api.watches = [
        [("ERROR", {"code": 410, "message": "too old resource version"})],
        [("MODIFIED", {"no": "metadata"})],
    ]

    assert await told(api, 3) == [set(), set(), set()]
    assert api.lists == 3


async def test_without_the_right_nothing_is_told_and_the_reason_said_once() -> None:
    api = Api(namespace("a", paused="true"))
    api.refusals = 5

    with structlog.testing.capture_logs() as said:
        heard = await told(api, 1)

    assert heard == [{"a"}]
    assert [each["event"] for each in said] == ["namespaces_not_followed", "namespaces_paused"]
    assert "forbidden; so the brake on a namespace is not seen" in said[0]["reason"]
