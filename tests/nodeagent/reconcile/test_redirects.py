"""From a peer's word, or the API's, to a route that leads to the peer's node, and back."""

import asyncio
import base64
import dataclasses
import datetime as dt
import socket
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Final

import pytest
from tests.nodeagent.node import Node
from tests.nodeagent.witness import watching
from tests.nodeagent.world import NORMAL_V4, World, count, settings

from handover_api import names
from handover_api.conditions import EndpointReason
from handover_api.names import ObjectKey
from handover_api.peer import Peer, peers_to_annotation
from handover_api.workloadendpoint import AgentAddress, Role
from handover_nodeagent import metrics
from handover_nodeagent.kernel import tunnel
from handover_nodeagent.kernel.netlink import rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.nft.outcome import Outcome
from handover_nodeagent.kernel.redirect_table.table import RedirectTable
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers.inner_routes import InnerRoutes
from handover_nodeagent.peers.messages import Way
from handover_nodeagent.peers.sink import Done
from handover_nodeagent.peers.sockets import Refusal

pytestmark = pytest.mark.root
KEY: Final = ObjectKey("default", "vm")
PUBLIC: Final = base64.b64encode(bytes(32)).decode()
ON: Final = {"sourceRedirect": "auto", "liveMigrationRouteConvergenceTime": "1s"}
B, C = "192.0.2.2", "192.0.2.3"
DIRECT: Final = NORMAL_V4
SENT_ON: Final = f"10.65.0.2 ... encap ip id 88 ... dst {B} ... dev handover0 ... metric 1024"
ELEVATED: Final = f"10.65.0.2 ... encap ip id 88 ... dst {B} ... dev handover0 ... metric 512"
PRIVATE: Final = f"10.65.0.2 ... dst {B} ... dev handover0 ... proto 89 ... metric 1026"
TO_C: Final = f"10.65.0.2 ... encap ip id 88 ... dst {C} ... dev handover0"
BOTH: Final = ["10.65.0.2", "fd00:65::2"]


def peer(role: Role = Role.TARGET, uid: str = "m1", address: str = B) -> Peer:
    return Peer(
        uid=uid,
        endpoint=f"at-{address}",
        node=f"node-{address}",
        role=role,
        public_key=PUBLIC,
        addresses=(ip_address(address),),
        port=7473,
    )


def told(*named: Peer, live: str = "") -> dict[str, str]:
    """Return what the operator says of the other side."""
    said = {names.PEER: peers_to_annotation(named) or ""}
    return said | ({names.PEER_LIVE: live} if live else {})


TARGET, SOURCE = told(peer()), told(peer(Role.SOURCE))


class SaidPath:
    """Takes what the agent says to others."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.known: dict[ObjectKey, tuple[Role | None, tuple[Peer, ...]]] = {}
        self.own_uids: dict[ObjectKey, str | None] = {}
        self.reached_at: tuple[tuple[IPAddress, ...], int] = ((), 0)
        self.tunnel: InnerRoutes | None = None
        self.advertised: list[tuple[ObjectKey, Peer | None]] = []
        self.nodes: Mapping[str, tuple[IPAddress, ...]] = {}
        self.refusals: tuple[Refusal, ...] = ()
        self.agent: AgentAddress | None = AgentAddress(
            public_key=PUBLIC, addresses=(ip_address("192.0.2.1"),), port=7473
        )

    @property
    def has_tunnel(self) -> bool:
        return self.tunnel is not None

    def close(self) -> None:
        self.is_closed = True

    def listen(self, addresses: Collection[IPAddress], port: int) -> None:
        self.reached_at = (tuple(addresses), port)

    def use_tunnel(self, tunnel: InnerRoutes | None) -> None:
        self.tunnel = tunnel

    def know_advertised(self, key: ObjectKey, speaker: Peer | None) -> None:
        self.advertised.append((key, speaker))

    def know_nodes(self, nodes: Mapping[str, tuple[IPAddress, ...]]) -> None:
        self.nodes = nodes

    def know_peers(
        self, key: ObjectKey, role: Role | None, peers: Iterable[Peer], uid: str | None
    ) -> None:
        self.known[key] = (role, tuple(peers))
        self.own_uids[key] = uid

    def forget(self, key: ObjectKey) -> None:
        self.known.pop(key, None)

    def prepare(self, key: ObjectKey, uid: str) -> None:
        assert key == KEY
        self.said.append(("prepare", uid))

    def have(self, key: ObjectKey, uid: str) -> int:
        assert key == KEY
        self.said.append(("have", uid))
        return 1

    def released(self, key: ObjectKey, uid: str) -> None:
        assert key == KEY
        self.said.append(("released", uid))

    @property
    def statements(self) -> list[tuple[str, str]]:
        return [one for one in self.said if one[0] != "prepare"]


async def let_redirects_be_on(world: World, node: Node, *more: str) -> None:
    """Let two other nodes be on a link of this one, the tunnel be there, and *more* of ip's."""
    node.run_batch(
        [
            "link add uplink type veth peer name wire",
            "link set uplink up",
            "link set wire up",
            "address add 192.0.2.1/24 dev uplink",
            *more,
        ]
    )
    world.settings = settings(**ON)
    with Channel() as channel:
        tunnel.ensure(channel, tunnel.REDIRECT, 7472, [ip_address("192.0.2.1")])
    await again(world)


