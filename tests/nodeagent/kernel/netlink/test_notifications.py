"""What the kernel tells us of others' changes, and what it spares us."""

import asyncio
import dataclasses
import errno
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, ip_address

import pytest
from tests.nodeagent.node import MAIN, OURS, V4, V6, Node

from handover_nodeagent.kernel import parking
from handover_nodeagent.kernel.foreign_route import Foreign
from handover_nodeagent.kernel.netlink import codec, notifications, rtmsg, subscription
from handover_nodeagent.kernel.netlink.changes import Change, DefaultRouteChanged, RouteChanged
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.links import AddressChanged, LinkChanged, LinkRemoved
from handover_nodeagent.network.model import IPAddress, Nexthop, Route, Via

pytestmark = pytest.mark.root
MakeRoute = Callable[..., Route]
BOTH = pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])
LAST = ip_address("198.51.100.99")


class Recorder:
    """Remembers what is told until a change that says: this was the last one."""

    def __init__(self, own_port: int = 0, receive_buffer: int = 1 << 20) -> None:
        """Listen from now on."""
        self.heard: list[Change] = []
        self.overflows = 0
        self._last = asyncio.Event()
        self._notifications = notifications.Notifications(
            self._hear,
            self._overflow,
            table=MAIN,
            protocol=OURS,
            own_port=own_port,
            receive_buffer=receive_buffer,
        )

    async def all(self, node: Node) -> list[Change]:
        """Return what was told so far."""
        node.run(f"ip address add {LAST}/32 dev lo")
        async with asyncio.timeout(5):
            await self._last.wait()
        return self.heard

    def close(self) -> None:
        """Stop, twice."""
        self._notifications.close()
        self._notifications.close()

    def _hear(self, change: Change) -> None:
        address = change.address if isinstance(change, AddressChanged) else V4
        if address == LAST:
            self._last.set()
        elif not address.is_link_local:  # a link's own, which may come late
            self.heard.append(change)

    def _overflow(self) -> None:
        self.overflows += 1
        self._last.set()


@pytest.fixture
async def recorder(channel: Channel) -> AsyncIterator[Recorder]:
    """Listen to all but our own channel."""
    it = Recorder(channel.port)
    yield it
    it.close()


def told(heard: list[Change]) -> list[tuple[Route, bool, bool]]:
    """Return the changes of routes: which, whether it is there now, and whether it is direct."""
    return [(one.route, one.present, one.direct) for one in heard if isinstance(one, RouteChanged)]


@BOTH
async def test_a_foreign_host_route_is_told_and_can_be_parked_at_once(
    node: Node, channel: Channel, recorder: Recorder, address: IPAddress
) -> None:
    node.run(f"ip route add {address} dev tap0 proto 5 metric 7 mtu 1400")
    heard = await recorder.all(node)
    route = Route(address, node.tap0, 7, MAIN, 5)
    assert [(route, True, True)] == told(heard)
    change = heard[0]
    assert isinstance(change, RouteChanged)
    assert parking.park(channel, Foreign(change.route, change.message)) == 0
    (parked,) = node.lines(f"ip -{address.version} route show table 5254")
    assert {"proto 5", "metric 7", "mtu 1400"} == {
        text for text in ("proto 5", "metric 7", "mtu 1400") if text in parked
    }


@BOTH
async def test_our_own_changes_are_not_told_but_anybody_elses_are(
    node: Node,
    channel: Channel,
    recorder: Recorder,
    route: Callable[..., Route],
    address: IPAddress,
) -> None:
    mine = route(address)
    channel.transact([rtmsg.encode_add(mine), rtmsg.encode_add(route(address, metric=1024))])
    channel.transact([rtmsg.encode_remove(route(address, metric=1024))])
    node.run(f"ip route delete {address} dev tap0 metric 512")
    assert [(mine, False, True)] == told(await recorder.all(node))


@BOTH
async def test_a_gateway_that_takes_our_routes_place_is_told(
    node: Node, channel: Channel, recorder: Recorder, route: MakeRoute, address: IPAddress
) -> None:
    gateway, via = ("192.0.2.1/24", "192.0.2.9") if address == V4 else ("fd01::1/64", "fd01::9")
    node.run(f"ip address add {gateway} dev tap1")
    channel.transact([rtmsg.encode_add(route(address))])
    node.run(f"ip route replace {address} via {via} metric 512 proto 12")
    theirs = Route(address, node.tap1, 512, MAIN, 12, way=Via(ip_address(via)))
    assert [(theirs, True, False)] == told(await recorder.all(node))


