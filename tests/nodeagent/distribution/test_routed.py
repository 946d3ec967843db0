"""Nodes behind a router, whose CNI leads none to another: all follow by the second tunnel."""

import contextlib
import dataclasses
import datetime as dt
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
from tests.nodeagent import namespaces
from tests.nodeagent.distribution import routed_nodes
from tests.nodeagent.distribution.cluster import GUEST4, GUEST6, endpoint
from tests.nodeagent.distribution.routed_nodes import (
    CLIENT,
    GUEST,
    NODES,
    POD,
    PORT,
    Agent,
    RoutedNodes,
    address,
    node,
)

from handover_api.configuration import Settings
from handover_api.workloadendpoint import State
from handover_nodeagent.distribution import distribution
from handover_nodeagent.distribution.advertised import Endpoint
from handover_nodeagent.distribution.distribution import Distribution
from handover_nodeagent.distribution.underlay import Underlay
from handover_nodeagent.kernel import tunnel
from handover_nodeagent.kernel.netlink import rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.redirect_table import rules
from handover_nodeagent.network.model import Encapsulated, Route

pytestmark = pytest.mark.root

SETTINGS = Settings(live_migration_route_convergence_time=dt.timedelta(seconds=0.3))
LIVE = endpoint("b", "b", State.LIVE, "m", cutover=(10, "m"))
BOTH = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
PACKETS = 50
PIECE = bytes(50_000)
INVALID = """
    table inet theirs {
        chain forward { type filter hook forward priority 0; ct state invalid drop; }
    }
"""
Agents = Mapping[str, Agent]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[RoutedNodes]:
    """Make the nodes; the guest is at the one that is not its home."""
    namespaces.needs_root()
    monkeypatch.setattr(distribution, "REST", 0.01)
    with routed_nodes.made() as it:
        it.settle("b")
        yield it


@pytest.fixture
def agents(nodes: RoutedNodes) -> Iterator[Agents]:
    """Run an agent's distribution on each node, which lets the others send to it."""
    with contextlib.ExitStack() as stack:
        made = {name: stack.enter_context(Agent.running(nodes, name, SETTINGS)) for name in NODES}
        others = {
            name: {address(one, version) for one in NODES if one != name for version in (4, 6)}
            for name in NODES
        }
        until(lambda: all(made[name].let == others[name] for name in NODES))
        yield made


def until(condition: Callable[[], bool]) -> None:
    """Return once *condition* holds; fail after 5 s."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def tell(agents: Agents, *endpoints: Endpoint) -> None:
    for agent in agents.values():
        for one in endpoints:
            agent.call(lambda it, one=one: it.put(one))  # type: ignore[misc]


def leads(nodes: RoutedNodes, where: str, version: int, device: str) -> bool:
    """Tell whether a route of the agent's leads there to the guest by *device*; "": none."""
    shown = nodes.run(where, f"ip -{version} route show {GUEST[version]} proto 89")
    return f"dev {device} " in shown if device else not shown


def answer(nodes: RoutedNodes, where: str, version: int) -> bool:
    """Tell whether the guest, which hears all that is sent from *where*, is heard there, too."""
    own = {"p": POD, "x": CLIENT}[where][version]
    with nodes.socket("g", GUEST[version], PORT) as guest, nodes.socket(where, own) as sock:
        # Of the first one a neighbor's queue may lose a piece.
        sock.sendto(b"?", (str(GUEST[version]), PORT))
        text, sender = guest.recvfrom(16)
        guest.sendto(text, sender)
        try:
            return sock.recv(16) == b"?"
        except TimeoutError:
            return False


def count_passing(nodes: RoutedNodes, where: str) -> Callable[[], int]:
    """Count what *where* forwards to the guest."""
    nodes.nft(
        where,
        "table inet count { counter passed {}\n"
        "chain forward { type filter hook forward priority 100;\n"
        f"ip daddr {GUEST4} counter name passed; ip6 daddr {GUEST6} counter name passed; }}\n}}\n",
    )

    def count() -> int:
        shown = nodes.run(where, "nft list counter inet count passed").split()
        return int(shown[shown.index("packets") + 1])

    return count


