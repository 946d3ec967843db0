"""Whose packets are held, what is said of that, and how they follow a guest that has gone."""

import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
from tests.nodeagent.hold.port import Port, mapped, number_of, packet, sockets
from tests.nodeagent.kernel import migration_net
from tests.nodeagent.node import Node
from tests.nodeagent.reconcile.test_redirects import (
    KEY,
    ON,
    TARGET,
    heard,
    let_redirects_be_on,
)
from tests.nodeagent.world import World, count

from handover_api.workloadendpoint import Hold, HoldReason
from handover_nodeagent import metrics
from handover_nodeagent.hold import bounds, pacing, senders, stall
from handover_nodeagent.reconcile import holding
from handover_nodeagent.sniff import ring
from handover_nodeagent.sniff.own_frames import LastFrame
from handover_nodeagent.sniff.ring import NoRing

pytestmark = pytest.mark.root

PEER_MAC: Final = "02:00:00:00:00:02"
STATION: Final = bytes.fromhex(PEER_MAC.replace(":", ""))
MIB: Final = 1 << 20
ETH_P_ALL: Final = 3
ETHERNET: Final = 14
ENCAPSULATION: Final = ETHERNET + 20 + 8 + 8
"""Ethernet, IPv4, UDP and VXLAN-GPE."""
LARGE: Final = 1400


@pytest.fixture
async def on(world: World, node: Node) -> World:
    """Let redirects be on, and the peer's MAC be known."""
    neighbor = f"neigh add 192.0.2.2 lladdr {PEER_MAC} dev uplink nud permanent"
    await let_redirects_be_on(world, node, neighbor)
    return world


@pytest.fixture
async def port(on: World) -> AsyncIterator[Port]:  # noqa: ARG001 - in its namespace
    it = Port("tap0")
    yield it
    it.close()


