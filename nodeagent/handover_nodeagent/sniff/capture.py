"""The AF_PACKET socket on one interface: opened without a foreign frame, closed off the loop.

It is created with protocol 0 (nothing is queued), gets its filter, and only then is bound, to
ETH_P_ALL on one interface: a socket bound to an EtherType sees nothing on a bridge port or behind
an nft netdev drop. Closing one blocks for 1-22 ms (an RCU grace period), so a thread does it.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Self

from handover_nodeagent.kernel import af_packet, bpf, syscalls
from handover_nodeagent.sniff import packet_filter

RECEIVE_BUFFER: Final = 32 * 1024
"""About forty frames: more than any burst of announcements, and all that a flood may hold."""

# asm-generic/sockios.h (SIOCGSTAMPNS_OLD).
_SIOCGSTAMPNS: Final = 0x8907
_TIMESPEC: Final = struct.Struct("@ll")
# A link that is down, one that was deleted under the socket, and one that never was.
_GONE: Final = frozenset({errno.ENETDOWN, errno.ENXIO, errno.ENODEV})

# One thread is enough: whoever closes waits for the same grace period as all others.
_background: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="packet-socket")


class CannotListenError(Exception):
    """The interface cannot be listened to now: the sentence says why; worth another try."""


class Capture:
    """One open socket.

    ``trouble``: why nothing can be heard or sent, "" again once a frame could be sent. A link
    that comes up again brings the socket back to life.
    """

    def __init__(self, sock: socket.socket, ifindex: int) -> None:
        self._socket = sock
        self._ifindex = ifindex
        self._receive = sock.recv
        self.trouble = ""

    @classmethod
    def open(cls, ifindex: int, program: bpf.Program) -> Self:
        """Listen on interface *ifindex*; raise CannotListenError where that fails."""
        try:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except OSError as error:
            raise CannotListenError(_sentence(error, ifindex)) from error
        try:
            syscalls.attach_filter(sock, program)
            # Our own probes would else be heard, and wake us.
            sock.setsockopt(af_packet.SOL_PACKET, af_packet.IGNORE_OUTGOING, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            # The first request switches the kernel's timestamps on and has none to give.
            with contextlib.suppress(OSError):
                fcntl.ioctl(sock, _SIOCGSTAMPNS, bytes(_TIMESPEC.size))
            syscalls.bind_packet(sock, af_packet.ETH_P_ALL, ifindex)
        except OSError as error:
            sock.close()
            raise CannotListenError(_sentence(error, ifindex)) from error
        return cls(sock, ifindex)

    def fileno(self) -> int:
        """Return the descriptor, for the loop."""
        return self._socket.fileno()

    def filter(self, program: bpf.Program) -> None:
        """Replace the filter, without a moment in between; what is queued stays."""
        syscalls.attach_filter(self._socket, program)

    def mute(self) -> None:
        """Let nothing through and forget what is queued: the cheap way to keep it open."""
        self.filter(bpf.DROP_ALL)
        while self.read() is not None:
            pass

    def read(self) -> bytes | None:
        """Return the next frame; None when there is none now, or never again (``trouble``)."""
        try:
            return self._receive(packet_filter.SNAP_LENGTH)
        except BlockingIOError:
            return None
        except OSError as error:
            self.trouble = _sentence(error, self._ifindex)
            return None

    def received_at(self) -> int:
        """Return when the kernel received the frame read last: nanoseconds of the realtime clock.

        A system call for the one frame that matters costs less than ancillary bytes with each.
        """
        timespec = fcntl.ioctl(self._socket, _SIOCGSTAMPNS, bytes(_TIMESPEC.size))
        seconds, nanoseconds = _TIMESPEC.unpack(timespec)
        return int(seconds) * 1_000_000_000 + int(nanoseconds)

    def send(self, frame: bytes) -> bool:
        """Send out of the interface; False when its queue is full or it is gone (``trouble``)."""
        try:
            self._socket.send(frame)
        except OSError as error:
            if error.errno in _GONE:
                self.trouble = _sentence(error, self._ifindex)
            return False
        self.trouble = ""
        return True

    def close(self) -> None:
        """Close in a thread; again, it changes nothing. Take it off the loop before."""
        close_later(self.detach())

    def detach(self) -> int:
        """Give the descriptor away, or -1 when it is gone already."""
        return self._socket.detach()


def close_later(descriptor: int) -> None:
    """Hand *descriptor* to the thread that waits for the kernel."""
    if descriptor >= 0:
        in_background(partial(os.close, descriptor))


def in_background(work: Callable[[], object]) -> None:
    """Let the thread that waits for the kernel do *work*, after what it has to do already."""
    _background.submit(work)


def transmit(ifindex: int, octets: Iterable[bytes]) -> bool:
    """Send *octets* where nobody listens (any more); False when that fails."""
    try:
        sender = Capture.open(ifindex, bpf.DROP_ALL)
    except CannotListenError:
        return False
    sent = [sender.send(frame) for frame in octets]
    sender.close()
    return all(sent)


def _sentence(error: OSError, ifindex: int) -> str:
    if error.errno == errno.EPERM:
        return "cannot open a packet socket: CAP_NET_RAW is missing"
    if error.errno in _GONE:
        return f"interface {ifindex} is down or gone"
    return f"cannot listen on interface {ifindex}: {error.strerror}"
