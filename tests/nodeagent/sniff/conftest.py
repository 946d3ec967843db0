"""A node and its guest: two fresh network namespaces, joined by a veth pair."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from tests.nodeagent import namespaces

GUEST_MAC: Final = "52:54:00:65:00:02"
NODE_MAC: Final = "ee:ee:ee:ee:ee:ee"

RARP: Final = bytes.fromhex(
    "ffffffffffff 525400650002 8035 0001 0800 06 04 0003"
    "525400650002 00000000 525400650002 00000000" + "00" * 18
)
"""QEMU's, as captured."""
GARP: Final = bytes.fromhex(
    "ffffffffffff 525400650002 0806 0001 0800 06 04 0001525400650002 0a410002 000000000000 0a410002"
)
"""The guest's own, as captured."""
NA: Final = bytes.fromhex(
    "333300000001 525400650002 86dd 60000000 0020 3aff"
    "fd000065000000000000000000000002 ff020000000000000000000000000001"
    "8800 0915 20000000 fd000065000000000000000000000002 0201 525400650002"
)
"""Unsolicited; scapy's."""


@dataclass(frozen=True)
class Wire:
    """``tap`` is the node's end, in the namespace of the test; ``eth`` is the guest's."""

    guest: int
    tap: int

    @contextlib.contextmanager
    def inside_guest(self) -> Iterator[None]:
        """Run in the guest's namespace."""
        with namespaces.restored():
            namespaces.enter(self.guest)
            yield

    def guest_runs(self, command: str) -> None:
        """Run an ip command in the guest."""
        with self.inside_guest():
            run(command)

    def guest_socket(self) -> socket.socket:
        """Return a raw socket on the guest's interface: what it sends, the node hears."""
        with self.inside_guest():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            sock.bind(("eth", 0))
        return sock

    def await_neigh(self, address: str, expected: str) -> None:
        """Return once the guest's entry for *address* says *expected*."""
        with self.inside_guest():
            await_shown(f"ip neigh show {address}", expected)


def await_shown(command: str, expected: str) -> None:
    """Return once the output of *command* has *expected* in it; fail after 5 s."""
    deadline = time.monotonic() + 5
    while expected not in (shown := subprocess.check_output(command.split(), text=True)):
        assert time.monotonic() < deadline, shown
        time.sleep(0.01)


def run(command: str) -> None:
    """Run *command*; its complaint is the test's."""
    subprocess.run(command.split(), check=True, capture_output=True, text=True)


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Give both ends up, the guest with an address of each family, nothing left behind."""
    namespaces.needs_root()
    with namespaces.restored():
        namespaces.enter_new()
        guest = namespaces.open_own()
        run("ip link set lo up")
        namespaces.enter_new()
        peer = f"peer name eth netns /proc/{os.getpid()}/fd/{guest}"
        run(f"ip link add tap address {NODE_MAC} type veth {peer}")
        ends = Wire(guest, socket.if_nametoindex("tap"))
        ends.guest_runs(f"ip link set eth address {GUEST_MAC} up")
        ends.guest_runs("ip address add 10.65.0.2/32 dev eth")
        ends.guest_runs("ip address add fd00:65::2/128 dev eth nodad")
        ends.guest_runs("ip route add 169.254.1.1 dev eth")
        run("ip link set tap up")
        # The kernel activates an end whose peer came up later in the background.
        await_shown("ip link show tap", "qdisc noqueue state UP")
        with ends.inside_guest():
            await_shown("ip link show eth", "qdisc noqueue state UP")
        yield ends
        if ends.tap in dict(socket.if_nameindex()):
            run("ip link delete tap")
        os.close(guest)