@pytest.fixture
async def on(world: World, node: Node) -> World:
    """Let redirects be on."""
    await let_redirects_be_on(world, node)
    return world


async def again(world: World, **spec: Any) -> None:
    """Let the next agent start; the API tells it of the endpoint where *spec* says what."""
    await world.kill()
    await world.start(synced=False)
    world.loop.peers.path = SaidPath()
    if spec:
        world.put(**spec)
    world.sink.synced()


def said(world: World) -> list[tuple[str, str]]:
    path = world.loop.peers.path
    assert isinstance(path, SaidPath)
    return path.statements


def heard(world: World, uid: str = "m1", by: str = B) -> Done | None:
    """Let the peer say that it has the guest."""
    return world.loop.redirects.peer_has(KEY, uid, f"at-{by}")


async def to_redirected(world: World, **spec: Any) -> None:
    """Let a source's guest have gone to its target."""
    world.put(said="source", annotations=TARGET, **spec)
    await world.shows(DIRECT)
    assert heard(world)
    await world.until_state("Redirected")
    await world.shows(SENT_ON)


def answer(world: World) -> None:
    """Let the guest answer a probe."""
    world.announce(is_answer=True)


class TestSource:
    """The target has the guest."""

    async def test_its_route_is_replaced_before_anything_else_is_done(self, on: World) -> None:
        on.put(said="source", annotations=TARGET, ips=BOTH)
        await on.until(lambda: len(on.routes()) == 2)
        done = heard(on)
        # Not a turn of the loop later.
        shown = on.routes()
        assert len(shown) == 2
        assert all(f"dst {B} " in line and "dev handover0" in line for line in shown)
        assert done
        assert done.done_ns
        assert on.state() == "Base"
        await on.until_state("Redirected")
        assert on.routes() == shown
        status = on.reports.statuses[KEY]
        assert status

    async def test_what_came_after_it_was_prepared_is_seen(self, on: World, node: Node) -> None:
        """A replace would take the first route of its metric, which is somebody else's by now."""
        theirs = f"10.65.0.2 via {C} dev uplink proto bird metric 1024"
        on.put(said="source", annotations=TARGET)
        await on.shows(DIRECT)
        node.run(f"ip route prepend {theirs}")
        await on.at_rest()
        assert heard(on)
        await on.shows(theirs, SENT_ON)

    async def test_no_moment_is_without_a_route(self, on: World) -> None:
        """What a speaker would hear is a replacement, not a withdrawal and an announcement."""
        on.put(said="source", annotations=TARGET)
        await on.shows(DIRECT)
        sent: list[bytes] = []
        tables = on.loop.routes.tables
        send = tables.send

        def noting(requests: Any) -> Any:
            sent.extend(requests)
            return send(requests)

        tables.send = noting  # type: ignore[method-assign]
        heard(on)
        await on.until_state("Redirected")
        prepared = on.loop.routes.redirects_to([ip_address("10.65.0.2")])
        assert [rtmsg.encode_replace(route) for route in prepared] == sent

    async def test_what_it_says_of_its_routes_is_what_others_may_come_by(self, on: World) -> None:
        await to_redirected(on)
        await on.until(lambda: ("vm", "Redirected") in on.reports.events)
        await on.until_says("Programmed", "True", "Programmed")
        status = on.reports.statuses[KEY]
        assert status
        assert [(str(one.address), one.metric) for one in status.routes] == [("10.65.0.2", 1024)]
        assert status.agent
        on.put(said="source Succeeded", annotations=TARGET)
        await on.shows(PRIVATE)

        def is_told() -> bool:
            newer = on.reports.statuses[KEY]
            return newer is not None and newer.routes == ()

        await on.until(is_told)
        assert on.condition("Programmed") == ("True", "Programmed")
        assert on.condition("StillAlive") is None

    async def test_a_guest_that_answers_here_has_its_route_at_once(self, on: World) -> None:
        await to_redirected(on)
        answer(on)
        await on.until_state("Base")
        await on.shows(DIRECT)
        assert said(on) == [("have", "m1")]
        await on.until(lambda: ("vm", "Returned") in on.reports.events)
        status = on.reports.statuses[KEY]
        assert status
        assert status.last_cutover

    @pytest.mark.usefixtures("alive")
    async def test_it_is_asked_all_the_time(self, on: World) -> None:
        """The peer's word is wrong: the guest is here."""
        on.put(said="source", annotations=TARGET)
        await on.shows(DIRECT)
        heard(on)
        await on.until(lambda: ("have", "m1") in said(on))
        await on.shows(DIRECT)

    async def test_a_third_node_takes_over(self, on: World) -> None:
        await to_redirected(on)
        on.put(
            said="source Succeeded",
            annotations=told(peer(Role.SOURCE, "m2"), peer(uid="m2", address=C)),
        )
        await on.shows(PRIVATE)
        assert heard(on, "m2", C)
        await on.shows(TO_C)
        # And back to the second, where that migration is rolled back.
        assert heard(on, "m2", B)
        await on.shows(PRIVATE)

    async def test_the_api_repairs_what_the_direct_path_missed(self, on: World) -> None:
        on.put(said="source", annotations=TARGET)
        await on.shows(DIRECT)
        on.put(said="source", annotations=told(peer(), live="m1"))
        await on.until_state("Redirected")
        await on.shows(SENT_ON)
        answer(on)
        await on.until_state("Base")
        # It said so once, whatever else changes.
        on.put(said="source", annotations=told(peer(), live="m1"), shared="x")
        await on.at_rest()
        assert on.state() == "Base"

    async def test_an_outcome_with_the_apis_word_asks_nobody(self, on: World) -> None:
        on.put(said="source", annotations=TARGET)
        await on.shows(DIRECT)
        on.put(said="source Succeeded", annotations=told(peer(), live="m1"))
        assert on.state() == "Redirected"
        await on.shows(PRIVATE)

    async def test_a_peer_that_releases_it_has_the_guest_asked(self, on: World) -> None:
        await to_redirected(on)
        assert on.loop.redirects.peer_released(KEY, "m1")
        assert on.state() == "Asking"
        await on.until_state("Redirected")
        await on.shows(SENT_ON)

    async def test_whom_nobody_named_nothing_is_believed(self, on: World) -> None:
        on.put(said="source", annotations=TARGET)
        await on.shows(DIRECT)
        assert heard(on, "m7") is None
        assert heard(on, by=C) is None
        assert on.loop.redirects.peer_has(ObjectKey("default", "nobody"), "m1", B) is None
        assert on.state() == "Base"

    async def test_the_node_itself_speaks_from_its_own_address(self, on: World) -> None:
        """The kernel would choose the tunnel's, which is the same on all nodes."""
        on.loop.peers.converse([ip_address("192.0.2.1")], SaidPath)
        await to_redirected(on)
        assert [line for line in on.routes() if "src 192.0.2.1" in line] == on.routes()
        await on.at_rest()
        assert "src 192.0.2.1" in on.node.run("ip route get 10.65.0.2")

    async def test_another_endpoints_route_stays_its_own(self, on: World) -> None:
        """Two of this node have the address: the younger has the route."""
        on.put(said="source", annotations=TARGET)
        await on.shows(DIRECT)
        on.put("twin", interface="tap1")
        heard(on)
        await on.until_state("Redirected")
        await on.shows("10.65.0.2 dev tap1 ... metric 1024")


