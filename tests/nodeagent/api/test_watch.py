"""Only real changes are told, and nothing is forgotten because nobody answers."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import RawTestServer
from tests.nodeagent.fake_api import FakeApi, running

from handover_api.names import ObjectKey
from handover_nodeagent.api import watch
from handover_nodeagent.api.access import Access
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.api.watch import Timing, Watch
from handover_nodeagent.retry.backoff import Backoff

PATH = "/apis/handover.dev/v1alpha1/workloadendpoints"
SELECTOR = "spec.node=node-a"
QUICK = Timing(silence=5.0, proven=5.0, first_wait=0.001, last_wait=0.002)
BOOKMARK = ("BOOKMARK", {"metadata": {"resourceVersion": "50"}})

Object = Mapping[str, Any]
Start = Callable[..., AbstractAsyncContextManager[Watch]]


def build(name: str, version: int = 1, uid: str = "") -> Object:
    metadata = {"namespace": "ns", "name": name, "uid": uid or f"uid-{name}"}
    return {"metadata": {**metadata, "resourceVersion": str(version)}}


class Recorder:
    """Writes down what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.absences: list[bool] = []
        self._news = asyncio.Event()

    def put(self, raw: Object) -> None:
        self._say(f"put {raw['metadata']['name']}@{raw['metadata']['resourceVersion']}")

    def drop(self, key: ObjectKey, uid: str) -> None:
        self._say(f"drop {key.name} {uid}")

    def synced(self) -> None:
        self._say("synced")

    def outage(self, reason: str, *, is_absent: bool) -> None:
        self.absences.append(is_absent)
        self._say(f"outage {reason.removeprefix(PATH)[2:]}")

    async def until(self, text: str, times: int = 1) -> list[str]:
        """Wait until this was said so often; return all that was said."""
        return await self._until(lambda: self.said.count(text) >= times)

    async def until_said(self, times: int) -> list[str]:
        """Wait until so much was said; return it."""
        return await self._until(lambda: len(self.said) >= times)

    async def _until(self, enough: Callable[[], bool]) -> list[str]:
        async with asyncio.timeout(20.0):
            while not enough():
                self._news.clear()
                await self._news.wait()
        return self.said

    def _say(self, text: str) -> None:
        self.said.append(text)
        self._news.set()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@contextlib.asynccontextmanager
async def following(api: ApiServer, sink: Recorder, timing: Timing = QUICK) -> AsyncIterator[Watch]:
    """Run a watch as long as a test needs it."""
    made = Watch(api, PATH, sink=sink, field_selector=SELECTOR, timing=timing)
    async with running(made):
        yield made


@pytest.fixture
def start(fake_client: ApiServer, recorder: Recorder) -> Start:
    """Run a watch by the stand-in's client."""
    return lambda timing=QUICK: following(fake_client, recorder, timing)


async def test_a_watch_goes_on_from_its_list(
    fake_api: FakeApi, start: Start, recorder: Recorder
) -> None:
    fake_api.then(
        fake_api.list(build("a"), more="page 2"),
        fake_api.list(build("b"), version=40),
        fake_api.watch(("ADDED", build("c", 41)), ("MODIFIED", build("a", 42))),
    )
    async with start():
        said = await recorder.until("put a@42")
    assert said == ["put a@1", "put b@1", "synced", "put c@41", "put a@42"]
    query = fake_api.queries[2]
    assert query["resourceVersion"] == "40"
    assert (query["watch"], query["allowWatchBookmarks"]) == ("1", "true")
    assert 300 <= int(query["timeoutSeconds"]) <= 600
    assert {each["fieldSelector"] for each in fake_api.queries} == {SELECTOR}


async def test_each_change_is_told_once(
    fake_api: FakeApi, start: Start, recorder: Recorder
) -> None:
    fake_api.then(
        fake_api.list(build("a")),
        fake_api.watch(
            ("ADDED", build("a")),
            ("MODIFIED", build("a", 2)),
            ("MODIFIED", build("a", 2)),
            ("DELETED", build("a", 3)),
            ("DELETED", build("a", 3)),
            ("DELETED", build("never seen", 4)),
            ("ADDED", build("a", 5, "new")),
            ("DELETED", build("a", 6, "of another one")),
            ("MODIFIED", build("a", 7, "new")),
            ("MODIFIED", build("a", 8, "newer")),
        ),
    )
    async with start():
        said = await recorder.until("put a@8")
    replaced = ["put a@5", "put a@7", "drop a new", "put a@8"]
    assert said == ["put a@1", "synced", "put a@2", "drop a uid-a", *replaced]


