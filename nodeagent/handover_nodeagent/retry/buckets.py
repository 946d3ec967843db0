"""PURE: how often something may be done, by token buckets; who asks says what time it is."""

import math
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

RESTING: Final = 1024
"""Buckets that are kept although they may be full; a full one is as good as a new one."""

_K = TypeVar("_K", bound=Hashable)


class Bucket:
    """Token bucket: lets *rate* a second through and, after a rest, *burst* at once."""

    __slots__ = ("_credit", "_due", "_interval")

    def __init__(self, rate: float, burst: int) -> None:
        self._interval = 1 / rate
        self._credit = burst / rate
        # The instant at which all tokens that were ever taken are paid for.
        self._due = -math.inf

    def reserve(self, now: float) -> float:
        """Take a token, of the future if need be; return in how many seconds it is valid."""
        self._due = self._next(now)
        return max(self._due - now, 0.0)

    def try_take(self, now: float) -> bool:
        """Take a token if there is one; tell whether."""
        due = self._next(now)
        if due > now:
            return False
        self._due = due
        return True

    def is_full(self, now: float) -> bool:
        """Tell whether nothing was taken for so long that *burst* may be taken at once."""
        return self._due <= now - self._credit

    def _next(self, now: float) -> float:
        """Return when the next token is valid; what was not taken while it rested is lost."""
        return max(self._due, now - self._credit) + self._interval


class Buckets(Generic[_K]):
    """A token bucket for each of many keys."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[_K, Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def try_take(self, key: _K, now: float) -> bool:
        """Take a token of *key* if there is one; tell whether."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate, self._burst)
        if not bucket.try_take(now):
            return False
        # What is not full stays: forgotten, it would have its whole burst again.
        if len(self._buckets) > RESTING:
            self._buckets = {
                key: bucket for key, bucket in self._buckets.items() if not bucket.is_full(now)
            }
        return True

    def forget(self, key: _K) -> None:
        """Know that nobody cares for *key* any more."""
        self._buckets.pop(key, None)
