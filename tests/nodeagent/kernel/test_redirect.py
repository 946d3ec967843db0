"""A guest moves, the router learns nothing, and the source's node sends on what still arrives.

All that a redirect is made of, in five namespaces: the route in its place, the tunnel, the table
that bounds it. Both nodes drop what conntrack takes for invalid, as kube-proxy's rules do.
"""

import contextlib
import dataclasses
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address, ip_address
from typing import Final

import pytest
from tests.nodeagent import namespaces
from tests.nodeagent.kernel import migration_net
from tests.nodeagent.kernel.migration_net import CLIENT, VM, MigrationNet
from tests.nodeagent.kernel.test_in_place import Flood

from handover_nodeagent.kernel import tunnel
from handover_nodeagent.kernel.netlink import rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.redirect_table import rules
from handover_nodeagent.kernel.redirect_table.rules import Redirects
from handover_nodeagent.network.model import Encapsulated, IPAddress, Route, Via

pytestmark = pytest.mark.root

Lead = Callable[[MigrationNet, IPAddress], Route]
BOTH = pytest.mark.parametrize("address", VM, ids=["IPv4", "IPv6"])
WHERE = pytest.mark.parametrize("net", [False, True], indirect=True, ids=["one segment", "routed"])
INVALID: Final = """
    table inet theirs {
        chain forward { type filter hook forward priority 0; ct state invalid drop; }
    }
"""
PACKETS: Final = 200


@pytest.fixture
def net(request: pytest.FixtureRequest) -> Iterator[MigrationNet]:
    """Make two nodes that are ready to redirect to each other, and drop what is invalid."""
    namespaces.needs_root()
    with migration_net.made(routed=getattr(request, "param", False)) as it:
        for node, peer in ("ab", "ba"):
            with it.within(node, Channel) as channel:
                own = [it.node_address(node, version) for version in (4, 6)]
                made = tunnel.ensure(channel, tunnel.REDIRECT, 7472, own)
                assert isinstance(made, int)
                serve = [rtmsg.encode_add(served(it, node, address)) for address in VM]
                assert channel.transact(serve) == [0, 0]
            nft(it, node, rules.render(redirects(it, peer)))
            nft(it, node, INVALID)
        yield it


def redirects(net: MigrationNet, peer: str, *redirected: IPAddress) -> Redirects:
    """Return what a node's table holds while *peer* may send to it."""
    peers = frozenset(net.node_address(peer, version) for version in (4, 6))
    return Redirects(7472, 7473, frozenset({"tap"}), peers, frozenset(redirected))


def nft(net: MigrationNet, node: str, text: str) -> None:
    net.fed(node, ["nft", "-f", "-"], text)


def served(net: MigrationNet, node: str, address: IPAddress) -> Route:
    return Route(address, net.index(node, "tap"), 512, 254, 88)


def into_the_tunnel(net: MigrationNet, address: IPAddress) -> Route:
    way = Encapsulated(net.node_address("b", address.version))
    index = net.index("a", tunnel.REDIRECT)
    return dataclasses.replace(served(net, "a", address), oif=index, way=way)


def into_the_other_family(net: MigrationNet, address: IPAddress) -> Route:
    """By the other family's addresses of the nodes: the tunnel carries both over either."""
    way = Encapsulated(net.node_address("b", 10 - address.version))
    return dataclasses.replace(into_the_tunnel(net, address), way=way)


def over_the_link(net: MigrationNet, address: IPAddress) -> Route:
    way = Via(net.node_address("b", address.version))
    return dataclasses.replace(served(net, "a", address), oif=net.index("a", "eth"), way=way)


def leave(net: MigrationNet, address: IPAddress) -> None:
    """Let the guest be at the target alone: what the source still delivers is lost."""
    gateway = "169.254.1.1" if address.version == 4 else "fe80::ecee:eeff:feee:eeee"
    net.run(
        "g",
        f"ip -{address.version} route replace default via {gateway} dev ethb onlink",
        "ip link set etha down",
    )


def redirect(net: MigrationNet, address: IPAddress, lead: Lead, *, notrack: bool = True) -> None:
    """Replace the source's route in its place, and then let conntrack see nothing more of it."""
    with net.within("a", Channel) as channel:
        assert channel.transact([rtmsg.encode_replace(lead(net, address))]) == [0]
    if notrack:
        before, after = redirects(net, "b"), redirects(net, "b", address)
        nft(net, "a", rules.render_change(before, after))