async def test_a_version_that_goes_backwards_is_a_change_like_any(
    fake_api: FakeApi, start: Start, recorder: Recorder
) -> None:
    fake_api.then(
        fake_api.list(build("a", 9)), fake_api.watch(("MODIFIED", build("a", 3)), BOOKMARK)
    )
    async with start():
        assert await recorder.until("put a@3") == ["put a@9", "synced", "put a@3"]


@pytest.mark.parametrize("ending", ["end", "cut"])
async def test_a_watch_that_breaks_goes_on_where_it_stood(
    fake_api: FakeApi, start: Start, recorder: Recorder, ending: str
) -> None:
    fake_api.then(
        fake_api.list(version=40),
        fake_api.watch(("ADDED", build("a", 41)), ending=ending),
        fake_api.watch(BOOKMARK, ending=ending),
        fake_api.watch(("ADDED", build("b", 51))),
    )
    async with start() as running:
        said = await recorder.until("put b@51")
    assert said == ["synced", "put a@41", "put b@51"]
    versions = [query.get("resourceVersion") for query in fake_api.queries]
    assert versions == [None, "40", "41", "50"]
    assert running.counts.lists == 1
    assert running.counts.messages == 3
    assert running.counts.restarts == {"ended" if ending == "end" else "unreachable": 2}


