"""Tasks that all endpoints share: one that raises is begun anew, and /healthz says so meanwhile.

What raises again and again is no chance event: then the process ends, in order, and starts again
from what it remembers.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from handover_nodeagent import faults
from handover_nodeagent.retry import timers
from handover_nodeagent.retry.backoff import Backoff

MOST: Final = 5
"""Failures of one task within ``WINDOW`` seconds, after which the process ends."""
WINDOW: Final = 60.0
STUCK_AFTER: Final = 15.0
"""Seconds without a turn of the loop after which it counts as stuck; its longest is below 0.3 s."""
HEARTBEAT: Final = 1.0
"""Seconds between two signs that the loop turns."""
UNREADABLE_AFTER: Final = 60.0
"""Seconds for which the kernel may be unreadable; a new process has other descriptors."""

_Clock = Callable[[], float]


class Supervisor:
    """Keeps tasks running, and knows how they are; ``unhealthy`` may be asked by any thread."""

    def __init__(self, clock: _Clock, unreadable: Callable[[], str]) -> None:
        """*unreadable* says why the kernel cannot be read, "" when it can."""
        self._clock = clock
        self._unreadable = unreadable
        self._down: dict[str, str] = {}
        self._turned_at = clock()
        self._read_at = clock()

    async def beat(self) -> None:
        """Show that the loop turns, until cancelled."""
        while True:
            self._turned_at = self._clock()
            if not self._unreadable():
                self._read_at = self._turned_at
            await asyncio.sleep(HEARTBEAT)

    async def keep(
        self, name: str, work: Callable[[], Awaitable[None]], *, is_vital: bool = True
    ) -> None:
        """Do *work* until it is cancelled; what raises is done again, after ever longer waits.

        Raises what a vital one has raised too often.
        """
        backoff, failures = Backoff.shared(), deque[float](maxlen=MOST)
        while True:
            try:
                await work()
            except Exception as error:
                faults.note(name, error)
                failures.append(self._clock())
                is_often = len(failures) == MOST and failures[-1] - failures[0] < WINDOW
                if is_vital and is_often:
                    raise
                # Nothing tells that work succeeds, for it never ends; that it lasted does.
                if not is_often:
                    backoff.reset()
                self._down[name] = f"{name} does not run: {faults.describe(error)}"
            else:
                return
            await timers.sleep(backoff)
            del self._down[name]

    def unhealthy(self) -> str:
        """Say why the process should be replaced; "" when it should not."""
        now = self._clock()
        # First, for a loop that is stuck does not tell the rest either.
        if now - self._turned_at > STUCK_AFTER:
            return f"the loop has not turned for {now - self._turned_at:.0f} s"
        if now - self._read_at > UNREADABLE_AFTER:
            return f"the kernel cannot be read: {self._unreadable()}"
        # A copy at once: the loop may change it while another thread reads.
        return "; ".join(tuple(self._down.values()))


class ExceptionHandler:
    """The loop's: what no callback caught is noted, and *recover* makes up for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, recover: Callable[[], None]) -> None:
        """Take the exceptions of *loop* from now on."""
        self._loop = loop
        self._recover = recover
        self._is_due = False
        loop.set_exception_handler(self._take)

    def _take(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        # The loop has complaints of its own that come without one.
        if not isinstance(error, BaseException):
            error = RuntimeError(str(context.get("message")))
        faults.note("callback", error)
        if not self._is_due:
            # A callback that raises at each turn of the loop must not have all redone as often.
            self._is_due = True
            self._loop.call_later(HEARTBEAT, self._make_up)

    def _make_up(self) -> None:
        self._is_due = False
        self._recover()