@BOTH
async def test_one_of_ours_by_a_gateway_is_told_but_not_those_by_nexthop_objects(
    node: Node, route: MakeRoute, recorder: Recorder, address: IPAddress
) -> None:
    """The private ones by objects are as many as the cluster has guests away from home."""
    gateway, via = ("192.0.2.1/24", "192.0.2.9") if address == V4 else ("fd01::1/64", "fd01::9")
    node.run(f"ip address add {gateway} dev tap1")
    node.run(f"ip nexthop add id 5 via {via} dev tap1")
    away = route(address, oif=node.tap1, way=Via(ip_address(via)))
    private = dataclasses.replace(away, metric=513, protocol=OURS + 1)
    distributed = dataclasses.replace(private, metric=1025, way=Nexthop(5))
    all_of_them = (away, private, distributed)
    with Channel() as other:
        other.transact([rtmsg.encode_add(one) for one in all_of_them])
        other.transact([rtmsg.encode_replace(distributed)])
        other.transact([rtmsg.encode_remove(one) for one in all_of_them])
    found = await recorder.all(node)
    expected = [(one, present, False) for present in (True, False) for one in (away, private)]
    assert expected == [one for one in told(found) if one[0].address == address]


async def test_another_protocol_is_told_from_when_it_is_ours(node: Node) -> None:
    recorder = Recorder()
    recorder._notifications.configure(MAIN, 99)
    recorder._notifications.configure(MAIN, 99)
    node.run("ip address add 192.0.2.1/24 dev tap1")
    for protocol in (OURS, 99):
        node.run(f"ip route add {V4} via 192.0.2.9 metric {protocol} proto {protocol}")
    found = await recorder.all(node)
    assert [one[0].protocol for one in told(found) if one[0].address == V4] == [99]
    recorder.close()


async def test_what_concerns_nobody_is_kept_back_by_the_kernel(
    node: Node, recorder: Recorder
) -> None:
    node.run("ip address add 192.0.2.1/24 dev tap1")
    node.run("ip address add fd01::1/64 dev tap1 nodad")
    node.run(f"ip route add {V4} via 192.0.2.9")
    node.run(f"ip route add {V6} via fd01::9")
    node.run("ip route add 198.51.100.0/24 dev tap0")
    node.run(f"ip route add {V4 + 1} nexthop via 192.0.2.8 nexthop via 192.0.2.9")
    node.run(f"ip route add {V4 + 2} via inet6 fe80::9 dev tap1")
    node.run(f"ip route add blackhole {V4 + 3}")
    node.run(f"ip route add {V4} dev tap0 table 100")
    node.run("ip link add bridge0 type bridge")
    node.run("ip link set far1 master bridge0")
    node.run("ip link set far1 nomaster")
    heard = await recorder.all(node)
    assert told(heard) == []
    assert [one for one in heard if isinstance(one, LinkRemoved)] == []


async def test_default_routes_and_addresses_are_told(node: Node, recorder: Recorder) -> None:
    index = node.tap1
    node.run("ip address add 192.0.2.1/24 dev tap1")
    node.run("ip route add default via 192.0.2.9")
    node.run("ip route delete default")
    node.run("ip address delete 192.0.2.1/24 dev tap1")
    address = ip_address("192.0.2.1")
    expected = [
        AddressChanged(index, address, present=True),
        DefaultRouteChanged(),
        DefaultRouteChanged(),
        AddressChanged(index, address, present=False),
    ]
    assert expected == await recorder.all(node)


async def test_a_links_life_is_told(node: Node, recorder: Recorder) -> None:
    index, mac = node.tap0, "ee:ee:ee:ee:ee:ee"
    node.run("ip link set tap0 down")
    node.run("ip link set tap0 name tap7")
    node.run("ip link set tap7 up")
    node.run("ip link delete tap7")
    node.make_tap0()
    heard = await recorder.all(node)
    changes = [one for one in heard if isinstance(one, LinkChanged | LinkRemoved)]
    of_old = [one for one in changes if one.index == index]
    states = [one for one in of_old if isinstance(one, LinkChanged)]
    assert LinkRemoved(index, "tap7") == of_old[-1]
    down, renamed = (
        LinkChanged(index, "tap0", mac, up=False, carrier=False),
        LinkChanged(index, "tap7", mac, up=False, carrier=False),
    )
    back = LinkChanged(index, "tap7", mac, up=True)
    assert states.index(down) < states.index(renamed) < states.index(back)
    anew = [one for one in changes if one.index == node.tap0]
    assert LinkChanged(node.tap0, "tap0", mac, up=True) == anew[-1]


