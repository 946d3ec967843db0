"""A TCP stream in one direction: a program of its own, as the flows of packets are.

    python -m handover_lab.network.stream {download,upload} ADDRESS FILE

Appends to FILE, whenever something got through, when that was and how many bytes have by then:
those that arrived here, or those of ours that the guest's kernel has acknowledged. Both sides send
at one steady pace, so that a rate before and a rate after can be compared.
"""

import argparse
import array
import contextlib
import fcntl
import gc
import os
import signal
import socket
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

RECORD: Final = struct.Struct("<qq")
"""When, and how many bytes by then."""

# RFC 863 and RFC 864: the guest's server has both.
PORTS: Final = {"upload": 9, "download": 19}
SEGMENT: Final = bytes(1400)
TICK_S: Final = 0.02
"""One segment per tick, as the guest's server does: 70 kB/s leave an emulated guest room."""

CONNECT_S: Final = 10


def arrived(connection: socket.socket) -> Iterator[int]:
    """Yield how many bytes have arrived, whenever some more have, and at least every tick."""
    total = 0
    connection.settimeout(TICK_S)
    while True:
        with contextlib.suppress(TimeoutError):
            received = connection.recv(1 << 16)
            if not received:
                return
            total += len(received)
        yield total


def acknowledged(connection: socket.socket) -> Iterator[int]:
    """Send a segment per tick; yield how many bytes of them the other side has acknowledged."""
    sent, waiting = 0, array.array("i", [0])
    connection.settimeout(0)
    due = time.monotonic()
    while True:
        # A full buffer: the stream stands still, and missed segments are not made up for.
        with contextlib.suppress(BlockingIOError):
            sent += connection.send(SEGMENT)
        # What is in the send queue is what is not acknowledged yet (tcp(7), SIOCOUTQ).
        fcntl.ioctl(connection, termios.TIOCOUTQ, waiting)
        yield sent - waiting[0]
        due = max(due + TICK_S, time.monotonic())
        time.sleep(max(0, due - time.monotonic()))


def run(kind: str, connection: socket.socket, file: BinaryIO) -> None:
    """Record progress until SIGTERM, or until the guest closes."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    last = 0
    for total in (arrived if kind == "download" else acknowledged)(connection):
        if total != last:
            file.write(RECORD.pack(time.time_ns(), total))
            last = total
        if stopping:
            return


def main() -> int:
    """Run one stream; the exit status is 1 when it broke."""
    parser = argparse.ArgumentParser(description="Keep a TCP stream going and record how it goes.")
    parser.add_argument("kind", choices=PORTS)
    parser.add_argument("address")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    # As for the flows: a late process would look like a network that stands still.
    gc.disable()
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    with arguments.file.open("ab", buffering=0) as file:
        try:
            where = (arguments.address, PORTS[arguments.kind])
            with socket.create_connection(where, CONNECT_S) as connection:
                run(arguments.kind, connection, file)
        except OSError as error:
            print(f"TCP {arguments.kind}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
