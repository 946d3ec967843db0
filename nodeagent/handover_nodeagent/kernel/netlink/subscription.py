"""A netlink socket that hears of others' changes, on the event loop and within bounds."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from handover_nodeagent.kernel import bpf, syscalls
from handover_nodeagent.kernel.netlink import codec

_SIZE: Final = 64 * 1024
# asm-generic/socket.h: beyond net.core.rmem_max, where CAP_NET_ADMIN is held.
_SO_RCVBUFFORCE: Final = 33

_log: Final = logging.getLogger(__name__)


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
        """Call *take* with each message, *overflow* when some were lost.

        Lost is what the kernel had to drop, what is not what it writes, and what *take* raised
        at: that one message, not the others of its datagram.
        """
        self._budget = subject.budget
        self._take = take
        self._overflow = overflow
        self._met: set[type[Exception]] = set()
        self._socket = _open(subject)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._read)

    def filter(self, program: bpf.Program) -> None:
        """Let another *program* decide what is queued from now on."""
        syscalls.attach_filter(self._socket, program)

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
                # ENOBUFS is told once for all that was dropped; what is queued is whole.
                self._overflow()
                if error.errno != errno.ENOBUFS:
                    # Whatever it is, the loop asks again as soon as there is something to read.
                    _log.warning("cannot read notifications: %s", error)
                    return
                continue
            self._tell(datagram)

    def _tell(self, datagram: bytes) -> None:
        try:
            for message in codec.split(datagram):
                self._tell_one(message)
        except codec.MalformedError as error:
            self._lost(error)

    def _tell_one(self, message: bytes) -> None:
        try:
            self._take(message)
        except Exception as error:  # noqa: BLE001  the root of a callback of the loop
            # What one message meets is not the others' fault.
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        """Have a resync make up for what was not taken; tell each kind once."""
        if type(error) not in self._met:
            self._met.add(type(error))
            _log.error("a notification was lost", exc_info=error)
        self._overflow()


def _open(subject: Subject) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, subject.family)
    # Before the bind: nothing that the program would drop is ever queued.
    if subject.program:
        syscalls.attach_filter(sock, subject.program)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, subject.receive_buffer)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, subject.receive_buffer)
    sock.bind((0, subject.groups))
    return sock
