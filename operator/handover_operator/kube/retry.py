"""The two loops that only wait and try; for how long, backoff.py says.

No outage of the API server is a reason to end: what must work in the end is tried until it does.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from handover_operator.kube import backoff
from handover_operator.kube.errors import Absent, Conflict, Temporary

_LAST_DELAY_OF_A_START: Final = 10.0
"""Nothing is decided before the first lists: who waits for them looks more often; seconds."""


async def keep_running(
    run: Callable[[], Awaitable[None]], lists: Callable[[], int] = lambda: 0
) -> None:
    """Run until cancelled, anew whenever it ends, however that was.

    *lists* counts the lists that were complete: they cost much, so that there is more patience
    after some.
    """
    log = structlog.get_logger()
    loop = asyncio.get_running_loop()
    pause = backoff.FIRST_DELAY
    while True:
        began, listed = loop.time(), lists()
        try:
            await run()
        except Exception as error:  # noqa: BLE001  whatever it was, the next one may not meet it
            log.warning("watch_ended", reason=str(error) or type(error).__name__)
        # Between any two, also where the first ended in good order: it would do so again.
        await asyncio.sleep(pause)
        pause = backoff.next_pause(pause, loop.time() - began, has_listed=lists() > listed)


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
        pause = backoff.delay(failures, last=_LAST_DELAY_OF_A_START, retry_after=retry_after)
        await asyncio.sleep(pause)
        failures += 1
