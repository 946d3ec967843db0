"""Three nodes behind one router, of which none has routes to another one's pods.

The guest is at the ends of ``a``, its home, and of ``b``; ``p`` is a pod on the bystander ``c``,
``q`` one on the home, and ``x`` a client outside, whom the router leads to that home. Each node has
a distribution of its own, and the table that goes with it, as an agent would.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final, Self, TypeVar

from tests.nodeagent import namespaces
from tests.nodeagent.distribution.cluster import GUEST4, GUEST6

from handover_api.configuration import Settings
from handover_nodeagent.distribution.distribution import Collection, Distribution
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.distribution.place import Place
from handover_nodeagent.kernel import conntrack
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.redirect_table import rules
from handover_nodeagent.kernel.redirect_table.rules import Redirects
from handover_nodeagent.network.model import IPAddress

NODES: Final = "abc"
GUEST: Final[Mapping[int, IPAddress]] = {4: GUEST4, 6: GUEST6}
POD: Final[Mapping[int, IPAddress]] = {
    4: IPv4Address("10.244.3.5"),
    6: IPv6Address("fd00:10:244:3::5"),
}
HOME_POD: Final[Mapping[int, IPAddress]] = {
    4: IPv4Address("10.244.1.5"),
    6: IPv6Address("fd00:10:244:1::5"),
}
CLIENT: Final[Mapping[int, IPAddress]] = {
    4: IPv4Address("203.0.113.9"),
    6: IPv6Address("fd00:3::9"),
}
GATEWAY: Final = {4: "169.254.1.1", 6: "fe80::ecee:eeff:feee:eeee"}
ROUTER_MAC: Final = "ee:ee:ee:ee:ee:ee"
PORT: Final = 7
_T = TypeVar("_T")


def node(name: str) -> Node:
    """Return a Node as the API has it."""
    number = NODES.index(name) + 1
    pods = (ip_network(f"10.244.{number}.0/24"), ip_network(f"fd00:10:244:{number}::/64"))
    return Node(name, (address(name, 4), address(name, 6)), pods)


def address(name: str, version: int) -> IPAddress:
    """Return a node's own address, on a link that it shares with the router alone."""
    number = NODES.index(name) + 1
    if version == 4:
        return IPv4Address(f"198.51.{number}.2")
    return IPv6Address(f"2001:db8:{number}::2")


@dataclass
class RoutedNodes:
    """Namespaces by name: the nodes, router ``r``, pod ``p``, client ``x`` and guest ``g``."""

    fds: dict[str, int]

    def run(self, where: str, *commands: str) -> str:
        """Run *commands* there and return what they print; a complaint is the test's."""
        return self.within(where, lambda: "".join(map(_run, commands)))

    def within(self, where: str, work: Callable[[], _T]) -> _T:
        """Do *work* in a namespace; a socket that it makes stays there."""
        with namespaces.restored():
            namespaces.enter(self.fds[where])
            return work()

    def nft(self, where: str, text: str) -> None:
        """Feed *text* to nft there."""
        done = self.within(
            where,
            lambda: subprocess.run(
                ["nft", "-f", "-"], check=False, input=text, capture_output=True, text=True
            ),
        )
        assert done.returncode == 0, done.stderr

    def socket(self, where: str, own: IPAddress, port: int = 0) -> socket.socket:
        """Return a UDP socket there, bound to *own*, which waits for at most two seconds."""
        family = socket.AF_INET if own.version == 4 else socket.AF_INET6
        sock = self.within(where, lambda: socket.socket(family, socket.SOCK_DGRAM))
        sock.settimeout(2)
        sock.bind((str(own), port))
        return sock

    def settle(self, name: str) -> None:
        """Let the guest be at *name*, and answer by that node; nothing reaches it elsewhere."""
        (left,) = set("ab") - {name}
        self.run("g", f"ip link set eth{left} down", f"ip link set eth{name} up")
        self.run("g", f"ip neigh replace {GATEWAY[4]} lladdr {ROUTER_MAC} dev eth{name}")
        for version, gateway in GATEWAY.items():
            route = f"ip -{version} route replace default via {gateway} dev eth{name} onlink"
            self.run("g", route)
            for side, verb in ((left, "del"), (name, "replace")):
                shown = self.run(side, f"ip -{version} route show {GUEST[version]} proto 88")
                if verb == "replace" or shown:
                    words = f"{GUEST[version]} dev tap metric 512 proto 88"
                    self.run(side, f"ip -{version} route {verb} {words}")
            neighbor = f"ip neigh replace {GUEST[version]} lladdr 52:54:00:65:00:02 dev tap"
            self.run(name, neighbor)


@contextlib.contextmanager
def made() -> Iterator[RoutedNodes]:
    """Make them; all goes with it."""
    with namespaces.restored():
        fds = {}
        for name in "abcrpqxg":
            namespaces.enter_new()
            fds[name] = namespaces.open_own()
            _run("ip link set lo up")
    nodes = RoutedNodes(fds)
    try:
        _build(nodes)
        yield nodes
    finally:
        for fd in fds.values():
            os.close(fd)


