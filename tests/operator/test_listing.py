"""Watches that end begin anew, soon and then more rarely."""

import asyncio

import pytest

from handover_operator import listing
from handover_operator.workqueue import FIRST_DELAY


async def test_a_watch_that_ends_begins_anew_however_it_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(listing, "LAST_PAUSE", 0.002)
    begun: list[None] = []
    enough = asyncio.Event()

    async def watch() -> None:
        begun.append(None)
        if len(begun) == 4:
            enough.set()
        if len(begun) % 2:
            message = "the kind is gone"
            raise LookupError(message)

    watching = asyncio.create_task(listing.keep_watching(watch))
    await enough.wait()
    assert not watching.done()
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


def test_the_pauses_grow_until_a_watch_has_lasted() -> None:
    pause, pauses = FIRST_DELAY, []
    for lasted in (0.2, 0.4, 0.6, 1.0, 1.8, 2.2, 60.0):
        pause = listing.next_pause(pause, lasted)
        pauses.append(pause)
    assert pauses == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 0.1]
