"""What happens to a VM's routes at one place, as the kernel tells it, told as facts."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Self

from handover_lab.facts import Route
from handover_lab.network.ip_monitor import Line
from handover_lab.processes.place import Place


@dataclass(frozen=True, slots=True)
class Change:
    """One line of `ip -tshort -oneline monitor route`."""

    at_ns: int
    address: str
    device: str
    via: str
    metric: str
    present: bool

    @classmethod
    def read(cls, line: str) -> Self | None:
        """Read a line of a host route in the main table; anything else is None."""
        found = Line.read(line)
        if found is None or "table" in found.facts:
            return None
        facts = found.facts
        return cls(
            found.at_ns,
            found.destination,
            facts.get("dev", ""),
            facts.get("via", ""),
            facts.get("metric", "0"),
            found.present,
        )

    @property
    def how(self) -> str:
        """Where the packets go, and how much the kernel likes that."""
        way = f"via {self.via}" if self.via else f"dev {self.device}"
        return f"{way} metric {self.metric}"


@dataclass
class Known:
    """The routes to one address; the kernel does not say what a replaced one was."""

    node: str
    by_metric: dict[str, str] = field(default_factory=dict)

    def add(self, change: Change) -> Iterator[Route]:
        """Yield the facts that *change* amounts to."""
        old = self.by_metric.pop(change.metric, None)
        if old is not None and old != change.how:
            yield Route(change.at_ns, self.node, old, present=False)
        if change.present:
            self.by_metric[change.metric] = change.how
        yield Route(change.at_ns, self.node, change.how, present=change.present)


async def watch(place: Place, node: str, address: str) -> AsyncGenerator[Route, None]:
    """Tell each change of the routes to *address* at *place* until cancelled."""
    argv = ("env", "TZ=UTC", "ip", "-tshort", "-oneline", "monitor", "route")
    process = await asyncio.create_subprocess_exec(
        *place.command(*argv), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    known = Known(node)
    try:
        async for line in process.stdout:
            change = Change.read(line.decode())
            if change is not None and change.address == address:
                for route in known.add(change):
                    yield route
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
