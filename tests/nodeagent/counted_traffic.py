"""Traffic that is counted packet by packet, each end a process of its own.

    python counted_traffic.py send FILE ADDRESS[,ADDRESS...] PORT INTERVAL_US [OCTETS]
    python counted_traffic.py receive FILE ADDRESS PORT
    python counted_traffic.py echo FILE ADDRESS PORT
    python counted_traffic.py ask FILE ADDRESS PORT INTERVAL_US
    python counted_traffic.py swallow FILE ADDRESS PORT
    python counted_traffic.py upload FILE ADDRESS PORT [OCTETS_A_US]
    python counted_traffic.py answer FILE ADDRESS PORT
    python counted_traffic.py request FILE ADDRESS PORT

UDP: each datagram has its number, to one address after the other; FILE has a record for each that
was sent, or came: number and realtime ns. ``ask`` sends what ``echo`` returns, and records what
came back. TCP: ``request`` sends eight octets and waits for those of ``answer``, and records each;
``swallow`` takes what ``upload`` sends as fast as it can, and records how much. All end with
SIGTERM.
"""

import array
import contextlib
import gc
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

RECORD: Final = struct.Struct("=qq")
SO_RCVBUFFORCE: Final = 33
SO_TIMESTAMPNS: Final = 35
SO_MAX_PACING_RATE: Final = 47
TIMESPEC: Final = struct.Struct("@qq")
Recorded: TypeAlias = "array.array[int]"
BUFFER: Final = 16 * 1024 * 1024
PAYLOAD: Final = bytes(92)
BURST: Final = 32


class Over(Exception):  # noqa: N818  no error
    """SIGTERM came."""


def records(path: Path) -> list[tuple[int, int]]:
    """Return the records of a file as far as they are whole."""
    octets = path.read_bytes()
    return list(RECORD.iter_unpack(octets[: len(octets) // RECORD.size * RECORD.size]))


def counts(path: Path) -> Counter[int]:
    """Return how often each number came."""
    return Counter(number for number, _ in records(path))


def _open(kind: socket.SocketKind, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


def _ticks(interval: float) -> Iterator[int]:
    """Yield how many are due, a few times in each millisecond; more than a burst is left out."""
    begin, done = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - begin) / interval)
        yield min(due - done, BURST)
        done = due
        time.sleep(max(interval, 0.0005))


def send(
    sock: socket.socket, to: tuple[str, int], out: Recorded, interval: float, size: float = 1e-4
) -> None:
    """Send numbered datagrams."""
    addresses, port = to[0].split(","), to[1]
    number, rest = 0, bytes(round(size * 1e6) - 8)
    for due in _ticks(interval):
        for _ in range(due):
            address = addresses[number % len(addresses)]
            with contextlib.suppress(OSError):
                sock.sendto(number.to_bytes(8, "big") + rest, (address, port))
                out.extend((number, time.time_ns()))
            number += 1


def receive(sock: socket.socket, out: Recorded) -> None:
    """Record each datagram that comes, by the kernel's time."""
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    while True:
        octets, control, _, _ = sock.recvmsg(65536, 64)
        seconds, nanoseconds = TIMESPEC.unpack(control[0][2])
        out.extend((int.from_bytes(octets[:8], "big"), seconds * 10**9 + nanoseconds))


def ask(sock: socket.socket, to: tuple[str, int], out: Recorded, interval: float) -> None:
    """Send numbered datagrams and record what comes back."""
    sock.settimeout(0)
    number = 0
    for due in _ticks(interval):
        for _ in range(due):
            sock.sendto(number.to_bytes(8, "big") + PAYLOAD, to)
            number += 1
        with contextlib.suppress(BlockingIOError):
            while True:
                out.extend((int.from_bytes(sock.recv(2048)[:8], "big"), time.time_ns()))


def echo(sock: socket.socket, out: Recorded) -> None:
    """Return each datagram, and record it."""
    while True:
        octets, peer = sock.recvfrom(2048)
        sock.sendto(octets, peer)
        out.extend((int.from_bytes(octets[:8], "big"), time.time_ns()))


def swallow(sock: socket.socket, out: Recorded) -> None:
    """Take what comes in one connection."""
    sock.listen(1)
    peer, _ = sock.accept()
    total, buffer = 0, bytearray(1 << 20)
    while count := peer.recv_into(buffer):
        total += count
        out.extend((total, time.time_ns()))


def upload(sock: socket.socket, to: tuple[str, int], out: Recorded, rate: float = 0.0) -> None:
    """Send as fast as can be, or at a *rate*."""
    if rate:
        sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, round(rate * 1e12))
    sock.connect(to)
    total, buffer = 0, bytes(1 << 20)
    while True:
        total += sock.send(buffer)
        out.extend((total, time.time_ns()))


def answer(sock: socket.socket, out: Recorded) -> None:
    """Answer eight octets by eight."""
    sock.listen(1)
    peer, _ = sock.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while octets := peer.recv(8, socket.MSG_WAITALL):
        peer.send(octets)
        out.extend((0, time.time_ns()))


def request(sock: socket.socket, to: tuple[str, int], out: Recorded) -> None:
    """Ask, and ask again once there is an answer, some hundred times a second."""
    sock.connect(to)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    number = 0
    while True:
        octets = number.to_bytes(8, "big")
        sock.send(octets)
        assert sock.recv(8, socket.MSG_WAITALL) == octets
        out.extend((number, time.time_ns()))
        number += 1
        time.sleep(0.002)


def main() -> None:
    """Run one end until SIGTERM, then write what it recorded."""
    what, path, address, port, *interval = sys.argv[1:]
    to, out = (address, int(port)), array.array("q")
    is_tcp = what in {"swallow", "upload", "answer", "request"}
    sock = _open(socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM, address)
    steps = tuple(float(one) / 1e6 for one in interval)

    def end(*_: object) -> None:
        raise Over

    signal.signal(signal.SIGTERM, end)
    gc.disable()
    with contextlib.suppress(Over):
        if what in {"receive", "echo", "swallow", "answer"}:
            sock.bind(to)
            Path(path).touch()
            globals()[what](sock, out)
        else:
            globals()[what](sock, to, out, *steps)
    Path(path).write_bytes(out.tobytes())


if __name__ == "__main__":
    main()
