"""Watches that end begin anew, soon and then more rarely."""

import asyncio

import pytest

from handover_operator.kube import listing
from handover_operator.kube.workqueue import FIRST_DELAY


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
        pause = listing.next_pause(pause, lasted, has_listed=False)
        pauses.append(pause)
    assert pauses == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 0.1]


def test_after_lists_the_pauses_grow_on() -> None:
    """Ten thousand VMs are 300 MB a time, and an API server that has just begun ends watches."""
    pause, begun, passed = FIRST_DELAY, 0, 0.0
    while passed < 60:
        begun += 1
        passed += pause + 0.5
        pause = listing.next_pause(pause, 0.5, has_listed=True)
    assert pause == listing.LAST_PAUSE_AFTER_LISTS
    assert begun <= 11


async def test_lists_are_no_reason_to_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SETTLE", 0.001)
    settled: list[None] = []
    monkeypatch.setattr(listing, "settle", lambda: settled.append(None))
    swept = asyncio.Event()

    async def sweep() -> None:
        swept.set()

    sweeper = listing.Sweeper(sweep, 3600)
    sweeping = asyncio.create_task(sweeper.run())
    for _ in range(5):
        sweeper.note_list()
        await asyncio.sleep(0.005)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    assert (sweeper.lists, swept.is_set(), len(settled)) == (5, False, 1)