@BOTH
def test_a_pod_and_a_client_follow(nodes: RoutedNodes, agents: Agents, version: int) -> None:
    tell(agents, LIVE)
    until(lambda: all(leads(nodes, name, version, "handover1") for name in "ac"))
    at_home, at_guest = count_passing(nodes, "a"), count_passing(nodes, "b")
    assert answer(nodes, "p", version)
    assert (at_home(), at_guest()) == (0, 1)
    # The router leads a client to the guest's home, and that sends on.
    assert answer(nodes, "x", version)
    assert (at_home(), at_guest()) == (1, 2)
    tell(agents, dataclasses.replace(endpoint("a", "a", cutover=(20, "n"))))
    until(lambda: leads(nodes, "a", version, "") and leads(nodes, "c", version, "handover1"))
    nodes.settle("a")
    assert answer(nodes, "p", version)
    assert answer(nodes, "x", version)


@BOTH
def test_a_strict_filter_costs_nobody_the_guest(
    nodes: RoutedNodes, agents: Agents, version: int
) -> None:
    """Answers come by the uplink: where that filters by the way back, the home has to forward."""
    for name in NODES:
        nodes.run(name, "sysctl -qw net.ipv4.conf.all.rp_filter=1")
    tell(agents, LIVE)
    until(lambda: leads(nodes, "a", version, "handover1"))
    until(lambda: leads(nodes, "c", 6, "handover1"))
    assert leads(nodes, "c", version, "" if version == 4 else "handover1")
    assert answer(nodes, "p", version)
    assert answer(nodes, "x", version)
    # Nobody waits for a route that is not to come.
    assert agents["c"].call(lambda it: it.bystander_has(LIVE.key, "m"))

    nodes.run("c", "sysctl -qw net.ipv4.conf.eth.rp_filter=2")
    agents["c"].call(look_soon)
    until(lambda: leads(nodes, "c", version, "handover1"))
    assert answer(nodes, "p", version)


def test_a_have_fires_the_other_familys_route_under_a_strict_filter(
    nodes: RoutedNodes, agents: Agents
) -> None:
    for name in NODES:
        nodes.run(name, "sysctl -qw net.ipv4.conf.all.rp_filter=1")
    target = endpoint("b", "b", State.TARGET, "m")
    tell(agents, endpoint("a", "a", uid="m", is_source=True), target)
    until(lambda: agents["c"].call(lambda it: target.key in it._prepared))
    assert agents["c"].call(lambda it: it.bystander_has(target.key, "m"))
    assert "metric 513" in nodes.run("c", f"ip -6 route show {GUEST6} proto 89")
    assert leads(nodes, "c", 4, "")


def test_without_a_home_there_is_nobody_else_to_lead_there(
    nodes: RoutedNodes, agents: Agents
) -> None:
    nodes.run("c", "sysctl -qw net.ipv4.conf.all.rp_filter=1")
    tell(agents, LIVE)
    until(lambda: leads(nodes, "c", 6, "handover1"))
    assert leads(nodes, "c", 4, "")
    elsewhere = tuple(one for one in node("b").pod_cidrs)
    agents["c"].call(lambda it: it.put_node(dataclasses.replace(node("a"), pod_cidrs=elsewhere)))
    agents["c"].call(Distribution.refresh)
    until(lambda: leads(nodes, "c", 4, "handover1"))


@BOTH
@pytest.mark.parametrize("where", ["p", "q", "x"])
def test_connections_are_made_where_rules_drop_what_conntrack_takes_for_invalid(
    nodes: RoutedNodes, agents: Agents, where: str, version: int
) -> None:
    """As kube-proxy's do. The guest's home sees what a client sends, and no answer to that."""
    for name in NODES:
        nodes.nft(name, INVALID)
    tell(agents, LIVE)
    until(lambda: all(leads(nodes, name, version, "handover1") for name in "ac"))
    until(lambda: agents["a"].away == {GUEST4, GUEST6})
    assert agents["a"].uplinks == {"eth"}
    # A pod's own node has both directions.
    assert agents["c"].away == frozenset()
    with connected(nodes, where, version) as (client, guest):
        there_and_back(client, guest)

    tell(agents, endpoint("a", "a", cutover=(20, "n")))
    until(lambda: agents["a"].away == frozenset())


