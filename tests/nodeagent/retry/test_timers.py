"""What failed is tried again, as often and as late as it should be."""

import asyncio

from handover_nodeagent.retry import timers
from handover_nodeagent.retry.backoff import FIRST, Backoff
from handover_nodeagent.retry.buckets import Bucket
from handover_nodeagent.retry.timers import SLICE, Gate, Retries, Retry


def test_two_agents_do_not_come_back_in_one_instant() -> None:
    waits = {timers._draw(Backoff.shared()) for _ in range(20)}
    assert len(waits) > 10
    assert all(FIRST / 2 <= wait <= FIRST for wait in waits)


async def test_a_token_of_the_future_is_waited_for() -> None:
    loop, bucket = asyncio.get_running_loop(), Bucket(rate=20.0, burst=1)
    began = loop.time()
    for _ in range(3):
        await timers.take(bucket)
    assert loop.time() - began >= 0.09


async def test_who_asked_for_patience_is_left_in_peace_for_that_long() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await timers.sleep(Backoff(0.001, 0.001), at_least=0.05)
    assert loop.time() - began >= 0.05


class Attempt:
    """One thing that is attempted; how often, and whether a test may go on."""

    def __init__(self, backoff: Backoff) -> None:
        self.count = 0
        self.retry = Retry(self.attempt, backoff)
        self.news = asyncio.Event()

    def attempt(self) -> None:
        self.count += 1
        self.news.set()

    async def made(self) -> None:
        async with asyncio.timeout(10):
            await self.news.wait()
        self.news.clear()


async def test_what_failed_is_attempted_once_however_often_that_is_said() -> None:
    attempt = Attempt(Backoff(0.01, 100.0))
    assert (attempt.retry.is_waiting, attempt.retry.is_fresh) == (False, True)
    attempt.retry.failed()
    attempt.retry.failed()
    assert (attempt.retry.is_waiting, attempt.retry.is_fresh) == (True, False)
    await attempt.made()
    assert (attempt.count, attempt.retry.is_waiting) == (1, False)
    assert attempt.retry._backoff.next() == 0.02


async def test_a_success_ends_the_waiting_and_begins_it_anew() -> None:
    attempt = Attempt(Backoff(0.01, 100.0))
    attempt.retry.failed()
    attempt.retry.succeeded()
    assert (attempt.retry.is_waiting, attempt.retry.is_fresh) == (False, True)


async def test_what_is_put_off_goes_on_growing() -> None:
    attempt = Attempt(Backoff(0.01, 100.0))
    attempt.retry.failed()
    attempt.retry.cancel()
    assert (attempt.retry.is_waiting, attempt.retry.is_fresh) == (False, False)
    attempt.retry.failed(at_least=0.05)
    began = asyncio.get_running_loop().time()
    await attempt.made()
    assert asyncio.get_running_loop().time() - began >= 0.04


async def test_a_gate_opens_by_itself_and_closes_for_longer_each_time() -> None:
    backoff = Backoff(0.02, 0.08)
    gate = Gate(backoff)
    assert (gate.close(), gate.close(), gate.is_open) == (True, False, False)
    await gate.wait()
    assert (gate.is_open, gate.close()) == (True, False)
    assert backoff._delay == 0.08
    assert (gate.succeed(), gate.is_open, gate.succeed()) == (True, True, False)
    assert gate.close()


async def test_a_gate_that_was_opened_does_not_open_again_later() -> None:
    gate = Gate(Backoff(0.01, 100.0))
    for _ in range(13):
        gate.close()
        gate.open()
    gate.close()
    await asyncio.sleep(0.1)
    assert not gate.is_open


class Attempts:
    """What is attempted, many keys at a time; each is done with when a test says so."""

    def __init__(self) -> None:
        self.tried: list[frozenset[int]] = []
        self.news = asyncio.Event()
        self.retries = Retries[int](self.attempt)

    def attempt(self, keys: frozenset[int]) -> None:
        self.tried.append(keys)
        self.news.set()

    async def until(self, count: int) -> None:
        while len(self.tried) < count:
            self.news.clear()
            await self.news.wait()

    @property
    def wait(self) -> float:
        alarm = self.retries._alarm
        assert alarm is not None
        return alarm.when() - asyncio.get_running_loop().time()


async def test_what_fails_for_ever_postpones_nobody() -> None:
    attempts = Attempts()
    attempts.retries.failed([1])
    await attempts.until(3)
    assert attempts.wait > 3 * FIRST
    attempts.retries.failed([2])
    assert attempts.wait <= FIRST
    await attempts.until(4)
    assert attempts.tried == [{1}, {1}, {1}, {2}]
    attempts.retries.close()


async def test_what_succeeds_takes_its_alarm_along() -> None:
    attempts = Attempts()
    attempts.retries.failed([1])
    attempts.retries.succeeded([1])
    assert attempts.retries._alarm is None


async def test_many_attempts_are_made_in_slices() -> None:
    attempts = Attempts()
    attempts.retries.failed(range(2 * SLICE + 1))
    await attempts.until(3)
    assert [len(tried) for tried in attempts.tried] == [SLICE, SLICE, 1]
    assert frozenset[int]().union(*attempts.tried) == set(range(2 * SLICE + 1))
    attempts.retries.close()


async def test_an_attempt_that_raises_does_not_end_the_others() -> None:
    met: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: met.append(context))
    news = asyncio.Event()

    def raising(_: frozenset[int]) -> None:
        if met:
            news.set()
        else:
            raise ArithmeticError

    retries = Retries[int](raising)
    retries.failed([1])
    async with asyncio.timeout(10):
        await news.wait()
    assert len(met) == 1
    retries.close()
