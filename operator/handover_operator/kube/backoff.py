"""How long to wait before another attempt, by what has failed so far. Pure.

No outage of the API server is a reason to give up: delays grow to a bound, and attempts have none.
"""

import enum
from collections.abc import Hashable, KeysView
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from handover_operator.kube.errors import Denied, Outdated, Temporary, Unprepared

K = TypeVar("K", bound=Hashable)

# Short at first, because a guest may be on its way; long at last, so that what fails for hours
# costs the API server and the log little.
FIRST_DELAY: Final = 0.1
LAST_DELAY: Final = 60.0
"""Both in seconds."""

_DOUBLINGS: Final = 16
"""More never change a delay: a hundredth of a second is past LAST_DELAY after 13, and no float
overflows."""

CONFLICT_DELAY: Final = 0.01
"""Before the second attempt after somebody was faster; the first one is made at once."""

DENIED_DELAY: Final = 1.0
"""After a refusal: a right or a namespace may come a moment later, and seldom does."""

LAST_DELAY_OF_A_BEGINNING: Final = 2.0
"""While an API server that has just begun gathers what it needs: that ends within a minute, and
roles wait for it."""

LAST_PAUSE: Final = 2.0
"""Between a watch that ended soon and the next; seconds. A guest may move meanwhile."""

LAST_PAUSE_AFTER_LISTS: Final = 15.0
"""The same where the watch began with lists: those of 10,000 VMs are 300 MB."""

REASON_LIMIT: Final = 500
"""Characters of a reason in the log: an answer may quote the whole value that it refuses."""


def delay(
    failures: int,
    *,
    first: float | None = None,
    last: float = LAST_DELAY,
    retry_after: float = 0.0,
) -> float:
    """Return the seconds before the next attempt: doubled with each failure, within bounds.

    It is never less than the server asks for by *retry_after*, which the connection has bounded.
    """
    first = FIRST_DELAY if first is None else first
    return max(min(first * 2.0 ** min(failures, _DOUBLINGS), last), retry_after)


def next_pause(pause: float, lasted: float, *, has_listed: bool) -> float:
    """Return the pause after a watch's next end, by how long it was since the last beginning."""
    last = LAST_PAUSE_AFTER_LISTS if has_listed else LAST_PAUSE
    # What outlasted its own pauses was no failure, whatever ended it.
    return FIRST_DELAY if lasted > 2 * last else min(pause * 2, last)


class Failure(enum.Enum):
    """What kind of failure an attempt met."""

    OUTDATED = "outdated"
    DENIED = "denied"
    TEMPORARY = "temporary"
    DEFECT = "defect"
    """An exception that nobody foresaw."""


@dataclass(frozen=True, slots=True)
class Retry:
    """What to do about a failed attempt: try again after ``delay`` seconds.

    ``is_at_once``: not even a turn of others is to be waited for. ``is_news``: its last failure of
    this kind had another reason, or there was none.
    """

    failure: Failure
    reason: str
    delay: float
    is_at_once: bool = False
    is_news: bool = True


class Backoff(Generic[K]):
    """What has become of the last attempts at each key; a success forgets all of it.

    Only failures of the last one's kind count: after ten seconds without any answer the first no is
    worth no more than any other first no.
    """

    def __init__(self) -> None:
        self._failures: dict[K, tuple[Failure, int]] = {}
        self._denied: dict[K, str] = {}
        self._defects: dict[K, str] = {}

    def failed(self) -> KeysView[K]:
        """Return the keys whose last attempt failed."""
        return self._failures.keys()

    def denied(self) -> int:
        """Count the keys whose last attempt was answered with no."""
        return len(self._denied)

    def fail(self, key: K, error: Exception) -> Retry:
        """Take in that an attempt has failed; return when to make the next one."""
        failures = self._count(key, _kind(error))
        if isinstance(error, Denied):
            return self._deny(key, error, failures)
        # This answer was no refusal, so the earlier one may be mended by now.
        self._denied.pop(key, None)
        reason = str(error)[:REASON_LIMIT]
        match error:
            case Outdated():
                seconds = delay(failures, first=CONFLICT_DELAY)
                # Somebody was faster, and what they wrote is known by now.
                return Retry(Failure.OUTDATED, reason, seconds, is_at_once=failures == 0)
            case Unprepared():
                seconds = delay(failures, last=LAST_DELAY_OF_A_BEGINNING)
                return Retry(Failure.TEMPORARY, reason, seconds)
            case Temporary(retry_after=retry_after):
                seconds = delay(failures, retry_after=retry_after)
                return Retry(Failure.TEMPORARY, reason, seconds)
            case _:
                return self._note_defect(key, error, failures)

    def succeed(self, key: K) -> None:
        """Take in that an attempt has met no failure."""
        for faults in (self._failures, self._denied, self._defects):
            faults.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._failures.clear()
        self._denied.clear()
        self._defects.clear()

    def _count(self, key: K, kind: Failure) -> int:
        """Count one more of *kind*; return how many there were before it, without any other."""
        last, failures = self._failures.get(key, (kind, 0))
        failures = failures if last is kind else 0
        self._failures[key] = kind, failures + 1
        return failures

    def _deny(self, key: K, error: Denied, failures: int) -> Retry:
        reason = str(error)[:REASON_LIMIT]
        is_news = self._denied.get(key) != reason
        self._denied[key] = reason
        seconds = delay(failures, first=DENIED_DELAY, retry_after=error.retry_after)
        return Retry(Failure.DENIED, reason, seconds, is_news=is_news)

    def _note_defect(self, key: K, error: Exception, failures: int) -> Retry:
        name = f"{type(error).__name__}: {error}"[:REASON_LIMIT]
        is_news = self._defects.get(key) != name
        self._defects[key] = name
        return Retry(Failure.DEFECT, name, delay(failures), is_news=is_news)


def _kind(error: Exception) -> Failure:
    match error:
        case Denied():
            return Failure.DENIED
        case Outdated():
            return Failure.OUTDATED
        case Temporary():
            return Failure.TEMPORARY
    return Failure.DEFECT