@WHERE
@BOTH
@pytest.mark.parametrize("rp_filter", [0, 1, 2])
def test_after_the_redirect_no_packet_is_lost(
    net: MigrationNet, address: IPAddress, rp_filter: int
) -> None:
    for node in "ab":
        net.run(node, f"sysctl -qw net.ipv4.conf.all.rp_filter={rp_filter}")
        net.run(node, f"sysctl -qw net.ipv4.conf.eth.rp_filter={rp_filter}")
    with Flood(net, address) as flood:
        flood.await_more(PACKETS // 4)
        leave(net, address)
        redirect(net, address, into_the_tunnel)
        first = flood.sent
        flood.await_more(2 * PACKETS)
    assert flood.missing(first) == []


@BOTH
@pytest.mark.parametrize("lead", [into_the_other_family, over_the_link])
def test_whatever_the_way_no_packet_is_lost(
    net: MigrationNet, address: IPAddress, lead: Lead
) -> None:
    with Flood(net, address) as flood:
        leave(net, address)
        redirect(net, address, lead)
        first = flood.sent
        flood.await_more(2 * PACKETS)
    assert flood.missing(first) == []


@BOTH
@pytest.mark.parametrize("version", [4, 6])
def test_a_node_of_several_addresses_sends_from_the_one_that_its_peer_knows(
    net: MigrationNet, address: IPAddress, version: int
) -> None:
    """The published one is not the kernel's choice, whose packets the peer's firewall drops."""
    published = ip_address("192.0.2.77" if version == 4 else "fd00:66::77")
    # A second one of its network, in IPv6 a deprecated one: not what the kernel speaks from.
    added = "/24 dev eth" if version == 4 else "/64 dev eth nodad preferred_lft 0"
    net.run("a", f"ip address add {published}{added}")
    nft(net, "b", rules.render(Redirects(7472, 7473, frozenset({"tap"}), frozenset({published}))))

    def lead(net: MigrationNet, address: IPAddress, own: tuple[IPAddress, ...]) -> Route:
        way = tunnel.way_to(net.node_address("b", version), own)
        return dataclasses.replace(into_the_tunnel(net, address), way=way)

    def arrived(guest: socket.socket) -> bool:
        with net.socket("x", CLIENT[address.version == 6], socket.SOCK_DGRAM) as sock:
            for _ in range(10):
                sock.sendto(b"x", (str(address), 7))
                with contextlib.suppress(TimeoutError):
                    return bool(guest.recv(64))
        return False

    with net.socket("g", address, socket.SOCK_DGRAM, 7) as guest:
        guest.settimeout(0.05)
        leave(net, address)
        redirect(net, address, partial(lead, own=()))
        assert not arrived(guest)
        redirect(net, address, partial(lead, own=(published,)))
        assert arrived(guest)


class Flows:
    """Three connections of the client with the guest, each at a pace of its own choice.

    ``done`` counts what arrived of a download, an upload, and of answers to requests.
    """

    PIECE: Final = bytes(4096)
    PACE: Final = 0.01

    def __init__(self, net: MigrationNet, address: IPAddress) -> None:
        self.done = {"download": 0, "upload": 0, "request/response": 0}
        self._is_over = threading.Event()
        self._threads = []
        self._sockets = contextlib.ExitStack()
        for port, (name, work) in enumerate(
            [("download", self._pump), ("upload", self._pump), ("request/response", self._ask)],
            start=8000,
        ):
            listener = net.socket("g", address, socket.SOCK_STREAM, port)
            listener.listen()
            client = net.socket("x", CLIENT[address.version == 6], socket.SOCK_STREAM)
            client.settimeout(5)
            client.connect((str(address), port))
            guest, _ = listener.accept()
            listener.close()
            for sock in (client, guest):
                self._sockets.enter_context(sock)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(0.1)
            ends = (client, guest) if name == "upload" else (guest, client)
            self._threads += [
                threading.Thread(target=work, args=(name, *ends)),
                threading.Thread(target=self._take, args=(name, *reversed(ends))),
            ]

    def __enter__(self) -> "Flows":  # noqa: PYI034  final by use
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self._sockets.close()

    def rates(self, seconds: float) -> dict[str, float]:
        """Return what arrives per second."""
        before, start = dict(self.done), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - start
        return {name: (self.done[name] - before[name]) / took for name in before}

    def await_all(self) -> None:
        """Wait until each goes on: TCP sends what was lost again after 200 ms, 400 ms, …."""
        before, deadline = dict(self.done), time.monotonic() + 5
        while any(self.done[name] == before[name] for name in before):
            assert time.monotonic() < deadline, (before, self.done)
            time.sleep(0.01)

    def _pump(self, _name: str, sender: socket.socket, _receiver: socket.socket) -> None:
        for _ in self._beats():
            with contextlib.suppress(TimeoutError):
                sender.send(self.PIECE)

    def _ask(self, name: str, guest: socket.socket, client: socket.socket) -> None:
        """Be the client; the guest's end answers in :meth:`_take`."""
        del guest
        is_waiting = False
        for _ in self._beats():
            with contextlib.suppress(TimeoutError):
                if not is_waiting:
                    client.send(b"?")
                is_waiting = True
                client.recv(1)
                is_waiting = False
                self.done[name] += 1

    def _beats(self) -> Iterator[None]:
        """Go by the clock, so that what a busy machine delays is made up for."""
        due = time.monotonic()
        while not self._is_over.is_set():
            yield
            due = max(due + self.PACE, time.monotonic() - 20 * self.PACE)
            time.sleep(max(0.0, due - time.monotonic()))

    def _take(self, name: str, receiver: socket.socket, sender: socket.socket) -> None:
        if name == "request/response":
            self._answer(sender)
            return
        while not self._is_over.is_set():
            with contextlib.suppress(TimeoutError):
                self.done[name] += len(receiver.recv(1 << 16))

    def _answer(self, guest: socket.socket) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(TimeoutError):
                guest.recv(1)
                guest.send(b"!")


def shares(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: after[name] / before[name] for name in before}


@WHERE
@BOTH
def test_connections_go_on_as_before(net: MigrationNet, address: IPAddress) -> None:
    for node in "ab":
        net.run(node, "sysctl -qw net.ipv4.conf.all.rp_filter=1")
    with Flows(net, address) as flows:
        before = flows.rates(0.5)
        leave(net, address)
        redirect(net, address, into_the_tunnel)
        flows.await_all()
        found = shares(before, flows.rates(1.0))
    assert {name: share for name, share in found.items() if share < 0.8} == {}


@BOTH
def test_connections_go_on_over_one_link(net: MigrationNet, address: IPAddress) -> None:
    with Flows(net, address) as flows:
        before = flows.rates(0.5)
        leave(net, address)
        redirect(net, address, over_the_link)
        flows.await_all()
        found = shares(before, flows.rates(1.0))
    assert {name: share for name, share in found.items() if share < 0.8} == {}


def test_without_notrack_a_download_stops(net: MigrationNet) -> None:
    """Guards: the rule that the table is there for; the same flow goes on with it."""
    with Flows(net, VM[0]) as flows:
        leave(net, VM[0])
        redirect(net, VM[0], into_the_tunnel, notrack=False)
        time.sleep(1.0)
        assert flows.rates(0.5)["download"] < 0.2 * len(Flows.PIECE) / Flows.PACE
        nft(net, "a", rules.render_change(redirects(net, "b"), redirects(net, "b", VM[0])))


def count_out(net: MigrationNet, address: IPAddress) -> Callable[[], int]:
    """Count at the target what leaves for the guest by the uplink."""
    family = "ip" if address.version == 4 else "ip6"
    nft(
        net,
        "b",
        f"table {family} count {{ counter out {{}}\n"
        f"chain post {{ type filter hook postrouting priority 0; oifname eth {family} daddr"
        f" {address} counter name out; }}; }}",
    )

    def count() -> int:
        shown = net.run("b", f"nft list counter {family} count out").split()
        return int(shown[shown.index("packets") + 1])

    return count


def send(net: MigrationNet, address: IPAddress) -> None:
    with net.socket("x", CLIENT[address.version == 6], socket.SOCK_DGRAM) as sock:
        for _ in range(PACKETS):
            sock.sendto(b"x", (str(address), 7))
            time.sleep(0.0005)
    time.sleep(0.2)


@WHERE
@BOTH
def test_what_came_by_the_tunnel_never_leaves_by_the_uplink(
    net: MigrationNet, address: IPAddress
) -> None:
    """The target has no route for it, but the default one, by which it would come back for ever."""
    redirect(net, address, into_the_tunnel)
    with net.within("b", Channel) as channel:
        channel.transact([rtmsg.encode_remove(served(net, "b", address))])
    out = count_out(net, address)
    send(net, address)
    assert out() == 0
    # Guards: the rule that stops them.
    net.run("b", "nft flush chain inet handover forward")
    send(net, address)
    assert out() > PACKETS


def test_two_nodes_that_point_at_each_other_pass_nothing_on(net: MigrationNet) -> None:
    redirect(net, VM[0], into_the_tunnel)
    back = dataclasses.replace(
        served(net, "b", VM[0]),
        oif=net.index("b", tunnel.REDIRECT),
        way=Encapsulated(net.node_address("a", 4)),
    )
    with net.within("b", Channel) as channel:
        assert channel.transact([rtmsg.encode_replace(back)]) == [0]
    send(net, VM[0])
    (shown,) = json.loads(net.run("b", "ip -s -j link show handover0"))
    assert shown["stats64"]["tx"]["packets"] == 0
    assert shown["stats64"]["rx"]["packets"] >= PACKETS


def enclosed(payload: bytes) -> bytes:
    """Return an IPv4 datagram for the guest as VXLAN-GPE carries it, of tunnel 88."""
    source, to = IPv4Address("203.0.113.66").packed, VM[0].packed
    length = 28 + len(payload)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 1, 0, 64, 17, 0, source, to)
    total = sum(struct.unpack("!10H", header))
    checksum = ~(total + (total >> 16)) & 0xFFFF
    header = header[:10] + struct.pack("!H", checksum) + header[12:]
    # Flags I and P, then 1 for IPv4; a UDP checksum of 0 says that there is none.
    gpe = struct.pack("!BxxBI", 0x0C, 1, 88 << 8)
    return gpe + header + struct.pack("!HHHH", 9, 7, 8 + len(payload), 0) + payload


