"""HELLOs through the tunnel: they prove the way that a guest's packets will go."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from tests.nodeagent import namespaces
from tests.nodeagent.peers import peer_net
from tests.nodeagent.peers.peer_net import PORT, Agent, PeerNet, addresses
from tests.nodeagent.peers.speakers import SOURCE, TARGET, UID

from handover_api.workloadendpoint import Role
from handover_nodeagent.kernel import tunnel
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers.inner_routes import InnerRoutes
from handover_nodeagent.peers.messages import Way
from handover_nodeagent.peers.mutes import Group

pytestmark = pytest.mark.root
REDIRECT_PORT = 7472
OURS = 89


@pytest.fixture(scope="module")
def segment() -> Iterator[PeerNet]:
    namespaces.needs_root()
    with peer_net.made() as made:
        yield made


@dataclass
class Pair:
    """Source and target, each with a tunnel that its agent does not use so far."""

    net: PeerNet
    source: Agent
    target: Agent
    routes: dict[str, InnerRoutes]

    def use_tunnels(self, here: str = "ab") -> None:
        for agent in (self.source, self.target):
            if agent.node not in here:
                continue
            routes = self.routes[agent.node]
            self.net.within(agent.node, lambda: agent.path.use_tunnel(routes))  # noqa: B023
            assert agent.path.has_tunnel

    def know(self) -> None:
        self.source.knows(self.target.peer())
        self.target.knows(self.source.peer())


@pytest.fixture
async def pair(segment: PeerNet) -> AsyncIterator[Pair]:
    source = Agent(segment, "a", SOURCE, Role.SOURCE).listen()
    target = Agent(segment, "b", TARGET, Role.TARGET).listen()
    channels = {node: segment.within(node, Channel) for node in "ab"}
    routes = {}
    for node, channel in channels.items():
        index = tunnel.ensure(channel, tunnel.REDIRECT, REDIRECT_PORT, addresses(node))
        assert isinstance(index, int)
        routes[node] = InnerRoutes(channel, index, OURS)
        # The kernel makes an address one in a work queue of its own.
        await until(lambda node=node: inner_is_there(segment, node))  # type: ignore[misc]
    yield Pair(segment, source, target, routes)
    for agent in (source, target):
        agent.path.close()
    for node, channel in channels.items():
        tunnel.remove(channel, tunnel.REDIRECT)
        channel.close()
        segment.run(node, "nft flush ruleset")


def inner_is_there(net: PeerNet, node: str) -> bool:
    shown = net.run(node, "ip -6 address show dev handover0")
    inner = [str(tunnel.inner_address(one)) for one in addresses(node)]
    return all(one in shown for one in inner) and "tentative" not in shown


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        await asyncio.sleep(0.001)


def proved(agent: Agent, way: Way) -> set[IPAddress]:
    return {proof.address for proof in agent.proofs if proof.way is way}


async def test_the_way_through_the_tunnel_is_proved_for_each_address(pair: Pair) -> None:
    pair.use_tunnels()
    pair.know()
    await until(lambda: all(proved(pair.source, way) == {*addresses("b")} for way in Way))
    await until(lambda: all(proved(pair.target, way) == {*addresses("a")} for way in Way))


async def test_a_peer_that_moves_is_heard_from_where_it_is_by_the_api(pair: Pair) -> None:
    """And from nowhere else: what its former address says is another node's by now."""
    changes: list[int] = []
    pair.target.path._changed = lambda: changes.append(1)
    pair.know()
    await until(lambda: proved(pair.source, Way.PLAIN) == {*addresses("b")})
    former, moved = addresses("b")[0], addresses("b")[0] + 40
    pair.net.run("b", f"ip address add {moved}/24 dev eth")
    pair.target.listen([moved])
    assert pair.target.shown == [moved]
    assert changes == [1]
    pair.source.proofs.clear()
    peer = pair.target.peer()
    pair.source.knows(peer.model_copy(update={"addresses": (moved,)}))
    pair.target.knows(pair.source.peer(without=6))
    await until(lambda: proved(pair.source, Way.PLAIN) == {moved})
    pair.target.path.have(TARGET, UID)
    await until(lambda: pair.source.words == ["has"])
    pair.target.listen([former])
    pair.target.path.released(TARGET, UID)
    await asyncio.sleep(0.1)
    assert pair.source.words == ["has"]
    pair.net.run("b", f"ip address delete {moved}/24 dev eth")


