"""Every change of the host routes at one place, in the kernel's order: so a test may say never.

What is true at each moment follows from the changes alone; nothing is sampled.
"""

import asyncio
import contextlib
import itertools
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

from handover_lab.network.ip_monitor import Line
from handover_lab.processes.place import Place

MAIN: Final = "254"
OURS: Final = "88"
EPOCH: Final = "1970-01-01T00:00:00"
"""The time of the routes that were there before; `ip` does not know it."""

KNOCKS: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Entry:
    """One host route that came or went."""

    at_ns: int
    address: str
    way: str
    """Its device, or its next hop."""
    metric: int
    protocol: str
    table: str
    present: bool

    @classmethod
    def read(cls, line: str) -> Self | None:
        """Read a line of `ip -tshort -oneline monitor route`, or of `ip route show` likewise."""
        found = Line.read(line)
        # A slash is a network.
        if found is None or "/" in found.destination:
            return None
        facts = found.facts
        return cls(
            found.at_ns,
            found.destination,
            facts.get("via") or facts.get("dev", ""),
            int(facts.get("metric", "0")),
            facts.get("proto", "boot"),
            facts.get("table", MAIN),
            found.present,
        )

    @property
    def is_ours(self) -> bool:
        """Whether it is tagged as the agent tags its own."""
        return self.protocol == OURS and self.table == MAIN


class Journal:
    """The changes since it was opened."""

    def __init__(self, place: Place) -> None:
        self.entries: list[Entry] = []
        self._place = place
        self._news = asyncio.Condition()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, place: Place) -> AsyncIterator[Self]:
        """Record until the end of the context; the first entries are the routes of before."""
        journal = cls(place)
        journal._look_back()
        process = await asyncio.create_subprocess_exec(
            # Without it `ip` writes local time, and does not say of which zone.
            *place.command("env", "TZ=UTC", "ip", "-tshort", "-oneline", "monitor", "route"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        reading = asyncio.create_task(journal._read(process.stdout))
        try:
            await journal.catch_up()
            yield journal
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await reading

    async def catch_up(self) -> None:
        """Return when all that has happened so far is in the journal.

        A knock, a route that means nothing, is written until it is read: `ip` does not say when it
        has begun to listen.
        """
        # An address of documentation (RFC 5737), in a table that no rule leads to.
        mark = f"192.0.2.{next(KNOCKS) % 254 + 1}"
        seen = len(self.entries)
        knock = f"for verb in add del; do ip route $verb {mark} dev lo table 999; done"
        while not any(entry.address == mark for entry in self.entries[seen:]):
            process = await asyncio.create_subprocess_exec(*self._place.command("sh", "-ec", knock))
            await process.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1), self._news:
                    await self._news.wait()

    async def until(self, is_it: Callable[[Entry], bool], seconds: float = 30) -> Entry:
        """Wait for the first entry that *is_it*."""
        async with asyncio.timeout(seconds), self._news:
            while True:
                if found := next(filter(is_it, self.entries), None):
                    return found
                await self._news.wait()

    def of(self, address: str) -> list[Entry]:
        """Return the changes of the routes to *address* in the main table."""
        return [e for e in self.entries if e.address == address and e.table == MAIN]

    def moments(self, address: str) -> Iterator[tuple[Entry, frozenset[Entry]]]:
        """Yield each change with the routes to *address* that stood right after it."""
        standing: dict[int, Entry] = {}
        for entry in self.of(address):
            # The kernel tells of a replacement as of an addition: what stood there is gone.
            standing.pop(entry.metric, None)
            if entry.present:
                standing[entry.metric] = entry
            yield entry, frozenset(standing.values())

    def _look_back(self) -> None:
        for family in ("-4", "-6"):
            show = self._place.command("ip", family, "-oneline", "route", "show")
            listing = subprocess.run(show, check=True, capture_output=True, text=True).stdout
            for line in listing.splitlines():
                if entry := Entry.read(f"[{EPOCH}] {line}"):
                    self.entries.append(entry)

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            if entry := Entry.read(line.decode()):
                self.entries.append(entry)
                async with self._news:
                    self._news.notify_all()
