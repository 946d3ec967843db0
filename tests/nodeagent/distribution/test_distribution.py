"""A bystander's routes follow the guest: by a HAVE, by the API, through restarts and outages."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from ipaddress import ip_address

import pytest
from tests.nodeagent import namespaces
from tests.nodeagent.distribution import three_nodes
from tests.nodeagent.distribution.cluster import GUEST4, GUEST6, A, B, C, endpoint
from tests.nodeagent.distribution.three_nodes import OWN, PORT, ThreeNodes

from handover_api.configuration import Settings
from handover_api.workloadendpoint import State
from handover_nodeagent.distribution import distribution
from handover_nodeagent.distribution.advertised import Endpoint
from handover_nodeagent.distribution.distribution import Collection, Distribution
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.distribution.place import Place
from handover_nodeagent.kernel import tunnel
from handover_nodeagent.kernel.netlink.answers import Results
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress

pytestmark = pytest.mark.root

SOURCE = endpoint("a", "a", uid="m", is_source=True)
TARGET = endpoint("b", "b", State.TARGET, "m")
LIVE = endpoint("b", "b", State.LIVE, "m", cutover=(10, "m"))
SETTLED = endpoint("b", "b", uid="m", cutover=(10, "m"))
GRACE = 0.3
BOTH = (GUEST4, GUEST6)
FAR = ip_address("198.51.100.2")
SHOW_NEXTHOPS = "ip nexthop show"
VXLAN = "type vxlan id 1 dstport 8472 nolearning"
SETTINGS = Settings(live_migration_route_convergence_time=dt.timedelta(seconds=GRACE))


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreeNodes]:
    """Make three nodes and be the bystander; it looks at things at once."""
    namespaces.needs_root()
    monkeypatch.setattr(distribution, "REST", 0.01)
    with three_nodes.made() as it:
        yield it


@contextlib.asynccontextmanager
async def running(
    *, synced: bool = True, settings: Settings = SETTINGS
) -> AsyncIterator[Distribution]:
    """Run an agent's distribution on the bystander."""
    with Channel() as channel:
        it = Distribution(Place("c", settings), channel)
        task = asyncio.create_task(it.run())
        for one in (A, B, C):
            it.put_node(one)
        if synced:
            it.synced(Collection.NODES)
            it.synced(Collection.ENDPOINTS)
        try:
            yield it
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """Return once *condition* holds; fail after 5 s."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.01)


def via(nodes: ThreeNodes, number: int, metric: int) -> Callable[[], bool]:
    expected = {
        GUEST4: [(metric, f"192.0.2.{number}")],
        GUEST6: [(metric, f"2001:db8::{number}")],
    }
    return lambda: {one: nodes.routes(one) for one in BOTH} == expected


def nowhere(nodes: ThreeNodes) -> Callable[[], bool]:
    return lambda: not any(map(nodes.routes, BOTH))


async def test_a_have_moves_the_traffic_before_the_api_knows(nodes: ThreeNodes) -> None:
    async with running() as it:
        it.put(SOURCE)
        it.put(TARGET)
        await until(via(nodes, 1, 1025))
        assert [nodes.receiver(one) for one in BOTH] == ["a", "a"]
        await until(lambda: TARGET.key in it._prepared)
        it.bystander_has(TARGET.key, "m")
        # No turn of the loop was needed for that.
        assert nodes.routes(GUEST4)[0] == (513, "192.0.2.2")
        assert nodes.routes(GUEST6)[0] == (513, "2001:db8::2")
        assert [nodes.receiver(one) for one in BOTH] == ["b", "b"]
        await until(via(nodes, 2, 513))
        it.put(LIVE)
        it.put(SETTLED)
        await until(via(nodes, 2, 1025))
        assert [nodes.receiver(one) for one in BOTH] == ["b", "b"]


async def test_nothing_is_lost_on_the_way(nodes: ThreeNodes) -> None:
    async with running() as it:
        it.put(SOURCE)
        it.put(TARGET)
        await until(via(nodes, 1, 1025))
        with contextlib.ExitStack() as stack:
            ends = [stack.enter_context(nodes.socket(name, GUEST4, PORT)) for name in "ab"]
            sender = stack.enter_context(nodes.socket("c", OWN[4]))
            for number in range(1000):
                sender.sendto(b"x", (str(GUEST4), PORT))
                if number % 200 == 100:
                    it.bystander_has(TARGET.key, "m")
                if number % 200 == 199:
                    it.put(dataclasses.replace(SOURCE, cutover=LIVE.cutover, cutover_uid="m"))
                    it.put(TARGET)
                await asyncio.sleep(0.001)
            received = [drain(end) for end in ends]
        assert sum(received) == 1000
        assert all(received)


def drain(sock: socket.socket) -> int:
    """Return how many packets wait in a socket."""
    for number in itertools.count():
        try:
            sock.recv(16)
        except BlockingIOError:
            return number
    return 0


async def test_a_restart_keeps_what_is_there_until_both_lists_are_complete(
    nodes: ThreeNodes,
) -> None:
    async with running() as it:
        it.put(LIVE)
        await until(via(nodes, 2, 513))
    async with running(synced=False) as it:
        it.put(SOURCE)
        await asyncio.sleep(0.1)
        assert via(nodes, 2, 513)()
        it.synced(Collection.NODES)
        await asyncio.sleep(0.1)
        assert via(nodes, 2, 513)()
        it.put(LIVE)
        it.synced(Collection.ENDPOINTS)
        await asyncio.sleep(0.1)
        assert via(nodes, 2, 513)()
    shown = nodes.run("c", "ip nexthop show")
    # The object that leads there already was taken over, and no second one was made.
    assert shown.count("via 192.0.2.2") == 1


async def test_other_priorities_leave_nothing_at_the_former_ones(nodes: ThreeNodes) -> None:
    """What stayed would win over the guest's own route, once it comes to this node."""
    async with running() as it:
        it.put(SETTLED)
        await until(via(nodes, 2, 1025))
    lower = {"ipv4_normal_route_priority": 1200, "ipv6_normal_route_priority": 1200}
    led: list[bool] = []
    async with running(synced=False, settings=SETTINGS.model_copy(update=lower)) as it:
        send = it.routes._send

        def watching(requests: Sequence[bytes]) -> Results:
            results = send(requests)
            led.append(all(map(nodes.routes, BOTH)))
            return results

        it.routes._send = watching  # type: ignore[method-assign]
        it.put(SETTLED)
        it.synced(Collection.NODES)
        it.synced(Collection.ENDPOINTS)
        await until(via(nodes, 2, 1201))
    # At no moment without.
    assert all(led)


