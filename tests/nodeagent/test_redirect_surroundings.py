"""Statements 22, 23 and 27: what a redirect does to others, others to it, and what is left of it.

Agents as processes on their nodes, with the real operator and API server.
"""

import base64
import contextlib
import itertools
import re
import socket
import time
from collections.abc import Iterator
from functools import partial

import pytest
from tests.nodeagent import agents_net
from tests.nodeagent.agents_net import (
    NODES,
    SETTINGS,
    TAP,
    TUNNEL,
    VM,
    AgentsNet,
    Watch,
    path,
    uplinks,
)
from tests.nodeagent.process import DEFAULT, MERGE_PATCH

from handover_api import names
from handover_api.names import ObjectKey
from handover_nodeagent.peers import messages
from handover_nodeagent.peers.keys import Key, Signer
from handover_nodeagent.peers.messages import Kind, Statement

pytestmark = [pytest.mark.root, pytest.mark.api]

PEER_PORT, TUNNEL_PORT = 7473, 7472
OTHER_VM = "10.65.0.3"


# Statement 22.


def test_statement_22_what_came_by_the_tunnel_leaves_no_node_whose_guest_is_gone(
    net: AgentsNet,
) -> None:
    """The target has withdrawn its route, and its default route leads out; a still sends on."""
    net.redirect()
    before = net.strays()
    with Watch(net) as watch:
        net.place()
        net.end("m", "Aborted")
        net.until(lambda: net.leads("b") == "", "the target has withdrawn")
        assert net.leads("a") == TUNNEL
        looks = watch.looks
        net.until(lambda: watch.looks > looks + 50, "many packets were sent")
    assert watch.seen == []
    assert net.strays() == before
    assert net.dropped("b") > 0


# Statement 23.


class TakenOver:
    """Node c: who has it has a true key, whose owner the API server has authenticated."""

    def __init__(self, net: AgentsNet) -> None:
        self._net = net
        self._key = Key.make()
        self._signer = Signer(self._key, time.time_ns())

    def publish(self) -> None:
        """Say in the endpoint of its own node how it is reached, as its agent would."""
        agent = {
            "publicKey": base64.b64encode(self._key.public).decode(),
            "addresses": [*uplinks("c").values()],
            "port": PEER_PORT,
        }
        patch = {"status": {"agent": agent}}
        self._net.site.call("PATCH", f"{path('e')}/status", patch, MERGE_PATCH)

    def say(self, to: str, kind: Kind, endpoint: str, uid: str, source: str = "c") -> None:
        """Say something to the agent of a node, in the name of an endpoint, from an address."""
        subject = messages.subject(ObjectKey("default", endpoint), uid)
        nonce = time.time_ns().to_bytes(messages.NONCE, "big")
        _, octets = self._signer.sign(kind, Statement(), subject, nonce)
        self.send(to, octets, source)

    def send(self, to: str, octets: bytes, source: str = "c") -> None:
        """Send it, under an address that is perhaps another node's."""
        with self._net.within(
            "c", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ) as sock:
            # IP_TRANSPARENT lets root bind to what is no address of this node.
            sock.setsockopt(socket.IPPROTO_IP, 19, 1)
            sock.bind((uplinks(source)[4], 0))
            sock.sendto(octets, (uplinks(to)[4], PEER_PORT))


def refused(net: AgentsNet, node: str) -> float:
    """Return how many messages the agent of a node has refused."""
    shown = net.run(node, "curl -s http://127.0.0.1:8081/metrics")
    return sum(float(n) for n in re.findall(r"refused_messages_total\{[^}]*\} (\S+)", shown))


def test_statement_23_a_node_that_is_taken_over_disturbs_its_own_migrations_alone(
    net: AgentsNet,
) -> None:
    net.agents["c"].kill()
    net.run("a", "ip link add tap1 type veth peer name far1", "ip link set tap1 up")
    net.run("a", "ip link set far1 arp off up")
    net.endpoint("a", "d", interface="tap1", ips=[OTHER_VM], mac="52:54:00:65:00:03")
    net.endpoint("c", "e", ips=[OTHER_VM], mac="52:54:00:65:00:03", awaitRole=True)
    net.migrate("n", "d", "e")
    taken = TakenOver(net)
    taken.publish()
    net.until(lambda: '"e"' in net.annotations("d").get(names.PEER, ""), "it is d's peer")
    uids = {name: net.annotations(name)[names.MIGRATION_UID] for name in "abde"}
    before = {node: refused(net, node) for node in "ab"}
    count = 0
    with Watch(net) as watch:
        watch.served = "a"
        for kind, endpoint, uid, source in itertools.product(
            (Kind.HAVE, Kind.RELEASED), "abe", (uids["a"], uids["d"]), "abc"
        ):
            if (endpoint, uid) == ("e", uids["d"]):
                continue
            for to in "ab":
                taken.say(to, kind, endpoint, uid, source)
                taken.send(to, bytes(122), source)
            count += 1
        net.until(lambda: refused(net, "a") >= before["a"] + count, "a has refused them all")
        net.until(lambda: refused(net, "b") >= before["b"] + count, "b has refused them all")
        assert [net.leads(node) for node in "ab"] == [TAP, ""]
        assert [net.state(name) for name in "abd"] == ["Base", "Target", "Base"]
        # Of its own migration it is believed; of no other one anything follows from that.
        assert "tap1" in net.run("a", f"ip route get {OTHER_VM}")
        taken.say("a", Kind.HAVE, "e", uids["d"])
        net.until(lambda: TUNNEL in net.run("a", f"ip route get {OTHER_VM}"), "d is sent on")
        assert net.leads("a") == TAP
        watch.served = ""
    assert watch.seen == []
    net.redirect()
    net.await_arrival("b")
    net.agents["c"].start()
    net.run("a", "ip link delete tap1")