async def to_found(world: World) -> None:
    """Let a source's guest have come back from its target."""
    await to_redirected(world)
    answer(world)
    await world.until_state("Base")
    await world.shows(DIRECT)
    await world.at_rest()
    assert said(world) == [("have", "m1")]


class TestFoundHere:
    """What is said of a guest that has come back may be older than that: it is asked first."""

    async def test_nothing_is_prepared_and_nothing_sent(self, on: World) -> None:
        await to_found(on)
        side = on.loop.peers.side(KEY)
        assert side
        assert not side.prepared
        # No acknowledgment either, so that the peer says it again.
        assert heard(on) is None
        assert on.state() == "Asking"
        await on.shows(DIRECT)

    async def test_one_that_answers_keeps_its_route_and_nobody_is_told(self, on: World) -> None:
        await to_found(on)
        events = list(on.reports.events)
        for _ in range(3):
            assert heard(on) is None
            assert heard(on) is None
            answer(on)
            assert on.state() == "Base"
            await on.shows(DIRECT)
        await on.at_rest()
        assert said(on) == [("have", "m1")]
        assert events == on.reports.events
        assert on.condition("StillAlive") is None

    async def test_it_is_heard_when_it_is_asked(self, on: World, node: Node) -> None:
        await to_found(on)
        node.guest_runs("ip address add 10.65.0.2/32 dev eth")
        heard(on)
        assert on.state() == "Asking"
        await on.until_state("Base")
        await on.shows(DIRECT)

    async def test_a_silent_one_is_sent_after(self, on: World) -> None:
        await to_found(on)
        heard(on)
        await on.until_state("Redirected")
        await on.shows(SENT_ON)
        table = on.loop.enforcer.redirect_table
        await on.until(lambda: table._redirected == {ip_address("10.65.0.2")})
        # Said again, it is acknowledged.
        assert heard(on)

    async def test_it_is_sent_after_the_peer_that_spoke_last(self, on: World) -> None:
        await to_found(on)
        on.put(said="source", annotations=told(peer(), peer(address=C)))
        heard(on)
        heard(on, by=C)
        await on.until_state("Redirected")
        await on.shows(TO_C)

    async def test_one_that_is_deleted_meanwhile_leaves_its_redirect(self, on: World) -> None:
        await to_found(on)
        heard(on)
        on.delete()
        assert on.state() == "Asking"
        await on.until(lambda: on.state() == "gone")
        await on.shows(PRIVATE)
        await on.shows()

    async def test_the_api_may_be_late(self, on: World) -> None:
        await to_found(on)
        on.put(said="source", annotations=told(peer(), live="m1"))
        await on.until_state("Asking")
        answer(on)
        await on.at_rest()
        assert on.state() == "Base"
        # It said so once, whatever else changes.
        on.put(said="source", annotations=told(peer(), live="m1"), shared="x")
        await on.at_rest()
        assert on.state() == "Base"

    async def test_or_right(self, on: World) -> None:
        await to_found(on)
        on.put(said="source", annotations=told(peer(), live="m1"))
        await on.until_state("Asking")
        # Another word of its own that comes meanwhile does not make it forget.
        on.put(said="source Succeeded", annotations=told(peer(), live="m1"))
        await on.until_state("Redirected")
        await on.shows(PRIVATE)


