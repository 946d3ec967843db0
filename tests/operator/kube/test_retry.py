"""What ends begins anew, soon and then more rarely; what must work is tried until it does."""

import asyncio
from typing import Any

import pytest

from handover_operator.kube import retry
from handover_operator.kube.errors import Unavailable
from handover_operator.kube.retry import FIRST_DELAY


async def test_a_watch_that_ends_begins_anew_however_it_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(retry, "LAST_PAUSE", 0.002)
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


def test_the_pauses_grow_until_a_watch_has_lasted() -> None:
    pause, pauses = FIRST_DELAY, []
    for lasted in (0.2, 0.4, 0.6, 1.0, 1.8, 2.2, 60.0):
        pause = retry.next_pause(pause, lasted, has_listed=False)
        pauses.append(pause)
    assert pauses == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 0.1]


def test_after_lists_the_pauses_grow_on() -> None:
    """Ten thousand VMs are 300 MB a time, and an API server that has just begun ends watches."""
    pause, begun, passed = FIRST_DELAY, 0, 0.0
    while passed < 60:
        begun += 1
        passed += pause + 0.5
        pause = retry.next_pause(pause, 0.5, has_listed=True)
    assert pause == retry.LAST_PAUSE_AFTER_LISTS
    assert begun <= 11


async def test_the_first_lists_have_the_patience_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    loop = asyncio.get_running_loop()
    asked: list[float] = []

    async def attempt() -> Any:
        asked.append(loop.time())
        if len(asked) == 1:
            message = "too many requests"
            raise Unavailable(message, 0.2)

    await retry.insist(attempt, "an answer")
    assert asked[1] - asked[0] >= 0.2