# Statement 27.


def left(net: AgentsNet, node: str) -> dict[str, str]:
    """Return all that is left of Handover at a node."""
    found = {
        "devices": net.run(node, "ip -o link show type vxlan"),
        "tables": net.run(node, "nft list tables").replace("table inet witness\n", ""),
        "next hops": net.run(node, "ip nexthop show"),
        "sockets": net.run(node, f"ss -Huan sport = {PEER_PORT} or sport = {TUNNEL_PORT}"),
    }
    for family, protocol in itertools.product("46", ("88", "89")):
        routes = net.run(node, f"ip -{family} route show table all proto {protocol}")
        found[f"routes of {protocol}, IPv{family}"] = routes
    found["parked"] = net.run(node, "ip route show table all").count("table 5254") * "x"
    return {what: text for what, text in found.items() if text.strip()}


@pytest.fixture
def distributed(all_moves: AgentsNet) -> Iterator[AgentsNet]:
    """Have agents carry the routes, and give their nodes back at an uninstall."""
    net = all_moves
    api = "/api/v1/nodes"
    for number, node in enumerate(NODES, 1):
        spec = {"podCIDRs": [f"10.{70 + number}.0.0/24"]}
        named = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{node}"}}
        net.site.call("POST", api, named | {"spec": spec})
        addresses = [{"type": "InternalIP", "address": one} for one in uplinks(node).values()]
        patch = {"status": {"addresses": addresses}}
        net.site.call("PATCH", f"{api}/node-{node}/status", patch, MERGE_PATCH)
    changes = {"advertise": "agents", "onUninstall": "handBack"}
    net.site.apply("HandoverConfiguration", "default", SETTINGS | changes)
    with agents_net.prepared(net):
        yield net
        for agent in net.agents.values():
            agent.kill()
            agent.start()
        for family, address in VM.items():
            net.run("b", f"ip -{family} route flush {address} dev {TAP}")
    # Who finds a request asks for nothing by saying the same.
    request = {"metadata": {"annotations": {names.UNINSTALL: None}}}
    net.site.call("PATCH", DEFAULT, request, MERGE_PATCH)
    net.site.apply("HandoverConfiguration", "default", SETTINGS)
    for node in NODES:
        net.site.call("DELETE", f"{api}/node-{node}")


def test_statement_27_nothing_is_left_after_an_uninstall(distributed: AgentsNet) -> None:
    net = distributed
    # What the CNI of b has made, which is the guest's again afterwards.
    for family, address in VM.items():
        net.run("b", f"ip -{family} route add {address} dev {TAP}")
    net.redirect()
    net.until(lambda: "nhid" in net.run("c", "ip route show proto 89"), "c follows")
    assert all(left(net, node) for node in NODES)

    patch = {"metadata": {"annotations": {names.UNINSTALL: "now"}}}
    net.site.call("PATCH", DEFAULT, patch, MERGE_PATCH)
    for node, agent in net.agents.items():
        is_back = lambda agent=agent: '"event": "handed_back"' in agent.log.read_text()  # noqa: E731
        net.until(is_back, f"{node} is handed back")
        agent.stop()

    assert {node: left(net, node) for node in NODES} == {node: {} for node in NODES}
    assert net.leads("b") == TAP


@contextlib.contextmanager
def device_taken(net: AgentsNet) -> Iterator[None]:
    net.run("a", f"ip link add {TUNNEL} type bridge")
    yield
    net.run("a", f"ip link delete {TUNNEL}")


@contextlib.contextmanager
def port_taken(net: AgentsNet, port: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for family in (socket.AF_INET, socket.AF_INET6):
            made = partial(socket.socket, family, socket.SOCK_DGRAM)
            taken = stack.enter_context(net.within("a", made))
            if family == socket.AF_INET6:
                taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken.bind(("", port))
        yield


TAKEN = {
    "the tunnel's device": (device_taken, "DeviceTaken"),
    "the tunnel's port": (lambda net: port_taken(net, TUNNEL_PORT), "PortTaken"),
    "the agents' port": (lambda net: port_taken(net, PEER_PORT), "PortTaken"),
}


@pytest.mark.parametrize("what", TAKEN)
def test_statement_27_what_is_taken_already_is_said_and_the_vm_moves_all_the_same(
    net: AgentsNet, what: str
) -> None:
    take, reason = TAKEN[what]
    net.agents["a"].kill()
    net.run("a", f"ip link delete {TUNNEL}")
    with take(net):
        net.agents["a"].start()
        net.until(lambda: net.condition("a", "Redirectable") == ("False", reason), "it is said")
        net.move("b")
        net.until(lambda: net.leads("b") == TAP, "the target serves")
        net.until(lambda: net.arrives("b") == "b", "it arrives")
        net.end("m", "Succeeded")
        net.until(lambda: net.state("b") == "Base", "it has converged")
        # Where there is no tunnel nothing is sent on, and the guest's old route is gone.
        assert net.leads("a") == ("" if reason != "PortTaken" or "tunnel" in what else TUNNEL)