async def test_what_a_home_forwards_goes_on_untracked_across_a_restart(nodes: ThreeNodes) -> None:
    """Also while the API is out; of others it is not forwarded once their home is known."""
    async with running() as it:
        it.put(LIVE)
        await until(via(nodes, 2, 513))
    said: list[tuple[frozenset[IPAddress], frozenset[str]]] = []
    with Channel() as channel:
        place = Place("c", SETTINGS, forward=lambda *what: said.append(what))
        it = Distribution(place, channel)
        async with kept(it):
            await until(lambda: bool(said))
            assert said[0][0] == set(BOTH)
            fill(it, LIVE)
            await until(lambda: said[-1] == (frozenset(), frozenset({"eth"})))
            # As if the cluster's own routes led here for it.
            it.put_node(dataclasses.replace(A, pod_cidrs=B.pod_cidrs))
            it.refresh()
            await until(lambda: said[-1] == (frozenset(BOTH), frozenset({"eth"})))
        await it.remove()
    assert said[-1] == (frozenset(), frozenset())


async def test_what_nobody_wants_any_more_goes_when_both_lists_are_complete(
    nodes: ThreeNodes,
) -> None:
    async with running() as it:
        it.put(LIVE)
        await until(via(nodes, 2, 513))
    async with running(synced=False) as it:
        it.synced(Collection.ENDPOINTS)
        await asyncio.sleep(0.1)
        assert via(nodes, 2, 513)()
        it.synced(Collection.NODES)
        await until(nowhere(nodes))
        await until(lambda: not nodes.run("c", "ip nexthop show"))


