"""Nodes around a router that speak BGP, by BIRD or FRR, with a veth in place of a guest's tap."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

from handover_lab.network import bird, frr
from handover_lab.network.bird import Bird, Speaker
from handover_lab.network.frr import Frr
from handover_lab.network.namespaces import Namespace, connect

ADDRESSES: Final = ("10.65.0.2", "fd00:65::2")
VIA_A: Final = ("172.30.0.11", "fd00:172:30::11")
VIA_B: Final = ("172.30.0.12", "fd00:172:30::12")
HERE: Final = ("vm", "vm")
TUNNELED: Final = ("handover0", "handover0")
NORMAL: Final = 1024

# As the agent makes it: one device for all peers, each route says where it leads.
TUNNEL: Final = """
ip link add handover0 mtu 9000 up type vxlan external gpe dstport 7472 nolearning udp6zerocsumrx
ip address add 169.254.88.1/32 dev handover0 scope link
"""
PORT: Final = "ip link add vm up type veth peer name guest && ip link set guest up"


class Running(Protocol):
    """A speaker that runs."""

    def stop(self) -> None:
        """End it."""
        ...


class Starter(Protocol):
    """Starts a speaker at a place with its configuration's text."""

    def __call__(self, place: Namespace, speaker: Speaker, text: str, directory: Path) -> Running:
        """Start it."""
        ...


@dataclass(frozen=True)
class Kind:
    """A program that speaks, and the elevated metric that is right beside it."""

    name: str
    elevated: int
    configuration: Callable[[Speaker, Sequence[Speaker]], str]
    reflector: Callable[[Speaker, Sequence[Speaker]], str]
    start: Starter


def _start_bird(place: Namespace, speaker: Speaker, text: str, directory: Path) -> Bird:
    return Bird.run(place, speaker.name, text, directory)


BIRD: Final = Kind("bird", 512, bird.configuration, bird.reflector, _start_bird)
FRR: Final = Kind("frr", 16, frr.configuration, frr.reflector, Frr.run)


@dataclass
class Segment:
    """A router and two nodes on one segment."""

    router: Namespace
    a: Namespace
    b: Namespace
    members: Sequence[Speaker]

    @classmethod
    def make(cls, cleanup: ExitStack) -> Self:
        """Make it, with a guest's port and a tunnel on each node; nobody speaks so far."""
        router, a, b = (Namespace.make(name) for name in ("router", "node-a", "node-b"))
        for namespace in (router, a, b):
            cleanup.callback(namespace.end)
        members = connect(router, [a, b])
        for node in (a, b):
            node.run(f"{PORT}\n{TUNNEL}")
        return cls(router, a, b, members)

    @property
    def places(self) -> tuple[Namespace, Namespace, Namespace]:
        """Return the router and the nodes, in the order of the members."""
        return self.router, self.a, self.b

    async def becomes(self, place: Namespace, expected: tuple[str, str]) -> None:
        """Wait until the kernel at *place* would send to the VM in the *expected* way."""
        await comes_true(lambda: expected == way(place))


def way(place: Namespace) -> tuple[str, str]:
    """Name the next hop or device that *place* would take, per family."""
    four, six = (place.run(f"ip route get {ip} 2>&1 || true").split() for ip in ADDRESSES)
    return _hop(four), _hop(six)


def _hop(words: list[str]) -> str:
    """Read the next hop or device from the words of ip route get; IPv6's may stand after inet6."""
    if "via" in words:
        after = words.index("via") + 1
        return words[after + (words[after] == "inet6")]
    return words[words.index("dev") + 1] if "dev" in words else ""


async def comes_true(is_so: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until the kernel or a speaker shows it; neither tells when."""
    for _ in range(int(seconds * 50)):
        if is_so():
            return
        await asyncio.sleep(0.02)
    assert is_so()


def route(node: Namespace, verb: str, metric: int, protocol: int = 88) -> None:
    """Change the VM's host routes at *node* as its agent would."""
    for address in ADDRESSES:
        node.run(f"ip route {verb} {address} dev vm metric {metric} proto {protocol}")


def redirect(
    node: Namespace, remote: str, metric: int, protocol: int = 88, verb: str = "replace"
) -> None:
    """Replace the VM's routes in place by those that lead to the *remote* node."""
    for address in ADDRESSES:
        node.run(
            f"ip route {verb} {address} encap ip id 88 dst {remote} dev handover0"
            f" metric {metric} proto {protocol}"
        )


def distribute(
    node: Namespace, via: tuple[str, str], metric: int, verb: str = "add", protocol: int = 89
) -> None:
    """Change what *node* has for a guest elsewhere: by a nexthop object, as its agent would."""
    for number, (address, gateway) in enumerate(zip(ADDRESSES, via, strict=True), 1):
        node.run(
            f"ip nexthop replace id {number} via {gateway} dev eth0 proto {protocol}\n"
            f"ip route {verb} {address} nhid {number} metric {metric} proto {protocol}"
        )


def remove_redirect(node: Namespace, metric: int) -> None:
    """Take an exported redirect out, so that BIRD hears of it too.

    It reads no route with an encapsulation, not even that one is gone: so first a plain one.
    """
    for address in ADDRESSES:
        key = f"{address} dev handover0 metric {metric} proto 88"
        node.run(f"ip route replace {key} && ip route delete {key}")
