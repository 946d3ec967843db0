"""A netlink socket that hears of others' changes, on the event loop and within bounds."""

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from handover_nodeagent.kernel import messages
from handover_nodeagent.sniff import bpf, capture

_SIZE: Final = 64 * 1024
_SO_RCVBUFFORCE: Final = 33


@dataclass(frozen=True, slots=True)
class Subject:
    """What to listen to: a netlink family and a mask of its groups.

    ``budget`` is the number of datagrams per wake-up; then the loop's other descriptors have
    their turn.
    """

    family: int
    groups: int
    budget: int
    receive_buffer: int
    program: bpf.Program | None = None


class Subscription:
    """Listens on the running loop from its making on, until ``close``."""

    def __init__(
        self, subject: Subject, take: Callable[[bytes], None], overflow: Callable[[], None]
    ) -> None:
        """Call *take* with each message, *overflow* when the kernel had to drop some."""
        self._budget = subject.budget
        self._take = take
        self._overflow = overflow
        self._socket = _open(subject)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        """Stop listening; again, it changes nothing."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _read(self) -> None:
        for _ in range(self._budget):
            try:
                datagram = self._socket.recv(_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._overflow()
                continue
            for message in messages.split(datagram):
                self._take(message)


def _open(subject: Subject) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, subject.family)
    if subject.program:
        capture.attach(sock, subject.program)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, subject.receive_buffer)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, subject.receive_buffer)
    sock.bind((0, subject.groups))
    return sock