def _build(nodes: RoutedNodes) -> None:
    for name in nodes.fds:
        nodes.run(
            name, "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0"
        )
    for name in (*NODES, "r"):
        nodes.run(name, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    for name in NODES:
        number = NODES.index(name) + 1
        _link(nodes, name, "eth", "r", f"to{name}")
        for version, length, end in ((4, 24, f"198.51.{number}."), (6, 64, f"2001:db8:{number}::")):
            nodes.run(name, f"ip address add {address(name, version)}/{length} dev eth")
            nodes.run("r", f"ip address add {end}1/{length} dev to{name}")
            nodes.run(name, f"ip -{version} route add default via {end}1")
        # The router alone knows where pods are.
        for cidr, own in zip(node(name).pod_cidrs, node(name).addresses, strict=True):
            nodes.run("r", f"ip route add {cidr} via {own}")
    for name in "ab":
        _link(nodes, name, "tap", "g", f"eth{name}")
        nodes.run("g", f"ip link set eth{name} address 52:54:00:65:00:02")
        _answer_for_gateway(nodes, name, "tap", "g", f"eth{name}")
    nodes.run("g", f"ip address add {GUEST4}/32 dev lo", f"ip address add {GUEST6}/128 dev lo")
    _add_pod(nodes, "c", "p", POD)
    _add_pod(nodes, "a", "q", HOME_POD)
    _link(nodes, "r", "tox", "x", "eth")
    for version, length, end in ((4, 24, "203.0.113."), (6, 64, "fd00:3::")):
        nodes.run("x", f"ip address add {end}9/{length} dev eth")
        nodes.run("r", f"ip address add {end}1/{length} dev tox")
        nodes.run("x", f"ip -{version} route add default via {end}1")


def _add_pod(nodes: RoutedNodes, at: str, pod: str, own: Mapping[int, IPAddress]) -> None:
    _link(nodes, at, "pod", pod, "eth")
    _answer_for_gateway(nodes, at, "pod", pod, "eth")
    for version, address in own.items():
        nodes.run(pod, f"ip address add {address}/{address.max_prefixlen} dev eth")
        nodes.run(pod, f"ip -{version} route add default via {GATEWAY[version]} dev eth onlink")
        nodes.run(at, f"ip route add {address} dev pod")


def _answer_for_gateway(nodes: RoutedNodes, at: str, device: str, inner: str, end: str) -> None:
    nodes.run(at, f"ip link set {device} address {ROUTER_MAC}")
    nodes.run(at, f"ip address add {GATEWAY[6]}/64 dev {device} nodad")
    nodes.run(inner, f"ip neigh replace {GATEWAY[4]} lladdr {ROUTER_MAC} dev {end}")


def _link(nodes: RoutedNodes, one: str, end: str, other: str, far: str) -> None:
    there = f"netns /proc/{os.getpid()}/fd/{nodes.fds[other]}"
    nodes.run(one, f"ip link add {end} type veth peer name {far} {there}", f"ip link set {end} up")
    nodes.run(other, f"ip link set {far} up")


def _run(command: str) -> str:
    done = subprocess.run(command.split(), check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@dataclass
class Agent:
    """The distribution of one node, in a thread that lives in that node's namespace."""

    nodes: RoutedNodes
    name: str
    settings: Settings
    let: frozenset[IPAddress] = frozenset()
    away: frozenset[IPAddress] = frozenset()
    uplinks: frozenset[str] = frozenset()
    forgotten: int = 0
    distribution: Distribution = field(init=False)
    _loop: asyncio.AbstractEventLoop = field(init=False)
    _ready: Future[None] = field(default_factory=Future)

    @classmethod
    @contextlib.contextmanager
    def running(cls, nodes: RoutedNodes, name: str, settings: Settings) -> Iterator[Self]:
        """Run one on the node *name*, which knows all nodes and no endpoint so far."""
        it = cls(nodes, name, settings)
        thread = threading.Thread(target=it._live)
        thread.start()
        it._ready.result(10)
        try:
            yield it
        finally:
            it._loop.call_soon_threadsafe(it._task.cancel)
            thread.join()

    def call(self, work: Callable[[Distribution], _T]) -> _T:
        """Do *work* on its loop, and return what comes of it."""

        async def ask() -> _T:
            return work(self.distribution)

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(10)

    def _live(self) -> None:
        namespaces.enter(self.nodes.fds[self.name])
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        place = Place(self.name, self.settings, let=self._let, forward=self._forward)
        with Channel() as channel:
            self.distribution = Distribution(place, channel)
            self._task = asyncio.create_task(self.distribution.run())
            for one in NODES:
                self.distribution.put_node(node(one))
            for collection in Collection:
                self.distribution.synced(collection)
            self._ready.set_result(None)
            await asyncio.gather(self._task, return_exceptions=True)

    def _let(self, addresses: frozenset[IPAddress]) -> None:
        self.let = addresses
        self.nodes.nft(self.name, rules.render(self.table()))

    def _forward(self, away: frozenset[IPAddress], uplinks: frozenset[str]) -> None:
        gained, self.away, self.uplinks = away - self.away, away, uplinks
        self.nodes.nft(self.name, rules.render(self.table()))
        self.forgotten += conntrack.forget(gained, uplinks)

    def table(self, redirected: frozenset[IPAddress] = frozenset()) -> Redirects:
        """Return what its table holds: any other node may be a peer, too."""
        peers = frozenset(address(one, 4) for one in NODES if one != self.name)
        port = self.settings.redirect_port, self.settings.peer_port
        second = self.settings.distribution_port if self.let else 0
        forwarded = self.away, self.uplinks
        return Redirects(*port, frozenset({"tap"}), peers, redirected, second, self.let, *forwarded)
