"""Waiting for what somebody else does, and saying what was there instead when it does not come."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

PATIENCE: Final = 20.0
PAUSE: Final = 0.02


class NeverSeenError(RuntimeError):
    """Something did not happen; the text says what, and what was seen last."""


async def until(
    read: Callable[[], Awaitable[T]],
    is_so: Callable[[T], object],
    what: str = "what was waited for",
    seconds: float = PATIENCE,
) -> T:
    """Read until the value is the wanted one, and return it. Raises NeverSeenError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not is_so(found := await read()):
        if loop.time() > deadline:
            message = f"never seen: {what}; the last was {found}"
            raise NeverSeenError(message)
        await asyncio.sleep(PAUSE)
    return found
