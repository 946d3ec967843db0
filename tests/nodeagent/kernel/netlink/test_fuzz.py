"""Mutated answers of the real kernel, against all that reads them, and against the whole loop.

Nothing raises but what says that the kernel could not be read, nothing goes on for ever, and no
endpoint's route goes because of an answer that was none.
"""

import asyncio
import contextlib
import functools
import random
import re
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Final, Self

import pytest
from tests.nodeagent.kernel.netlink import mutations
from tests.nodeagent.node import MAIN, OURS, V4, V6, Node
from tests.nodeagent.world import World

from handover_nodeagent.kernel import links, neighs, parking, route_lookup
from handover_nodeagent.kernel.netlink import answers, changes, codec, ifinfomsg, rtmsg
from handover_nodeagent.kernel.netlink import channel as netlink
from handover_nodeagent.kernel.netlink import subscription as multicast
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import Neigh, Route
from handover_nodeagent.reconcile import observe as observation

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("mute")]

_STRICT: Final = (270, 12)
_ALL_GROUPS: Final = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400
_SCENE: Final = (
    "address add 192.0.2.1/24 dev tap1",
    "address add fd00:66::1/64 dev tap1 nodad",
    "route add 10.65.0.9 dev tap0 proto 88 metric 512 src 192.0.2.1 mtu 1400",
    "route add 10.65.0.2 dev tap0 scope link proto 5",
    "route add 10.65.0.2 via 192.0.2.9 metric 7 proto 12",
    "route add 10.65.0.3 nexthop via 192.0.2.8 nexthop via 192.0.2.9",
    "route add 10.65.0.4 via inet6 fe80::9 dev tap1",
    "route add default via 192.0.2.9",
    "route add blackhole 10.65.0.5",
    "route add 10.65.0.6 dev tap0 table 5254 proto 5",
    "route add fd00:65::9 dev tap0 proto 88 metric 512 mtu 1400",
    "route add fd00:65::2 dev tap0 proto 5",
    "route add fd00:65::3 nexthop via fe80::8 dev tap1 nexthop via fe80::9 dev tap1",
    "route add fd00:65::6 dev tap0 table 5254 proto 5 pref high",
    "neigh add 10.65.0.2 dev tap0 lladdr 02:00:00:00:00:01 nud stale",
    "neigh add fd00:65::2 dev tap0 lladdr 02:00:00:00:00:01 nud reachable",
)


def capture(request: bytes) -> list[bytes]:
    """Return the datagrams in which the kernel answers."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.setsockopt(*_STRICT, 1)
        sock.send(request)
        return list(_to_the_end(sock))


def _to_the_end(sock: socket.socket) -> Iterator[bytes]:
    kind = 0
    while kind not in {codec.DONE, codec.ERROR}:
        datagram = sock.recv(1 << 16)
        yield datagram
        for message in codec.split(datagram):
            kind = codec.kind_of(message)


def captures(node: Node) -> list[list[bytes]]:
    """Let the kernel show all that we read: dumps, look-ups and notifications."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as heard:
        heard.bind((0, _ALL_GROUPS))
        node.run_batch(_SCENE)
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(heard.recv(1 << 16))
    asked = [
        codec.compose(codec.GETROUTE, codec.DUMP, bytes([family, *bytes(11)]))
        for family in (codec.INET, codec.INET6)
    ]
    asked += [
        codec.compose(codec.GETLINK, codec.DUMP, bytes(16)),
        codec.compose(codec.GETADDR, codec.DUMP, bytes(8)),
        codec.compose(codec.GETNEIGH, codec.DUMP, bytes(12)),
    ]
    with Channel() as channel:
        shown = [route_lookup.match(channel, one) for one in (V4, V6)]
    single = [[one] for one in shown if isinstance(one, bytes)]
    return [*map(capture, asked), *single, *([one] for one in told)]


def read_all(message: bytes) -> None:
    """Let everything read one message that may find one of its kind in it."""
    readers = (
        codec.kind_of,
        rtmsg.decode,
        rtmsg.is_made,
        ifinfomsg.decode_link,
        ifinfomsg.decode_address,
        rtmsg.devices,
        answers.sentence,
        functools.partial(changes.decode, table=MAIN),
        functools.partial(codec.attributes, start=codec.HEADER.size),
        functools.partial(codec.find, start=codec.HEADER.size, kind=1),
    )
    for reader in readers:
        with contextlib.suppress(codec.ObservationError):
            reader(message)


