"""Guests as fast as the machine, which are paused and move from node to node as QEMU moves one.

    python tap_guest.py RARP:GUEST:NODE:NODE...

is their virtual machine, of one interface or several: of each it takes frames from the tap of one
node and puts them into the guest's, and back, one descriptor each, by what it reads from its input:
``pause``, or the number of a node to resume there. A node's tap keeps 999 frames that nobody takes,
as QEMU's. GSO frames and unfinished checksums pass as they are.
"""

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

# linux/if_tun.h.
TUNSETIFF: Final = 0x400454CA
TUNSETOFFLOAD: Final = 0x400454D0
TAP_WITH_HEADER: Final = 0x0002 | 0x1000 | 0x4000
"""IFF_TAP, IFF_NO_PI, IFF_VNET_HDR."""
OFFLOADS: Final = 0x01 | 0x02 | 0x04
"""TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6."""
NO_OFFLOAD: Final = bytes(10)
LARGEST: Final = 65536 + 64
TURN: Final = 64
PATIENCE: Final = 10.0


def open_tap(name: str) -> int:
    """Make a tap in this thread's network namespace; it goes with its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    request = struct.pack("16sH22x", name.encode(), TAP_WITH_HEADER)
    fcntl.ioctl(descriptor, TUNSETIFF, request)
    fcntl.ioctl(descriptor, TUNSETOFFLOAD, OFFLOADS)
    return descriptor


@dataclass(frozen=True, slots=True)
class Port:
    """One interface: its descriptors, and what it says where its guest resumes."""

    rarp: bytes
    guest: int
    nodes: Sequence[int]

    def word(self) -> str:
        """Return what the virtual machine is told of it."""
        return ":".join([self.rarp.hex(), str(self.guest), *map(str, self.nodes)])

    @classmethod
    def read(cls, word: str) -> "Port":
        """Read what ``word`` wrote."""
        rarp, guest, *nodes = word.split(":")
        return cls(bytes.fromhex(rarp), int(guest), [int(one) for one in nodes])


@dataclass
class TapGuest:
    """The virtual machine's process."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, *ports: Port) -> "TapGuest":
        """Start it, paused."""
        descriptors = [each for port in ports for each in (port.guest, *port.nodes)]
        return cls(
            subprocess.Popen(
                [sys.executable, __file__, *(port.word() for port in ports)],
                pass_fds=descriptors,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        )

    def pause(self) -> int:
        """Take and give nothing from now on; return since when, in realtime ns."""
        return self._say("pause")

    def resume(self, node: int) -> int:
        """Go on at the node of that number; return since when, in realtime ns."""
        return self._say(str(node))

    def end(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()

    def _say(self, word: str) -> int:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, "the guest's machine does not answer"
        return int(self.process.stdout.readline())


def carry(source: int, target: int) -> None:
    """Bring what is there from one descriptor to the other."""
    for _ in range(TURN):
        try:
            frame = os.read(source, LARGEST)
        except BlockingIOError:
            return
        try:
            os.write(target, frame)
        except OSError:
            continue


def drain(descriptor: int) -> None:
    """Forget what a QEMU that has ended never took."""
    try:
        while True:
            os.read(descriptor, LARGEST)
    except BlockingIOError:
        return


@dataclass
class Machine:
    """All interfaces: at the node of a number, or paused there."""

    ports: Sequence[Port]
    at: int | None = None
    ways: dict[int, int] = field(default_factory=dict)
    """What is read goes from the one descriptor to the other."""

    def pause(self) -> None:
        """Take and give nothing from now on."""
        self.ways.clear()

    def resume(self, node: int) -> None:
        """Go on at that node; say so where it is another one."""
        for port in self.ports:
            here = port.nodes[node]
            if self.at != node:
                drain(here)
                os.write(here, NO_OFFLOAD + port.rarp)
            self.ways |= {here: port.guest, port.guest: here}
        self.at = node


def run(machine: Machine) -> None:
    """Carry frames until the input ends."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    poll = select.poll()
    poll.register(0, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == 0:
                word = os.read(0, 64).decode().strip()
                if not word:
                    return
                for each in machine.ways:
                    poll.unregister(each)
                if word == "pause":
                    machine.pause()
                else:
                    machine.resume(int(word))
                for each in machine.ways:
                    poll.register(each, select.POLLIN)
                os.write(1, f"{time.time_ns()}\n".encode())
            elif descriptor in machine.ways:
                carry(descriptor, machine.ways[descriptor])


if __name__ == "__main__":
    run(Machine([Port.read(word) for word in sys.argv[1:]]))
