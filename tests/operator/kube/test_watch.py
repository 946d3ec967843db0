"""What a sink is told by a list and the watches after it, at a stand-in that says what to tell."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import pytest
import structlog

from handover_operator.kinds import Foreign, Kind
from handover_operator.kube import backoff, watch
from handover_operator.kube.errors import Expired, Refused, Unavailable, Unserved
from handover_operator.kube.watch import Watch
from handover_operator.observability import metrics

Change = tuple[str, Mapping[str, Any]]
GONE = ("ERROR", {"code": 410, "message": "too old"})
BROKEN = ("ERROR", {"code": 500, "message": "etcd is away"})


def pod(name: str, version: int = 1) -> Mapping[str, Any]:
    """Compose an object by its metadata."""
    metadata = {"namespace": "vms", "name": name, "uid": f"uid-{name}"}
    return {"metadata": {**metadata, "resourceVersion": str(version)}}


class Api:
    """Lists *listed* in pages of one; each watch tells its changes, or fails, in turn."""

    def __init__(self, *watches: list[Change] | Exception) -> None:
        self.listed = [pod("a"), pod("b")]
        self.watches = [*watches]
        self.failures: list[Exception] = []
        self.versions: list[str] = []
        self.is_watched = asyncio.Event()

    async def objects(self, kind: object) -> AsyncIterator[tuple[list[Mapping[str, Any]], int]]:
        """List, or fail."""
        del kind
        for page in [[each] for each in self.listed] or [[]]:
            yield page, 7
            if self.failures:
                raise self.failures.pop(0)

    async def changes(
        self, kind: object, version: str, silence: float, lifetime: int
    ) -> AsyncGenerator[Change]:
        """Watch once; the last watch goes on for ever."""
        del kind
        assert lifetime > silence
        self.versions.append(version)
        if not self.watches:
            self.is_watched.set()
            await asyncio.Event().wait()
        told = self.watches.pop(0)
        if isinstance(told, Exception):
            raise told
        for change in told:
            yield change


class Sink:
    """Notes what it is told; ``bad``: of which object it cannot take anything in."""

    def __init__(self, bad: str = "") -> None:
        self.told: list[str] = []
        self._bad = bad

    def observe(self, _: Foreign, raw: Mapping[str, Any]) -> None:
        """Note a version."""
        name = raw["metadata"]["name"]
        if name == self._bad:
            raise LookupError(name)
        self.told.append(name)

    def end(self, _: Foreign, raw: Mapping[str, Any]) -> None:
        """Note an end."""
        self.told.append(f"no {raw['metadata']['name']}")

    def retain(self, _: Foreign, existing: Mapping[Any, str], version: int) -> None:
        """Note a complete list."""
        self.told.append(f"all {','.join(sorted(key.name for key in existing))} at {version}")

    def miss(self, _: Foreign, reason: Exception) -> None:
        """Note an outage."""
        self.told.append(f"{type(reason).__name__}")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing."""
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0)


LISTED = ["a", "b", "all a,b at 7"]


async def run(api: Api, sink: Sink | None = None) -> list[str]:
    """Watch until the last watch has begun; return what was told."""
    sink = sink or Sink()
    found: Any = api
    running = asyncio.create_task(Watch(found, Foreign.POD, sink).run())
    await asyncio.wait_for(api.is_watched.wait(), 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return sink.told


async def test_a_watch_begins_where_its_list_ended_and_goes_on_where_it_stood() -> None:
    bookmark = ("BOOKMARK", {"metadata": {"resourceVersion": "12"}})
    api = Api([("MODIFIED", pod("a", 8)), ("DELETED", pod("b", 9))], [bookmark])
    assert await run(api) == [*LISTED, "a", "no b"]
    assert api.versions == ["7", "9", "12"]


async def test_after_a_line_that_broke_nothing_is_listed_anew() -> None:
    api = Api([("ADDED", pod("c", 8))], Unavailable("reset"), Unavailable("reset"))
    assert await run(api) == [*LISTED, "c", "Unavailable"]
    assert api.versions == ["7", "8", "8", "8"]


@pytest.mark.parametrize("ended", [[GONE], Expired("410: too old")])
async def test_what_the_api_server_remembers_no_more_is_listed_anew_without_a_word(
    ended: Any,
) -> None:
    assert await run(Api(ended)) == [*LISTED, *LISTED]


@pytest.mark.parametrize(
    ("ended", "told"),
    [([BROKEN], "Temporary"), (Unserved("404"), "Unserved"), (KeyError("uid"), "KeyError")],
)
async def test_whatever_else_ends_a_watch_is_told_and_made_good_by_a_list(
    ended: Any, told: str
) -> None:
    assert await run(Api(ended)) == [*LISTED, told, *LISTED]


async def test_a_list_that_fails_halfway_is_never_called_complete() -> None:
    api = Api()
    api.failures = [Unavailable("reset")]
    assert await run(api) == ["a", "Unavailable", *LISTED]


async def test_a_list_without_any_object_is_told_as_well() -> None:
    """Nobody else would ever tell that the last one was deleted while nobody watched."""
    api = Api()
    api.listed = []
    assert await run(api) == ["all  at 7"]


async def test_who_is_refused_asks_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def delay(failures: int) -> float:
        asked.append(failures)
        return 0.0

    monkeypatch.setattr(backoff, "delay", delay)
    api = Api(*(Refused("403: pods is forbidden") for _ in range(4)))
    assert (await run(api)).count("Refused") == 1
    assert asked == [1, 2, 3, 4]


async def test_an_object_that_cannot_be_taken_in_keeps_no_other_back() -> None:
    before = metrics.DEFECTS._value.get()
    with structlog.testing.capture_logs() as logs:
        told = await run(Api([("MODIFIED", pod("a", 8)), ("MODIFIED", pod("b", 9))]), Sink("a"))
    assert told == ["b", "all a,b at 7", "b"]
    assert [(each["event"], each["object"]) for each in logs] == [("cannot_take_in", "vms/a")] * 2
    assert metrics.DEFECTS._value.get() == before + 2


async def test_kinds_of_ours_that_lack_are_named() -> None:
    class Server:
        async def resources(self, _: str) -> frozenset[str]:
            return frozenset({Kind.ENDPOINT.plural})

    server: Any = Server()
    await watch.require(server, (Kind.ENDPOINT,))
    with pytest.raises(Unavailable, match="not all kinds are served yet: livemigrations"):
        await watch.require(server, (Kind.MIGRATION, Kind.ENDPOINT))
