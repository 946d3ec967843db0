"""Waits double, what failed is tried again, and a bucket lets so much through and no more."""

import asyncio

from handover_nodeagent import retry
from handover_nodeagent.retry import Backoff, Bucket, Buckets, Gate, Retries, Retry, Schedule

DOUBLING = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6)


def test_waits_double_up_to_a_minute_and_begin_anew_after_a_success() -> None:
    backoff = Backoff()
    waits = [backoff.next() for _ in range(12)]
    assert waits == [*DOUBLING, 51.2, 60.0, 60.0]
    backoff.reset()
    assert backoff.next() == 0.1


def test_waits_for_what_all_agents_ask_for_are_shorter_and_not_the_same_twice() -> None:
    backoff = Backoff.shared()
    for whole in (*DOUBLING, 30.0, 30.0):
        assert whole / 2 <= backoff.next() <= whole
    backoff.reset()
    assert backoff.next() <= 0.1


def test_nothing_has_failed_before_the_first_wait() -> None:
    backoff = Backoff()
    seen = [backoff.is_fresh]
    backoff.next()
    seen.append(backoff.is_fresh)
    backoff.reset()
    assert [*seen, backoff.is_fresh] == [True, False, True]


def test_two_agents_do_not_come_back_in_one_instant() -> None:
    assert len({Backoff.shared().next() for _ in range(20)}) > 10


async def test_who_asked_for_patience_is_left_in_peace_for_that_long() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await Backoff(0.001, 0.001).sleep(at_least=0.05)
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


def test_nothing_is_due_before_something_failed() -> None:
    assert Schedule[str]().due is None
    assert Schedule[str]().take(1000.0) == frozenset()


def test_each_attempt_waits_twice_as_long_as_the_one_before() -> None:
    schedule = Schedule[str]()
    schedule.failed(["a"], 0.0)
    waits: list[float] = []
    last = 0.0
    while len(waits) < 12:
        due = schedule.due
        assert due is not None
        assert schedule.take(due) == {"a"}
        waits.append(round(due - last, 6))
        last = due
    assert waits[:4] == [retry.FIRST, 0.2, 0.4, 0.8]
    assert waits[-1] == retry.LAST


def test_what_fails_first_does_not_wait_for_what_fails_for_ever() -> None:
    schedule = Schedule[str]()
    schedule.failed(["old"], 0.0)
    for now in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0):
        schedule.take(now)
    schedule.failed(["new"], 65.0)
    assert schedule.due == 65.0 + retry.FIRST
    assert schedule.take(65.0 + retry.FIRST) == {"new"}


def test_a_failure_between_two_attempts_changes_nothing() -> None:
    schedule = Schedule[str]()
    schedule.failed(["a"], 0.0)
    schedule.failed(["a"], 0.05)
    assert schedule.due == retry.FIRST


def test_what_succeeds_begins_anew() -> None:
    schedule = Schedule[str]()
    schedule.failed(["a"], 0.0)
    schedule.take(0.1)
    schedule.succeeded(["a", "never seen"])
    assert schedule.due is None
    schedule.failed(["a"], 10.0)
    assert schedule.due == 10.0 + retry.FIRST


def test_what_has_waited_longest_is_taken_first() -> None:
    schedule = Schedule[str]()
    for number, key in enumerate("cab"):
        schedule.failed([key], float(number))
    assert schedule.take(100.0, 2) == {"c", "a"}
    assert schedule.take(100.0, 2) == {"b"}


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
    assert attempts.wait > 3 * retry.FIRST
    attempts.retries.failed([2])
    assert attempts.wait <= retry.FIRST
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
    attempts.retries.failed(range(2 * retry.SLICE + 1))
    await attempts.until(3)
    assert [len(tried) for tried in attempts.tried] == [retry.SLICE, retry.SLICE, 1]
    assert frozenset[int]().union(*attempts.tried) == set(range(2 * retry.SLICE + 1))
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


def test_a_bucket_lets_its_burst_through_at_once_and_then_its_rate() -> None:
    bucket = Bucket(rate=4.0, burst=3)
    assert [bucket.reserve(100.0) for _ in range(6)] == [0.0, 0.0, 0.0, 0.25, 0.5, 0.75]
    assert bucket.reserve(100.75) == 0.25
    assert [bucket.reserve(200.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.25]


def test_what_a_bucket_does_not_grant_costs_nothing() -> None:
    bucket = Bucket(rate=4.0, burst=2)
    assert [bucket.try_take(100.0) for _ in range(4)] == [True, True, False, False]
    assert (bucket.try_take(100.24), bucket.try_take(100.25)) == (False, True)


RATE = 0.5
BURST = 10
REST = BURST / RATE


def granted(buckets: Buckets[str], key: str, now: float, attempts: int = 100) -> int:
    """Count the tokens that are granted in one instant."""
    return sum(buckets.try_take(key, now) for _ in range(attempts))


def test_who_asks_without_end_is_slowed_down_after_a_burst() -> None:
    buckets = Buckets[str](RATE, BURST)
    assert granted(buckets, "a", 1000.0) == BURST
    assert granted(buckets, "a", 1000.0 + 1 / RATE) == 1
    assert granted(buckets, "a", 1000.0 + 1 / RATE) == 0


def test_keys_do_not_pay_for_each_other() -> None:
    buckets = Buckets[str](RATE, BURST)
    granted(buckets, "a", 1000.0)
    assert granted(buckets, "b", 1000.0) == BURST


def test_who_comes_back_now_and_then_is_granted_a_token_each_time() -> None:
    buckets = Buckets[str](RATE, BURST)
    assert all(buckets.try_take("a", 30.0 * number) for number in range(1, 200))


def test_a_rest_or_an_end_gives_all_tokens_back() -> None:
    buckets = Buckets[str](RATE, BURST)
    granted(buckets, "a", 1000.0)
    assert granted(buckets, "a", 1000.0 + REST) == BURST
    buckets.forget("a")
    assert granted(buckets, "a", 1000.0 + REST) == BURST
    buckets.forget("never seen")


def test_thousands_of_keys_are_not_remembered_for_ever() -> None:
    buckets = Buckets[str](RATE, BURST)
    for number in range(3 * retry.RESTING):
        assert buckets.try_take(f"a{number}", 100.0 * number)
    assert len(buckets) <= retry.RESTING + 1
