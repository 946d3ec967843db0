"""The least that could lead a guest's late packets on: two small C programs on the agents' path.

On each side one hears the guest's RARP, sets a neighbor's entry and a host route in both families,
and tells the other side by a datagram, where another one replaces two host routes: what the agents
ask the kernel for. They sign and judge nothing, and all of it is for addresses of nobody.
"""

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handover_lab.bench.outage.moments import FLOOR_ADDRESS, FLOOR_ADDRESS6

PORT: Final = "7499"
READY: Final = b"ready\n"
GUEST: Final = ("192.0.2.89", "2001:db8::89")
"""To whom nobody sends either (RFC 5737, RFC 3849)."""

Command = Callable[..., list[str]]
"""Composes what runs a program at a side, as ``Place.command`` does."""


@dataclass(frozen=True, slots=True)
class Side:
    """A node between which and another one the guest moves."""

    command: Command
    address: str
    tap: str
    uplink: str = "eth0"


@contextlib.contextmanager
def running(program: Path, sides: tuple[Side, Side]) -> Iterator[None]:
    """Keep the floor at work between *sides*."""
    with contextlib.ExitStack() as ends:
        for here, there in (sides, sides[::-1]):
            redirect = ("redirect", PORT, here.uplink, FLOOR_ADDRESS, FLOOR_ADDRESS6)
            ends.enter_context(started(here.command(str(program), *redirect)))
            relay = ("relay", here.tap, there.address, PORT, *GUEST)
            ends.enter_context(started(here.command(str(program), *relay)))
        yield


@contextlib.contextmanager
def started(argv: Sequence[str]) -> Iterator[None]:
    """Keep a program running, from when it says that it is ready."""
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != READY:
            message = f"the floor did not start: {' '.join(argv)}"
            raise RuntimeError(message)
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
