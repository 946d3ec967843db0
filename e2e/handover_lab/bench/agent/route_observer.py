"""Sends guests' frames and sees, from outside of agent and floor, when the kernel has the routes.

One and the same instrument times both: what it costs itself is in either figure.
"""

import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from handover_lab.bench.agent.guests import Guest
from handover_lab.network.namespaces import Namespace

# linux/rtnetlink.h.
RTMGRP_IPV4_ROUTE: Final = 0x40
RTM_NEWROUTE: Final = 24
# struct nlmsghdr of linux/netlink.h: length, type, flags, sequence, port.
HEADER: Final = struct.Struct("=IHHII")
# asm-generic/socket.h; Python does not name it.
SO_RCVBUFFORCE: Final = 33
# A whole round's flush of routes is told before the observer reads again.
RECEIVE_BUFFER: Final = 1 << 22
# sched.h.
CLONE_NEWNET: Final = 0x40000000
# Above all that is measured: a late look would count as a late route.
REAL_TIME_PRIORITY: Final = 50
PATIENCE: Final = 3.0


class BenchError(RuntimeError):
    """A measurement could not be made; the text says which."""


class RouteObserver:
    """A socket where the guests are, and one that hears of this node's routes."""

    def __init__(self, guests: Namespace) -> None:
        # A socket stays in the network namespace in which it was made; only a thread went there.
        with ThreadPoolExecutor(1, initializer=enter, initargs=(guests.holder.pid,)) as thread:
            self._sender = thread.submit(open_sender).result()
        self._routes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._routes.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._routes.bind((0, RTMGRP_IPV4_ROUTE))
        self._routes.settimeout(PATIENCE)

    def time(self, *guests: Guest) -> list[float]:
        """Announce all *guests* at once; return after how many µs each one's route was there."""
        self._drain()
        with preferred():
            return self._time(guests)

    def _time(self, guests: tuple[Guest, ...]) -> list[float]:
        awaited = {guest.address.packed: index for index, guest in enumerate(guests)}
        times = [0.0] * len(guests)
        frames = [(guest.rarp, (guest.eth, 0)) for guest in guests]
        send = self._sender.sendto
        began = time.perf_counter_ns()
        for frame, place in frames:
            send(frame, place)
        while awaited:
            try:
                heard = self._routes.recv(65536)
            except TimeoutError:
                lost = ", ".join(guests[index].tap for index in awaited.values())
                message = f"no route within {PATIENCE:g} s of the announcement on {lost}"
                raise BenchError(message) from None
            now = time.perf_counter_ns()
            if HEADER.unpack_from(heard)[1] != RTM_NEWROUTE:
                continue
            for address in [address for address in awaited if address in heard]:
                times[awaited.pop(address)] = (now - began) / 1000
        return times

    def announce(self, guest: Guest) -> None:
        """Send the guest's frame, and look at nothing."""
        self._sender.sendto(guest.rarp, (guest.eth, 0))

    def _drain(self) -> None:
        """Forget what was told before: a route of the last round is none of this one."""
        self._routes.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while self._routes.recv(65536):
                pass
        self._routes.settimeout(PATIENCE)

    def close(self) -> None:
        """Close both sockets."""
        self._sender.close()
        self._routes.close()


@contextlib.contextmanager
def preferred() -> Iterator[None]:
    """Let the caller not wait for a processor meanwhile: what it measures waits for one."""
    before = os.sched_getscheduler(0)
    with contextlib.suppress(PermissionError):  # then it waits like everybody
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REAL_TIME_PRIORITY))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))


def open_sender() -> socket.socket:
    """Open a packet socket that sends only: protocol 0 hears nothing (packet(7))."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)


def enter(pid: int) -> None:
    """Move the calling thread into the network namespace of *pid*."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/proc/{pid}/ns/net").open("rb") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
