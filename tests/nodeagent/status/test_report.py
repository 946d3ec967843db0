"""Reports come behind what happens: the newest only, one at a time, and in the end for sure."""

import asyncio
import collections
import contextlib
import datetime as dt
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nodeagent.fake_api import running

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State, WorkloadEndpointStatus
from handover_nodeagent.api.errors import (
    Absent,
    ApiError,
    Conflict,
    Refused,
    Unavailable,
    Unreachable,
)
from handover_nodeagent.status import kubernetes_events, report
from handover_nodeagent.status.kubernetes_events import Event
from handover_nodeagent.status.report import Reporter

NOW = dt.datetime(2026, 11, 24, 12, 0, 0, 250000, tzinfo=dt.UTC)
A, B = ObjectKey("ns", "a"), ObjectKey("ns", "b")
PATIENCE = 20.0
BASE = WorkloadEndpointStatus(state=State.BASE)
TARGET = WorkloadEndpointStatus(state=State.TARGET)
LIVE = WorkloadEndpointStatus(state=State.LIVE)

Body = Mapping[str, Any]


class Api:
    """Takes what a reporter writes; a test may hold it back or let it fail."""

    def __init__(self) -> None:
        self.patches: list[tuple[str, str, Body]] = []
        self.events: list[Body] = []
        self.failures: dict[str, collections.deque[ApiError]] = {}
        self.uids: dict[str, str] = {}
        self.down = False
        self.attempts = 0
        self.most_at_once: collections.Counter[str] = collections.Counter()
        self.open = asyncio.Event()
        self.open.set()
        self._in_flight: collections.Counter[str] = collections.Counter()
        self._news = asyncio.Event()

    async def patch(self, path: str, operations: Sequence[Body]) -> Body:
        """Replace an endpoint's status."""
        name = path.removesuffix("/status").rpartition("/")[2]
        test, replacement = operations
        async with self._occupied(name):
            if test["value"] != self.uids.get(name, "u"):
                message = "422: another uid"
                raise Refused(message)
            self.patches.append((name, test["value"], replacement["value"]))
        return {}

    async def create(self, path: str, body: Body) -> Body:
        """Create an Event."""
        assert path == "/api/v1/namespaces/ns/events"
        async with self._occupied("events"):
            self.events.append(body)
        return {}

    @contextlib.asynccontextmanager
    async def _occupied(self, name: str) -> AsyncIterator[None]:
        self.attempts += 1
        self._in_flight[name] += 1
        self.most_at_once[name] = max(self.most_at_once[name], self._in_flight[name])
        self._news.set()
        try:
            await self.open.wait()
            if self.down:
                message = "nobody answers"
                raise Unreachable(message)
            if self.failures.get(name):
                raise self.failures[name].popleft()
            yield
        finally:
            self._in_flight[name] -= 1
            self._news.set()

    def fail(self, name: str, *errors: ApiError) -> None:
        """Let the next writes to *name* fail."""
        self.failures[name] = collections.deque(errors)

    async def until(self, enough: Callable[[], object]) -> None:
        """Wait until something that this API sees is so."""
        async with asyncio.timeout(PATIENCE):
            while not enough():
                self._news.clear()
                await self._news.wait()

    @property
    def states(self) -> list[tuple[str, str]]:
        """Which states were written, in order."""
        return [(name, status["state"]) for name, _, status in self.patches]


@pytest.fixture
async def api() -> Api:
    return Api()


@pytest.fixture
async def reporter(api: Api) -> Reporter:
    return Reporter(api, lambda: NOW, "node-a")


async def settled(reporter: Reporter) -> None:
    assert await reporter.flush(PATIENCE) == 0


def test_a_report_replaces_the_whole_status_of_this_very_object() -> None:
    assert report.operations("u", LIVE) == (
        {"op": "test", "path": "/metadata/uid", "value": "u"},
        {
            "op": "add",
            "path": "/status",
            "value": {"state": "Live", "routes": [], "conditions": []},
        },
    )


async def test_a_status_is_written_once(api: Api, reporter: Reporter) -> None:
    async with running(reporter):
        for _ in range(3):
            reporter.want(A, "u", BASE)
            await settled(reporter)
        reporter.learn(A, "u", BASE)
        await settled(reporter)
    assert api.patches == [("a", "u", BASE.to_object())]
    assert reporter.counts.written == 1