@WHERE
@pytest.mark.parametrize("version", [4, 6])
def test_the_tunnels_port_is_open_to_peers_alone(net: MigrationNet, version: int) -> None:
    outside = CLIENT[version == 6]
    target = str(net.node_address("b", version))
    with contextlib.ExitStack() as sockets:
        guest = sockets.enter_context(net.socket("g", VM[0], socket.SOCK_DGRAM, 7))
        peer = sockets.enter_context(
            net.socket("a", net.node_address("a", version), socket.SOCK_DGRAM)
        )
        stranger = sockets.enter_context(net.socket("x", outside, socket.SOCK_DGRAM))
        guest.settimeout(5)
        for turn in range(5):
            stranger.sendto(enclosed(b"stranger"), (target, 7472))
            peer.sendto(enclosed(b"%d" % turn), (target, 7472))
            assert guest.recv(64) == b"%d" % turn
        # No peer any more.
        nft(net, "b", rules.render(Redirects(7472, 7473, frozenset({"tap"}))))
        peer.sendto(enclosed(b"late"), (target, 7472))
        guest.settimeout(0.3)
        with pytest.raises(TimeoutError):
            guest.recv(64)


@WHERE
@BOTH
def test_what_the_source_node_itself_sends_is_answered(
    net: MigrationNet, address: IPAddress
) -> None:
    """By an address of its own: the tunnel's is the same on every node, and answers to nobody."""
    with net.socket("g", address, socket.SOCK_DGRAM, 7) as guest:
        guest.settimeout(5)
        leave(net, address)
        redirect(net, address, into_the_tunnel)
        anywhere = ip_address("0.0.0.0" if address.version == 4 else "::")
        with net.socket("a", anywhere, socket.SOCK_DGRAM) as node:
            node.settimeout(5)
            node.sendto(b"question", (str(address), 7))
            text, asker = guest.recvfrom(64)
            assert ip_address(asker[0]) == net.node_address("a", address.version)
            guest.sendto(text, asker)
            assert node.recv(64) == b"question"
