"""What ends begins anew, soon and then more rarely; what must work is tried until it does."""

import asyncio
from typing import Any

import pytest

from handover_operator.kube import backoff, retry
from handover_operator.kube.errors import Unavailable


async def test_a_watch_that_ends_begins_anew_however_it_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(backoff, "LAST_PAUSE", 0.002)
    begun: list[None] = []
    enough = asyncio.Event()

    async def watch() -> None:
        begun.append(None)
        if len(begun) == 4:
            enough.set()
        if len(begun) % 2:
            message = "the kind is gone"
            raise LookupError(message)

    watching = asyncio.create_task(retry.keep_running(watch))
    await enough.wait()
    assert not watching.done()
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_the_first_lists_have_the_patience_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.001)
    loop = asyncio.get_running_loop()
    asked: list[float] = []

    async def attempt() -> Any:
        asked.append(loop.time())
        if len(asked) == 1:
            message = "too many requests"
            raise Unavailable(message, 0.2)

    await retry.insist(attempt, "an answer")
    assert asked[1] - asked[0] >= 0.2
