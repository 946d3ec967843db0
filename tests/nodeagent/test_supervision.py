"""Tasks that all endpoints share: begun anew, told to whoever asks, and in the end given up."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from handover_nodeagent import faults, metrics, supervision
from handover_nodeagent.retry.backoff import Backoff
from handover_nodeagent.supervision import (
    MOST,
    STUCK_AFTER,
    UNREADABLE_AFTER,
    WINDOW,
    ExceptionHandler,
    Supervisor,
)

PATIENCE = 20.0


class World:
    """What a supervisor asks: a clock that stands, and how the kernel is read."""

    def __init__(self) -> None:
        self.now = 100.0
        self.unreadable = ""
        self.supervisor = Supervisor(lambda: self.now, lambda: self.unreadable)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(supervision, "Backoff", Quick)
    return World()


class Quick(Backoff):
    """No wait worth mentioning."""

    def next(self, drawn: float = 1.0) -> float:  # noqa: ARG002  the backoff's form
        return 0.0


def failing(times: int, then: asyncio.Event) -> Callable[[], Awaitable[None]]:
    """Make work that raises so often, and then goes on for ever."""
    left = [ArithmeticError(f"attempt {number}") for number in range(times)]

    async def work() -> None:
        if left:
            raise left.pop(0)
        then.set()
        await asyncio.Event().wait()

    return work


async def test_what_raises_is_begun_anew(world: World) -> None:
    runs = asyncio.Event()
    task = asyncio.create_task(world.supervisor.keep("work", failing(MOST - 1, runs)))
    await asyncio.wait_for(runs.wait(), PATIENCE)
    assert world.supervisor.unhealthy() == ""
    task.cancel()


async def test_what_raises_too_often_ends_with_what_it_raised(world: World) -> None:
    with pytest.raises(ArithmeticError, match=f"attempt {MOST - 1}"):
        await world.supervisor.keep("work", failing(MOST, asyncio.Event()))


async def test_what_raises_now_and_then_goes_on(world: World) -> None:
    runs = asyncio.Event()
    work = failing(3 * MOST, runs)

    async def later() -> None:
        world.now += WINDOW / (MOST - 1)
        await work()

    task = asyncio.create_task(world.supervisor.keep("work", later))
    await asyncio.wait_for(runs.wait(), PATIENCE)
    task.cancel()


async def test_what_is_not_vital_is_tried_for_ever(world: World) -> None:
    runs = asyncio.Event()
    task = asyncio.create_task(
        world.supervisor.keep("work", failing(3 * MOST, runs), is_vital=False)
    )
    await asyncio.wait_for(runs.wait(), PATIENCE)
    task.cancel()


async def test_liveness_names_what_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    failed = asyncio.Event()
    monkeypatch.setattr(faults, "note", lambda *_: failed.set())
    task = asyncio.create_task(world.supervisor.keep("reports", failing(9, asyncio.Event())))
    await asyncio.wait_for(failed.wait(), PATIENCE)
    assert world.supervisor.unhealthy() == "reports does not run: ArithmeticError: attempt 0"
    task.cancel()


async def test_liveness_ends_with_the_turns_of_the_loop(world: World) -> None:
    heartbeat = asyncio.create_task(world.supervisor.beat())
    await asyncio.sleep(0)
    assert world.supervisor.unhealthy() == ""
    world.now += STUCK_AFTER + 1
    assert world.supervisor.unhealthy() == f"the loop has not turned for {STUCK_AFTER + 1:.0f} s"
    heartbeat.cancel()


async def test_liveness_ends_where_the_kernel_cannot_be_read_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "HEARTBEAT", 0)
    heartbeat = asyncio.create_task(world.supervisor.beat())
    await asyncio.sleep(0)
    world.unreadable = "Too many open files"
    world.now += UNREADABLE_AFTER
    for _ in range(4):
        await asyncio.sleep(0)
    assert world.supervisor.unhealthy() == ""
    world.now += 1
    for _ in range(4):
        await asyncio.sleep(0)
    assert world.supervisor.unhealthy() == "the kernel cannot be read: Too many open files"
    world.unreadable = ""
    for _ in range(4):
        await asyncio.sleep(0)
    assert world.supervisor.unhealthy() == ""
    heartbeat.cancel()


async def test_what_nobody_caught_is_counted_and_recovered_once_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervision, "HEARTBEAT", 0.01)
    loop, recovered = asyncio.get_running_loop(), asyncio.Event()
    recoveries: list[None] = []

    def recover() -> None:
        recoveries.append(None)
        recovered.set()

    ExceptionHandler(loop, recover)
    before = metrics.FAULTS.labels("callback")._value.get()

    def raising() -> None:
        raise ArithmeticError

    for _ in range(100):
        loop.call_soon(raising)
    await asyncio.wait_for(recovered.wait(), PATIENCE)
    assert metrics.FAULTS.labels("callback")._value.get() == before + 100
    assert len(recoveries) == 1
