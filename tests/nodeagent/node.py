"""What a test sees of the node that it has for itself: two workload interfaces and a guest."""

import os
import socket
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from tests.nodeagent import namespaces

MAIN: Final = 254
OURS: Final = 88
V4: Final = IPv4Address("10.65.0.2")
V6: Final = IPv6Address("fd00:65::2")


@dataclass(frozen=True)
class Node:
    """The namespace of the test: two workload interfaces, up; the first leads to ``guest``."""

    guest: int

    @property
    def tap0(self) -> int:
        """The index of the first, which is another one after it was made anew."""
        return socket.if_nametoindex("tap0")

    @property
    def tap1(self) -> int:
        """The index of the second."""
        return socket.if_nametoindex("tap1")

    def run(self, command: str) -> str:
        """Run *command* and return what it prints; its complaint is the test's."""
        done = subprocess.run(command.split(), check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def run_batch(self, commands: Iterable[str]) -> None:
        """Run many commands of ip at once; one that fails fails the test."""
        text = "\n".join(commands)
        done = subprocess.run(
            ["ip", "-batch", "-"], check=False, input=text, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def lines(self, command: str) -> list[str]:
        """Run *command* and return its lines, without the blanks around them."""
        return [line.strip() for line in self.run(command).splitlines()]

    def guest_runs(self, command: str) -> str:
        """Run *command* in the guest's namespace."""
        with namespaces.restored():
            namespaces.enter(self.guest)
            return self.run(command)

    def guest_socket(self) -> socket.socket:
        """Return a raw socket on the guest's interface, which waits at most five seconds."""
        with namespaces.restored():
            namespaces.enter(self.guest)
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            sock.bind(("eth", 3))
        sock.settimeout(5)
        return sock

    def make_tap0(self, *more: str) -> None:
        """Make tap0, its other end in the guest, and run *more* commands of ip after that."""
        guest = f"peer name eth address 52:54:00:65:00:02 netns /proc/{os.getpid()}/fd/{self.guest}"
        tap0 = f"link add tap0 address ee:ee:ee:ee:ee:ee type veth {guest}"
        # One process for all: the start of each takes longer than what it does.
        self.run_batch([tap0, *more])
        self.guest_runs("ip link set eth up")
        self.run("ip link set tap0 up")

    def await_shown(self, command: str, expected: str) -> None:
        """Return once the output of *command* has *expected* in it; fail after 5 s."""
        deadline = time.monotonic() + 5
        while expected not in (shown := self.run(command)):
            assert time.monotonic() < deadline, shown
            time.sleep(0.01)