async def test_what_the_api_has_already_is_not_written(api: Api, reporter: Reporter) -> None:
    async with running(reporter):
        reporter.learn(A, "u", BASE)
        reporter.want(A, "u", BASE)
        reporter.want(B, "u", BASE)
        reporter.learn(B, "u", BASE)
        await settled(reporter)
    assert api.attempts == 0


async def test_what_somebody_else_has_changed_is_written_again(
    api: Api, reporter: Reporter
) -> None:
    async with running(reporter):
        reporter.want(A, "u", BASE)
        await settled(reporter)
        reporter.learn(A, "u", WorkloadEndpointStatus())
        await settled(reporter)
    assert api.states == [("a", "Base")] * 2


async def test_of_what_comes_while_one_is_on_its_way_the_newest_wins(
    api: Api, reporter: Reporter
) -> None:
    api.open.clear()
    async with running(reporter):
        reporter.want(A, "u", BASE)
        await api.until(lambda: api.attempts)
        for status in (TARGET, BASE, LIVE):
            reporter.want(A, "u", status)
        reporter.want(B, "u", BASE)
        await api.until(lambda: api.attempts == 2)
        api.open.set()
        await settled(reporter)
    assert sorted(api.states) == [("a", "Base"), ("a", "Live"), ("b", "Base")]
    assert api.most_at_once["a"] == 1


async def test_what_returned_to_what_was_on_its_way_is_not_written_twice(
    api: Api, reporter: Reporter
) -> None:
    api.open.clear()
    async with running(reporter):
        for status in (BASE, LIVE, BASE):
            reporter.want(A, "u", status)
            await api.until(lambda: api.attempts)
        api.open.set()
        await settled(reporter)
    assert api.states == [("a", "Base")]


async def test_the_last_one_asked_for_is_written_first(api: Api, reporter: Reporter) -> None:
    for name in ("a", "b", "c", "d"):
        reporter.want(ObjectKey("ns", name), "u", BASE)
    reporter.want(B, "u", LIVE)
    async with running(reporter):
        await settled(reporter)
    assert api.states == [("b", "Live"), ("d", "Base"), ("c", "Base"), ("a", "Base")]


async def test_an_object_that_is_not_there_is_forgotten(api: Api, reporter: Reporter) -> None:
    api.fail("a", Absent("gone"))
    async with running(reporter):
        reporter.want(A, "u", BASE)
        await settled(reporter)
        assert (api.attempts, api.patches, reporter._slots) == (1, [], {})
        reporter.want(A, "u", BASE)
        await settled(reporter)
    assert api.states == [("a", "Base")]


async def test_an_object_that_is_said_to_be_gone_is_forgotten(api: Api, reporter: Reporter) -> None:
    reporter.want(A, "u", BASE)
    reporter.forget(A, "another")
    assert reporter.pending == 1
    reporter.forget(A, "u")
    reporter.forget(A, "u")
    async with running(reporter):
        await settled(reporter)
    assert (api.attempts, reporter._slots) == (0, {})


async def test_another_object_of_the_name_begins_anew(api: Api, reporter: Reporter) -> None:
    """Neither what was wanted nor what was written says anything about it."""
    api.open.clear()
    async with running(reporter):
        reporter.want(A, "old", BASE)
        await api.until(lambda: api.attempts)
        api.uids["a"] = "new"
        reporter.want(A, "new", BASE)
        api.open.set()
        await settled(reporter)
    assert [uid for _, uid, _ in api.patches] == ["new"]


@pytest.mark.parametrize(
    "error", [Refused("403: no"), Conflict("409: other"), Unavailable("500: etcd")]
)
async def test_a_refusal_of_one_does_not_stop_the_others(
    api: Api, reporter: Reporter, error: ApiError
) -> None:
    api.fail("a", error, error)
    async with running(reporter):
        reporter.want(A, "u", BASE)
        await api.until(lambda: api.attempts == 1)
        reporter.want(B, "u", BASE)
        await api.until(lambda: len(api.patches) == 2)
    assert api.states == [("b", "Base"), ("a", "Base")]
    assert reporter.counts.failures == {type(error).__name__.lower(): 2}


