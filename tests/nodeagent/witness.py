"""Hears of every direct host route that comes or goes, whoever does it, in the kernel's order."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Final

from handover_nodeagent.kernel.netlink import codec, rtmsg

_ROUTES: Final = 0x40 | 0x400
_SO_RCVBUFFORCE: Final = 33


class Witness:
    """Writes down "+10.65.0.2 512" for a route that came, "-…" for one that went, "=…" in place."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def told(self) -> list[str]:
        """Return what has happened since it was asked last, in the main table."""
        lines: list[str] = []
        while True:
            try:
                datagram = self._socket.recv(1 << 16)
            except BlockingIOError:
                return lines
            lines += filter(None, map(_line, codec.split(datagram)))


def _line(message: bytes) -> str:
    _, kind, flags, _, _ = codec.HEADER.unpack_from(message)
    entry = rtmsg.decode(message)
    if not entry.is_host or not entry.direct or entry.route.table != 254:
        return ""
    sign = "-" if kind == codec.DELROUTE else "=" if flags & codec.REPLACE else "+"
    return f"{sign}{entry.route.address} {entry.route.metric}"


@contextlib.contextmanager
def watching() -> Iterator[Witness]:
    """Listen from now on."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
        sock.bind((0, _ROUTES))
        yield Witness(sock)