class TestHold:
    """What BGP brings may lead to a router that itself still leads here."""

    ROUND = f"10.65.0.2/32 via {C} proto bird metric 768"

    async def sends_on(self, on: World, **spec: Any) -> None:
        await again(on)
        on.put(said="source", annotations=TARGET, **spec)
        await on.shows(DIRECT)
        assert heard(on)

    def way(self, on: World) -> str:
        """Ask the kernel where it would send a packet to the guest."""
        return on.node.run("ip route get 10.65.0.2")

    async def test_it_loses_to_the_redirect_and_wins_a_moment_later(self, on: World) -> None:
        on.settings = settings(**ON, advertise="bgp")
        await self.sends_on(on)
        on.node.run(f"ip route add {self.ROUND}")
        assert "handover0" in self.way(on)
        await on.until(lambda: f"via {C}" in self.way(on))
        # What is left is what the speaker knows: the exported one, as it was.
        await on.shows(SENT_ON, f"via {C}")
        assert on.state() == "Redirected"

    async def test_the_hold_is_as_short_by_the_apis_word(self, on: World) -> None:
        on.settings = settings(**ON, advertise="bgp")
        await again(on)
        on.put(said="source", annotations=TARGET)
        await on.shows(DIRECT)
        on.put(said="source", annotations=told(peer(), live="m1"))
        await on.shows(SENT_ON, f"dst {B} ... metric 513")
        await on.shows(SENT_ON)

    async def test_it_begins_when_no_guest_has_answered(self, on: World) -> None:
        on.settings = settings(**ON, advertise="bgp")
        await again(on)
        await to_found(on)
        heard(on)
        await on.until_state("Redirected")
        await on.shows(SENT_ON, f"dst {B} ... metric 513")
        await on.shows(SENT_ON)

    async def test_a_guest_that_answers_has_it_no_more(self, on: World) -> None:
        on.settings = settings(**ON, advertise="bgp")
        await self.sends_on(on)
        await on.until_state("Redirected")
        answer(on)
        await on.until_state("Base")
        await on.shows(DIRECT)

    async def test_an_agent_that_is_killed_in_it_leaves_nothing(self, on: World) -> None:
        on.settings = settings(**ON, advertise="bgp")
        await self.sends_on(on)
        await on.until_state("Redirected")
        await again(on, said="source", annotations=TARGET)
        await on.shows(SENT_ON)

    async def test_speakers_hear_of_a_redirect_that_ends_while_it_lasts(self, on: World) -> None:
        """BIRD reads no message about what is encapsulated, and would announce it on for 2 s."""
        on.settings = settings(**ON, advertise="bgp")
        await self.sends_on(on)
        await on.until_state("Redirected")
        with watching() as witness:
            on.put(said="source Succeeded", annotations=TARGET)
            await on.shows(PRIVATE)
            # Plain for a moment, which everybody reads, and then gone.
            assert witness.told() == ["=10.65.0.2 1024", "-10.65.0.2 1024"]

    async def test_neither_while_the_api_is_away(self, on: World) -> None:
        """It would go before the route of a guest that comes back."""
        on.settings = settings(**ON, advertise="bgp")
        await self.sends_on(on)
        await on.until_state("Redirected")
        await on.at_rest()
        await on.kill()
        assert len(on.routes()) == 2
        await on.start(synced=False)
        on.loop.peers.path = SaidPath()
        await on.shows(SENT_ON)
        answer(on)
        await on.shows(DIRECT)

    async def test_where_agents_distribute_nothing_is_held(self, on: World) -> None:
        on.settings = settings(**ON, advertise="agents")
        await self.sends_on(on)
        assert len(on.routes()) == 1


class TestTarget:
    """It says what it has, and waits for nobody."""

    async def test_its_word_goes_out_when_its_route_is_in(self, on: World) -> None:
        on.put(said="target", annotations=SOURCE)
        await on.until_listening()
        assert ("prepare", "m1") in on.loop.peers.path.said  # type: ignore[union-attr]
        assert on.loop.peers.path.own_uids == {KEY: "m1"}  # type: ignore[union-attr]
        on.announce()
        assert said(on) == [("have", "m1")]
        assert any("metric 512" in line for line in on.routes())
        await on.until_state("Live")
        assert said(on) == [("have", "m1")]

    async def test_a_roll_back_is_a_redirect_the_other_way_round(self, on: World) -> None:
        on.put(said="target", annotations=SOURCE)
        await on.until_listening()
        on.announce()
        await on.until_state("Live")
        assert heard(on)
        await on.shows(ELEVATED)
        await on.until_state("Redirected")
        on.put(said="target Aborted", annotations=SOURCE)
        await on.shows(PRIVATE)
        assert on.state() == "Redirected"

    async def test_a_silent_one_that_failed_says_that_it_has_nothing(self, on: World) -> None:
        on.put(said="target", annotations=SOURCE)
        await on.until_listening()
        on.announce()
        await on.until_state("Live")
        on.put(said="target Aborted", annotations=SOURCE)
        await on.until_state("Withdrawn")
        assert said(on)[1:] == [("released", "m1")]