async def test_an_event_that_was_cut_in_the_middle_is_told_once_and_whole(
    fake_api: FakeApi, start: Start, recorder: Recorder
) -> None:
    whole = json.dumps({"type": "MODIFIED", "object": build("a", 42)}).encode() + b"\n"
    fake_api.then(
        fake_api.list(build("a", 40), version=40),
        fake_api.stream(whole[: len(whole) // 2], ending="cut"),
        fake_api.list(build("a", 40), version=40),
        fake_api.stream(whole + whole[:20], ending="cut"),
        fake_api.watch(("MODIFIED", build("a", 43))),
    )
    async with start() as running:
        said = await recorder.until("put a@43")
    told = [line for line in said if not line.startswith("outage")]
    assert told == ["put a@40", "synced", "synced", "put a@42", "put a@43"]
    assert running.counts.restarts["unreachable"] == 2


async def test_a_token_that_expires_under_a_watch_loses_nothing(
    fake_api: FakeApi, recorder: Recorder, tmp_path: Path
) -> None:
    """Until the kubelet has renewed it, each attempt is refused; nothing is taken for gone."""
    token = tmp_path / "token"
    token.write_text("expired")
    fake_api.then(
        fake_api.list(build("a", 40), version=40),
        fake_api.watch(ending="end"),
        *[fake_api.status(401, "Unauthorized")] * 6,
        fake_api.list(build("a", 40), build("b", 51), version=51),
        fake_api.watch(),
    )
    async with ApiServer(Access(fake_api.url, token_file=token)) as api, following(api, recorder):
        await recorder.until("outage 401: Unauthorized")
        token.write_text("renewed")
        said = await recorder.until("put b@51")
    assert "drop" not in " ".join(said)
    sent = [request.headers["Authorization"] for request in fake_api.requests]
    assert (sent[0], sent[-1]) == ("Bearer expired", "Bearer renewed")


async def test_a_silent_watch_is_begun_again_without_a_word(
    fake_api: FakeApi, start: Start, recorder: Recorder
) -> None:
    fake_api.then(
        fake_api.list(), fake_api.watch(BOOKMARK), fake_api.watch(("ADDED", build("a", 51)))
    )
    async with start(Timing(silence=0.3, proven=5.0, first_wait=0.001)):
        assert await recorder.until("put a@51") == ["synced", "put a@51"]


async def test_a_watch_that_lasted_was_no_failure_though_nothing_was_said(
    fake_api: FakeApi, start: Start, recorder: Recorder
) -> None:
    fake_api.then(fake_api.list(), fake_api.watch(), fake_api.watch(("ADDED", build("a", 51))))
    async with start(Timing(silence=0.05, proven=0.02, first_wait=0.001)):
        assert await recorder.until("put a@51") == ["synced", "put a@51"]


@pytest.mark.parametrize("ending", ["end", "cut"])
async def test_a_watch_that_says_nothing_at_all_is_an_outage(
    fake_api: FakeApi, start: Start, recorder: Recorder, ending: str
) -> None:
    fake_api.then(
        fake_api.list(build("a")),
        fake_api.watch(ending=ending),
        fake_api.list(build("a"), build("b")),
        fake_api.watch(),
    )
    async with start():
        said = await recorder.until("synced", 2)
    assert said[2].startswith("outage")
    assert said[:2] + said[3:] == ["put a@1", "synced", "put b@1", "synced"]


GONE = {"kind": "Status", "code": 410, "message": "too old resource version"}


@pytest.mark.parametrize(
    "answer",
    [FakeApi.watch(BOOKMARK, ("ERROR", GONE)), FakeApi.json(GONE, 410)],
    ids=["as a message", "as an answer"],
)
async def test_a_version_that_is_too_old_leads_to_a_list(
    fake_api: FakeApi, start: Start, recorder: Recorder, answer: Any
) -> None:
    fake_api.then(
        fake_api.list(build("a"), build("b")),
        answer,
        fake_api.list(build("a"), build("b", 2)),
        fake_api.watch(),
    )
    async with start() as running:
        said = await recorder.until("synced", 2)
    told = ["put a@1", "put b@1", "synced"]
    assert said == [*told, "outage 410: too old resource version", "put b@2", "synced"]
    assert running.counts.restarts == {"gone": 1}
    assert "resourceVersion" not in fake_api.queries[2]


async def test_a_list_that_expires_between_its_pages_is_begun_again(
    fake_api: FakeApi, start: Start, recorder: Recorder
) -> None:
    fake_api.then(
        fake_api.list(build("a"), more="next"),
        fake_api.status(410),
        fake_api.list(build("b")),
        fake_api.watch(),
    )
    async with start():
        assert await recorder.until("synced") == ["outage 410: no", "put b@1", "synced"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (FakeApi.status(404), [True, True]),
        (FakeApi.plain("404 page not found\n", 404, "text/plain"), [False, False]),
    ],
    ids=["no object", "no such path"],
)
async def test_a_collection_that_is_gone_is_an_outage_not_the_end_of_its_objects(
    fake_api: FakeApi, start: Start, recorder: Recorder, answer: Any, expected: list[bool]
) -> None:
    fake_api.then(
        fake_api.list(build("a"), build("b")),
        fake_api.watch(BOOKMARK, ("ERROR", GONE)),
        answer,
        answer,
        fake_api.list(build("b")),
        fake_api.watch(),
    )
    async with start():
        said = await recorder.until("synced", 2)
    assert said[:3] == ["put a@1", "put b@1", "synced"]
    assert [line.partition(" ")[0] for line in said[3:6]] == ["outage"] * 3
    assert recorder.absences == [False, *expected]
    assert said[6:] == ["drop a uid-a", "synced"]


BROKEN: list[dict[str, Any]] = [
    {},
    {"metadata": []},
    {"metadata": {"name": 7, "uid": "u", "resourceVersion": "1"}},
    {"metadata": {"name": "x", "resourceVersion": "1"}},
    {"metadata": {"name": "x", "uid": "u"}},
]


@pytest.mark.parametrize("broken", BROKEN)
async def test_what_no_api_server_would_send_is_an_outage(
    fake_api: FakeApi, start: Start, recorder: Recorder, broken: dict[str, Any]
) -> None:
    fake_api.then(
        fake_api.list(broken),
        fake_api.list(build("a")),
        fake_api.watch(("MODIFIED", broken)),
        fake_api.list(build("a", 2)),
        fake_api.watch(("BOOKMARK", {})),
        fake_api.list(build("a", 3)),
        fake_api.watch(),
    )
    async with start():
        said = await recorder.until("synced", 3)
    puts = [line for line in said if not line.startswith("outage an object without metadata.")]
    assert puts == ["put a@1", "synced", "put a@2", "synced", "put a@3", "synced"]
    assert len(said) == len(puts) + 3


class Waits(Backoff):
    """Writes down each wait, and does not wait."""

    def __init__(self) -> None:
        super().__init__(1.0, 8.0)
        self.seen: list[float] = []

    def next(self, drawn: float = 1.0) -> float:
        before = self._delay
        assert before / 2 <= super().next(drawn) <= before
        self.seen.append(before)
        return 0.0


async def test_waits_double_until_a_watch_has_lasted(
    fake_api: FakeApi, start: Start, recorder: Recorder
) -> None:
    """A list alone is no success: what breaks every watch would be asked ten times a second."""
    failing = [fake_api.list(), fake_api.watch(BOOKMARK, ("ERROR", GONE))]
    fake_api.then(*failing, *failing, *failing, *failing, *failing, fake_api.list())
    fake_api.then(fake_api.watch(BOOKMARK, ending="stay"), fake_api.watch(ending="end"))
    fake_api.then(fake_api.list(), fake_api.watch())
    async with start(Timing(silence=0.6, proven=0.5)) as running:
        running._backoff = waits = Waits()
        await recorder.until("synced", 7)
    assert waits.seen == [1.0, 2.0, 4.0, 8.0, 8.0, 1.0, 2.0]


async def test_who_asks_for_patience_gets_it(
    fake_api: FakeApi, start: Start, recorder: Recorder
) -> None:
    busy = {"Retry-After": "0.2"}
    fake_api.then(fake_api.plain("busy", 429, "text/plain", **busy), fake_api.list())
    fake_api.then(fake_api.watch())
    loop = asyncio.get_running_loop()
    async with start():
        await recorder.until("outage 429: 'busy'")
        began = loop.time()
        await recorder.until("synced")
    assert loop.time() - began >= 0.2


async def test_a_dead_server_is_asked_until_it_is_back(
    unused_tcp_port: int, recorder: Recorder
) -> None:
    fake = FakeApi().then(FakeApi.list(build("a")), FakeApi.watch(("ADDED", build("b", 11))))
    async with ApiServer(Access(f"http://127.0.0.1:{unused_tcp_port}")) as api:
        running = asyncio.create_task(Watch(api, PATH, sink=recorder, timing=QUICK).run())
        await recorder.until_said(3)
        assert all(line.startswith("outage Cannot connect") for line in recorder.said)
        server = RawTestServer(fake.handle, port=unused_tcp_port)
        await server.start_server()
        await recorder.until("put b@11")
        running.cancel()
        await server.close()
    assert recorder.said[-3:] == ["put a@1", "synced", "put b@11"]


class Picky(Recorder):
    """Raises at one object, until it is mended."""

    def __init__(self) -> None:
        super().__init__()
        self.mended = False

    def put(self, raw: Object) -> None:
        super().put(raw)
        if raw["metadata"]["name"] == "bad" and not self.mended:
            raise ArithmeticError


async def test_an_object_at_which_its_sink_raises_is_told_again_and_no_others_fault(
    fake_api: FakeApi, fake_client: ApiServer
) -> None:
    fake_api.then(
        fake_api.list(build("bad"), build("b"), version=40),
        fake_api.watch(("ADDED", build("c", 41))),
    )
    sink = Picky()
    async with following(fake_client, sink) as watching:
        said = await sink.until("put c@41")
        assert said[:3] == ["put bad@1", "put b@1", "synced"]
        await sink.until("put bad@1", times=3)
        sink.mended = True
        await sink.until("put bad@1", times=4)
        assert watching._faults.trouble(ObjectKey("ns", "bad")) == ""


async def test_a_long_list_lets_the_loop_turn_every_few_objects(
    fake_api: FakeApi, fake_client: ApiServer
) -> None:
    count = 10 * watch.SLICE
    fake_api.then(fake_api.list(*(build(f"vm{n}") for n in range(count)), version=40))
    turns: list[int] = []
    sink = Recorder()

    async def turn() -> None:
        while "synced" not in sink.said:
            turns.append(len(sink.said))
            await asyncio.sleep(0)

    async with following(fake_client, sink):
        await asyncio.wait_for(turn(), 20.0)
    told = [after - before for before, after in itertools.pairwise(turns)]
    assert max(told) <= watch.SLICE
    assert len(sink.said) == count + 1
