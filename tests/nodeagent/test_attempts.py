"""One alarm for all that failed: at the earliest attempt, whatever else waits."""

import asyncio

from handover_nodeagent.retry import FIRST_PATIENCE, SLICE, Attempts


class Things:
    """What is attempted; each is done with when a test says so."""

    def __init__(self) -> None:
        self.tried: list[frozenset[int]] = []
        self.news = asyncio.Event()
        self.attempts = Attempts[int](self.attempt)

    def attempt(self, things: frozenset[int]) -> None:
        self.tried.append(things)
        self.news.set()

    async def until(self, count: int) -> None:
        while len(self.tried) < count:
            self.news.clear()
            await self.news.wait()

    @property
    def wait(self) -> float:
        alarm = self.attempts._alarm
        assert alarm is not None
        return alarm.when() - asyncio.get_running_loop().time()


async def test_what_fails_for_ever_postpones_nobody() -> None:
    things = Things()
    things.attempts.failed([1])
    await things.until(3)
    assert things.wait > 3 * FIRST_PATIENCE
    things.attempts.failed([2])
    assert things.wait <= FIRST_PATIENCE
    await things.until(4)
    assert things.tried == [{1}, {1}, {1}, {2}]
    things.attempts.close()


async def test_what_is_mended_takes_its_alarm_along() -> None:
    things = Things()
    things.attempts.failed([1])
    things.attempts.mended([1])
    assert things.attempts._alarm is None


async def test_many_attempts_are_made_in_slices() -> None:
    things = Things()
    things.attempts.failed(range(2 * SLICE + 1))
    await things.until(3)
    assert [len(tried) for tried in things.tried] == [SLICE, SLICE, 1]
    assert frozenset[int]().union(*things.tried) == set(range(2 * SLICE + 1))
    things.attempts.close()


async def test_an_attempt_that_raises_does_not_end_the_others() -> None:
    met: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: met.append(context))
    news = asyncio.Event()

    def raising(_: frozenset[int]) -> None:
        if met:
            news.set()
        else:
            raise ArithmeticError

    attempts = Attempts[int](raising)
    attempts.failed([1])
    async with asyncio.timeout(10):
        await news.wait()
    assert len(met) == 1
    attempts.close()
