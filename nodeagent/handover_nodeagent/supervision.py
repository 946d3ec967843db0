"""Tasks that all endpoints share: one that raises is begun anew, and liveness says so meanwhile.

What raises again and again is no chance event: then the process ends, in order, and starts again
from what it remembers.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from handover_nodeagent import faults
from handover_nodeagent.retry import Backoff

MOST: Final = 5
"""Failures of one task within ``WINDOW`` seconds, after which the process ends."""
WINDOW: Final = 60.0
STILL: Final = 15.0
"""Seconds without a turn of the loop after which it counts as stuck; its longest is below 0.3 s."""
PULSE: Final = 1.0
BLIND: Final = 60.0
"""Seconds for which the kernel may be unreadable; a new process has other descriptors."""

_Clock = Callable[[], float]


class Supervisor:
    """Keeps tasks running, and knows how they are; ``sick`` may be asked from any thread."""

    def __init__(self, clock: _Clock, blindness: Callable[[], str]) -> None:
        """*blindness* says why the kernel cannot be read, "" when it can."""
        self._clock = clock
        self._blindness = blindness
        self._down: dict[str, str] = {}
        self._pulse = clock()
        self._saw = clock()

    async def watch(self) -> None:
        """Show that the loop turns, until cancelled."""
        while True:
            self._pulse = self._clock()
            if not self._blindness():
                self._saw = self._pulse
            await asyncio.sleep(PULSE)

    async def keep(
        self, name: str, work: Callable[[], Awaitable[None]], *, is_vital: bool = True
    ) -> None:
        """Do *work* until it is cancelled; what raises is done again, ever more patiently.

        Raises what a vital one has raised too often.
        """
        backoff, failures = Backoff.shared(), deque[float](maxlen=MOST)
        while True:
            try:
                await work()
            except Exception as error:
                faults.note(name, error)
                failures.append(self._clock())
                if is_vital and len(failures) == MOST and failures[-1] - failures[0] < WINDOW:
                    raise
                if len(failures) < MOST or failures[-1] - failures[0] > WINDOW:
                    backoff.reset()
                self._down[name] = f"{name} does not run: {faults.describe(error)}"
            else:
                return
            await backoff.sleep()
            del self._down[name]

    def sick(self) -> str:
        """Say why the process should be replaced; "" when it should not."""
        now = self._clock()
        if now - self._pulse > STILL:
            return f"the loop has not turned for {now - self._pulse:.0f} s"
        if now - self._saw > BLIND:
            return f"the kernel cannot be read: {self._blindness()}"
        return "; ".join(tuple(self._down.values()))


class Healer:
    """The loop's exception handler: what nobody caught is told, and *heal* makes up for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, heal: Callable[[], None]) -> None:
        """Handle the exceptions of *loop* from now on."""
        self._loop = loop
        self._heal = heal
        self._waits = False
        loop.set_exception_handler(self._handle)

    def _handle(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if not isinstance(error, BaseException):
            error = RuntimeError(str(context.get("message")))
        faults.note("callback", error)
        if not self._waits:
            # A callback that raises at each turn of the loop must not have all healed as often.
            self._waits = True
            self._loop.call_later(PULSE, self._make_up)

    def _make_up(self) -> None:
        self._waits = False
        self._heal()