@pytest.fixture
def wire(on: World) -> Iterator[socket.socket]:  # noqa: ARG001 - in its namespace
    """Give what comes to the peer."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("wire", ETH_P_ALL))
        sock.settimeout(0)
        yield sock


def arrived(wire: socket.socket, begins: int = ENCAPSULATION) -> list[int]:
    """Return the numbers of the packets that came to the peer since this was asked last."""
    found: list[int] = []
    while True:
        try:
            octets = wire.recv(2000)
        except BlockingIOError:
            return found
        inner = octets[begins:]
        if octets[:6] == STATION and inner[:20] == packet(0, len(inner) + ETHERNET)[ETHERNET:34]:
            found.append(number_of(bytes(ETHERNET) + inner))


async def recorded(on: World, **spec: Any) -> None:
    """Let a source be armed, and what it is sent be held."""
    on.put(said="source", annotations=TARGET, **spec)
    # What the condition says may be of a ring before.
    await on.until(lambda: is_holding(on))
    await on.until_says("Holding", "True", "Holding")


def is_holding(on: World) -> bool:
    recorder = on.loop.holding._recorded[KEY].recorder
    return recorder is not None and recorder.is_holding


def told(on: World) -> Hold | None:
    """Return what is told of held packets."""
    status = on.reports.statuses.get(KEY)
    return status.redirect.hold if status and status.redirect else None


async def redirected(on: World) -> Hold:
    """Let the peer have the guest; return what became of what was held."""
    assert heard(on)
    await on.until(lambda: told(on))
    found = told(on)
    assert found
    return found


async def silent(on: World) -> LastFrame:
    """Let the guest send its last frame, once that is recorded; return when that was."""

    def last() -> LastFrame | None:
        on.send()
        found = on.loop.last_frame(KEY)
        return found if isinstance(found, LastFrame) else None

    await on.until(last)
    found = last()
    assert found
    return found


class TestRecording:
    """An armed source's port is recorded, and no other's."""

    async def test_an_armed_source_is_until_its_role_is_over(self, on: World) -> None:
        on.put(said="source", annotations=TARGET)
        await on.until(lambda: on.condition("Holding"))
        await on.until_says("Holding", "True", "Holding")
        assert mapped() == 2
        assert count(metrics.HOLD_BYTES) == 8 * MIB
        on.put(said="source Succeeded", annotations=TARGET)
        await on.until(lambda: mapped() == 0)
        await on.until(lambda: on.condition("Holding") is None)
        assert count(metrics.HOLD_BYTES) == 0

    async def test_until_the_ring_is_open_it_says_so(self, on: World) -> None:
        on.put(said="source", annotations=TARGET)
        endpoint = on.loop.endpoints[KEY]
        assert on.loop.holding.readiness(endpoint, on.settings) == (
            *(False, "Pending"),
            "the ring is still being opened",
        )
        await on.until_says("Holding", "True", "Holding")

    async def test_one_that_is_not_armed_is_not(self, on: World) -> None:
        on.put(said="source", annotations=TARGET, armed="false")
        await on.at_rest()
        assert on.condition("Holding") is None
        assert mapped() == 0
        await recorded(on, armed="true")

    async def test_a_target_is_not(self, on: World) -> None:
        on.put(said="target", annotations=TARGET)
        await on.until_listening()
        assert on.condition("Holding") is None
        assert mapped() == 0

    @pytest.mark.parametrize(
        ("fields", "condition"),
        [
            pytest.param({"holdPackets": "off"}, ("False", "Off"), id="holdPackets off"),
            pytest.param(
                {"sourceRedirect": "off"}, ("False", "NotRedirectable"), id="sourceRedirect off"
            ),
            pytest.param({"mode": "observe"}, None, id="mode observe"),
        ],
    )
    async def test_a_configuration_may_switch_it_off_and_on(
        self, on: World, fields: dict[str, str], condition: tuple[str, str] | None
    ) -> None:
        await recorded(on)
        on.configure(**ON | fields)
        # What the last frame is recorded by goes in mode observe alone.
        await on.until(lambda: mapped() == (0 if "mode" in fields else 1))
        await on.until(lambda: on.condition("Holding") == condition)
        on.configure(**ON)
        await on.until_says("Holding", "True", "Holding")

    async def test_a_paused_one_is_not(self, on: World) -> None:
        await recorded(on)
        on.pause("default")
        await on.until(lambda: mapped() == 0)
        await on.until(lambda: on.condition("Holding") is None)
        on.pause()
        await on.until_says("Holding", "True", "Holding")

    async def test_nor_is_any_while_the_agent_is(self, on: World) -> None:
        await recorded(on)
        on.configure(**ON, mode="paused")
        await on.until(lambda: mapped() == 0)

    async def test_another_word_of_the_same_migration_changes_nothing(
        self, on: World, port: Port
    ) -> None:
        await recorded(on)
        port.put([1])
        before = on.loop.holding._recorded[KEY]
        on.put(said="source", annotations=TARGET, shared="x")
        on.loop.follow_machine(on.loop.endpoints[KEY])
        await on.at_rest()
        assert on.loop.holding._recorded[KEY] is before

    async def test_another_migration_begins_with_an_empty_ring(self, on: World, port: Port) -> None:
        await recorded(on)
        port.put([1])
        await recorded(on, uid="m2")
        await on.until(lambda: mapped() == 2)
        recorder = on.loop.holding._recorded[KEY].recorder
        assert recorder
        assert recorder.count_since(0) == 0

    async def test_where_no_ring_can_be_it_says_why(
        self, on: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ring, "open_socket", lambda: NoRing("CAP_NET_RAW is missing"))
        on.put(said="source", annotations=TARGET)
        await on.until_says("Holding", "False", "NoRing")
        assert "CAP_NET_RAW is missing" in on.message("Holding")
        assert await redirected(on) == Hold(
            held=0, resent=0, doubled=0, dropped=0, reason=HoldReason.NO_RING
        )

    async def test_beyond_the_nodes_bound_there_is_no_room(
        self, on: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounds, "NODE_BLOCKS", bounds.LEAST_BLOCKS)
        on.put("first", said="source", ips=["10.65.0.9"], mac=None, interface="tap1")
        await on.until_says("Holding", "True", "Holding", "first")
        on.put(said="source", annotations=TARGET)
        await on.until_says("Holding", "False", "NoRoom")
        found = await redirected(on)
        assert found.reason is HoldReason.NO_ROOM
        # Once it is given back, the next one has it.
        on.put("first", ips=["10.65.0.9"], mac=None, interface="tap1")
        on.put("third", said="source", ips=["10.65.0.9"], mac=None, interface="tap1")
        await on.until_says("Holding", "True", "Holding", "third")

    async def test_what_is_on_its_way_takes_room_until_it_has_gone(
        self, on: World, port: Port, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounds, "NODE_BLOCKS", bounds.LEAST_BLOCKS)
        monkeypatch.setattr(pacing, "TURN", 0.5)
        await recorded(on)
        port.put(range(400))
        assert heard(on)
        await on.until_state("Redirected")
        others: dict[str, Any] = {"ips": ["10.65.0.9"], "mac": None, "interface": "tap1"}
        on.put("second", said="source", **others)
        await on.until_says("Holding", "False", "NoRoom", "second")
        monkeypatch.setattr(pacing, "TURN", 0.002)
        await on.until(lambda: told(on))
        on.put("second", **others)
        on.put("second", said="source", **others)
        await on.until_says("Holding", "True", "Holding", "second")

    async def test_more_than_is_held_is_said(self, on: World, port: Port) -> None:
        await recorded(on)
        # Without a turn for anybody who could give something back.
        port.put(range(8 * MIB // LARGE), LARGE)
        await on.until(lambda: "9216 octets are left out" in on.message("Holding"))
        assert on.condition("Holding") == ("True", "Holding")
        port.put(range(8 * MIB // LARGE), LARGE)
        await on.until_says("Holding", "False", "TooMuch")
        assert count(metrics.HOLD_BYTES) == 0
        assert (await redirected(on)).reason is HoldReason.TOO_MUCH


class TestResend:
    """What the guest did not take goes the way of its redirect."""

    async def test_it_leaves_by_the_tunnel_and_is_told_and_counted(
        self, on: World, port: Port, wire: socket.socket
    ) -> None:
        before = [count(metrics.HOLD, one) for one in ("held", "resent", "doubled", "dropped")]
        await recorded(on)
        port.put(range(10))
        expected = Hold(held=12, resent=12, doubled=0, dropped=0)
        assert heard(on)
        # Those that were on their way to the port at the switch.
        port.put(range(10, 12))
        await on.until(lambda: told(on) == expected)
        assert arrived(wire) == list(range(12))
        after = [count(metrics.HOLD, one) for one in ("held", "resent", "doubled", "dropped")]
        assert [new - old for old, new in zip(before, after, strict=True)] == [12, 12, 0, 0]
        # What the last frame is recorded by is left.
        await on.until(lambda: mapped() == 1)
        assert count(metrics.HOLD_BYTES) == 0
        assert on.state() == "Redirected"
        await on.until(lambda: on.condition("Holding") is None)
        # It stays told for as long as the migration is.
        on.put(said="source Succeeded", annotations=TARGET)
        await on.at_rest()
        assert told(on) == expected
        assert arrived(wire) == []

    async def test_what_came_before_the_guests_last_frame_does_not(
        self, on: World, port: Port, wire: socket.socket
    ) -> None:
        await recorded(on)
        port.put([1, 2])
        sent_ns = time.time_ns()
        await on.until(lambda: time.time_ns() > sent_ns + holding.LAG_NS)
        await silent(on)
        # All but its own time apart.
        port.put([3, 4])
        assert (await redirected(on)).resent == 2
        assert arrived(wire) == [3, 4]

    async def test_what_it_may_have_had_goes_and_counts_as_doubled(
        self, on: World, port: Port, wire: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # However slow the machine is.
        monkeypatch.setattr(holding, "LAG_NS", 10**10)
        await recorded(on)
        port.put([1, 2])
        await silent(on)
        port.put([3, 4, 5])
        found = await redirected(on)
        assert (found.held, found.resent) == (5, 5)
        # What its kernel sends of itself may be later than all of them.
        assert found.doubled in {2, 5}
        assert arrived(wire) == [1, 2, 3, 4, 5]

    @pytest.mark.usefixtures("alive")
    async def test_what_a_guest_that_answers_has_taken_does_not(
        self, on: World, node: Node, port: Port, wire: socket.socket
    ) -> None:
        await recorded(on)
        sign = on.loop.holding._recorded[KEY].sign
        assert sign
        port.put([1, 2])
        sent_ns = time.time_ns()
        await on.until(lambda: sign.taken_until() > sent_ns)
        node.guest_runs("ip link set eth arp off")
        port.put([3, 4])
        found = await redirected(on)
        assert arrived(wire) == [3, 4]
        assert (found.held, found.resent) == (2, 2)

    async def test_on_a_link_it_goes_to_the_peers_own_mac(
        self, on: World, port: Port, wire: socket.socket
    ) -> None:
        on.configure(**ON | {"sourceRedirect": "link"})
        await recorded(on)
        port.put([1, 2])
        assert (await redirected(on)).resent == 2
        assert arrived(wire, ETHERNET) == [1, 2]

    async def test_on_a_link_whose_peer_has_no_mac_nothing_goes_and_that_is_told(
        self, on: World, node: Node, port: Port
    ) -> None:
        on.configure(**ON | {"sourceRedirect": "link"})
        await recorded(on)
        node.run("ip neigh del 192.0.2.2 dev uplink")
        port.put([1, 2])
        assert (await redirected(on)).reason is HoldReason.NOT_REDIRECTED
        # What the last frame is recorded by is left.
        await on.until(lambda: mapped() == 1)

    async def test_a_way_that_the_kernel_refuses_is_told(self, on: World, port: Port) -> None:
        await recorded(on)
        port.put([1])

        def refuse(*_: object) -> None:
            raise OSError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(senders, "TunnelSender", refuse)
            assert (await redirected(on)).reason is HoldReason.NOT_REDIRECTED

    async def test_a_migration_that_is_called_off_forgets_what_was_held(
        self, on: World, port: Port, wire: socket.socket
    ) -> None:
        await recorded(on)
        port.put([1, 2])
        on.put()
        await on.until(lambda: mapped() == 0)
        assert told(on) is None
        # The next one has nothing of it.
        await recorded(on, uid="m1")
        port.put([3])
        assert (await redirected(on)).resent == 1
        assert arrived(wire) == [3]

    async def test_what_is_told_is_told_of_its_own_migration(self, on: World, port: Port) -> None:
        await recorded(on)
        port.put([1])
        await redirected(on)
        on.announce(is_answer=True)
        await on.until_state("Base")
        await recorded(on, uid="m2")
        await on.until(lambda: told(on) is None)
        on.delete()
        await on.until(lambda: on.state() == "gone")
        assert not on.loop.holding._results

    async def test_one_that_is_deleted_meanwhile_lets_it_end(
        self, on: World, port: Port, wire: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pacing, "TURN", 0.02)
        await recorded(on)
        port.put(range(400))
        assert heard(on)
        got: list[int] = []

        def is_so(number: int) -> bool:
            got.extend(arrived(wire))
            return len(got) >= number

        await on.until(lambda: is_so(1))
        on.delete()
        await on.until(lambda: on.state() == "gone")
        assert len(got) < 400
        await on.until(lambda: is_so(400))
        assert got == list(range(400))
        await on.until(lambda: mapped() == 0)
        # Nobody asks what became of it.
        assert not on.loop.holding._results

    @pytest.mark.parametrize("is_leaving", [False, True], ids=["held", "on its way"])
    async def test_an_agent_that_ends_leaves_nothing(
        self, on: World, port: Port, monkeypatch: pytest.MonkeyPatch, *, is_leaving: bool
    ) -> None:
        monkeypatch.setattr(pacing, "TURN", 0.5)
        await recorded(on)
        port.put(range(400))
        if is_leaving:
            assert heard(on)
            await on.until(lambda: on.loop.holding._sending)
        before = count(metrics.HOLD, "dropped")
        on.loop.close()
        await on.until(lambda: mapped() == 0)
        # The port's own is left.
        await on.until(lambda: sockets() == 1)
        assert count(metrics.HOLD_BYTES) == 0
        assert (count(metrics.HOLD, "dropped") - before > 100) == is_leaving


@pytest.mark.usefixtures("alive")
class TestStall:
    """A guest that stood still and runs on is given what its port had no room for.

    A veth drops nothing: here it has all twice, but what a tap would have kept.
    """

    @pytest.fixture
    def guest(self, node: Node) -> Iterator[socket.socket]:
        with node.guest_socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, migration_net.RCVBUFFORCE, 1 << 22)
            sock.settimeout(0)
            yield sock

    async def runs_on(self, on: World, port: Port, guest: socket.socket) -> holding._Recorded:
        """Let it stand still while 999 packets come, and be heard again."""
        await recorded(on)
        await silent(on)
        held = on.loop.holding._recorded[KEY]
        sign = held.sign
        assert sign
        port.put([0])
        await on.until(lambda: sign.waiting_ns == 0 and sign.taken_until())
        on.node.guest_runs("ip link set eth arp off")
        port.put(range(1, 1000))
        await on.until(lambda: held.stall.since_ns)
        self.received(guest)
        on.send()
        return held

    def received(self, guest: socket.socket) -> list[int]:
        """Return the numbers of the packets that came to the guest since this was asked last."""
        found: list[int] = []
        while True:
            try:
                octets = guest.recv(2000)
            except BlockingIOError:
                return found
            if octets[12:14] == b"\x08\x00":
                found.append(number_of(octets))

    async def test_it_has_all_but_the_first_and_is_recorded_on(
        self, on: World, node: Node, port: Port, wire: socket.socket, guest: socket.socket
    ) -> None:
        held = await self.runs_on(on, port, guest)
        got: list[int] = []

        def has_all() -> bool:
            got.extend(self.received(guest))
            return 999 in got

        await on.until(has_all)
        # The first of all may count as taken.
        begin = stall.QUEUED
        assert got in (list(range(begin, 1000)), list(range(begin + 1, 1000)))
        await on.until(lambda: held.returned is None)
        assert held.stall.since_ns is None
        # What it has then is given back.
        recorder = held.recorder
        assert recorder
        node.guest_runs("ip link set eth arp on")
        port.put([1000])
        await on.until(lambda: recorder.count_since(0) == 0)
        assert arrived(wire) == []

    async def test_fewer_than_a_port_keeps_are_not_given_again(
        self, on: World, port: Port, guest: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stall, "QUEUED", 1000)
        held = await self.runs_on(on, port, guest)
        await on.until(lambda: held.stall.since_ns is None)
        assert held.returned is None
        assert self.received(guest) == []

    async def test_it_is_given_no_more_once_another_node_has_it(
        self,
        on: World,
        port: Port,
        wire: socket.socket,
        guest: socket.socket,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(stall, "QUEUED", 10)
        monkeypatch.setattr(pacing, "TURN", 0.5)
        held = await self.runs_on(on, port, guest)
        await on.until(lambda: held.returned)
        monkeypatch.setattr(pacing, "TURN", 0.002)
        found = await redirected(on)
        # What it was given here it may lack there: all of it goes.
        assert arrived(wire)[-1] == 999
        assert found.reason is None
        assert len(self.received(guest)) <= 2 * pacing.FIRST
        # What the last frame is recorded by is left.
        await on.until(lambda: mapped() == 1)

    async def test_it_is_given_the_rest_though_its_migration_is_called_off(
        self, on: World, port: Port, guest: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stall, "QUEUED", 10)
        monkeypatch.setattr(pacing, "TURN", 0.1)
        held = await self.runs_on(on, port, guest)
        await on.until(lambda: held.returned)
        on.put()
        got: list[int] = []

        def has_all() -> bool:
            got.extend(self.received(guest))
            return 999 in got

        await on.until(has_all)
        assert got == list(range(got[0], 1000))
        await on.until(lambda: mapped() == 0)
        assert count(metrics.HOLD_BYTES) == 0

    async def test_an_agent_that_ends_meanwhile_leaves_nothing(
        self, on: World, port: Port, guest: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stall, "QUEUED", 10)
        monkeypatch.setattr(pacing, "TURN", 0.5)
        held = await self.runs_on(on, port, guest)
        await on.until(lambda: held.returned)
        on.loop.close()
        await on.until(lambda: mapped() == 0)
        assert 999 not in self.received(guest)