async def test_an_outage_drops_nothing(nodes: ThreeNodes) -> None:
    async with running() as it:
        it.put(LIVE)
        await until(via(nodes, 2, 513))
        it.drop(LIVE.key)
        it.outage(Collection.ENDPOINTS)
        await asyncio.sleep(2 * GRACE)
        assert via(nodes, 2, 513)()
        it.synced(Collection.ENDPOINTS)
        await until(nowhere(nodes))


async def test_a_node_that_is_gone_takes_its_routes_along(nodes: ThreeNodes) -> None:
    async with running() as it:
        it.put(LIVE)
        await until(via(nodes, 2, 513))
        it.drop_node("b")
        await asyncio.sleep(GRACE / 2)
        assert via(nodes, 2, 513)()
        await until(nowhere(nodes))
        # Its endpoint is in the API still, and nobody has to be told that it is not reached.
        await until(lambda: not it.hops.slots)
        assert not it.hops.unreachable
        it.put_node(B)
        await until(via(nodes, 2, 513))


async def test_a_node_that_joins_gets_its_routes(nodes: ThreeNodes) -> None:
    async with running() as it:
        it.put(endpoint("d", "d"))
        await asyncio.sleep(0.05)
        assert nowhere(nodes)()
        it.put_node(Node("d", (A.addresses[0] + 8, A.addresses[1] + 8)))
        await until(via(nodes, 9, 1025))


async def test_a_node_whose_addresses_come_later_gets_its_routes(nodes: ThreeNodes) -> None:
    """As of a kubelet that waits for the cloud to tell them."""
    async with running() as it:
        it.put(endpoint("d", "d"))
        it.put_node(Node("d", ()))
        await until(lambda: ("d", 4) in it.hops.unreachable)
        it.put_node(Node("d", (A.addresses[0] + 8, A.addresses[1] + 8)))
        await until(via(nodes, 9, 1025))


async def test_a_node_with_another_address_moves_all_of_its_routes_at_once(
    nodes: ThreeNodes,
) -> None:
    async with running() as it:
        it.put(LIVE)
        await until(via(nodes, 2, 513))
        before = it.routes.writes
        it.put_node(Node("b", (B.addresses[0] + 5, B.addresses[1] + 5), B.pod_cidrs))
        assert via(nodes, 7, 513)()
        # One message for each family, however many routes there are.
        assert it.routes.writes == before + 2
        await asyncio.sleep(0.1)
        assert via(nodes, 7, 513)()


@pytest.mark.parametrize(
    "command",
    [
        "ip route del 10.244.1.9 metric 513",
        "ip -6 route del fd00:10:244:1::9 metric 513",
        "ip nexthop flush",
        "ip route replace 10.244.1.9 via 192.0.2.77 metric 513 proto 89",
    ],
)
async def test_what_somebody_took_away_comes_back(nodes: ThreeNodes, command: str) -> None:
    async with running() as it:
        it.put(LIVE)
        await until(via(nodes, 2, 513))
        await asyncio.sleep(0.05)
        nodes.run("c", command)
        await until(via(nodes, 2, 513))
        assert [nodes.receiver(one) for one in BOTH] == ["b", "b"]


async def test_a_link_that_was_down_has_its_routes_again(nodes: ThreeNodes) -> None:
    async with running() as it:
        it.put(LIVE)
        await until(via(nodes, 2, 513))
        nodes.run("c", "ip link set eth down")
        await until(nowhere(nodes))
        nodes.run("c", "ip link set eth up", "ip address replace 2001:db8::3/64 dev eth nodad")
        await until(via(nodes, 2, 513))


