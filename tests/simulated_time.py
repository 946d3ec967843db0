"""An event loop's clock that goes to the next timer at once when nothing else is left to do.

What waits for minutes then takes milliseconds, and busy machines change nothing of it. Only for
work without threads and processes: their answers come in real time, which does not pass here.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def simulated(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let the clock of a running *loop* be one that nobody waits for, until the context ends."""
    # The loop asks its selector when nothing is left to do, and shows no other sign of rest.
    running: Any = loop
    selector = running._selector
    select, now = selector.select, loop.time()

    def skip(timeout: float | None = None) -> Any:
        nonlocal now
        if timeout is None:
            # There is no timer: whoever reads a socket or a pipe is waited for as ever.
            return select(timeout)
        ready = select(0)
        if not ready:
            now += timeout
        return ready

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "time", lambda: now)
        patch.setattr(selector, "select", skip)
        yield
