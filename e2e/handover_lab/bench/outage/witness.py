"""What happens on one node around a switchover, seen by none of the programs that are measured.

    python -m handover_lab.bench.outage.witness PEER_PORT FILE [TAP]

Appends to FILE what the kernel says of routes, which messages agents exchange, and of a guest on
TAP its RARPs, the requests to it, its answers, and when it sends something after it was quiet; each
with its time, by the one clock that all namespaces share. It takes nothing apart: that is for later
(``moments``). Prints a line when it misses nothing any more.
"""

import argparse
import contextlib
import functools
import gc
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final, Self

from handover_lab.bench.outage.moments import (
    ANSWER,
    FRAME,
    MESSAGE_IN,
    MESSAGE_OUT,
    RARP,
    RECORD,
    REQUEST,
    ROUTES,
)
from handover_lab.network.flow import REQUEST_PORTS, SO_RCVBUFFORCE, SO_TIMESTAMPNS
from handover_lab.processes.place import Place
from handover_nodeagent.kernel import bpf, syscalls

READY: Final = b"ready\n"
# linux/if_ether.h, linux/if_packet.h, linux/rtnetlink.h (RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE).
ETH_P_ALL: Final = 0x0003
ETH_P_IP: Final = 0x0800
ETH_P_IPV6: Final = 0x86DD
ETH_P_RARP: Final = 0x8035
PACKET_OUTGOING: Final = 4
SOL_PACKET: Final = 263
PACKET_IGNORE_OUTGOING: Final = 23
ROUTE_GROUPS: Final = 0x40 | 0x400
# A restart of a speaker changes all routes at once.
RECEIVE_BUFFER: Final = 1 << 22
# Above all that is measured: what is seen late would count as late.
PRIORITY: Final = 50
ENOUGH: Final = 4096
TCP_HEAD: Final = 14 + 40 + 20

QUIET_NS: Final = 5_000_000
"""Of the frames of a guest that come sooner after one another only the first is written: that of an
answer to each ping would fill the disk."""

REST = 0.02
"""Seconds without a change of a route after which frames are read."""


def messages_of(port: int) -> bpf.Program:
    """Let UDP to *port* through, of either family; without options, as agents send it."""
    return bpf.assemble(
        (
            bpf.Step(bpf.LOAD_HALF, 12),
            bpf.Step(bpf.IF_EQUAL, ETH_P_IPV6, "IPv6"),
            bpf.Step(bpf.IF_EQUAL, ETH_P_IP, "", "drop"),
            bpf.Step(bpf.LOAD_BYTE, 23),
            bpf.Step(bpf.IF_EQUAL, socket.IPPROTO_UDP, "", "drop"),
            bpf.Step(bpf.LOAD_HALF, 36),
            bpf.Step(bpf.IF_EQUAL, port, "keep", "drop"),
            "IPv6",
            bpf.Step(bpf.LOAD_BYTE, 20),
            bpf.Step(bpf.IF_EQUAL, socket.IPPROTO_UDP, "", "drop"),
            bpf.Step(bpf.LOAD_HALF, 56),
            bpf.Step(bpf.IF_EQUAL, port, "keep", "drop"),
            *("drop", bpf.Step(bpf.RETURN, 0)),
            *("keep", bpf.Step(bpf.RETURN, 256)),
        )
    )


def by_guest() -> bpf.Program:
    """Let the heads of all frames through but RARPs, which QEMU sends in its guest's name."""
    return bpf.assemble(
        (
            bpf.Step(bpf.LOAD_HALF, 12),
            bpf.Step(bpf.IF_EQUAL, ETH_P_RARP, "drop", "keep"),
            *("drop", bpf.Step(bpf.RETURN, 0)),
            *("keep", bpf.Step(bpf.RETURN, 14)),
        )
    )


def of_requests() -> bpf.Program:
    """Let the heads of TCP segments through that a client's requests and their answers are in."""
    either = (
        # The offsets of TCP's two ports, behind a header without options.
        *(bpf.Step(bpf.LOAD_BYTE, 20), bpf.Step(bpf.IF_EQUAL, socket.IPPROTO_TCP, "", "drop")),
        *(bpf.Step(bpf.LOAD_HALF, 54), bpf.Step(bpf.IF_AT_LEAST, REQUEST_PORTS.stop, "answer6")),
        bpf.Step(bpf.IF_AT_LEAST, REQUEST_PORTS.start, "keep"),
        *("answer6", bpf.Step(bpf.LOAD_HALF, 56)),
    )
    return bpf.assemble(
        (
            bpf.Step(bpf.LOAD_HALF, 12),
            bpf.Step(bpf.IF_EQUAL, ETH_P_IPV6, "IPv6"),
            bpf.Step(bpf.IF_EQUAL, ETH_P_IP, "", "drop"),
            *(bpf.Step(bpf.LOAD_BYTE, 23), bpf.Step(bpf.IF_EQUAL, socket.IPPROTO_TCP, "", "drop")),
            *(bpf.Step(bpf.LOAD_HALF, 34), bpf.Step(bpf.IF_AT_LEAST, REQUEST_PORTS.stop, "answer")),
            bpf.Step(bpf.IF_AT_LEAST, REQUEST_PORTS.start, "keep"),
            *("answer", bpf.Step(bpf.LOAD_HALF, 36)),
            bpf.Step(bpf.IF_AT_LEAST, REQUEST_PORTS.stop, "drop"),
            bpf.Step(bpf.IF_AT_LEAST, REQUEST_PORTS.start, "keep", "drop"),
            *("IPv6", *either),
            bpf.Step(bpf.IF_AT_LEAST, REQUEST_PORTS.stop, "drop"),
            bpf.Step(bpf.IF_AT_LEAST, REQUEST_PORTS.start, "keep", "drop"),
            *("drop", bpf.Step(bpf.RETURN, 0)),
            *("keep", bpf.Step(bpf.RETURN, TCP_HEAD)),
        )
    )


