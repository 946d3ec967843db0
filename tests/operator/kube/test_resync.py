"""What is done beside the watches, and when."""

import asyncio
import gc

import pytest

from handover_operator.kube import resync


async def test_lists_are_no_reason_to_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "SETTLE", 0.001)
    frozen: list[None] = []
    monkeypatch.setattr(resync, "freeze", lambda: frozen.append(None))
    # It would walk all that pytest holds.
    monkeypatch.setattr(gc, "collect", lambda: 0)
    swept = asyncio.Event()

    async def sweep() -> None:
        swept.set()

    sweeper = resync.Resync(sweep, 3600)
    sweeping = asyncio.create_task(sweeper.run())
    for _ in range(5):
        sweeper.note_list()
        await asyncio.sleep(0.005)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    assert (sweeper.lists, swept.is_set(), len(frozen)) == (5, False, 1)