async def test_a_foreign_route_with_our_key_stays(nodes: ThreeNodes) -> None:
    nodes.run("c", f"ip route add {GUEST4} via 192.0.2.1 metric 513 proto static")
    async with running() as it:
        it.put(LIVE)
        await until(lambda: GUEST4 in it.refused)
        assert f"{GUEST4} via 192.0.2.1" in nodes.run("c", "ip route show metric 513")
        nodes.run("c", f"ip route del {GUEST4} metric 513")
        await until(via(nodes, 2, 513))
        assert not it.refused


async def test_all_of_ours_goes_at_an_uninstall(nodes: ThreeNodes) -> None:
    async with running() as it:
        it.put(LIVE)
        await until(via(nodes, 2, 513))
    with Channel() as channel:
        await Distribution(Place("c", SETTINGS), channel).remove()
    assert nowhere(nodes)()
    assert not nodes.run("c", "ip nexthop show")


async def test_a_node_across_an_overlay_is_reached_by_the_cnis_next_hop(nodes: ThreeNodes) -> None:
    nodes.run("c", f"ip link add flannel.1 {VXLAN} local 192.0.2.3 dev eth")
    nodes.run("c", "ip address add 10.244.3.0/32 dev flannel.1", "ip link set flannel.1 up")
    nodes.run("c", "ip route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink")
    nodes.run("c", "ip route add 198.51.100.0/24 via 192.0.2.254")
    far = Node("b", (FAR,), B.pod_cidrs)
    async with running() as it:
        it.put_node(far)
        it.put(dataclasses.replace(LIVE, addresses=(GUEST4,)))
        await until(lambda: nodes.routes(GUEST4) == [(513, "10.244.2.0")])
        assert "dev flannel.1" in nodes.run("c", f"ip route get {GUEST4}")


async def test_a_node_that_is_reached_by_nothing_keeps_its_route_and_is_told(
    nodes: ThreeNodes,
) -> None:
    # The tunnel's name is somebody else's.
    nodes.run("c", f"ip link add handover1 {VXLAN}")
    async with running() as it:
        it.put(LIVE)
        await until(via(nodes, 2, 513))
        it.put_node(Node("b", (FAR, B.addresses[1]), ()))
        await asyncio.sleep(0.1)
        assert via(nodes, 2, 513)()
        assert it.hops.unreachable == {("b", 4)}
        # It is tried again, and not by the next survey alone.
        nodes.run("c", "ip link del handover1", f"ip route add {FAR} via 192.0.2.2")
        it._wanted.set()
        await until(lambda: not it.hops.unreachable)
        assert "dev handover1" in nodes.run("c", f"ip route get {GUEST4}")


async def test_who_is_reached_by_the_tunnel_for_a_guests_sake_alone_may_send(
    nodes: ThreeNodes,
) -> None:
    """Nodes of one family on one segment, and a guest of the other one: only a tunnel has it."""
    let: list[frozenset[IPAddress]] = []
    with Channel() as channel:
        it = Distribution(Place("c", SETTINGS, let=let.append), channel)
        it.put_node(Node("b", B.addresses[:1]))
        for collection in Collection:
            it.synced(collection)
        async with kept(it):
            await until(lambda: bool(let))
            assert let == [frozenset()]
            it.put(dataclasses.replace(LIVE, addresses=(GUEST6,)))
            await until(lambda: let[-1] == {B.addresses[0]})
            assert "dev handover1" in nodes.run("c", f"ip -6 route show {GUEST6}")


