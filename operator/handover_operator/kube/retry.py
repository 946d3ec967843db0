"""How long to wait before another attempt, and the two loops that only wait and try.

No outage of the API server is a reason to end: what must work in the end is tried until it does.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from handover_operator.kube.errors import Absent, Conflict, Temporary

# Short at first, because a guest may be on its way; long at last, so that what fails for hours
# costs the API server and the log little.
FIRST_DELAY: Final = 0.1
LAST_DELAY: Final = 60.0
"""Both in seconds."""

_DOUBLINGS: Final = 16
"""More never change a delay: a hundredth of a second is past LAST_DELAY after 13, and no float
overflows."""

_LAST_DELAY_OF_A_START: Final = 10.0
"""Nothing is decided before the first lists: who waits for them looks more often; seconds."""

LAST_PAUSE: Final = 2.0
"""Between a watch that ended soon and the next; seconds. A guest may move meanwhile."""

LAST_PAUSE_AFTER_LISTS: Final = 15.0
"""The same where the watch began with lists: those of 10,000 VMs are 300 MB."""


def delay(failures: int, *, first: float | None = None, retry_after: float = 0.0) -> float:
    """Return the seconds before the next attempt: doubled with each failure, within bounds."""
    first = FIRST_DELAY if first is None else first
    return min(max(first * 2.0 ** min(failures, _DOUBLINGS), retry_after), LAST_DELAY)


def next_pause(pause: float, lasted: float, *, has_listed: bool) -> float:
    """Return the pause after a watch's next end, by how long it was since the last beginning."""
    last = LAST_PAUSE_AFTER_LISTS if has_listed else LAST_PAUSE
    # What outlasted its own pauses was no failure, whatever ended it.
    return FIRST_DELAY if lasted > 2 * last else min(pause * 2, last)


async def keep_running(
    run: Callable[[], Awaitable[None]], lists: Callable[[], int] = lambda: 0
) -> None:
    """Run until cancelled, anew whenever it ends, however that was.

    *lists* counts the lists that were complete: they cost much, so that there is more patience
    after some.
    """
    log = structlog.get_logger()
    loop = asyncio.get_running_loop()
    pause = FIRST_DELAY
    while True:
        began, listed = loop.time(), lists()
        try:
            await run()
        except Exception as error:  # noqa: BLE001  whatever it was, the next one may not meet it
            log.warning("watch_ended", reason=str(error) or type(error).__name__)
        # Between any two, also where the first ended in good order: it would do so again.
        await asyncio.sleep(pause)
        pause = next_pause(pause, loop.time() - began, has_listed=lists() > listed)


async def insist(attempt: Callable[[], Awaitable[object]], what: str) -> None:
    """Try until it works; each new reason is logged once."""
    log = structlog.get_logger()
    logged = ""
    failures = 0
    while True:
        retry_after = 0.0
        try:
            await attempt()
        except (Temporary, Absent, Conflict) as reason:
            if str(reason) != logged:
                logged = str(reason)
                log.warning("waiting", what=what, reason=logged)
            if isinstance(reason, Temporary):
                retry_after = reason.retry_after
        else:
            return
        # Shorter than elsewhere at most, but not than what the API server asks for.
        await asyncio.sleep(max(min(delay(failures), _LAST_DELAY_OF_A_START), retry_after))
        failures += 1
