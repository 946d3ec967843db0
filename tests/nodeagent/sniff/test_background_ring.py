"""A ring that is opened in a thread, whatever becomes of who asked for it."""

import asyncio
import threading

import pytest
from tests.nodeagent.sniff.conftest import Wire

from handover_nodeagent.kernel import bpf
from handover_nodeagent.sniff import capture
from handover_nodeagent.sniff.background_ring import BackgroundRing, Opened
from handover_nodeagent.sniff.ring import NoRing, Ring, Socket
from handover_nodeagent.sniff.ring_blocks import Geometry

pytestmark = pytest.mark.root

SMALL = Geometry(block_size=4096, blocks=4, retire_ms=10)
WHOLE = bpf.assemble((bpf.Step(bpf.RETURN, bpf.EVERYTHING),))
PATIENCE = 10


class Slow:
    """Makes a ring when it may, and keeps the socket that it is made of."""

    def __init__(self, ifindex: int) -> None:
        self.sockets: list[Socket] = []
        self.may_go_on = threading.Event()
        self._ifindex = ifindex

    def __call__(self, sock: Socket) -> Opened:
        """Make it."""
        self.sockets.append(sock)
        self.may_go_on.wait(PATIENCE)
        return Ring.on(sock, self._ifindex, WHOLE, SMALL)

    @property
    def is_left(self) -> bool:
        """Tell whether the ring's socket is still open."""
        return any(sock.fileno() >= 0 for sock in self.sockets)


def await_thread() -> None:
    """Wait until the thread has done what it had to do, without a turn of the loop."""
    idle = threading.Event()
    capture.in_background(idle.set)
    assert idle.wait(PATIENCE)


async def test_a_ring_is_told_of_when_it_is_open(wire: Wire) -> None:
    make, changed = Slow(wire.tap), asyncio.Event()
    make.may_go_on.set()

    opened = BackgroundRing(make, changed.set)
    before = opened.ring
    async with asyncio.timeout(PATIENCE):
        await changed.wait()

    assert before is None
    assert opened.ring is not None
    opened.close()
    await_thread()
    assert not make.is_left


async def test_one_that_cannot_be_opened_says_why() -> None:
    changed = asyncio.Event()

    def refuse(sock: Socket) -> Opened:
        sock.close()
        return NoRing("no memory")

    opened = BackgroundRing(refuse, changed.set)
    async with asyncio.timeout(PATIENCE):
        await changed.wait()

    assert (opened.ring, opened.is_refused, opened.reason) == (None, True, "no memory")


def test_one_that_opens_when_nobody_wants_it_any_more_is_closed(wire: Wire) -> None:
    """Also where the loop is about to end, and has no turn in which it could be told."""
    make, loop = Slow(wire.tap), asyncio.new_event_loop()

    async def close_before_it_is_open() -> None:
        BackgroundRing(make, lambda: None).close()

    loop.run_until_complete(close_before_it_is_open())
    make.may_go_on.set()
    await_thread()
    loop.close()

    assert not make.is_left


def test_one_whose_loop_has_ended_is_closed(wire: Wire) -> None:
    make = Slow(wire.tap)

    async def ask() -> BackgroundRing:
        return BackgroundRing(make, lambda: None)

    asyncio.run(ask())
    make.may_go_on.set()
    await_thread()

    assert not make.is_left