async def test_the_second_tunnel_waits_for_its_rules(nodes: ThreeNodes) -> None:
    let: list[frozenset[IPAddress]] = []
    enclosed: list[str] = []
    nodes.run("b", f"ip address add {FAR}/32 dev lo")
    nodes.run("c", f"ip route add {FAR} via 192.0.2.2")
    place = Place("c", SETTINGS, let=let.append, is_enclosed=enclosed.__contains__)
    with Channel() as channel:
        it = Distribution(place, channel)
        it.put_node(Node("b", (FAR,)))
        it.put(LIVE)
        for collection in Collection:
            it.synced(collection)
        async with kept(it):
            await until(lambda: bool(let) and let[-1] == {FAR})
            await until(lambda: it.hops.unreachable == {("b", 4), ("b", 6)})
            assert "handover1" not in nodes.run("c", "ip link show")
            enclosed.append(tunnel.DISTRIBUTION)
            it.look_soon()
            await until(lambda: len(it.routes.known.addresses()) == 2)
            assert "dev handover1" in nodes.run("c", f"ip route get {GUEST4}")


async def test_a_node_behind_a_router_is_reached_by_the_second_tunnel(nodes: ThreeNodes) -> None:
    let: list[frozenset[IPAddress]] = []
    nodes.run("b", f"ip address add {FAR}/32 dev lo")
    nodes.run("c", f"ip route add {FAR} via 192.0.2.2")
    with namespaces.restored():
        namespaces.enter(nodes.fds["b"])
        with Channel() as channel:
            assert isinstance(tunnel.ensure(channel, tunnel.DISTRIBUTION, 7474), int)
    with Channel() as channel:
        it = Distribution(Place("c", SETTINGS, let=let.append), channel)
        it.put_node(Node("b", (FAR,)))
        it.put(LIVE)
        for collection in Collection:
            it.synced(collection)
        async with kept(it):
            await until(lambda: len(it.routes.known.addresses()) == 2)
            assert "dev handover1" in nodes.run("c", f"ip route get {GUEST4}")
            # Both families go by the one that the nodes have.
            assert [nodes.receiver(one) for one in BOTH] == ["b", "b"]
            await until(lambda: bool(let))
            assert let[-1] == {FAR}
            # That node takes packets from what we publish, and from nothing else.
            it.put_node(C)
            await until(lambda: f"src {C.addresses[0]} dst {FAR}" in nodes.run("c", SHOW_NEXTHOPS))
            moved = C.addresses[0] + 40
            nodes.run("c", f"ip address add {moved}/24 dev eth")
            it.put_node(Node("c", (moved, C.addresses[1]), C.pod_cidrs))
            await until(lambda: f"src {moved} dst {FAR}" in nodes.run("c", SHOW_NEXTHOPS))
            assert [nodes.receiver(one) for one in BOTH] == ["b", "b"]
    # An agent that starts anew finds what is there, and changes nothing.
    before = nodes.run("c", SHOW_NEXTHOPS)
    with Channel() as channel:
        it = Distribution(Place("c", SETTINGS), channel)
        it.put_node(Node("b", (FAR,)))
        it.put_node(Node("c", (moved, C.addresses[1]), C.pod_cidrs))
        it.put(LIVE)
        for collection in Collection:
            it.synced(collection)
        async with kept(it):
            await asyncio.sleep(0.2)
            assert nodes.run("c", SHOW_NEXTHOPS) == before
        await it.remove()
    assert "handover1" not in nodes.run("c", "ip link show")
    assert not nodes.run("c", SHOW_NEXTHOPS)


