"""Sees what is written, from outside of the operator.

It watches as the operator does, so that what it sees first and last of a migration is what the
operator took for it, the API server's part included.
"""

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Final

from handover_api import names
from handover_lab.bench.operator.client import KINDS, PATIENCE, BenchError, Client, Key


class ObjectObserver:
    """Notes when objects came, and how often which part of them was written."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.created: dict[Key, float] = {}
        self.roles: dict[Key, float] = {}
        self.phases: dict[Key, str] = {}
        self.writes: dict[Key, int] = defaultdict(int)
        self.statuses: dict[Key, int] = defaultdict(int)
        self._last: dict[Key, tuple[str, str]] = {}
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch both kinds."""
        ready = {kind: asyncio.Event() for kind in KINDS}
        tasks = [asyncio.create_task(self._keep_noting(kind, ready[kind])) for kind in KINDS]
        try:
            for is_complete in ready.values():
                await is_complete.wait()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait until something was seen."""
        try:
            async with asyncio.timeout(PATIENCE), self._changed:
                await self._changed.wait_for(is_so)
        except TimeoutError:
            message = f"never seen: {what}"
            raise BenchError(message) from None

    async def _keep_noting(self, kind: str, is_complete: asyncio.Event) -> None:
        """Note what a watch tells; a kind that is new may not be ready for one."""
        while not is_complete.is_set():
            with contextlib.suppress(BenchError):
                await self._note(kind, is_complete)
            await asyncio.sleep(0.1)

    async def _note(self, kind: str, is_complete: asyncio.Event) -> None:
        async for change, raw in self._client.watch(kind, is_complete):
            now = time.perf_counter()
            metadata = raw["metadata"]
            key = (kind, metadata["namespace"], metadata["name"])
            annotations = metadata.get("annotations", {})
            rest = json.dumps([raw["spec"], annotations], sort_keys=True)
            status = json.dumps(raw.get("status", {}), sort_keys=True)
            # Of what was made before the watch began, nothing was told: its first write counts.
            before = self._last.get(key, ("", ""))
            self._last[key] = rest, status
            if change == "ADDED":
                self.created[key] = now
            elif change == "MODIFIED":
                self.writes[key] += before[0] != rest
                self.statuses[key] += before[1] != status
            if names.ROLE in annotations:
                self.roles.setdefault(key, now)
            if kind == "LiveMigration":
                self.phases[key] = raw.get("status", {}).get("phase", "")
            async with self._changed:
                self._changed.notify_all()


class Delay:
    """A timer beside what is timed: how late it is, is the machine's part of it."""

    PERIOD: Final = 0.01

    def __init__(self) -> None:
        self.late_ms: list[float] = []

    @contextlib.asynccontextmanager
    async def measuring(self) -> AsyncIterator[None]:
        """Measure meanwhile."""
        task = asyncio.create_task(self._keep_measuring())
        try:
            yield
        finally:
            task.cancel()

    async def _keep_measuring(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(self.PERIOD)
            self.late_ms.append((time.perf_counter() - began - self.PERIOD) * 1000)