@BOTH
@pytest.mark.parametrize("where", ["p", "q", "x"])
def test_connections_go_on_while_what_still_comes_to_the_source_is_sent_on(
    nodes: RoutedNodes, agents: Agents, where: str, version: int
) -> None:
    """From outside the source's node sees half of one; of what its own pods have, all."""
    for name in NODES:
        nodes.nft(name, INVALID)
    nodes.settle("a")
    until(lambda: bool(agents["a"].uplinks))
    with connected(nodes, where, version) as (client, guest):
        there_and_back(client, guest)
        nodes.settle("b")
        redirect(nodes, agents, "a", version)
        for _ in range(5):
            there_and_back(client, guest)
    with connected(nodes, where, version) as (client, guest):
        there_and_back(client, guest)


@BOTH
def test_a_connection_outlives_a_stay_away_from_home(
    nodes: RoutedNodes, agents: Agents, version: int
) -> None:
    """At home it begins, and is tracked; meanwhile it goes on by windows that the home misses."""
    for name in NODES:
        nodes.nft(name, INVALID)
    nodes.settle("a")
    with connected(nodes, "x", version) as (client, guest):
        for _ in range(2):
            there_and_back(client, guest)
        tell(agents, LIVE)
        until(lambda: all(leads(nodes, name, version, "handover1") for name in "ac"))
        until(lambda: agents["a"].away == {GUEST4, GUEST6} and agents["a"].forgotten == 1)
        nodes.settle("b")
        for _ in range(10):
            there_and_back(client, guest)
        tell(agents, endpoint("a", "a", cutover=(20, "n")))
        until(lambda: agents["a"].away == frozenset())
        nodes.settle("a")
        there_and_back(client, guest)


@contextlib.contextmanager
def connected(
    nodes: RoutedNodes, where: str, version: int
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect to the guest from *where*; give both ends."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    listener, client = (
        nodes.within(name, lambda: socket.socket(family, socket.SOCK_STREAM))
        for name in ("g", where)
    )
    with listener, client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(GUEST[version]), 8000))
        listener.listen()
        listener.settimeout(3)
        client.settimeout(3)
        client.connect((str(GUEST[version]), 8000))
        # Without the handshake's last part it is none to the guest.
        guest, _ = listener.accept()
        with guest:
            guest.settimeout(3)
            yield client, guest


def there_and_back(client: socket.socket, guest: socket.socket) -> None:
    for sender, receiver in ((client, guest), (guest, client)):
        sender.sendall(PIECE)
        assert read(receiver, len(PIECE)) == PIECE


