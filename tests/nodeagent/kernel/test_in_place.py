"""A route changes its way in its place: no packet is lost, and nobody hears of a withdrawal."""

import dataclasses
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import pytest
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from tests.nodeagent import namespaces
from tests.nodeagent.kernel import migration_net
from tests.nodeagent.kernel.migration_net import CLIENT, VM, MigrationNet

from handover_nodeagent.kernel import route_lookup
from handover_nodeagent.kernel.netlink import rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network import plan
from handover_nodeagent.network.model import Encapsulated, IPAddress, Route, Via

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("address", VM, ids=["IPv4", "IPv6"])
TUNNEL = (
    "ip link add handover0 type vxlan external gpe dstport 7472 nolearning udp6zerocsumrx",
    "ip link set handover0 mtu 9000 up",
    "ip address add 169.254.88.1/32 dev handover0",
)
FLIPS = 200


@pytest.fixture
def net() -> Iterator[MigrationNet]:
    """Make a segment on which the guest is served by both nodes."""
    namespaces.needs_root()
    with migration_net.made(routed=False) as it:
        for node in "ab":
            it.run(node, *TUNNEL)
        with channel_of(it, "b") as channel:
            serve = [rtmsg.encode_add(direct(it, "b", address)) for address in VM]
            assert channel.transact(serve) == [0, 0]
        yield it


def channel_of(net: MigrationNet, node: str) -> Channel:
    return net.within(node, Channel)


def direct(net: MigrationNet, node: str, address: IPAddress) -> Route:
    return Route(address, net.index(node, "tap"), 512, 254, 88)


def ways_from(net: MigrationNet, here: Route, version: int) -> tuple[Route, ...]:
    """Return the same route into the tunnel, the same from an address, and by the other node's."""
    target = net.node_address("b", version)
    tunnel, uplink = net.index("a", "handover0"), net.index("a", "eth")
    return (
        dataclasses.replace(here, oif=tunnel, way=Encapsulated(target)),
        dataclasses.replace(
            here, oif=tunnel, way=Encapsulated(target, net.node_address("a", version))
        ),
        dataclasses.replace(here, oif=uplink, way=Via(target)),
    )


class Flood:
    """Sends numbered datagrams from the client to the guest until it ends, some 5,000 a second."""

    def __init__(self, net: MigrationNet, address: IPAddress) -> None:
        self.sent = 0
        client = CLIENT[address.version == 6]
        self._to = (str(address), 7)
        self._from = net.socket("x", client, socket.SOCK_DGRAM)
        self._at = net.socket("g", address, socket.SOCK_DGRAM, 7)
        self._at.setsockopt(socket.SOL_SOCKET, migration_net.RCVBUFFORCE, 64 << 20)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Self:
        # The first ones wait for neighbors, of which a queue holds a few only.
        self._at.settimeout(1)
        for _ in range(5):
            self._from.sendto(b"first", self._to)
            self._at.recv(64)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def await_more(self, count: int) -> None:
        """Return once *count* more were sent, however busy the machine is."""
        enough, deadline = self.sent + count, time.monotonic() + 30
        while self.sent < enough:
            assert time.monotonic() < deadline, enough - self.sent
            time.sleep(0.005)

    def arrived(self) -> int:
        """Count what arrived, once it is over; close the sockets."""
        return len(self._numbers())

    def missing(self, first: int) -> list[int]:
        """Return which from the *first* on did not arrive, once it is over; close the sockets."""
        return sorted(set(range(first, self.sent)) - self._numbers())

    def _numbers(self) -> set[int]:
        numbers = set()
        with self._from, self._at:
            self._at.settimeout(0.2)
            try:
                while True:
                    numbers.add(int(self._at.recv(64)))
            except TimeoutError:
                return numbers

    def _send(self) -> None:
        while not self._is_over.is_set():
            self._from.sendto(str(self.sent).encode(), self._to)
            self.sent += 1
            time.sleep(0.0001)


def heard(monitor: socket.socket, address: IPAddress) -> list[tuple[str, int]]:
    """Return event and flags of each notification about *address*, read by pyroute2."""
    found: list[tuple[str, int]] = []
    while True:
        try:
            messages: list[Any] = list(MarshalRtnl().parse(monitor.recv(65536)))
        except BlockingIOError:
            return found
        found += [
            (message["event"], message["header"]["flags"])
            for message in messages
            if dict(message["attrs"]).get("RTA_DST") == str(address)
        ]


def monitor_of(net: MigrationNet, node: str) -> socket.socket:
    """Hear of the routes of both families, as a BGP speaker on *node* would."""
    sock = net.within(
        node, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    )
    sock.setsockopt(socket.SOL_SOCKET, migration_net.RCVBUFFORCE, 16 << 20)
    sock.bind((0, 0x40 | 0x400))
    sock.settimeout(0)
    return sock


@BOTH
def test_200_flips_of_a_route_lose_no_packet(net: MigrationNet, address: IPAddress) -> None:
    here = direct(net, "a", address)
    there = ways_from(net, here, address.version)
    with channel_of(net, "a") as channel, monitor_of(net, "a") as monitor:
        channel.transact([rtmsg.encode_add(here)])
        with Flood(net, address) as flood:
            at = itertools.cycle((there[0], there[1], here, there[2], here))
            for route in itertools.islice(at, FLIPS):
                assert channel.transact([rtmsg.encode_replace(route)]) == [0]
                time.sleep(0.002)
        added, *flips = heard(monitor, address)
    assert added[0] == "RTM_NEWROUTE"
    # Not one withdrawal, and each change told as one that took the former one's place.
    assert len(flips) == FLIPS
    assert {(event, bool(flags & 0x100)) for event, flags in flips} == {("RTM_NEWROUTE", True)}
    assert flood.sent > FLIPS
    assert flood.arrived() == flood.sent


@BOTH
def test_a_change_of_way_is_planned_as_a_replace_and_seen_as_ours(
    net: MigrationNet, address: IPAddress
) -> None:
    here = direct(net, "a", address)
    with channel_of(net, "a") as channel:
        channel.transact([rtmsg.encode_add(here)])
        for there in ways_from(net, here, address.version):
            planned = plan.diff([there], [here])
            assert planned == plan.Plan(replace=(there,))
            assert channel.transact([rtmsg.encode_replace(there)]) == [0]
            seen = net.within("a", lambda: route_lookup.observe(88, [254]))
            assert seen == (there,)
            assert plan.diff([there], seen) == plan.Plan()
            winner = net.within("a", lambda: route_lookup.winner(channel, address))
            assert isinstance(winner, rtmsg.Entry)
            assert winner.route == there
            assert not winner.direct
            # A removal takes that one and no other.
            assert channel.transact([rtmsg.encode_remove(there)]) == [0]
            assert net.within("a", lambda: route_lookup.observe(88, [254])) == ()
            channel.transact([rtmsg.encode_add(here)])


@BOTH
def test_a_removal_names_the_way(net: MigrationNet, address: IPAddress) -> None:
    here = direct(net, "a", address)
    tunnel, sourced, via = ways_from(net, here, address.version)
    with channel_of(net, "a") as channel:
        for route, other in ((tunnel, via), (sourced, via), (via, tunnel), (here, tunnel)):
            channel.transact([rtmsg.encode_replace(route)])
            assert channel.transact([rtmsg.encode_remove(other)])[0] != 0
            assert channel.transact([rtmsg.encode_remove(route)]) == [0]