async def test_a_paused_namespace_is_left_alone(nodes: ThreeNodes) -> None:
    with Channel() as channel:
        it = Distribution(Place("c", SETTINGS, is_paused=lambda _: True), channel)
        task = asyncio.create_task(it.run())
        it.put_node(B)
        it.put(LIVE)
        it.synced(Collection.NODES)
        it.synced(Collection.ENDPOINTS)
        await asyncio.sleep(0.1)
        assert nowhere(nodes)()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_strict_filter_on_an_overlay_is_told_of(nodes: ThreeNodes) -> None:
    nodes.run("c", f"ip link add flannel.1 {VXLAN}", "ip link set flannel.1 up")
    nodes.run("c", "ip address add 10.244.3.0/32 dev flannel.1")
    nodes.run("c", "ip route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink")
    nodes.run("c", "ip route add default via 192.0.2.254")
    nodes.run("c", "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth.rp_filter=1")
    async with running() as it:
        it.put_node(Node("b", (FAR,), B.pod_cidrs))
        it.put(dataclasses.replace(LIVE, addresses=(GUEST4,)))
        await until(lambda: it.strict_devices == {"flannel.1"})
        # The greater of the two counts.
        nodes.run("c", "sysctl -qw net.ipv4.conf.flannel/1.rp_filter=2")
        it._wanted.set()
        await until(lambda: it.strict_devices == frozenset())


async def test_what_was_heard_before_a_restart_counts(nodes: ThreeNodes) -> None:
    heard: list[tuple[object, ...]] = []
    with Channel() as channel:
        place = Place("c", SETTINGS, remember=lambda found: heard.append(tuple(found)))
        it = Distribution(place, channel)
        fill(it, SOURCE, TARGET)
        async with kept(it):
            await until(lambda: TARGET.key in it._prepared)
            assert it.bystander_has(TARGET.key, "m")
            await until(lambda: bool(heard))
    assert heard == [((TARGET.key, "m"),)]
    with Channel() as channel:
        place = Place("c", SETTINGS, recall=lambda: [(TARGET.key, "m")])
        it = Distribution(place, channel)
        fill(it, SOURCE, TARGET)
        async with kept(it):
            await asyncio.sleep(0.1)
            assert via(nodes, 2, 513)()
            it.put(LIVE)
            await asyncio.sleep(0.05)
            assert via(nodes, 2, 513)()


@pytest.mark.parametrize("how", ["its HAVE", "its end", "ours"])
async def test_it_is_told_that_a_guest_may_be_on_its_way_to_another_node(
    nodes: ThreeNodes,  # noqa: ARG001  its namespace
    how: str,
) -> None:
    """Until its HAVE is heard the loop runs before others, as on the two nodes themselves."""
    told: list[bool] = []

    def expect(*, is_expected: bool) -> None:
        if told[-1:] != [is_expected]:
            told.append(is_expected)

    with Channel() as channel:
        it = Distribution(Place("c", SETTINGS, expect=expect), channel)
        fill(it, endpoint("a", "a"))
        async with kept(it):
            await until(lambda: told == [False])
            it.put(TARGET)
            await until(lambda: told == [False, True])
            match how:
                case "its HAVE":
                    it.bystander_has(TARGET.key, "m")
                    await until(lambda: told == [False, True, False])
                case "its end":
                    it.drop(TARGET.key)
                    assert told == [False, True, False]
    assert told == [False, True, False]


async def test_a_repeated_have_is_answered_once_the_routes_follow(nodes: ThreeNodes) -> None:
    async with running() as it:
        it.put(SOURCE)
        await until(via(nodes, 1, 1025))
        # What the API has not told so far is nobody's word.
        assert not it.bystander_has(TARGET.key, "m")
        it.put(TARGET)
        # Nothing was prepared in this turn of the loop.
        it.bystander_has(TARGET.key, "m")
        await until(via(nodes, 2, 513))
        assert it.bystander_has(TARGET.key, "m")
        it.put(LIVE)
        assert it.bystander_has(TARGET.key, "m")


def fill(it: Distribution, *endpoints: Endpoint) -> None:
    """Tell of the nodes and of some endpoints, all that there are."""
    for one in (A, B, C):
        it.put_node(one)
    for known in endpoints:
        it.put(known)
    for collection in Collection:
        it.synced(collection)


@contextlib.asynccontextmanager
async def kept(it: Distribution) -> AsyncIterator[None]:
    """Let it run."""
    task = asyncio.create_task(it.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