def open_packets(device: str, protocol: int, program: bpf.Program | None) -> socket.socket:
    """Hear frames of *device*, with the kernel's time of each."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    if program:
        syscalls.attach_filter(sock, program)
    sock.bind((device, protocol))
    return sock


def open_routes() -> socket.socket:
    """Hear each change of a route here."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    sock.bind((0, ROUTE_GROUPS))
    return sock


def read_route(sock: socket.socket) -> bytes:
    """Return a record of what the kernel says; it has no time of its own."""
    at_ns = time.time_ns()
    octets = sock.recv(1 << 16)
    return RECORD.pack(ROUTES, at_ns, len(octets)) + octets


def open_guest(tap: str) -> socket.socket:
    """Hear what a guest sends, with the kernel's time of each frame."""
    sock = open_packets(tap, ETH_P_ALL, by_guest())
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    return sock


def time_of(control: Sequence[tuple[int, int, bytes]]) -> int:
    """Return the kernel's time of a frame, in ns."""
    seconds, nanoseconds = struct.unpack("qq", control[0][2])
    return int(seconds * 10**9 + nanoseconds)


def read_frame(sock: socket.socket) -> bytes:
    """Return a record of a frame: a RARP, or a message that comes or goes."""
    octets, control, _, (_, protocol, kind, *_) = sock.recvmsg(ENOUGH, 64)
    what = MESSAGE_OUT if kind == PACKET_OUTGOING else MESSAGE_IN
    if protocol == ETH_P_RARP:
        what = RARP
    return RECORD.pack(what, time_of(control), len(octets)) + octets


def read_segment(sock: socket.socket) -> bytes:
    """Return a record of a segment to the guest, or from it."""
    octets, control, _, address = sock.recvmsg(ENOUGH, 64)
    what = REQUEST if address[2] == PACKET_OUTGOING else ANSWER
    return RECORD.pack(what, time_of(control), len(octets)) + octets


class GuestFrames:
    """What a guest sends on one tap."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._last_ns = 0

    def read(self) -> bytes:
        """Return a record of a frame before which the guest was quiet; of any other nothing."""
        _, control, _, address = self._sock.recvmsg(ENOUGH, 64)
        # Some may have come between the socket's making and its option.
        if address[2] == PACKET_OUTGOING:
            return b""
        at_ns = time_of(control)
        was_quiet = at_ns - self._last_ns > QUIET_NS
        self._last_ns = at_ns
        return RECORD.pack(FRAME, at_ns, 0) if was_quiet else b""


Read = Callable[[], bytes]


def record(routes: socket.socket, frames: Sequence[Read], file: BinaryIO) -> None:
    """Write down what comes until SIGTERM.

    Frames have the kernel's time, and are read when the routes are at rest: who is woken by a
    message takes the processor from those that send and receive it.
    """
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    while not stopping:
        ready, _, _ = select.select([routes], [], [], REST)
        if ready:
            file.write(read_route(routes))
            continue
        for read in frames:
            with contextlib.suppress(BlockingIOError):
                while True:
                    if found := read():
                        file.write(found)


def main() -> None:
    """Witness until SIGTERM."""
    parser = argparse.ArgumentParser(description="Record routes, messages and guests.")
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("tap", nargs="?")
    arguments = parser.parse_args()
    gc.disable()
    with ExitStack() as opened:
        uplink = open_packets("eth0", ETH_P_ALL, messages_of(arguments.port))
        frames: list[Read] = [functools.partial(read_frame, opened.enter_context(uplink))]
        routes = opened.enter_context(open_routes())
        if arguments.tap:
            rarps = opened.enter_context(open_packets(arguments.tap, ETH_P_RARP, None))
            guest = opened.enter_context(open_guest(arguments.tap))
            requests = open_packets(arguments.tap, ETH_P_ALL, of_requests())
            opened.enter_context(requests)
            frames += [functools.partial(read_frame, rarps), GuestFrames(guest).read]
            frames.append(functools.partial(read_segment, requests))
        file = opened.enter_context(arguments.file.open("ab", buffering=0))
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        sys.stdout.buffer.write(READY)
        sys.stdout.flush()
        record(routes, frames, file)


class Witness:
    """A witness on one node, and what it has seen."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self._process = process
        self._path = path

    @classmethod
    def start(cls, place: Place, port: int, path: Path, taps: Sequence[str] = ()) -> Self:
        """Witness at *place* from now on; the file *path* is made anew."""
        path.write_bytes(b"")
        argv = (sys.executable, "-m", __name__, str(port), str(path), *taps)
        process = subprocess.Popen(place.command(*argv), stdout=subprocess.PIPE)
        assert process.stdout is not None
        if process.stdout.readline() != READY:
            message = f"nobody can witness what happens at {path.stem}"
            raise RuntimeError(message)
        return cls(process, path)

    def seen(self) -> bytes:
        """Return all records so far."""
        return self._path.read_bytes()

    def stop(self) -> None:
        """End it; a second time changes nothing."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


if __name__ == "__main__":
    main()
