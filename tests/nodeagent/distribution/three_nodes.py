"""Three nodes on one segment, the test's own being the bystander ``c``; the others have the guest.

Each of them answers for the guest's addresses, so that who answers tells where the route leads.
"""

import contextlib
import os
import select
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from socket import AddressFamily
from typing import Any, Final

from pyroute2 import IPRoute
from tests.nodeagent import namespaces
from tests.nodeagent.distribution.cluster import GUEST4, GUEST6

from handover_nodeagent.network.model import IPAddress

TABLE: Final = 254
PROTOCOL: Final = 89
PORT: Final = 4789
RCVBUFFORCE: Final = 33
"""SO_RCVBUFFORCE of asm-generic/socket.h."""
OWN: Final = {4: ip_address("192.0.2.3"), 6: ip_address("2001:db8::3")}


@dataclass(frozen=True)
class ThreeNodes:
    """Their namespaces by name; ``s`` is the segment."""

    fds: dict[str, int]

    def run(self, where: str, *commands: str) -> str:
        """Run *commands* there and return what they print; a complaint is the test's."""
        with namespaces.restored():
            namespaces.enter(self.fds[where])
            return "".join(map(_run, commands))

    def routes(self, address: IPAddress) -> list[tuple[int, str]]:
        """Return metric and gateway of the bystander's routes to *address*, as pyroute2 reads."""
        # A loop of its own, which pyroute2 needs, is another thread's; a new one lives here, too.
        with ThreadPoolExecutor(1) as thread:
            shown = thread.submit(_shown, address).result()
        assert all(protocol == PROTOCOL for _, _, protocol in shown)
        return sorted((metric, gateway) for metric, gateway, _ in shown)

    def socket(self, where: str, address: IPAddress, port: int = 0) -> socket.socket:
        """Return a UDP socket there, bound to *address*, which never waits."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with namespaces.restored():
            namespaces.enter(self.fds[where])
            sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.settimeout(0)
        sock.setsockopt(socket.SOL_SOCKET, RCVBUFFORCE, 1 << 22)
        sock.bind((str(address), port))
        return sock

    def receiver(self, address: IPAddress) -> str:
        """Return which node gets what the bystander sends to *address*; "" if none does."""
        with contextlib.ExitStack() as stack:
            ends = {name: stack.enter_context(self.socket(name, address, PORT)) for name in "ab"}
            own = OWN[address.version]
            sender = stack.enter_context(self.socket("c", own))
            sender.sendto(b"?", (str(address), PORT))
            # The first packet may wait for the neighbor's answer.
            ready, _, _ = select.select(ends.values(), [], [], 2)
            return "".join(name for name, end in ends.items() if end in ready)


@contextlib.contextmanager
def made() -> Iterator[ThreeNodes]:
    """Make them, and stay in the bystander's namespace; all goes with it."""
    with namespaces.restored():
        fds = {}
        for name in "sabc":
            namespaces.enter_new()
            fds[name] = namespaces.open_own()
            _run("ip link set lo up")
        nodes = ThreeNodes(fds)
        nodes.run("s", "ip link add br0 type bridge", "ip link set br0 up")
        for number, name in enumerate("abc", 1):
            connect(nodes, name, number)
        for name in "ab":
            nodes.run(name, f"ip address add {GUEST4}/32 dev lo")
            nodes.run(name, f"ip address add {GUEST6}/128 dev lo nodad")
        try:
            yield nodes
        finally:
            for fd in fds.values():
                os.close(fd)


def connect(nodes: ThreeNodes, name: str, number: int) -> None:
    """Give a node its uplink."""
    far = f"peer name to{name} netns /proc/{os.getpid()}/fd/{nodes.fds['s']}"
    nodes.run(name, f"ip link add eth type veth {far}", "ip link set eth up")
    nodes.run("s", f"ip link set to{name} up master br0")
    nodes.run(
        name,
        f"ip address add 192.0.2.{number}/24 dev eth",
        f"ip address add 2001:db8::{number}/64 dev eth nodad",
    )


def _shown(address: IPAddress) -> list[tuple[int, str, int]]:
    """Return metric, gateway and protocol of each route to *address*."""
    family = AddressFamily.AF_INET if address.version == 4 else AddressFamily.AF_INET6
    with IPRoute() as judge:
        messages: list[Any] = [
            one
            for one in judge.get_routes(family=family, table=TABLE)
            if one["dst_len"] == address.max_prefixlen
        ]
    found = [(dict(one["attrs"]), one["proto"]) for one in messages]
    return [
        (one["RTA_PRIORITY"], one["RTA_GATEWAY"], protocol)
        for one, protocol in found
        if one.get("RTA_DST") == str(address)
    ]


def _run(command: str) -> str:
    done = subprocess.run(command.split(), check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
