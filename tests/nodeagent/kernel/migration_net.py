"""A source and a target node, a router and a client, and a guest that is at both nodes' ends.

What a test sends arrives in the guest whichever of the nodes delivers it, so that a packet which
is lost is lost on the way.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeVar

from tests.nodeagent import namespaces

from handover_nodeagent.network.model import IPAddress

VM: Final = (IPv4Address("10.65.0.2"), IPv6Address("fd00:65::2"))
CLIENT: Final = (IPv4Address("203.0.113.9"), IPv6Address("fd00:3::9"))
RCVBUFFORCE: Final = 33
"""SO_RCVBUFFORCE of asm-generic/socket.h."""
_T = TypeVar("_T")

_FORWARD: Final = "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
_NO_FILTER: Final = "net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0"
_LINK: Final = "link add {end} type veth peer name {far} netns /proc/{pid}/fd/{fd}"
_NODES: Final = "ab"
_NOT_YET: Final = ("qdisc noop ", "state DOWN", "state LOWERLAYERDOWN")


@dataclass(frozen=True)
class MigrationNet:
    """Namespaces by name: nodes ``a`` and ``b``, router ``r``, client ``x`` and guest ``g``."""

    fds: dict[str, int]
    routed: bool

    def run(self, where: str, *commands: str) -> str:
        """Run *commands* there and return what they print; a complaint is the test's."""
        return self.within(where, lambda: "".join(map(_run, commands)))

    def ip(self, where: str, *commands: str) -> None:
        """Run many commands of ip there by one process."""
        self.fed(where, ["ip", "-batch", "-"], "\n".join(commands))

    def fed(self, where: str, command: list[str], text: str) -> None:
        """Run *command* there with *text* as its input."""

        def feed() -> None:
            done = subprocess.run(command, check=False, input=text, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr

        self.within(where, feed)

    def within(self, where: str, work: Callable[[], _T]) -> _T:
        """Do *work* in a namespace; a socket that it makes stays there."""
        with namespaces.restored():
            namespaces.enter(self.fds[where])
            return work()

    def socket(self, where: str, address: IPAddress, kind: int, port: int = 0) -> socket.socket:
        """Return a socket there, bound to *address*."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        sock = self.within(where, lambda: socket.socket(family, kind))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(address), port))
        return sock

    def node_address(self, node: str, version: int) -> IPAddress:
        """Return a node's own address of the underlay."""
        return ip_address(_underlay(node, version, routed=self.routed))

    def index(self, where: str, device: str) -> int:
        """Return the index of a device."""
        return self.within(where, lambda: socket.if_nametoindex(device))

    def settle(self, node: str) -> None:
        """Let router and guest go by *node* from now on."""
        for version in (4, 6):
            address = VM[version == 6]
            via = self.node_address(node, version)
            self.ip("r", f"route replace {address} via {via}")
            gateway = "169.254.1.1" if version == 4 else "fe80::ecee:eeff:feee:eeee"
            self.ip("g", f"route replace default via {gateway} dev eth{node} onlink")


@contextlib.contextmanager
def made(*, routed: bool) -> Iterator[MigrationNet]:
    """Make it, in one segment or with a router between the nodes; all goes with it."""
    with namespaces.restored():
        fds = {}
        for name in "abrxg":
            namespaces.enter_new()
            fds[name] = namespaces.open_own()
            _run("ip link set lo up")
    net = MigrationNet(fds, routed)
    try:
        _build(net)
        yield net
    finally:
        for fd in fds.values():
            os.close(fd)


def _build(net: MigrationNet) -> None:
    for name in "abr":
        net.run(name, f"sysctl -qw {_FORWARD} {_NO_FILTER}")
    for name in "xg":
        net.run(name, f"sysctl -qw {_NO_FILTER}")
    if not net.routed:
        net.ip(
            "r",
            "link add br0 type bridge",
            "link set br0 up",
            "address add 192.0.2.254/24 dev br0",
            "address add fd00:66::fe/64 dev br0 nodad",
        )
    for node in _NODES:
        _connect(net, node)
    net.ip("x", *_link(net, "eth", "r", "tox"))
    net.ip(
        "r",
        "link set tox up",
        "address add 203.0.113.1/24 dev tox",
        "address add fd00:3::1/64 dev tox",
    )
    net.ip(
        "x",
        "address add 203.0.113.9/24 dev eth",
        "address add fd00:3::9/64 dev eth",
        "route add default via 203.0.113.1",
        "route add default via fd00:3::1",
    )
    net.ip("g", f"address add {VM[0]}/32 dev lo", f"address add {VM[1]}/128 dev lo")
    net.settle("a")
    for name in "abrxg":
        _await_links(net, name)


def _await_links(net: MigrationNet, name: str) -> None:
    """Return once each link has its queue: until the kernel has made it, it drops all."""
    deadline = time.monotonic() + 10
    while any(word in (shown := net.run(name, "ip -o link show type veth")) for word in _NOT_YET):
        assert time.monotonic() < deadline, shown
        time.sleep(0.01)


def _connect(net: MigrationNet, node: str) -> None:
    """Give *node* its uplink, and the guest its tap there."""
    mine = {version: _underlay(node, version, routed=net.routed) for version in (4, 6)}
    router = {4: mine[4].rsplit(".", 1)[0] + ".254", 6: mine[6].rsplit("::", 1)[0] + "::fe"}
    lengths = {4: 24, 6: 64}
    net.ip(node, *_link(net, "eth", "r", f"to{node}"), *_link(net, "tap", "g", f"eth{node}"))
    net.ip("r", f"link set to{node} up")
    if net.routed:
        own = (f"address add {router[v]}/{length} dev to{node}" for v, length in lengths.items())
        net.ip("r", *own)
    else:
        net.ip("r", f"link set to{node} master br0")
    net.ip(
        "g",
        f"link set eth{node} up",
        f"link set eth{node} address 52:54:00:65:00:02",
        f"neigh replace 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth{node}",
    )
    net.ip(
        node,
        *(f"address add {mine[v]}/{length} dev eth" for v, length in lengths.items()),
        *(f"route add default via {router[v]}" for v in lengths),
        "link set tap address ee:ee:ee:ee:ee:ee",
        "address add fe80::ecee:eeff:feee:eeee/64 dev tap nodad",
        # IPv6 answers on a device for that one's own addresses alone, and the guest's are on lo.
        f"neigh replace {VM[1]} lladdr 52:54:00:65:00:02 dev tap",
    )
    net.run(node, "sysctl -qw net.ipv4.conf.tap.proxy_arp=1")


def _underlay(node: str, version: int, *, routed: bool) -> str:
    number = _NODES.index(node) + 1
    if version == 4:
        return f"192.0.{number + 1 if routed else 2}.{number}"
    return f"fd00:{65 + number if routed else 66}::{number}"


def _link(net: MigrationNet, end: str, other: str, far: str) -> tuple[str, str]:
    """Return what makes a link whose far end is in another namespace, and sets the near end up."""
    command = _LINK.format(end=end, far=far, pid=os.getpid(), fd=net.fds[other])
    return command, f"link set {end} up"


def _run(command: str) -> str:
    done = subprocess.run(command.split(), check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
