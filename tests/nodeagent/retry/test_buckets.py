"""A bucket lets so much through and no more, for each key alone."""

from handover_nodeagent.retry.buckets import RESTING, Bucket, Buckets


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
    for number in range(3 * RESTING):
        assert buckets.try_take(f"a{number}", 100.0 * number)
    assert len(buckets) <= RESTING + 1