def read(sock: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length and (piece := sock.recv(length)):
        found += piece
    return found


def look_soon(it: Distribution) -> None:
    it._wanted.set()


def redirect(nodes: RoutedNodes, agents: Agents, left: str, version: int) -> None:
    """Have the node *left* send on to the other side what still comes there for the guest."""
    (now,) = set("ab") - {left}
    for name in (left, now):
        with nodes.within(name, Channel) as channel:
            own = [address(name, 4)]
            made = nodes.within(name, lambda: tunnel.ensure(channel, "handover0", 7472, own))  # noqa: B023
            assert isinstance(made, int)
            if name == left:
                way = Encapsulated(address(now, 4))
                route = Route(GUEST[version], made, 512, 254, 88, way=way)
                assert channel.transact([rtmsg.encode_add(route)]) == [0]
    nodes.nft(left, rules.render(agents[left].table(frozenset({GUEST[version]}))))


@BOTH
def test_what_comes_to_a_node_that_the_guest_has_left_is_sent_on(
    nodes: RoutedNodes, agents: Agents, version: int
) -> None:
    """By the first tunnel, while this bystander has not heard of it."""
    tell(agents, LIVE)
    until(lambda: leads(nodes, "c", version, "handover1"))
    nodes.settle("a")
    agents["a"].call(lambda it: it.put(endpoint("a", "a", cutover=(20, "n"))))
    until(lambda: leads(nodes, "a", version, ""))
    redirect(nodes, agents, "b", version)
    at_home, at_left = count_passing(nodes, "a"), count_passing(nodes, "b")
    assert answer(nodes, "p", version)
    assert (at_home(), at_left()) == (1, 1)


@BOTH
def test_nodes_that_take_each_other_for_the_guests_pass_nothing_on(
    nodes: RoutedNodes, agents: Agents, version: int
) -> None:
    """What came by the second tunnel never leaves by it, or by the uplink."""
    at_b, at_a = LIVE, endpoint("a", "a", cutover=(20, "n"))
    # No port of its own has it here, or there.
    nodes.run("b", f"ip -{version} route del {GUEST[version]} proto 88")
    agents["a"].call(lambda it: it.put(at_b))
    agents["b"].call(lambda it: it.put(at_a))
    agents["c"].call(lambda it: it.put(at_b))
    until(lambda: all(leads(nodes, name, version, "handover1") for name in NODES))
    own = POD[version]
    sent_by_uplink = transmitted(nodes, "b", "eth")
    with nodes.socket("p", own) as sock:
        for _ in range(PACKETS):
            sock.sendto(b"x", (str(GUEST[version]), PORT))
            time.sleep(0.001)
    until(lambda: received(nodes, "b", "handover1") >= PACKETS)
    assert transmitted(nodes, "b", "handover1") == 0
    assert transmitted(nodes, "b", "eth") - sent_by_uplink < PACKETS / 2


def transmitted(nodes: RoutedNodes, where: str, device: str) -> int:
    return statistics(nodes, where, device, "tx")


def received(nodes: RoutedNodes, where: str, device: str) -> int:
    return statistics(nodes, where, device, "rx")


def statistics(nodes: RoutedNodes, where: str, device: str, direction: str) -> int:
    (shown,) = json.loads(nodes.run(where, f"ip -s -j link show {device}"))
    return int(shown["stats64"][direction]["packets"])


@pytest.mark.parametrize("where", ["b", "c"])
def test_a_tunnel_that_somebody_took_away_comes_back(
    nodes: RoutedNodes, agents: Agents, where: str
) -> None:
    """Also at the guest's node, where no route goes by it."""
    tell(agents, LIVE)
    until(lambda: all(leads(nodes, "c", version, "handover1") for version in (4, 6)))
    # Until then it looks anyway, as it has just heard of a guest.
    until(
        lambda: agents[where].call(lambda it: not it._wanted.is_set() and it._surveyed[1] == {4, 6})
    )
    agents[where].call(Distribution._observe_soon)
    until(lambda: agents[where].call(lambda it: not it._must_observe and not it._wanted.is_set()))
    nodes.run(where, "ip link del handover1")
    until(lambda: "handover1" in nodes.run(where, "ip link show"))
    until(lambda: all(leads(nodes, "c", version, "handover1") for version in (4, 6)))
    assert answer(nodes, "p", 4)


def test_what_an_agent_does_itself_wakes_it_no_more(
    nodes: RoutedNodes, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tunnel that is looked at is not set anew: that is told of, and would be looked at again."""
    looks: list[str] = []
    observe, admit = Distribution._observe, Underlay.admit

    async def counted(self: Distribution) -> None:
        looks.append(self.place.node)
        await observe(self)

    def survey(self: Underlay, far: object) -> None:
        looks.append("survey")
        admit(self, far)  # type: ignore[arg-type]

    tell(agents, LIVE)
    until(lambda: all(leads(nodes, "c", version, "handover1") for version in (4, 6)))
    monkeypatch.setattr(Distribution, "_observe", counted)
    monkeypatch.setattr(Underlay, "admit", survey)
    agents["c"].call(Distribution._observe_soon)
    until(lambda: "c" in looks)
    time.sleep(0.5)
    # With a rest of 10 ms it would be dozens.
    assert len(looks) < 5