async def test_the_same_again_does_not_shorten_the_wait_after_a_refusal(
    api: Api, reporter: Reporter
) -> None:
    api.fail("a", *(Unavailable("429", retry_after=60.0) for _ in range(9)))
    async with running(reporter):
        reporter.want(A, "u", BASE)
        await api.until(lambda: api.attempts == 1)
        for _ in range(20):
            reporter.want(A, "u", BASE)
            await asyncio.sleep(0)
        assert (api.attempts, reporter.pending) == (1, 1)
        timer = reporter._slots[A].retry._timer
        assert timer is not None
        assert timer.when() - asyncio.get_running_loop().time() > 30.0
        reporter.want(A, "u", LIVE)
        await api.until(lambda: api.attempts == 2)


async def test_what_was_refused_does_not_delay_what_came_meanwhile(
    api: Api, reporter: Reporter
) -> None:
    api.fail("a", Unavailable("429", retry_after=60.0))
    api.open.clear()
    async with running(reporter):
        reporter.want(A, "u", BASE)
        await api.until(lambda: api.attempts)
        reporter.want(A, "u", LIVE)
        api.open.set()
        await api.until(lambda: api.patches)
    assert api.states == [("a", "Live")]


async def test_a_write_whose_answer_was_lost_may_have_happened(
    api: Api, reporter: Reporter
) -> None:
    """So what was there before is written again, though it is what the API had last."""
    async with running(reporter):
        reporter.want(A, "u", BASE)
        await settled(reporter)
        api.fail("a", Unreachable("cut"))
        api.open.clear()
        reporter.want(A, "u", LIVE)
        await api.until(lambda: api.attempts == 2)
        reporter.want(A, "u", BASE)
        api.open.set()
        await settled(reporter)
    assert api.states == [("a", "Base")] * 2


async def test_what_was_forgotten_is_not_tried_again(api: Api, reporter: Reporter) -> None:
    api.fail("a", Refused("no"))
    async with running(reporter):
        reporter.want(A, "u", BASE)
        await api.until(lambda: reporter.counts.failures)
        reporter.forget(A, "u")
        api.open.clear()
        reporter.want(B, "u", BASE)
        await api.until(lambda: api.attempts == 2)
        reporter.forget(B, "u")
        api.fail("b", Refused("no"))
        api.open.set()
        await asyncio.sleep(0.15)
    assert (api.attempts, reporter.pending) == (2, 0)


async def test_an_api_that_is_down_costs_neither_attempts_nor_memory(
    api: Api, reporter: Reporter
) -> None:
    api.down = True
    async with running(reporter):
        for number in range(1000):
            reporter.want(A, "u", WorkloadEndpointStatus(interface=f"tap{number}"))
            reporter.want(B, "u", WorkloadEndpointStatus(interface=f"tap{number}"))
            await asyncio.sleep(0)
        assert (len(reporter._slots), reporter.pending) == (2, 2)
        await api.until(lambda: api.attempts >= 3)
        assert api.attempts <= 8
        api.down = False
        await api.until(lambda: len(api.patches) == 2)
    assert {status["interface"] for _, _, status in api.patches} == {"tap999"}


async def test_when_the_api_has_been_heard_nothing_waits_any_longer(
    api: Api, reporter: Reporter
) -> None:
    api.down = True
    async with running(reporter):
        reporter.want(A, "u", BASE)
        await api.until(lambda: api.attempts)
        await api.until(lambda: not reporter._gate.is_open)
        reporter._gate._retry.cancel()
        api.down = False
        reporter.retry_now()
        await api.until(lambda: api.patches)


