"""What goes into a guest's port in these tests, and what of it is held."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from tests.nodeagent.sniff.conftest import GUEST_MAC, NODE_MAC

from handover_nodeagent.hold.recorder import HoldRecorder, Position

VM: Final = IPv4Address("10.65.0.2")
CLIENT: Final = IPv4Address("10.65.0.1")
MACS: Final = bytes.fromhex((GUEST_MAC + NODE_MAC).replace(":", ""))
UDP: Final = 17


def packet(number: int, size: int = 60) -> bytes:
    """Return an Ethernet frame of *size* octets with a packet to the guest, *number* in it."""
    length = size - 14
    header = struct.pack("!BBHHHBBH", 0x45, 0, length, 1, 0, 64, UDP, 0)
    begin = MACS + b"\x08\x00" + header + CLIENT.packed + VM.packed
    return (begin + struct.pack("!HHHHI", 9, 9, length - 20, 0, number)).ljust(size, b"\0")


def number_of(octets: bytes | memoryview) -> int:
    """Return the number of a frame that ``packet`` made."""
    return int.from_bytes(octets[42:46], "big")


def numbers(recorder: HoldRecorder, behind: Position = Position()) -> list[int]:  # noqa: B008
    """Return the numbers of all that are held after a position."""
    return [number_of(held.frame.octets) for held in recorder.frames(behind)]


class Port:
    """The node's end, by which anybody on it sends to the guest."""

    def __init__(self, name: str = "tap") -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.bind((name, 0))

    def send(self, octets: bytes) -> None:
        """Send a frame into it."""
        self._socket.send(octets)

    def put(self, sent: Iterable[int], size: int = 60) -> None:
        """Send packets of these numbers."""
        for number in sent:
            self._socket.send(packet(number, size))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


async def until(is_so: Callable[[], object]) -> None:
    """Return once *is_so*; fail after 20 s."""
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110  nothing tells us
            await asyncio.sleep(0.002)


def sockets() -> int:
    """Return how many packet sockets there are in this thread's namespace."""
    return len(Path("/proc/thread-self/net/packet").read_text().splitlines()) - 1


def mapped() -> int:
    """Return how many rings of packet sockets this process has in its memory."""
    return Path("/proc/self/maps").read_text().count("socket:[")


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
