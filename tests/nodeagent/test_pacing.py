"""Waits double, and a bucket lets so much through and no more."""

import asyncio

from handover_nodeagent.retry import Backoff, Bucket, Gate


def test_waits_double_up_to_the_last_and_begin_anew_after_a_success() -> None:
    backoff = Backoff()
    for whole in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0):
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
    assert len({Backoff().next() for _ in range(20)}) > 10


def test_a_bucket_lets_its_burst_through_at_once_and_then_its_rate() -> None:
    bucket = Bucket(rate=4.0, burst=3)
    assert [bucket.reserve(100.0) for _ in range(6)] == [0.0, 0.0, 0.0, 0.25, 0.5, 0.75]
    assert bucket.reserve(100.75) == 0.25
    assert [bucket.reserve(200.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.25]


async def test_a_gate_opens_by_itself_and_closes_for_longer_each_time() -> None:
    gate = Gate(Backoff(0.02, 0.08))
    assert (gate.close(), gate.close(), gate.is_open) == (True, False, False)
    await gate.wait()
    assert (gate.is_open, gate.close()) == (True, False)
    assert gate._backoff._delay == 0.08
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
