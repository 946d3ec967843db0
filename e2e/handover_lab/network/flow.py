"""A steady flow to one address: a program of its own, so that nobody else's work delays a packet.

    python -m handover_lab.network.flow {ping,udp,tcp,request} ADDRESS INTERVAL_MS FILE

Sends one numbered packet per interval until SIGTERM and appends a record per packet sent and per
answer to FILE, which anybody may read meanwhile. Answers carry the kernel's time of arrival, so it
does not matter when they are read. A late packet is sent at once, but missed ones are not made up
for: a burst would measure itself. A ``request`` is a TCP session that asks again only once it has
its answer, and the interval is then the least. Standard library only: it has to start fast.
"""

import argparse
import contextlib
import errno
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

RECORD: Final = struct.Struct("<IIq")
"""What happened, to which sequence number, when."""

SENT, ANSWERED, BROKEN = 1, 2, 3
PORT: Final = 7
CONNECT_S: Final = 10
NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH})
REQUEST_PORTS: Final = range(20_000, 30_000)
"""From where requests come, so that a witness can tell them from sessions: below those that the
kernel gives out by itself (ip_local_port_range)."""
SILENCE_S: Final = 0.5
LAST_ANSWERS_S: Final = 2.0
GLANCE_S: Final = 0.1
"""So long SIGTERM may go unnoticed by a flow that waits for an answer."""

# Python's socket module has no names for these; asm-generic/socket.h and linux/icmp.h have.
SO_TIMESTAMPNS: Final = 35
SO_RCVBUFFORCE: Final = 33
SOL_RAW: Final = 255
ICMP_FILTER: Final = 1
ECHO_REQUEST, ECHO_REPLY = 8, 0
ECHO_REQUEST_V6, ECHO_REPLY_V6 = 128, 129

NUMBER: Final = struct.Struct("!Q")
ECHO: Final = struct.Struct("!BBHHHQ")
"""Type, code, checksum, identifier, and twice the sequence number: the first one wraps."""


class BrokenSessionError(Exception):
    """The TCP session did not survive; the text says how it broke."""


class Wire(Protocol):
    """One way to send a number and to find it in an answer."""

    socket: socket.socket

    def send(self, number: int) -> None:
        """Send *number* to the guest."""
        ...

    def numbers(self, received: bytes) -> Iterator[int]:
        """Yield the numbers that these bytes answer."""
        ...


