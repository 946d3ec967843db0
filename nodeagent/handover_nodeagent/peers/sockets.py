"""The UDP sockets of the direct path: one for each address of this node that the API is told.

Bound to the address, not to all: so what leaves has the source address that peers know, and what
was sent to another address of the node is not for us.
"""

import contextlib
import errno
import functools
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, NamedTuple, Self

from handover_api.conditions import EndpointReason
from handover_nodeagent.kernel import bpf, syscalls
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers import messages

RECEIVE_BUFFER: Final = 512 * 1024
"""Some 680 datagrams, as the kernel counts them: the ACKs of so many nodes may come at once, and a
flood holds no more than is read in a few milliseconds."""

# asm-generic/socket.h: Python names none of them.
_SO_RCVBUFFORCE: Final = 33
_SO_TIMESTAMPNS: Final = 35
_TIMESPEC: Final = struct.Struct("@ll")
_ANCILLARY: Final = socket.CMSG_SPACE(_TIMESPEC.size)

# Asked with each datagram, of a few peers as a rule; whoever forges addresses fills no memory.
_parse: Final = functools.lru_cache(maxsize=1024)(ip_address)


class Datagram(NamedTuple):
    """What came, from whom (None: the tunnel), when the kernel had it by the realtime clock."""

    octets: bytes
    source: IPAddress | None
    received_ns: int


class Place(NamedTuple):
    """Where a socket is bound; in the tunnel the address is one of its *device* alone."""

    address: IPAddress
    port: int
    device: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no socket: a condition's reason, and a sentence."""

    reason: EndpointReason
    message: str


class Socket:
    """One socket, bound to one place."""

    def __init__(self, sock: socket.socket, place: Place) -> None:
        self._socket = sock
        self.place = place

    @classmethod
    def open(cls, place: Place) -> Self | Refusal:
        """Bind to *place*; a port that is taken is a value."""
        is_v4 = place.address.version == 4  # noqa: PLR2004
        family = socket.AF_INET if is_v4 else socket.AF_INET6
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            return _refusal(error, place)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            # Without CAP_NET_ADMIN the kernel's default has to do.
            with contextlib.suppress(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
            bound = str(place.address), place.port
            sock.bind(bound if is_v4 else (*bound, 0, place.device))
        except OSError as error:
            sock.close()
            return _refusal(error, place)
        return cls(sock, place)

    def fileno(self) -> int:
        """Return the descriptor, for the loop."""
        return self._socket.fileno()

    def filter(self, program: bpf.Program) -> None:
        """Let the kernel drop by *program* from now on; what is queued stays."""
        syscalls.attach_filter(self._socket, program)

    def receive(self) -> Datagram | None:
        """Return the next datagram; None when there is none now."""
        try:
            # A byte more than any message has: what is longer shows by that.
            octets, ancillary, _, sender = self._socket.recvmsg(messages.MOST + 1, _ANCILLARY)
        except OSError:
            # None there, or an ICMP error of something sent before: the next one is as good.
            return None
        received = messages.NEVER
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(payload)
                received = int(seconds) * 1_000_000_000 + int(nanoseconds)
        # Inside of the tunnel, and there alone, the sender's address says nothing.
        source = None if self.place.device else _parse(sender[0])
        return Datagram(octets, source, received)

    def send(self, octets: bytes, host: str, port: int) -> bool:
        """Send a datagram; False where the kernel cannot, and nobody waits for that."""
        to: tuple[str, int] | tuple[str, int, int, int] = host, port
        if self.place.device:
            to = (*to, 0, self.place.device)
        try:
            self._socket.sendto(octets, to)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close it; take it off the loop before."""
        self._socket.close()


def _refusal(error: OSError, place: Place) -> Refusal:
    address, port, _ = place
    reason = EndpointReason.REFUSED
    text = f"cannot bind UDP port {port} of {address}: {error.strerror}"
    match error.errno:
        case errno.EADDRINUSE:
            reason = EndpointReason.PORT_TAKEN
            text = f"UDP port {port} of {address} is taken by another program"
        case errno.EADDRNOTAVAIL:
            text = f"{address} is no address of this node"
        case errno.EAFNOSUPPORT:
            reason = EndpointReason.ONE_FAMILY_ONLY
            text = f"this node's kernel has no family for {address}"
    return Refusal(reason, text)