async def test_a_tunnel_that_comes_later_is_proved_then(pair: Pair) -> None:
    pair.know()
    await until(lambda: len(pair.target.proofs) == 2)
    assert proved(pair.target, Way.TUNNEL) == set()
    pair.use_tunnels()
    await until(lambda: proved(pair.target, Way.TUNNEL) == {*addresses("a")}, 2.0)


async def test_where_the_tunnels_port_is_blocked_the_plain_path_alone_is_proved(
    pair: Pair,
) -> None:
    pair.net.run("a", "nft add table inet t")
    pair.net.run("a", "nft add chain inet t i { type filter hook input priority 0 ; }")
    pair.net.run("a", f"nft add rule inet t i udp dport {REDIRECT_PORT} drop")
    pair.use_tunnels()
    pair.know()
    await until(lambda: proved(pair.source, Way.TUNNEL) and proved(pair.target, Way.PLAIN))
    await asyncio.sleep(0.6)
    assert proved(pair.target, Way.TUNNEL) == set()


async def test_a_peer_without_ipv6_in_its_tunnel_is_not_proved_and_gets_ipv4_all_the_same(
    pair: Pair,
) -> None:
    """Nobody sees from here why: so nothing that is sent on hangs on it."""
    pair.net.run("b", "sysctl -qw net.ipv6.conf.handover0.disable_ipv6=1")
    pair.use_tunnels(here="a")
    pair.know()
    await until(lambda: proved(pair.source, Way.PLAIN) == {*addresses("b")})
    guest = ip_address("10.65.0.2")
    pair.net.run("b", f"ip address add {guest}/32 dev lo")
    remote = addresses("b")[0]
    pair.net.run("a", f"ip route add {guest} encap ip id 88 dst {remote} dev handover0")
    with pair.net.socket("b", guest, 7) as at, pair.net.socket("a", addresses("a")[0], 7) as sender:
        at.settimeout(5)
        sender.sendto(b"late", (str(guest), 7))
        assert at.recv(64) == b"late"
    assert proved(pair.source, Way.TUNNEL) == set()
    pair.net.run("b", f"ip address delete {guest}/32 dev lo")


async def test_the_routes_inside_lead_to_the_peers_of_now(pair: Pair) -> None:
    pair.use_tunnels()
    pair.know()

    def led() -> set[str]:
        shown = pair.net.run("a", "ip -6 route show table main dev handover0 proto 89")
        return {line.split()[0] for line in shown.splitlines() if " encap " in f" {line} "}

    assert led() == {str(tunnel.inner_address(one)) for one in addresses("b")}
    pair.source.path.forget(SOURCE)
    assert led() == set()


async def test_a_flood_through_the_tunnel_is_muted(pair: Pair) -> None:
    pair.use_tunnels()
    pair.know()
    await until(lambda: proved(pair.source, Way.TUNNEL))
    inner = tunnel.inner_address(addresses("a")[0])
    index = pair.routes["b"].device
    flooding = pair.target.path._reader._sockets
    through = next(one for place, one in flooding.items() if place.device == index)
    for _ in range(1000):
        through.send(b"", str(inner), PORT)
    await until(lambda: Group.TUNNEL in pair.source.path._reader._mutes.muted)
    pair.target.path.have(TARGET, UID)
    await until(lambda: pair.source.words == ["has"])
    await until(lambda: not pair.source.path._reader._mutes.muted)


async def test_nothing_but_a_hello_is_heard_through_the_tunnel(pair: Pair) -> None:
    pair.use_tunnels()
    pair.know()
    await until(lambda: proved(pair.target, Way.TUNNEL))
    pair.target.path.have(TARGET, UID)
    await asyncio.sleep(0)
    (delivery,) = pair.target.path._statements._deliveries.values()
    await until(lambda: pair.source.words == ["has"])
    sockets = pair.target.path._reader._sockets
    through = next(one for place, one in sockets.items() if place.device)
    through.send(delivery.datagram, str(tunnel.inner_address(addresses("a")[0])), PORT)
    await asyncio.sleep(0.1)
    assert pair.source.words == ["has"]


async def test_without_ipv6_in_the_tunnel_the_plain_path_goes_on(pair: Pair) -> None:
    pair.net.run("a", "sysctl -qw net.ipv6.conf.handover0.disable_ipv6=1")
    routes = pair.routes["a"]
    pair.net.within("a", lambda: pair.source.path.use_tunnel(routes))
    assert not pair.source.path.has_tunnel
    assert pair.source.path.refusals == ()
    pair.know()
    await until(lambda: proved(pair.source, Way.PLAIN) and proved(pair.target, Way.PLAIN))
