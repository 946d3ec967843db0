"""The queue works on every key, one worker per key, and tries again."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from handover_operator.kube import backoff
from handover_operator.kube.errors import Denied, Outdated, Temporary
from handover_operator.kube.workqueue import WorkQueue

Work = Callable[[str], Coroutine[Any, Any, None]]


@asynccontextmanager
async def running(work: Work) -> AsyncIterator[WorkQueue[str]]:
    """Run a queue with three workers."""
    queue: WorkQueue[str] = WorkQueue(work)
    task = asyncio.create_task(queue.run(3))
    yield queue
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_key_that_is_added_twice_is_worked_on_once() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)
        if key == "last":
            finished.set()

    finished = asyncio.Event()
    async with running(work) as queue:
        for key in ("a", "a", "b", "last"):
            queue.add(key)
        assert len(queue) == 3
        await finished.wait()
    assert done == ["a", "b", "last"]


async def test_what_is_urgent_overtakes_the_rest_in_its_own_order() -> None:
    done: list[str] = []
    finished = asyncio.Event()

    async def work(key: str) -> None:
        done.append(key)
        if key == "status 2":
            finished.set()

    queue: WorkQueue[str] = WorkQueue(work, lambda key: key.startswith("role"))
    for key in ("status 1", "role 1", "status 2", "role 2"):
        queue.add(key)
    task = asyncio.create_task(queue.run(1))
    await finished.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert done == ["role 1", "role 2", "status 1", "status 2"]


async def test_what_is_added_during_its_work_is_worked_on_once_more() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    rounds: list[int] = []
    second = asyncio.Event()

    async def work(_: str) -> None:
        rounds.append(len(rounds))
        if len(rounds) == 2:
            second.set()
        entered.set()
        await leave.wait()

    async with running(work) as queue:
        queue.add("a")
        await entered.wait()
        queue.add("a")
        queue.add("a")
        assert rounds == [0]  # never two workers for one key
        leave.set()
        await second.wait()
    assert rounds == [0, 1]


async def test_a_failure_is_tried_again_and_stops_no_other(monkeypatch: Any) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.001)
    tries: list[str] = []
    finished = asyncio.Event()

    async def work(key: str) -> None:
        tries.append(key)
        if key == "a" and tries.count("a") < 3:
            message = "not now"
            raise Temporary(message)
        if key == "defect" and tries.count("defect") < 2:
            message = "a defect"
            raise ValueError(message)
        if tries.count("a") == 3 and tries.count("defect") == 2:
            finished.set()

    async with running(work) as queue:
        for key in ("a", "defect", "b"):
            queue.add(key)
        await finished.wait()
        assert len(queue) <= 1
    assert sorted(tries) == ["a", "a", "a", "b", "defect", "defect"]


async def test_who_comes_too_late_tries_again_at_once_and_soon(monkeypatch: Any) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 3600)
    tries: list[None] = []
    finished = asyncio.Event()

    async def work(_: str) -> None:
        tries.append(None)
        if len(tries) < 5:
            message = "somebody was faster"
            raise Outdated(message)
        finished.set()

    async with running(work) as queue:
        queue.add("a")
        await finished.wait()


async def test_who_is_asked_for_patience_has_it(monkeypatch: Any) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.001)
    loop = asyncio.get_running_loop()
    tries: list[float] = []
    finished = asyncio.Event()

    async def work(_: str) -> None:
        tries.append(loop.time())
        if len(tries) == 1:
            message = "too many requests"
            raise Temporary(message, 0.2)
        finished.set()

    async with running(work) as queue:
        queue.add("a")
        await finished.wait()
    assert tries[1] - tries[0] >= 0.2


async def test_a_later_appointment_replaces_the_earlier_one() -> None:
    done: list[str] = []
    finished = asyncio.Event()

    async def work(key: str) -> None:
        done.append(key)
        if key == "b":
            finished.set()

    async with running(work) as queue:
        queue.add_later("a", 60)
        queue.add_later("a", 0)
        queue.add_later("b", 0.005)
        await finished.wait()
        assert len(queue) == 0
    assert done == ["a", "b"]


async def failing(error: Exception, times: int, monkeypatch: Any) -> tuple[int, list[float]]:
    """Let one key fail so often, with no pauses; return its attempts and what was postponed."""
    delays: list[float] = []
    tries = itertools.count(1)
    done = 0
    finished = asyncio.Event()

    async def work(_: str) -> None:
        nonlocal done
        done = next(tries)
        if done <= times:
            raise error.with_traceback(None)
        finished.set()

    async with running(work) as queue:
        later = queue.add_later

        def at_once(key: str, delay: float) -> None:
            delays.append(delay)
            later(key, 0)

        monkeypatch.setattr(queue, "add_later", at_once)
        queue.add("a")
        await finished.wait()
        await asyncio.sleep(0)
        assert (len(queue), queue.denied()) == (0, 0)
    return done, delays


@pytest.mark.parametrize(
    ("error", "first"),
    [
        (Temporary("no"), 0.1),
        (Outdated("late"), 0.02),
        (Denied("403"), 1),
        (ValueError("bug"), 0.1),
    ],
)
async def test_one_key_may_fail_two_thousand_times(
    error: Exception, first: float, monkeypatch: Any
) -> None:
    done, delays = await failing(error, 2000, monkeypatch)
    assert done == 2001
    assert delays[0] == first
    assert (max(delays), delays[-1]) == (backoff.LAST_DELAY, backoff.LAST_DELAY)


async def test_a_refusal_is_told_once_and_noted_until_it_is_over(monkeypatch: Any) -> None:
    monkeypatch.setattr(backoff, "DENIED_DELAY", 0.001)
    answers = ["422: too long", "422: too long", "403: forbidden", None]
    noted: list[int] = []
    finished = asyncio.Event()

    async def work(_: str) -> None:
        noted.append(queue.denied())
        answer = answers.pop(0)
        if answer is not None:
            raise Denied(answer)
        finished.set()

    with structlog.testing.capture_logs() as logs:
        async with running(work) as queue:
            queue.add("a")
            await finished.wait()
            await asyncio.sleep(0)
            assert queue.denied() == 0
    assert noted == [0, 1, 1, 1]
    assert [line["reason"] for line in logs] == ["422: too long", "403: forbidden"]


async def test_a_defect_shows_its_traceback_once(monkeypatch: Any) -> None:
    with structlog.testing.capture_logs() as logs:
        await failing(ValueError("bug"), 3, monkeypatch)
    assert [line["event"] for line in logs] == ["work_failed", "retry", "retry", "retry"]
    assert {line["reason"] for line in logs[1:]} == {"ValueError: bug"}


async def test_a_long_reason_is_cut_in_the_log(monkeypatch: Any) -> None:
    with structlog.testing.capture_logs() as logs:
        await failing(Temporary("x" * 100_000), 1, monkeypatch)
    assert [len(line["reason"]) for line in logs] == [backoff.REASON_LIMIT]


async def test_whoever_else_has_something_to_do_is_let_in_between_two_keys() -> None:
    turns: list[str] = []
    finished = asyncio.Event()

    async def work(key: str) -> None:
        turns.append(key)
        if key == "99":
            finished.set()

    queue: WorkQueue[str] = WorkQueue(work)
    for number in range(100):
        queue.add(str(number))
    task = asyncio.create_task(queue.run(1))
    while not finished.is_set():
        turns.append("other")
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    longest = max(len(list(run)) for key, run in itertools.groupby(turns, "other".__ne__) if key)
    assert longest == 1


async def test_what_was_forgotten_is_not_worked_on() -> None:
    done: list[str] = []
    finished = asyncio.Event()

    async def work(key: str) -> None:
        done.append(key)
        finished.set()

    async with running(work) as queue:
        queue.add("a")
        while queue._ready.qsize():  # noqa: ASYNC110  a worker takes it in hand by itself
            await asyncio.sleep(0)
        queue.clear()
        queue.add("b")
        await finished.wait()
    assert done == ["b"]


async def test_work_that_comes_before_its_appointment_takes_its_place() -> None:
    done: list[str] = []
    finished = asyncio.Event()

    async def work(key: str) -> None:
        done.append(key)
        if key == "last":
            finished.set()

    async with running(work) as queue:
        queue.add_later("a", 0.02)
        queue.add("a")
        queue.add_later("last", 0.05)
        await finished.wait()
    assert done == ["a", "last"]
