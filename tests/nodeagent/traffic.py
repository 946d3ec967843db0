"""Traffic between guests and a client, each end a process that counts (``counted_traffic``)."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.nodeagent import counted_traffic
from tests.nodeagent.agents_net import AgentsNet
from tests.nodeagent.tap_guest import TapGuest

GUEST: Final = "gc"
"""The namespace of the guests' kernel: nobody is at node c."""
MS: Final = 1_000_000
SENDING: Final = frozenset({"send", "ask", "upload", "request"})
LISTENING: Final = frozenset({"receive", "echo", "swallow", "answer"})

Records = dict[str, list[tuple[int, int]]]


@dataclass(kw_only=True)
class Traffic:
    """What goes to and fro."""

    net: AgentsNet
    machine: TapGuest
    directory: Path
    at: str = "a"
    """The node of the guests."""
    inside: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)
    """Ends in a guest, which stand still as it does."""
    outside: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    pauses: list[tuple[int, int]] = field(default_factory=list)
    """From when to when the guests stood still, in realtime ns."""

    @property
    def away(self) -> str:
        """The node that they can move to."""
        return "b" if self.at == "a" else "a"

    def begin(self, name: str, what: str, where: str, *words: str) -> None:
        """Begin one end of some traffic, in a namespace."""
        file = self.files[name] = self.directory / name
        file.unlink(missing_ok=True)
        argv = [sys.executable, counted_traffic.__file__, what, str(file), *words]
        process = self.net.within(where, lambda: subprocess.Popen(argv))
        (self.inside if where == GUEST else self.outside).append((what, process))
        if what in LISTENING:
            self.net.until(file.exists, f"{name} listens")

    def signal_inside(self, number: signal.Signals) -> None:
        """Stop the ends in a guest, or let them go on."""
        for _, process in self.inside:
            process.send_signal(number)

    def finish(self) -> Records:
        """End all traffic, first what is sent; return what each recorded."""
        for words in (SENDING, LISTENING):
            ending = [process for what, process in (*self.outside, *self.inside) if what in words]
            for process in ending:
                process.send_signal(signal.SIGTERM)
            for process in ending:
                process.wait(10)
            # What is on its way arrives.
            time.sleep(0.5)
        self.outside.clear()
        self.inside.clear()
        return {name: counted_traffic.records(file) for name, file in self.files.items()}

    def since_stops(self, when_ns: Iterable[int]) -> list[list[float]]:
        """Return how long after each stop that was, in ms."""
        return [[round((at - stop) / MS, 1) for stop, _ in self.pauses] for at in when_ns]

    def close(self) -> None:
        """End what is left."""
        for _, process in (*self.outside, *self.inside):
            process.kill()
            process.wait()
        self.machine.end()


def lost(sent: list[tuple[int, int]], came: list[tuple[int, int]]) -> dict[int, int]:
    """Return when those were sent that never came."""
    times = dict(sent)
    return {number: times[number] for number in times.keys() - {number for number, _ in came}}


def twice(sent: list[tuple[int, int]], came: list[tuple[int, int]]) -> dict[int, int]:
    """Return when those were sent that came more than once."""
    times = dict(sent)
    return {n: times[n] for n, count in Counter(n for n, _ in came).items() if count > 1}