def test_no_reader_raises_anything_but_that_it_cannot_read(node: Node) -> None:
    known = captures(node)

    def check(dice: random.Random) -> None:
        for _ in range(50):
            for datagram in mutations.mutate(dice, dice.choice(known)):
                with contextlib.suppress(codec.ObservationError):
                    for message in codec.split(datagram):
                        read_all(message)
                read_all(datagram)

    for seed in mutations.seeds():
        with mutations.named(seed) as dice:
            check(dice)


class MutatedSocket:
    """A dump's socket of the real kernel, whose answer is mutated now and then."""

    def __init__(self, dice: random.Random, chance: float, *arguments: int) -> None:
        self._socket = _socket(*arguments)
        self._dice = dice
        self._chance = chance
        self._answer: list[bytes] = []

    def send(self, request: bytes) -> int:
        """Ask, and take the whole answer at once."""
        sent = self._socket.send(request)
        self._answer = list(_to_the_end(self._socket))
        if self._dice.random() < self._chance:
            self._answer = mutations.mutate(self._dice, self._answer)
        return sent

    def recvmsg(self, size: int) -> tuple[bytes, list[Any], int, Any]:
        """Return the next part; what never comes is waited for in vain."""
        if not self._answer:
            raise TimeoutError
        part = self._answer.pop(0)
        return part[:size], [], 0, (0, 0)

    def setsockopt(self, *arguments: int) -> None:
        self._socket.setsockopt(*arguments)

    def settimeout(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


_socket: Final = socket.socket


class Sockets:
    """Stands in for the module ``socket`` where dumps are read."""

    def __init__(self, dice: random.Random, chance: float) -> None:
        self._make = functools.partial(MutatedSocket, dice, chance)

    def __getattr__(self, name: str) -> Any:
        return self._make if name == "socket" else getattr(socket, name)


class MutatedChannel(Channel):
    """A channel of the real kernel, whose answers are mutated."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        receive = self._receive

        def mutated(size: int, flags: int = 0) -> bytes:
            del flags
            return mutations.mutate_message(dice, receive(size))

        self._receive = mutated


def test_no_observation_raises_anything_but_that_it_failed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.run_batch(_SCENE)
    wanted = (V4, V6, V4 + 7, V6 + 7)

    def check(dice: random.Random) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(netlink, "socket", Sockets(dice, 1.0))
            for observe in (
                functools.partial(route_lookup.observe, OURS, [MAIN]),
                functools.partial(parking.observe_others, wanted, MAIN, {OURS}),
                parking.observe_parked,
                links.observe,
            ):
                with contextlib.suppress(codec.ObservationError):
                    observe()
        with MutatedChannel(dice) as channel:
            for address in wanted:
                route_lookup.winner(channel, address)
                neighs.find_mac(channel, address, node.tap0)
                neighs.is_free(channel, Neigh(address, node.tap0, "02:00:00:00:00:01"))
                request = rtmsg.encode_remove(Route(address, 9, 9, 9, 9))
                results = channel.transact([request] * 3)
                assert len(results) == 3
                results.explain(0)

    for seed in mutations.seeds():
        with mutations.named(seed) as dice:
            check(dice)


SERVED: Final = {
    "base": ("source", ["10.65.0.2", "fd00:65::2"]),
    "live": ("target", ["10.65.0.3", "fd00:65::3"]),
    "free": ("", ["10.65.0.4", "fd00:65::4"]),
}
AWAITED: Final = "10.65.0.5"


async def populate(world: World) -> None:
    """Have endpoints in several states, on a node with routes of a CNI and of a speaker."""
    world.node.run("ip address add 192.0.2.1/24 dev tap1")
    world.node.run("ip address add fd00:66::1/64 dev tap1 nodad")
    for address in ("10.65.0.2", "10.65.0.4", AWAITED):
        world.node.run(f"ip route add {address} dev tap0 scope link proto 5 src 192.0.2.1")
    world.node.run("ip -6 route add fd00:65::2 dev tap0 proto 5 mtu 1400")
    world.node.run("ip route add 10.65.0.4 via 192.0.2.9 metric 1024 proto bird")
    world.node.run("ip -6 route add fd00:65::4 via fe80::9 dev tap1 metric 1024 proto bird")
    for name, (said, addresses) in SERVED.items():
        world.put(name, said=said, ips=addresses, mac=None)
        if said == "target":
            await world.until_listening(name)
            world.announce(name)
            await world.until_state("Live", name)
    world.put("awaited", said="target", ips=[AWAITED])
    await world.at_rest()


_ROUTE: Final = re.compile(r"^\S+|dev \S+|metric \d+")


def lacking(world: World) -> list[str]:
    """Return what is wrong in the real kernel: guests without a route, or one too early."""
    there = [line for line in world.routes() if " dev tap0 " in line]
    served = [address for _, addresses in SERVED.values() for address in addresses]
    without = [one for one in served if not any(line.startswith(f"{one} ") for line in there)]
    early = [line for line in there if line.startswith(f"{AWAITED} ") and "proto 88" in line]
    return [*without, *early]


def ours(world: World) -> list[str]:
    """Return our routes as the real kernel has them, but for what they carry.

    Of a speaker's that was told as a direct one the copy is as untrue, and what an owner's route
    was told to carry is kept for good: no reader could know.
    """
    return sorted(" ".join(_ROUTE.findall(line)) for line in world.routes() if "proto 88" in line)


async def look(world: World, sockets: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at everything by these sockets, until there is a view that somebody would believe."""
    with monkeypatch.context() as patched:
        patched.setattr(netlink, "socket", sockets)
        await world.observation._resync()


async def test_no_mutated_answer_costs_an_endpoint_its_route(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation, "RETRY_AFTER", 0)
    monkeypatch.setattr(observation, "REST", 0)
    await populate(world)
    assert lacking(world) == []
    whole = ours(world)
    told = [parts[0] for parts in captures_of(world)]
    subscription = world.observation._notifications._subscription

    for seed in mutations.seeds(2 * mutations.SECONDS):
        with mutations.named(seed) as dice:
            for _ in range(3):
                subscription._tell(mutations.mutate_message(dice, dice.choice(told)))
                assert lacking(world) == []
            await look(world, Sockets(dice, 0.3), monkeypatch)
            assert lacking(world) == []
            await look(world, socket, monkeypatch)
            await look(world, socket, monkeypatch)
            assert lacking(world) == []
            assert ours(world) == whole


def captures_of(world: World) -> list[Sequence[bytes]]:
    """Return all that the kernel would tell of this node, each as a notification of its own."""
    asked = [
        codec.compose(codec.GETROUTE, codec.DUMP, bytes([family, *bytes(11)]))
        for family in (codec.INET, codec.INET6)
    ]
    asked += [
        codec.compose(codec.GETLINK, codec.DUMP, bytes(16)),
        codec.compose(codec.GETADDR, codec.DUMP, bytes(8)),
    ]
    assert world.node.tap0
    shown = (capture(request) for request in asked)
    return [
        [message]
        for datagrams in shown
        for datagram in datagrams
        for message in codec.split(datagram)
        if codec.kind_of(message) != codec.DONE
    ]


def test_a_subscription_takes_whatever_comes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    known = captures(node)
    overflows: list[None] = []

    def take(message: bytes) -> None:
        changes.decode(message, MAIN)

    subject = multicast.Subject(socket.NETLINK_ROUTE, 0, 1, 1 << 16)
    monkeypatch.setattr(asyncio, "get_running_loop", Silent)
    subscription = multicast.Subscription(subject, take, lambda: overflows.append(None))

    def check(dice: random.Random) -> None:
        for datagram in mutations.mutate(dice, dice.choice(known)):
            subscription._tell(datagram)

    for seed in mutations.seeds(mutations.SECONDS / 3):
        with mutations.named(seed) as dice:
            check(dice)
    assert subscription._met <= {codec.MalformedError}
    subscription.close()


class Silent:
    """A loop on which nothing is ever readable."""

    def add_reader(self, *_: object) -> None:
        pass

    def remove_reader(self, *_: object) -> None:
        pass
