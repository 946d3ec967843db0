"""A node of its own for each test: a fresh network namespace that is gone afterwards."""

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, TypeVar

import pytest

from handover_nodeagent.kernel import netlink
from handover_nodeagent.network import IPAddress, Route

_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)

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

    def lines(self, command: str) -> list[str]:
        """Run *command* and return its lines, without the blanks around them."""
        return [line.strip() for line in self.run(command).splitlines()]

    def guest_runs(self, command: str) -> str:
        """Run *command* in the guest's namespace."""
        with _restored():
            _enter(self.guest)
            return self.run(command)

    def guest_socket(self) -> socket.socket:
        """Return a raw socket on the guest's interface, which waits at most five seconds."""
        with _restored():
            _enter(self.guest)
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            sock.bind(("eth", 3))
        sock.settimeout(5)
        return sock

    def make_tap0(self) -> None:
        """Make tap0, its other end in the guest."""
        peer = f"peer name eth netns /proc/{os.getpid()}/fd/{self.guest}"
        self.run(f"ip link add tap0 address ee:ee:ee:ee:ee:ee type veth {peer}")
        self.guest_runs("ip link set eth address 52:54:00:65:00:02 up")
        self.run("ip link set tap0 up")

    def await_shown(self, command: str, expected: str) -> None:
        """Return once the output of *command* has *expected* in it; fail after 5 s."""
        deadline = time.monotonic() + 5
        while expected not in (shown := self.run(command)):
            assert time.monotonic() < deadline, shown
            time.sleep(0.01)


def _enter(namespace: int) -> None:
    assert _libc.setns(namespace, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def _unshare() -> None:
    assert _libc.unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0", encoding="ascii")


def _open_own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    own = _open_own()
    try:
        yield
    finally:
        _enter(own)
        os.close(own)


@pytest.fixture
def node() -> Iterator[Node]:
    """Enter a namespace with tap0 and tap1; both go with it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    with _restored():
        _unshare()
        guest = _open_own()
        _unshare()
        it = Node(guest)
        it.run("ip link set lo up")
        it.make_tap0()
        it.run("ip link add tap1 type veth peer name far1")
        it.run("ip link set far1 up")
        it.run("ip link set tap1 up")
        it.await_shown("ip link show tap1", "qdisc noqueue state UP")
        it.await_shown("ip link show tap0", "qdisc noqueue state UP")
        yield it
        # A namespace dies in the background: its links, at once.
        for name in {"tap0", "tap1"} & {name for _, name in socket.if_nameindex()}:
            it.run(f"ip link delete {name}")
        os.close(guest)


@pytest.fixture
def channel(node: Node) -> Iterator[netlink.Channel]:  # noqa: ARG001 - made in its namespace
    """Give a channel of the node."""
    with netlink.Channel() as it:
        yield it


@pytest.fixture
def route(node: Node) -> Callable[..., Route]:
    """Make our route to an address by tap0, elevated, unless told otherwise."""

    def make(address: IPAddress, **changes: int) -> Route:
        fields = {"oif": node.tap0, "metric": 512, "table": MAIN, "protocol": OURS, **changes}
        return Route(address, **fields)

    return make


_T = TypeVar("_T")
_CAPSET: Final = 126
"""The system call's number on x86-64; libc has no function for it."""


def without_privileges(work: Callable[[], _T]) -> _T:
    """Do *work* in a thread, of this namespace, that has no capability left."""
    with ThreadPoolExecutor(1, initializer=_drop_capabilities) as thread:
        return thread.submit(work).result()


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", 0x20080522, 0)
    assert _libc.syscall(_CAPSET, header, bytes(24)) == 0, os.strerror(ctypes.get_errno())
