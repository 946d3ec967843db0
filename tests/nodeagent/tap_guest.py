"""A guest as fast as the machine, which is paused and moves from node to node as QEMU moves one.

    python tap_guest.py GUEST NODE...

is its virtual machine: it takes frames from the tap of one node and puts them into the guest's, and
back, one descriptor each, by what it reads from its input: ``pause``, or the number of a node to
resume there. A node's tap keeps 999 frames that nobody takes, as QEMU's. GSO frames and unfinished
checksums pass as they are.
"""

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
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


@dataclass
class TapGuest:
    """The virtual machine's process."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, guest: int, nodes: list[int], rarp: bytes) -> "TapGuest":
        """Start it, paused; it says *rarp* where it resumes."""
        descriptors = [guest, *nodes]
        argv = [sys.executable, __file__, rarp.hex(), *map(str, descriptors)]
        return cls(
            subprocess.Popen(
                argv,
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


def run(rarp: bytes, guest: int, nodes: list[int]) -> None:
    """Carry frames until the input ends."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    poll = select.poll()
    poll.register(0, select.POLLIN)
    at: int | None = None
    was: int | None = None
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == 0:
                word = os.read(0, 64).decode().strip()
                if not word:
                    return
                if at is not None:
                    poll.unregister(guest)
                    poll.unregister(at)
                    was, at = at, None
                if word != "pause":
                    at = nodes[int(word)]
                    if at != was:
                        drain(at)
                        os.write(at, NO_OFFLOAD + rarp)
                    poll.register(guest, select.POLLIN)
                    poll.register(at, select.POLLIN)
                os.write(1, f"{time.time_ns()}\n".encode())
            elif at is not None:
                carry(*(guest, at) if descriptor == guest else (at, guest))


if __name__ == "__main__":
    run(bytes.fromhex(sys.argv[1]), int(sys.argv[2]), list(map(int, sys.argv[3:])))