async def test_link_down_tells_of_ipv6_routes_only(
    node: Node, channel: Channel, recorder: Recorder, route: MakeRoute
) -> None:
    """Why each link-up is observed afresh: of its lost IPv4 routes nobody is told."""
    channel.transact([rtmsg.encode_add(route(one)) for one in (V4, V6)])
    node.run("ip link set tap0 down")
    assert [(route(V6), False, True)] == told(await recorder.all(node))


async def test_an_overflow_is_told_and_listening_goes_on(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    narrow = Recorder(receive_buffer=1)
    many = [IPv4Address(0x0A000000 + number) for number in range(500)]
    channel.transact([rtmsg.encode_add(route(one)) for one in many])
    async with asyncio.timeout(5):
        await narrow._last.wait()
    assert narrow.overflows >= 1
    narrow._notifications._subscription._read()  # the rest of what came before
    narrow._last.clear()
    node.run(f"ip route add {V4} dev tap1 metric 7")
    later = route(V4, oif=node.tap1, metric=7, protocol=3)
    assert (later, True, True) in told(await narrow.all(node))
    narrow.close()


async def test_a_wake_up_is_bounded(node: Node, channel: Channel, route: MakeRoute) -> None:
    recorder = Recorder()
    many = [IPv4Address(0x0A000000 + number) for number in range(notifications.BUDGET + 1)]
    channel.transact([rtmsg.encode_add(route(one)) for one in many])
    recorder._notifications._subscription._read()
    assert len(recorder.heard) == notifications.BUDGET
    assert len(await recorder.all(node)) == notifications.BUDGET + 1
    recorder.close()


async def test_ten_thousand_flapping_gateway_routes_wake_nobody(
    node: Node, recorder: Recorder
) -> None:
    node.run("ip address add 192.0.2.1/24 dev tap1")
    batch = "".join(
        f"route {change} {IPv4Address(0x0A000000 + number)} via 192.0.2.9 proto 12\n"
        for change in ("add", "delete")
        for number in range(10_000)
    )
    process = await asyncio.create_subprocess_exec(
        "ip", "-batch", "-", stdin=asyncio.subprocess.PIPE
    )
    await process.communicate(batch.encode())
    assert process.returncode == 0
    heard = await recorder.all(node)
    assert [AddressChanged(node.tap1, ip_address("192.0.2.1"), present=True)] == heard
    assert recorder.overflows == 0


class Kernel:
    """Sends datagrams as the kernel would; the other end is a subscription's socket."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, take: Callable[[bytes], None]) -> None:
        self.overflows = 0
        sender, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        reader.settimeout(0)
        monkeypatch.setattr(subscription, "_open", lambda _: reader)
        self.socket = sender
        self.subscription = subscription.Subscription(SUBJECT, take, self._overflow)

    def close(self) -> None:
        self.socket.close()
        self.subscription.close()

    def _overflow(self) -> None:
        self.overflows += 1


SUBJECT = subscription.Subject(socket.NETLINK_ROUTE, 0, 64, 1 << 16)
SAID = [codec.compose(codec.NEWLINK, 0, bytes([n]) * 4) for n in range(3)]


async def test_what_one_message_meets_holds_up_no_other_of_its_datagram(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[bytes] = []

    def take(message: bytes) -> None:
        taken.append(message)
        if message == SAID[0]:
            raise KeyError(message)

    kernel = Kernel(monkeypatch, take)
    for _ in range(2):
        kernel.socket.send(b"".join(SAID))
    kernel.subscription._read()
    assert taken == SAID * 2
    # A resync makes up for it each time; what it was is told once.
    assert kernel.overflows == 2
    assert caplog.text.count("Traceback") == 1
    kernel.close()


@pytest.mark.parametrize("rest", [b"\x09", b"\xff" + bytes(20), b"\4" + bytes(20)])
async def test_a_datagram_that_breaks_off_is_made_up_for(
    monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    taken: list[bytes] = []
    kernel = Kernel(monkeypatch, taken.append)
    kernel.socket.send(SAID[0] + rest)
    kernel.socket.send(SAID[1])
    kernel.subscription._read()
    assert (taken, kernel.overflows) == (SAID[:2], 1)
    kernel.close()


async def test_a_socket_that_cannot_be_read_is_made_up_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken:
        def recv(self, _: int) -> bytes:
            raise OSError(errno.ENOMEM, "")

    kernel = Kernel(monkeypatch, lambda _: None)
    whole = kernel.subscription._socket
    kernel.subscription._socket = Broken()  # type: ignore[assignment]
    kernel.subscription._read()
    assert kernel.overflows == 1
    kernel.subscription._socket = whole
    kernel.close()