async def test_writes_are_bounded_in_rate(
    api: Api, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RATE", 200.0)
    monkeypatch.setattr(report, "BURST", 20)
    for number in range(40):
        reporter.want(ObjectKey("ns", f"ep{number}"), "u", BASE)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with running(reporter):
        await api.until(lambda: len(api.patches) == 40)
        assert loop.time() - began >= 20 / 200.0 - 0.02


async def test_a_flush_ends_in_time_and_says_what_is_left(api: Api, reporter: Reporter) -> None:
    api.down = True
    async with running(reporter):
        reporter.want(A, "u", BASE)
        reporter.add_event(Event(A, "u", "CutOver", "m"))
        assert await reporter.flush(0.05) == 2
        api.down = False
        assert await reporter.flush(PATIENCE) == 0
    assert (len(api.patches), len(api.events)) == (1, 1)


async def test_an_event_is_told(api: Api, reporter: Reporter) -> None:
    async with running(reporter):
        for _ in range(3):
            reporter.add_event(Event(A, "u", "OrphanRoute", "m", is_warning=True))
            await settled(reporter)
    (event,) = api.events
    assert event["involvedObject"]["uid"] == "u"
    assert (event["type"], event["source"]["host"]) == ("Warning", "node-a")
    assert (reporter.counts.created, reporter.events.coalesced) == (1, 2)


async def test_an_event_whose_answer_was_lost_is_told_once(api: Api, reporter: Reporter) -> None:
    """The second attempt has the name of the first, so the API server knows it."""
    api.fail("events", Unreachable("cut"), Unavailable("500"), Conflict("already exists"))
    async with running(reporter):
        reporter.add_event(Event(A, "u", "CutOver", "m"))
        await settled(reporter)
    assert (api.attempts, api.events, reporter.counts.created) == (3, [], 1)


@pytest.mark.parametrize("error", [Refused("the namespace is terminating"), Absent("no such")])
async def test_an_event_that_nobody_wants_is_dropped(
    api: Api, reporter: Reporter, error: ApiError
) -> None:
    api.fail("events", error)
    async with running(reporter):
        reporter.add_event(Event(A, "u", "CutOver", "m"))
        reporter.add_event(Event(A, "u", "CutOver", "n"))
        await settled(reporter)
    assert [event["message"] for event in api.events] == ["n"]


class Store(Api):
    """Keeps what is written, as an API server does, and fails as it likes."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.objects: dict[str, str] = {}
        self.chance: random.Random | None = chance

    async def patch(self, path: str, operations: Sequence[Body]) -> Body:
        """Answer, or not, before or after the write took place."""
        name = path.removesuffix("/status").rpartition("/")[2]
        await asyncio.sleep(0)
        errors = [Unreachable(""), Unavailable(""), Conflict(""), Refused("")]
        error = self.chance.choice([*errors, *([None] * 5)]) if self.chance else None
        if error is None or isinstance(error, Unreachable):
            self.objects[name] = operations[1]["value"]["interface"]
        if error is not None:
            raise error
        return {}


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.booleans(), st.integers(0, 3)),
    max_size=30,
)


@settings(max_examples=settings().max_examples * 3 // 5)
@given(steps=STEPS, seed=st.integers(0, 99))
def test_in_the_end_the_api_has_what_was_wanted_last(
    steps: list[tuple[str, str, bool, int]], seed: int
) -> None:
    async def play() -> None:
        store = Store(random.Random(seed))  # noqa: S311  a seed can be played again
        reporter = Reporter(store, lambda: NOW, "node-a")
        wanted: dict[str, WorkloadEndpointStatus] = {}
        async with running(reporter):
            for name, text, is_echo, pause in steps:
                key = ObjectKey("ns", name)
                if is_echo and name in store.objects:
                    echo = WorkloadEndpointStatus(interface=store.objects[name])
                    reporter.learn(key, "u", echo)
                else:
                    wanted[name] = WorkloadEndpointStatus(interface=text)
                    reporter.want(key, "u", wanted[name])
                for _ in range(pause):
                    await asyncio.sleep(0)
            store.chance = None
            for name, status in wanted.items():
                reporter.want(ObjectKey("ns", name), "u", status)
            assert await reporter.flush(PATIENCE) == 0
        expected = {name: status.interface for name, status in wanted.items()}
        assert expected == store.objects

    asyncio.run(play())


async def test_what_raises_for_one_is_tried_again_and_mutes_nobody(
    api: Api, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the queue of Events, where the one that raised is lost."""
    operations, to_object, left = (
        report.operations,
        kubernetes_events.to_object,
        [ArithmeticError()] * 2,
    )

    def raising(uid: str, status: WorkloadEndpointStatus) -> Any:
        if status is TARGET and left:
            raise left.pop()
        return operations(uid, status)

    def raising_too(pending: Any, node: str) -> Any:
        if pending.event.reason == "Bad":
            raise ArithmeticError
        return to_object(pending, node)

    monkeypatch.setattr(report, "operations", raising)
    monkeypatch.setattr(kubernetes_events, "to_object", raising_too)
    async with running(reporter):
        reporter.want(A, "u", TARGET)
        reporter.want(B, "u", BASE)
        reporter.add_event(Event(A, "u", "Bad", "text"))
        reporter.add_event(Event(A, "u", "Good", "text"))
        await api.until(lambda: len(api.patches) == 2 and api.events)
        await settled(reporter)
    assert sorted(api.states) == [("a", "Target"), ("b", "Base")]
    assert [event["reason"] for event in api.events] == ["Good"]
