"""A ring that a thread opens and closes, so that the loop never waits for the kernel."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from handover_nodeagent.sniff import capture, ring
from handover_nodeagent.sniff.ring import NoRing, Ring, Socket

Opened = Ring | NoRing
Make = Callable[[Socket], Opened]


class BackgroundRing:
    """One ring, from its making on until ``close``.

    ``ring`` is None before it is open and after its end; ``reason`` says why there is none.
    """

    def __init__(self, make: Make, changed: Callable[[], None]) -> None:
        """Have a thread *make* it of a socket; call *changed* on the running loop once it did."""
        self.ring: Ring | None = None
        self.reason = "the ring is still being opened"
        self.is_refused = False
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        # The socket is made here, for the thread may live in another network namespace.
        sock = ring.open_socket()
        if isinstance(sock, NoRing):
            self.reason, self.is_refused = sock.reason, True
            self._loop.call_soon(changed)
            return
        capture.in_background(partial(self._open, make, sock))

    def close(self) -> None:
        """End it, once nobody holds its frames; again, it changes nothing."""
        self._is_closed = True
        self.reason = "nobody records it any more"
        if self.ring:
            capture.in_background(self.ring.close)
            self.ring = None

    def _open(self, make: Make, sock: Socket) -> None:
        """Open in the thread, and tell the loop; close it where nobody can or wants to be told."""
        opened = make(sock)
        # Nobody may ever run again what a loop that is about to end is told.
        if not self._is_closed:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._opened, opened)
                return
        if isinstance(opened, Ring):
            opened.close()

    def _opened(self, opened: Opened) -> None:
        if self._is_closed:
            if isinstance(opened, Ring):
                capture.in_background(opened.close)
            return
        if isinstance(opened, NoRing):
            self.reason, self.is_refused = opened.reason, True
        else:
            self.ring = opened
        self._changed()