class TestEnd:
    """Senders that are late do not know that the object is gone."""

    async def test_the_redirect_outlives_its_endpoint_and_its_interface(
        self, on: World, node: Node
    ) -> None:
        await to_redirected(on)
        node.run("ip link delete tap0")
        await on.until(lambda: on.loop.endpoints[KEY].link is None)
        await on.shows(SENT_ON)
        on.delete()
        assert on.state() == "gone"
        await on.shows(PRIVATE)
        await on.shows()

    async def test_late_packets_go_untracked_until_then(self, on: World) -> None:
        """This node sees one direction of their connections only."""
        address = ip_address("10.65.0.2")
        table = on.loop.enforcer.redirect_table
        await to_redirected(on)
        await on.until(lambda: table._redirected == {address})
        assert table._peers == {ip_address(B)}
        on.delete()
        await on.shows(PRIVATE)
        await asyncio.sleep(0.05)
        assert table._redirected == {address}
        await on.shows()
        await on.until(lambda: not table._redirected)
        await on.until(lambda: not table._peers)

    async def test_a_restart_keeps_its_end(self, on: World) -> None:
        await to_redirected(on)
        on.delete()
        await on.shows(PRIVATE)
        await again(on)
        await on.shows(PRIVATE)
        await on.shows()

    async def test_that_of_an_agent_that_remembers_nothing_ends_as_well(self, on: World) -> None:
        await to_redirected(on)
        await on.kill()
        for file in on.directory.rglob("*.json"):
            file.unlink()
        await on.start()
        await on.shows(PRIVATE)
        await on.shows()

    async def test_the_target_of_the_next_migration_has_no_other_route(self, on: World) -> None:
        await to_redirected(on)
        on.put(said="target", uid="m2", annotations={})
        await on.until_listening()
        assert on.state() == "Target"
        await on.shows(PRIVATE)
        # Its guest's answers are to be tracked from the first one on.
        await on.until(lambda: not on.loop.enforcer.redirect_table._redirected)
        on.announce()
        assert any("metric 512" in line for line in on.routes())


class TestRestart:
    """The kernel and the memory tell what the last agent knew."""

    async def test_a_redirected_goes_on(self, on: World) -> None:
        await to_redirected(on)
        await again(on, said="source", annotations=TARGET)
        assert on.state() == "Redirected"
        await on.at_rest()
        await on.shows(SENT_ON)

    async def test_also_where_the_api_is_down(self, on: World) -> None:
        await to_redirected(on)
        await on.kill()
        await on.start(synced=False)
        assert on.state() == "Redirected"
        await on.shows(SENT_ON)

    async def test_one_killed_right_after_the_route_asks_and_sends_on_meanwhile(
        self, on: World
    ) -> None:
        on.put(said="source", annotations=TARGET)
        await on.shows(DIRECT)
        await on.memory.flush()
        heard(on)
        # Its machine never stepped.
        on.loop.endpoints[KEY].redirected = None
        await again(on, said="source", annotations=TARGET)
        assert on.state() == "Asking"
        await on.until_state("Redirected")
        await on.shows(SENT_ON)

    async def test_what_came_while_nobody_lived_is_taken_as_ever(self, on: World) -> None:
        await to_redirected(on)
        await again(on, said="source Succeeded", annotations=TARGET)
        await on.shows(PRIVATE)
        await again(on, said="source Aborted", annotations=TARGET)
        assert on.state() == "Asking"