class Ping:
    """ICMP echo, either family."""

    def __init__(self, family: int, address: str) -> None:
        """Open a raw socket that hears echo replies only."""
        self._v6 = family == socket.AF_INET6
        protocol = socket.IPPROTO_ICMPV6 if self._v6 else socket.IPPROTO_ICMP
        self.socket = socket.socket(family, socket.SOCK_RAW, protocol)
        if self._v6:
            # A bit per type, and a set one blocks: RFC 3542, 3.2, and raw(7) for IPv4.
            blocked = bytearray(b"\xff" * 32)
            blocked[ECHO_REPLY_V6 // 8] &= ~(1 << ECHO_REPLY_V6 % 8)
            self.socket.setsockopt(protocol, ICMP_FILTER, blocked)
        else:
            blocked = bytearray(struct.pack("I", 0xFFFFFFFF ^ 1 << ECHO_REPLY))
            self.socket.setsockopt(SOL_RAW, ICMP_FILTER, blocked)
        self._to = (address, 0)
        self._identifier = os.getpid() & 0xFFFF

    def send(self, number: int) -> None:
        """Send one echo request; the kernel sums up IPv6's."""
        kind = ECHO_REQUEST_V6 if self._v6 else ECHO_REQUEST
        words = (kind, 0, 0, self._identifier, number & 0xFFFF, number)
        packet = ECHO.pack(*words)
        if not self._v6:
            packet = ECHO.pack(kind, 0, checksum(packet), *words[3:])
        self.socket.sendto(packet, self._to)

    def numbers(self, received: bytes) -> Iterator[int]:
        """Yield the number of a reply to us; a raw IPv4 socket delivers the IP header too."""
        start = 0 if self._v6 else (received[0] & 15) * 4
        if len(received) >= start + ECHO.size:
            *_, identifier, _, number = ECHO.unpack_from(received, start)
            if identifier == self._identifier:
                yield number


class Datagram:
    """UDP, echoed. Unconnected: a connected socket would answer an ICMP error to a later send."""

    def __init__(self, family: int, address: str) -> None:
        """Open a socket towards the guest's echo port."""
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self._to = (address, PORT)

    def send(self, number: int) -> None:
        """Send one datagram."""
        self.socket.sendto(NUMBER.pack(number), self._to)

    def numbers(self, received: bytes) -> Iterator[int]:
        """Yield the number that came back."""
        if len(received) == NUMBER.size:
            yield from NUMBER.unpack(received)


class Memory:
    """What a TCP session knows of the guest's memory: its boot, and how many lines it counted."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._boot = b""
        self._lines = 0
        self._rest = b""

    def numbers(self, received: bytes) -> Iterator[int]:
        """Yield the numbers of the answered lines.

        Raises:
            BrokenSessionError: it was closed, or the guest's memory is not the one that we knew.
        """
        if not received:
            message = "closed by the guest"
            raise BrokenSessionError(message)
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            boot, count, number = line.split()
            self._boot = self._boot or boot
            self._lines += 1
            if (boot, int(count)) != (self._boot, self._lines):
                message = f"the guest forgot: boot {boot!r} count {count!r}"
                raise BrokenSessionError(message)
            yield int(number)


class Session:
    """One TCP connection to the guest's server, which counts its lines in memory."""

    def __init__(self, family: int, address: str, port: int = 0) -> None:
        """Connect from *port* to the guest's echo port, which must be there already."""
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(CONNECT_S)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.bind(("", port))
            self._connect(address, time.monotonic() + CONNECT_S)
        except OSError as error:
            message = f"no connection to {address}: {error}"
            raise BrokenSessionError(message) from None
        # Nagle's algorithm would hold a line back until the one before it is acknowledged.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.numbers = Memory().numbers

    def _connect(self, address: str, deadline: float) -> None:
        """Connect, also where the route is still on its way: FRR takes a tenth of a second."""
        while True:
            try:
                self.socket.connect((address, PORT))
            except OSError as error:
                if error.errno not in NO_ROUTE or time.monotonic() > deadline:
                    raise
                time.sleep(GLANCE_S)
            else:
                return

    def send(self, number: int) -> None:
        """Send one line."""
        try:
            self.socket.send(b"%d\n" % number)
        except ConnectionError as error:
            raise BrokenSessionError(error.strerror) from None


def request_port(pid: int) -> int:
    """Return from which port the process *pid* sends requests."""
    return REQUEST_PORTS[pid % len(REQUEST_PORTS)]


WIRES: Final[dict[str, Callable[[int, str], Wire]]] = {
    "ping": Ping,
    "udp": Datagram,
    "tcp": Session,
    "request": lambda family, address: Session(family, address, request_port(os.getpid())),
}
IN_TURN: Final = frozenset({"request"})
"""Kinds that ask again only once they have their answer, as clients of databases do."""


def checksum(packet: bytes) -> int:
    """Sum up as RFC 1071 has it."""
    total: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def answers(wire: Wire) -> Iterator[bytes]:
    """Yield a record for each answer that has arrived."""
    while True:
        try:
            received, control, _, _ = wire.socket.recvmsg(4096, 64)
        except BlockingIOError:
            return
        except OSError as error:
            # ICMP errors on the way to a guest that is nowhere: the packet is lost, no more.
            if wire.socket.type != socket.SOCK_STREAM:
                continue
            raise BrokenSessionError(error.strerror) from None
        seconds, nanoseconds = struct.unpack("qq", control[0][2]) if control else (0, 0)
        moment = seconds * 10**9 + nanoseconds if control else time.time_ns()
        for number in wire.numbers(received):
            yield RECORD.pack(ANSWERED, number, moment)


def await_answer(wire: Wire, stopping: list[int]) -> Iterator[bytes]:
    """Yield the record of the one answer that is missing; nothing where a signal came first."""
    while not stopping:
        if select.select([wire.socket], [], [], GLANCE_S)[0]:
            # A part of a line is no answer so far.
            found = list(answers(wire))
            yield from found
            if found:
                return


def run(wire: Wire, interval_ns: int, file: BinaryIO, *, in_turn: bool = False) -> None:
    """Send until SIGTERM, then give the last answers time to arrive."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    number, due = 0, time.monotonic_ns()
    while not stopping:
        record = RECORD.pack(SENT, number, time.time_ns())
        # No route, no buffer: then it is sent as little as a packet that is lost on the way.
        with contextlib.suppress(OSError):
            wire.send(number)
        if in_turn:
            # Whoever reads along sees that it waits.
            file.write(record)
            file.write(b"".join(await_answer(wire, stopping)))
        else:
            file.write(record + b"".join(answers(wire)))
        number += 1
        due = max(due + interval_ns, time.monotonic_ns())
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
    last, is_last_answered = time.monotonic() + LAST_ANSWERS_S, False
    # None of before comes after the answer to the last one; where that is lost, silence ends it.
    while not is_last_answered and select.select([wire.socket], [], [], SILENCE_S)[0]:
        for answer in answers(wire):
            file.write(answer)
            is_last_answered |= RECORD.unpack(answer)[1] == number - 1
        if time.monotonic() > last:
            break


def main() -> int:
    """Run one flow; the exit status is 1 when a TCP session broke."""
    parser = argparse.ArgumentParser(description="Send a steady flow and record each packet.")
    parser.add_argument("kind", choices=WIRES)
    parser.add_argument("address")
    parser.add_argument("interval_ms", type=float)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    family = socket.AF_INET6 if ":" in arguments.address else socket.AF_INET
    # A collection in the middle would look like a late packet.
    gc.disable()
    # Ahead of everybody else: a sender that waits for a processor would look like a lost network.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    # Unbuffered: others read along while it runs.
    with arguments.file.open("ab", buffering=0) as file:
        try:
            wire = WIRES[arguments.kind](family, arguments.address)
            wire.socket.settimeout(0)
            wire.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            with contextlib.suppress(PermissionError):
                # Answers that wait while this process does not run must not be dropped.
                wire.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
            interval_ns = int(arguments.interval_ms * 1e6)
            run(wire, interval_ns, file, in_turn=arguments.kind in IN_TURN)
        except BrokenSessionError as error:
            file.write(RECORD.pack(BROKEN, 0, time.time_ns()))
            print(f"TCP session: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