class TestReadiness:
    """Before the VM moves, a person may know whether late packets would be lost."""

    async def test_it_is_ready_when_the_way_is_proved(self, on: World) -> None:
        on.put(said="source", annotations={})
        await on.until_says("Redirectable", "False", "NoPeer")
        on.put(said="source", annotations=TARGET)
        await on.until_says("Redirectable", "False", "NotProved")
        on.loop.peers.silent(KEY, f"node-{B}")
        await on.until_says("Redirectable", "False", "PeerSilent")
        on.loop.peers.proved(KEY, f"node-{B}", Way.PLAIN)
        await on.until_says("Redirectable", "False", "NotProved")
        on.loop.peers.proved(KEY, f"node-{B}", Way.TUNNEL)
        await on.until_says("Redirectable", "True", "Ready")
        on.put(said="source Succeeded", annotations=TARGET)
        await on.until(lambda: on.condition("Redirectable") is None)

    async def test_a_way_that_is_not_proved_is_taken_all_the_same(self, on: World) -> None:
        """At the source all would be lost; and a guest that comes back has its route at once."""
        on.put(said="source", annotations=TARGET)
        await on.shows(DIRECT)
        on.loop.peers.proved(KEY, f"node-{B}", Way.PLAIN)
        await on.until(lambda: "not through the tunnel" in on.message("Redirectable"))
        assert on.condition("Redirectable") == ("False", "NotProved")
        assert heard(on)
        await on.shows(SENT_ON)
        await on.until_state("Redirected")
        answer(on)
        await on.shows(DIRECT)

    async def test_to_a_silent_peer_as_well_once_the_api_says_so(self, on: World) -> None:
        on.put(said="source", annotations=TARGET)
        await on.until_says("Redirectable", "False", "NotProved")
        on.loop.peers.silent(KEY, f"node-{B}")
        await on.until_says("Redirectable", "False", "PeerSilent")
        on.put(said="source", annotations=told(peer(), live="m1"))
        await on.shows(SENT_ON)

    async def test_what_is_in_the_tunnels_way_is_said(self, on: World, node: Node) -> None:
        node.run_batch(["link delete handover0", "link add handover0 type bridge"])
        on.put(said="source", annotations=TARGET)
        await on.until_says("Redirectable", "False", "DeviceTaken")
        assert heard(on) is None
        await on.at_rest()
        # As without any redirect.
        assert on.state() == "Base"
        await on.shows(DIRECT)
        on.put(said="source", annotations=told(peer(), live="m1"))
        # Nobody has to start anything anew once it is gone.
        node.run("ip link delete handover0")
        await on.shows(SENT_ON)
        assert on.condition("Redirectable") == ("False", "NotProved")

    async def test_no_tunnel_is_there_without_what_bounds_it(
        self, on: World, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its port would be open to anybody, and what came in would leave by the node's routes."""
        node.run("ip link delete handover0")
        await again(on)
        made, ensure = [], tunnel.ensure

        def noted(*arguments: Any) -> int | tunnel.Refusal:
            made.append(node.run("nft list ruleset inet"))
            return ensure(*arguments)

        monkeypatch.setattr(tunnel, "ensure", noted)
        on.put(said="source", annotations=TARGET)
        assert on.condition("Redirectable") in {None, ("False", "Pending")}
        await on.until_says("Redirectable", "False", "NotProved")
        assert made
        assert all('iifname "handover0" oifname != @ports' in rules for rules in made)
        assert all(B in rules for rules in made)

    async def test_nor_where_the_rules_are_refused(
        self, on: World, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node.run("ip link delete handover0")
        await again(on)

        async def refuse(*_: object) -> Outcome:
            return Outcome("no library")

        monkeypatch.setattr(RedirectTable, "replace", refuse)
        on.put(said="source", annotations=TARGET)
        await on.until_says("Redirectable", "False", "TunnelRefused")
        assert on.message("Redirectable") == "no library"
        assert heard(on) is None
        assert "handover0" not in node.run("ip link show")
        monkeypatch.undo()
        await on.until_says("Redirectable", "False", "NotProved")
        assert heard(on)

    async def test_a_node_that_is_reached_only_now_is_found(self, on: World, node: Node) -> None:
        node.run("ip address flush dev uplink")
        on.put(said="source", annotations=TARGET)
        await on.until_says("Redirectable", "False", "OneFamilyOnly")
        node.run("ip address add 192.0.2.1/24 dev uplink")
        await on.until_says("Redirectable", "False", "NotProved")
        assert heard(on)
        await on.shows(SENT_ON)

    async def test_a_tunnels_port_that_somebody_has_is_said_without_any_device(
        self, on: World, node: Node
    ) -> None:
        """A device that is made and refused is news of a link, and was the next one's cause."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            node.run("ip link delete handover0")
            taken.bind(("", 7472))
            before = newest_index(node)
            on.put(said="source", annotations=TARGET)
            await on.until_says("Redirectable", "False", "PortTaken")
            for _ in range(5):
                await on.at_rest()
            # One more is the pair that is looked at.
            assert newest_index(node) == before + 2

    async def test_a_port_that_somebody_has_is_said(self, on: World) -> None:
        path = on.loop.peers.path
        assert isinstance(path, SaidPath)
        path.agent = None
        path.refusals = (Refusal(EndpointReason.PORT_TAKEN, "UDP port 7473 is taken"),)
        on.put(said="source", annotations=TARGET)
        await on.until_says("Redirectable", "False", "PortTaken")

    async def test_a_link_alone_is_enough_where_the_nodes_share_one(self, on: World) -> None:
        on.configure(**ON | {"sourceRedirect": "link"})
        on.put(said="source", annotations=TARGET)
        await on.shows(DIRECT)
        assert heard(on)
        await on.shows(f"10.65.0.2 via {B} dev uplink ... metric 1024")

    async def test_on_a_link_both_families_are_led_on(self, on: World, node: Node) -> None:
        node.run("ip address add 2001:db8::1/64 dev uplink nodad")
        on.configure(**ON | {"sourceRedirect": "link"})
        both = peer().model_copy(update={"addresses": (ip_address(B), ip_address("2001:db8::2"))})
        on.put(said="source", annotations=told(both), ips=BOTH)
        await on.until(lambda: len(on.routes()) == 2)
        assert heard(on)
        there = f"10.65.0.2 via {B} dev uplink", "fd00:65::2 via 2001:db8::2 dev uplink"
        await on.shows(*there)
        await on.until_state("Redirected")
        answer(on)
        await on.shows(DIRECT, "fd00:65::2 dev tap0 ... metric 1024")

    @pytest.mark.parametrize("is_observed", [True, False], ids=["observed", "new"])
    async def test_a_route_of_somebody_elses_by_a_gateway_is_neither_taken_nor_joined(
        self, on: World, node: Node, *, is_observed: bool
    ) -> None:
        """In IPv6 a replace would take theirs, though ours stands before it, and leave ours."""
        theirs = "fd00:65::2 via 2001:db8::9 dev uplink proto static metric 1024"
        ours = "fd00:65::2 dev tap0 ... metric 1024"
        node.run("ip address add 2001:db8::1/64 dev uplink nodad")
        on.configure(**ON | {"sourceRedirect": "link"})
        both = peer().model_copy(update={"addresses": (ip_address(B), ip_address("2001:db8::2"))})
        on.put(said="source", annotations=told(both), ips=BOTH)
        await on.shows(DIRECT, ours)
        node.run(f"ip -6 route append {theirs}")
        if is_observed:
            await on.at_rest()
        assert heard(on)
        to_peer = f"10.65.0.2 via {B} dev uplink"
        await on.shows(to_peer, ours, theirs)
        await on.until_says("Programmed", "False", "Refused")
        assert "another route by a gateway" in on.message("Programmed")
        node.run(f"ip -6 route delete {theirs}")
        await on.at_rest()
        await on.shows(to_peer, "fd00:65::2 via 2001:db8::2 dev uplink ... metric 1024")
        await on.until_says("Programmed", "True", "Programmed")

    async def test_it_is_refused_where_they_do_not(self, on: World, node: Node) -> None:
        node.run("ip route add 198.51.100.0/24 via 192.0.2.9")
        on.configure(**ON | {"sourceRedirect": "link"})
        on.put(said="source", annotations=told(peer(address="198.51.100.7")))
        await on.until_says("Redirectable", "False", "NotOnLink")

    async def test_a_tunnel_that_somebody_removes_is_made_again(
        self, on: World, node: Node
    ) -> None:
        await to_redirected(on)
        node.run("ip link delete handover0")
        await on.shows(SENT_ON)
        on.delete()
        await on.shows(PRIVATE)
        node.run("ip link delete handover0")
        await on.shows(PRIVATE)

    async def test_one_that_an_uninstall_removes_is_not(self, on: World, node: Node) -> None:
        await to_redirected(on)
        on.loop.peers.close()
        node.run("ip link delete handover0")
        on.loop.redirects.refresh()
        await on.at_rest()
        assert "handover0" not in node.run("ip -o link")


def newest_index(node: Node) -> int:
    """Return the index of a link that is made now."""
    node.run("ip link add newest type veth peer name its")
    shown = node.run("ip -o link show its")
    node.run("ip link delete newest")
    return int(shown.split(":")[0])


def at(one: Peer, address: str) -> Peer:
    """Let a peer's node have another address."""
    return one.model_copy(update={"addresses": (ip_address(address),)})


def figures(world: World) -> tuple[str | None, int | None, int | None] | None:
    """Return what is told of the redirect: for which migration, packets, and roll-backs."""
    status = world.reports.statuses[KEY]
    it = status.redirect if status else None
    return (it.migration_uid, it.forwarded, it.roll_backs) if it else None


class TestFigures:
    """What was sent on, and how often the guest came back."""

    async def test_they_are_told_of_the_migration_that_they_belong_to(self, on: World) -> None:
        address, back = ip_address("10.65.0.2"), count(metrics.ROLL_BACKS)
        sent_on = count(metrics.FORWARDED)
        table = on.loop.enforcer.redirect_table
        # The firewall's own count comes when it likes.
        counted, table.counted = table.counted, lambda _: None
        await to_redirected(on)
        # Nothing was read so far.
        await on.until(lambda: figures(on) == ("m1", None, 0))
        counted({address: 0})
        await on.until(lambda: figures(on) == ("m1", 0, 0))
        counted({address: 12, ip_address("10.65.0.9"): 100})
        await on.until(lambda: figures(on) == ("m1", 12, 0))
        answer(on)
        await on.until_state("Base")
        # The last of them are read only then.
        counted({address: 1})
        await on.until(lambda: figures(on) == ("m1", 13, 1))
        assert (count(metrics.ROLL_BACKS) - back, count(metrics.FORWARDED) - sent_on) == (1, 113)
        on.put(said="source", uid="m2", annotations=told(peer(uid="m2")))
        await on.until(lambda: figures(on) is None)
        assert heard(on, "m2")
        await on.until(lambda: figures(on) == ("m2", None, 0))

    async def test_one_without_a_redirect_has_none(self, on: World) -> None:
        on.put(said="source", annotations=TARGET)
        await on.shows(DIRECT)
        on.loop.enforcer.redirect_table.counted({ip_address("10.65.0.2"): 3})
        await on.at_rest()
        assert figures(on) is None


def inner(node: Node) -> set[str]:
    """Return the tunnel's own addresses."""
    shown = node.run("ip -6 -oneline address show dev handover0 scope link")
    return {line.split()[3].removesuffix("/128") for line in shown.splitlines()}


class TestAddresses:
    """Nodes change their addresses: nobody starts an agent anew for that."""

    async def test_a_redirect_follows_its_peer_to_another_address(self, on: World) -> None:
        await to_redirected(on)
        seen: list[list[str]] = []
        tables = on.loop.routes.tables
        send = tables.send

        def watching(requests: Any) -> Any:
            result = send(requests)
            seen.append(on.routes())
            return result

        tables.send = watching  # type: ignore[method-assign]
        moved = at(peer(), C)
        on.put(said="source", annotations=told(moved))
        await on.shows(TO_C)
        # Replaced in place: at no moment without.
        assert all(seen)
        assert on.state() == "Redirected"
        # The kernel's word is the memory's, too.
        await again(on, said="source", annotations=told(moved))
        await on.at_rest()
        await on.shows(TO_C)

    async def test_of_two_targets_that_one_is_followed_which_has_the_guest(self, on: World) -> None:
        await to_redirected(on)
        other = at(peer(address="192.0.2.4"), C)
        on.put(said="source", annotations=told(other, peer()))
        await on.at_rest()
        await on.shows(SENT_ON)
        # Which of two that are elsewhere is it? Whoever has the guest says so again.
        far = at(peer(), "192.0.2.5")
        on.put(said="source", annotations=told(other, far))
        await on.at_rest()
        await on.shows(SENT_ON)
        assert heard(on)
        await on.shows("10.65.0.2 ... dst 192.0.2.5 ... dev handover0")

    async def test_this_node_is_reached_where_its_node_says(self, on: World, node: Node) -> None:
        before, after = ip_address("192.0.2.1"), ip_address("192.0.2.7")
        on.loop.redirects.move([before])
        await to_redirected(on)
        path = on.loop.peers.path
        assert isinstance(path, SaidPath)
        assert inner(node) == {str(tunnel.inner_address(before))}
        node.run_batch(
            ["address delete 192.0.2.1/24 dev uplink", "address add 192.0.2.7/24 dev uplink"]
        )
        on.loop.redirects.move([after])
        assert path.reached_at == ((after,), 7473)
        # Another node may have the old one by now.
        assert inner(node) == {str(tunnel.inner_address(after))}
        # What the tunnel's packets come from, and what the node itself speaks from.
        sources = f"encap ip id 88 src {after} dst {B} ... src {after}"
        await on.shows(f"10.65.0.2 ... {sources} ... metric 1024")
        on.put(said="source Succeeded", annotations=TARGET)
        await on.shows(f"10.65.0.2 ... {sources} ... metric 1026")
        on.delete()
        node.run("ip address add 192.0.2.8/24 dev uplink")
        on.loop.redirects.move([ip_address("192.0.2.8")])
        await on.shows(f"10.65.0.2 ... encap ip id 88 src 192.0.2.8 dst {B} ... metric 1026")

    async def test_what_an_agent_before_this_one_knew_goes_from_the_tunnel(
        self, on: World, node: Node
    ) -> None:
        before, after = ip_address("192.0.2.1"), ip_address("192.0.2.7")
        on.loop.redirects.move([before])
        await to_redirected(on)
        await on.kill()
        await on.start()
        on.loop.redirects.move([after])
        await on.at_rest()
        assert str(tunnel.inner_address(before)) not in inner(node)
        # Of somebody else's device none is ours to take.
        node.run("ip link delete handover0")
        node.run("ip link add handover0 type bridge")
        node.run("ip address add fe80::77/128 dev handover0 nodad")
        await on.at_rest()
        assert "fe80::77" in inner(node)

    async def test_a_restart_keeps_what_it_is_sent_from(self, on: World) -> None:
        on.loop.redirects.move([ip_address("192.0.2.1")])
        await to_redirected(on)
        await on.kill()
        # Nobody has said so far where this node is.
        await on.start()
        await on.shows(f"10.65.0.2 ... encap ip id 88 src 192.0.2.1 dst {B}")

    async def test_a_peer_is_sent_to_in_a_family_that_it_knows_us_by(
        self, on: World, node: Node
    ) -> None:
        node.run("ip address add 2001:db8::1/64 dev uplink nodad")
        on.loop.redirects.move([ip_address("2001:db8::1")])
        both = peer().model_copy(update={"addresses": (ip_address(B), ip_address("2001:db8::2"))})
        on.put(said="source", annotations=told(both))
        await on.shows(DIRECT)
        assert heard(on)
        await on.shows("10.65.0.2 ... encap ip6 id 88 src 2001:db8::1 dst 2001:db8::2")

    async def test_the_same_addresses_once_more_change_nothing(self, on: World) -> None:
        on.loop.redirects.move([ip_address("192.0.2.1")])
        path = on.loop.peers.path
        assert isinstance(path, SaidPath)
        path.reached_at = ((), 0)
        on.loop.redirects.move([ip_address("192.0.2.1")])
        assert path.reached_at == ((), 0)


async def test_off_is_as_if_there_were_no_peers(world: World) -> None:
    world.settings = settings(sourceRedirect="off", advertise="bgp")
    await again(world, said="source", annotations=told(peer(), live="m1"))
    path = world.loop.peers.path
    assert isinstance(path, SaidPath)
    await world.shows(DIRECT)
    assert heard(world) is None
    assert world.loop.redirects.peer_released(KEY, "m1") is None
    await world.at_rest()
    assert (world.state(), path.said, path.known) == ("Base", [], {})
    status = world.reports.statuses[KEY]
    assert status
    assert status.agent is None
    assert world.condition("Redirectable") is None


async def test_turned_off_it_leaves_what_is_redirected(on: World) -> None:
    await to_redirected(on)
    on.configure(**ON | {"sourceRedirect": "off"})
    await on.at_rest()
    await on.shows(SENT_ON)
    answer(on)
    await on.shows(DIRECT)


async def test_a_mode_that_writes_nothing_sends_nothing_on(on: World) -> None:
    on.configure(**ON | {"mode": "observe"})
    on.put(said="source", annotations=TARGET)
    await asyncio.sleep(0.01)
    assert heard(on) is None
    assert on.state() == "Base"


async def test_twenty_redirects_at_one_instant_are_in_before_any_machine_steps(
    on: World,
) -> None:
    keys = [ObjectKey("default", f"vm{number}") for number in range(20)]
    for number, key in enumerate(keys):
        address = f"10.65.0.{number + 20}"
        on.put(key.name, said="source", annotations=TARGET, ips=[address])
    await on.until(lambda: len(on.routes()) == len(keys))
    for key in keys:
        assert on.loop.redirects.peer_has(key, "m1", f"at-{B}")
    assert sum("dev handover0" in line for line in on.routes()) == len(keys)
    assert {on.state(key.name) for key in keys} == {"Base"}
    await on.until(lambda: {on.state(key.name) for key in keys} == {"Redirected"})


def test_settings_here_are_valid() -> None:
    assert settings(**ON).live_migration_route_convergence_time == dt.timedelta(seconds=1)
    assert dataclasses.is_dataclass(World)
