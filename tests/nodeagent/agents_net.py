"""Three nodes on one segment, each with a real agent and room for a guest, and a client.

The API server is a real one, and so is the operator. The guest is its kernel: it is at one node's
tap at a time and answers there, or nowhere. What the client sends by way of a node arrives where
that node's routes lead.
"""

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from tests.nodeagent import namespaces
from tests.nodeagent.process import COLLECTIONS, DEFAULT, EVENTS, MAC, MERGE_PATCH, Proxy, Site

from handover_lab.cluster.operator_process import Fork
from handover_lab.testing.agent_fork import AgentFork

NODES: Final = "abc"
VM: Final = {4: "10.65.0.2", 6: "fd00:65::2"}
CLIENT: Final = {4: "192.0.2.9", 6: "fd00:66::9"}
TUNNEL: Final = "handover0"
TAP: Final = "tap0"
PATIENCE: Final = 30.0
NORMAL: Final = 1024
ELEVATED: Final = 512
SETTINGS: Final = {
    "sourceRedirect": "auto",
    "advertise": "none",
    "probeInterval": "50ms",
    "liveMigrationRouteConvergenceTime": "500ms",
}
RARP: Final = bytes.fromhex(
    f"ffffffffffff{MAC.replace(':', '')}80350001080006040003"
    f"{MAC.replace(':', '')}00000000{MAC.replace(':', '')}00000000"
) + bytes(18)
_ONWARD: Final = f"iifname {TUNNEL} oifname != {TAP}"
_AGAIN: Final = "udp dport 7 ip ttl < 63"
WITNESS: Final = (
    "nft add table inet witness",
    "nft add counter inet witness onward",
    "nft add counter inet witness again",
    # Which they were, for whoever wonders.
    "nft add set inet witness by4 { typeof iifname . ip saddr . ip ttl ; flags dynamic ; }",
    "nft add set inet witness by6 { typeof iifname . ip6 saddr . ip6 nexthdr ; flags dynamic ; }",
    # After what the agent's table drops.
    "nft add chain inet witness forward { type filter hook forward priority 10 ; }",
    f"nft add rule inet witness forward {_ONWARD} counter name onward",
    f"nft add rule inet witness forward {_ONWARD} add @by4 {{ oifname . ip saddr . ip ttl }}",
    f"nft add rule inet witness forward {_ONWARD} add @by6 {{ oifname . ip6 saddr . ip6 nexthdr }}",
    "nft add chain inet witness pre { type filter hook prerouting priority 0 ; }",
    f"nft add rule inet witness pre {_AGAIN} add @by4 {{ iifname . ip saddr . ip ttl }}",
    f"nft add rule inet witness pre {_AGAIN} counter name again",
    "nft add rule inet witness pre udp dport 7 ip6 hoplimit < 63 counter name again",
)
_T = TypeVar("_T")


def uplinks(node: str) -> dict[int, str]:
    """Return a node's addresses by family."""
    number = NODES.index(node) + 1
    return {4: f"192.0.2.{number}", 6: f"fd00:66::{number}"}


def path(name: str) -> str:
    """Return where the API server has the endpoint of the guest on a node."""
    return f"{COLLECTIONS['WorkloadEndpoint']}/{name}"


@dataclass
class AgentsNet:
    """Namespaces by name: the nodes, ``x`` the client, ``r`` the segment, ``ga`` a guest at a."""

    site: Site
    fds: dict[str, int]
    proxies: dict[str, Proxy] = field(default_factory=dict)
    agents: dict[str, AgentFork] = field(default_factory=dict)
    sinks: dict[tuple[str, int], socket.socket] = field(default_factory=dict)
    """Of the guest, by node and family."""
    clients: dict[tuple[str, int], socket.socket] = field(default_factory=dict)
    """Of the client, by the node by which it sends, and family."""

    # The kernel's side.

    def within(self, where: str, work: Callable[[], _T]) -> _T:
        """Do *work* in a namespace; a socket that it makes stays there."""
        with namespaces.restored():
            namespaces.enter(self.fds[where])
            return work()

    def run(self, where: str, *commands: str) -> str:
        """Run *commands* there and return what they print."""
        return self.within(where, lambda: "".join(map(_run, commands)))

    def routes(self, node: str) -> dict[int, list[tuple[int, str]]]:
        """Return metric and device of all routes to the guest, the best first, by family."""
        return self.within(node, _routes)

    def leads(self, node: str) -> str:
        """Return the device by which a node reaches the guest: of both families, or neither's."""
        found = {entries[0][1] if entries else "" for entries in self.routes(node).values()}
        return found.pop() if len(found) == 1 else " and ".join(sorted(found))

    def circle(self) -> str:
        """Return the nodes that send on to each other; "" where all leads somewhere."""
        numbers = {address: node for node in NODES for address in uplinks(node).values()}
        to: dict[str, str] = {}
        for node in NODES:
            best = self.run(node, f"ip route get {VM[4]}")
            found = re.search(r"encap .* dst (\S+) ", best)
            to[node] = numbers[found[1]] if found else ""
        return next(
            (f"{one}{to[one]}{to[to[one]]}" for one in NODES if to[one] and to[to[one]] == one), ""
        )

    def exceptions(self, node: str) -> str:
        """Return for whom the firewall of a node makes exceptions: of its port, of conntrack."""
        shown = self.run(node, "nft list ruleset inet")
        found = re.findall(r"set (?:peers|redirected)[46] \{([^}]*)", shown)
        return "".join(text for text in found if "elements" in text)

    def place(self, *nodes: str) -> None:
        """Let the guest be on these nodes alone, which should be one, and say nothing."""
        for each in NODES:
            if each not in nodes:
                self.run(f"g{each}", "ip link set eth arp off", "ip address flush dev eth")
        for node in nodes:
            self.run(
                f"g{node}",
                "ip link set eth arp on",
                f"ip address replace {VM[4]}/32 dev eth",
                f"ip address replace {VM[6]}/128 dev eth nodad",
            )

    def announce(self, node: str) -> None:
        """Let the guest on that node send what QEMU sends for it."""

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as guest:
                guest.bind(("eth", 0))
                guest.send(RARP)

        self.within(f"g{node}", send)

    def move(self, node: str) -> None:
        """Let the guest resume on *node*."""
        self.place(node)
        self.announce(node)

    def redirect(self) -> None:
        """Let the guest move to b, and a send on."""
        self.move("b")
        self.until(lambda: self.leads("b") == TAP, "the target serves")
        self.until(lambda: self.leads("a") == TUNNEL, "the source sends on")

    def await_arrival(self, guest: str) -> None:
        """See that by way of both nodes all arrives at the guest."""
        for via, version in itertools.product("ab", (4, 6)):
            self.until(
                lambda: self.arrives(via, version) == guest,  # noqa: B023  asked at once
                f"IPv{version} by {via} at {guest}",
            )

    def arrives(self, via: str, version: int = 4) -> str:
        """Return at which node the guest gets what is sent by way of *via*; "" for none."""
        text = f"{via} {time.monotonic_ns()}".encode()
        self.send(via, version, text)
        # On one machine it is there at once, but for a neighbor's answer.
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            for (node, _), sink in self.sinks.items():
                with contextlib.suppress(BlockingIOError):
                    while octets := sink.recv(64):
                        if octets == text:
                            return node
            time.sleep(0.005)
        return ""

    def send(self, via: str, version: int, octets: bytes = b"?") -> None:
        """Let the client send a packet by way of a node."""
        with contextlib.suppress(OSError):
            self.clients[via, version].sendto(octets, (VM[version], 7))

    def strays(self) -> dict[str, tuple[int, int]]:
        """Return what came by the tunnel and left otherwise than to a guest, and what came again.

        By node. Each passes as many nodes as its TTL has lost: two, of which one is the guest's.
        """
        return {
            node: (self._counted(node, "onward"), self._counted(node, "again")) for node in NODES
        }

    def dropped(self, node: str) -> int:
        """Return how many packets from the tunnel had no guest at a node."""
        shown = self.run(node, "nft list chain inet handover forward")
        return sum(map(int, re.findall(r"counter packets (\d+)", shown)))

    def _counted(self, node: str, name: str) -> int:
        shown = self.run(node, f"nft list counter inet witness {name}").split()
        return int(shown[shown.index("packets") + 1])

    def held_octets(self, node: str) -> float:
        """Return how much memory the agent of a node has for packets that it holds."""
        shown = self.run(node, "curl -s http://127.0.0.1:8081/metrics")
        (found,) = re.findall(r"^handover_nodeagent_hold_bytes (\S+)", shown, re.MULTILINE)
        return float(found)

    # The API's side.

    def endpoint(self, node: str, name: str = "", **spec: Any) -> None:
        """Make the endpoint of the guest on *node*, of a workload of the same name."""
        wanted = {
            "node": f"node-{node}",
            "workload": name or node,
            "interface": TAP,
            "mac": MAC,
            "ips": [*VM.values()],
        }
        self.site.apply("WorkloadEndpoint", name or node, wanted | spec)

    def migrate(self, name: str, source: str, target: str) -> None:
        """Begin a migration from one node to another."""
        sides = {
            key: {"workload": {"name": where}}
            for key, where in (("source", source), ("target", target))
        }
        self.site.apply("LiveMigration", name, sides)

    def end(self, name: str, outcome: str) -> None:
        """Say how a migration ended."""
        patch = {"spec": {"outcome": outcome}}
        self.site.call("PATCH", f"{COLLECTIONS['LiveMigration']}/{name}", patch, MERGE_PATCH)

    def status(self, name: str) -> dict[str, Any]:
        """Return what the agent reports of an endpoint."""
        return self.site.call("GET", path(name)).get("status") or {}

    def state(self, name: str) -> str:
        """Return the state that it reports."""
        return str(self.status(name).get("state"))

    def condition(self, name: str, kind: str) -> tuple[str, str] | None:
        """Return status and reason of a condition of an endpoint."""
        for condition in self.status(name).get("conditions", []):
            if condition["type"] == kind:
                return condition["status"], condition["reason"]
        return None

    def annotations(self, name: str) -> dict[str, str]:
        """Return what the operator says."""
        return self.site.call("GET", path(name))["metadata"].get("annotations") or {}

    @contextlib.contextmanager
    def api_away(self) -> Iterator[None]:
        """Let the API server be away for all agents, and for the operator."""
        for proxy in self.proxies.values():
            proxy.shut()
        try:
            yield
        finally:
            for proxy in self.proxies.values():
                proxy.open()

    # The agents' side.

    def until(self, is_so: Callable[[], Any], what: str) -> None:
        """Wait until something is so; an agent that dies meanwhile as ordered is started again."""
        end = time.monotonic() + PATIENCE
        while not is_so():
            self.restart()
            if time.monotonic() > end:
                pytest.fail(f"never seen: {what}; {self.shown()}")
            time.sleep(0.01)

    def until_redirectable(self, name: str) -> None:
        """Wait until it is known that what arrives for an endpoint could be sent on."""
        ready = ("True", "Ready")
        self.until(lambda: self.condition(name, "Redirectable") == ready, f"{name} redirectable")

    def order_death(self, node: str, moment: str) -> int:
        """Have the agent of *node* die at that moment; return how many will have died by then."""
        agent = self.agents[node]
        agent.order_death(moment)
        return len(agent.ends) + 1

    def await_death(self, node: str, number: int) -> None:
        """Wait until so many agents of *node* have died, all as they were told."""
        ends = self.agents[node].ends
        self.until(lambda: len(ends) >= number, f"the death at {node}")
        assert set(ends) == {-signal.SIGKILL}

    def restart_agent(self, node: str) -> None:
        """Kill the agent of *node*; its successor knows its endpoints when this returns."""
        agent = self.agents[node]
        before = agent.log.read_text().count('"event": "endpoint"')
        agent.kill()
        agent.start()
        seen = lambda: agent.log.read_text().count('"event": "endpoint"') > before  # noqa: E731
        self.until(seen, f"a successor at {node}")

    @contextlib.contextmanager
    def blocked(self, nodes: str, what: str) -> Iterator[None]:
        """Have somebody's firewall drop something on all of *nodes*."""
        for node in nodes:
            chain = "{ type filter hook input priority 0 ; }"
            self.run(node, "nft add table inet theirs", f"nft add chain inet theirs in {chain}")
            self.run(node, f"nft add rule inet theirs in {what} drop")
        yield
        for node in nodes:
            self.run(node, "nft delete table inet theirs")

    def restart(self) -> None:
        """Start the successors of those that have died."""
        for agent in self.agents.values():
            if agent.has_died():
                agent.start()

    def shown(self) -> str:
        """Return what somebody needs who wonders."""
        routes = {node: self.routes(node) for node in NODES}
        logs = {node: agent.log.read_text()[-3000:] for node, agent in self.agents.items()}
        return "\n".join([str(routes), *(f"--- {node}\n{log}" for node, log in logs.items())])


@dataclass
class Watch:
    """Looks all the time, in a thread, at what must never be; ``seen`` is what was."""

    net: AgentsNet
    seen: list[str] = field(default_factory=list)
    served: str = ""
    """The node that must not lose its route to the guest any more."""
    looks: int = 0

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":  # noqa: PYI034  final by use
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.005):
            served = self.served
            first = self._onward()
            # Two of them cannot be read at once: who leads on before and after did in between.
            second, third = self._onward(), self._onward()
            on = [node for node in NODES if first[node] & second[node] & third[node]]
            if len(on) > 1 and self.net.circle() and (circle := self.net.circle()):
                self.seen.append(f"{circle} send on to each other")
            routes = self.net.routes(served) if served else {}
            is_lost = any(all(device != TAP for _, device in one) for one in routes.values())
            # By now nobody may ask for that any more.
            if is_lost and served == self.served:
                self.seen.append(f"{served} has lost its route: {routes}")
            for node, version in itertools.product(NODES, (4, 6)):
                self.net.send(node, version)
            self.looks += 1

    def _onward(self) -> dict[str, set[int]]:
        """Return the families that each node sends on."""
        return {
            node: {
                version
                for version, found in self.net.routes(node).items()
                if found and found[0][1] == TUNNEL
            }
            for node in NODES
        }


def _routes() -> dict[int, list[tuple[int, str]]]:
    """Read the main table's routes to the guest from the kernel's own text."""
    found: dict[int, list[tuple[int, str]]] = {4: [], 6: []}
    wanted = {
        4: int.from_bytes(socket.inet_aton(VM[4]), "little"),
        6: socket.inet_pton(socket.AF_INET6, VM[6]).hex(),
    }
    for line in Path("/proc/thread-self/net/route").read_text().splitlines()[1:]:
        device, to, _, _, _, _, metric, mask, *_ = line.split()
        if int(to, 16) == wanted[4] and mask == "FFFFFFFF":
            found[4].append((int(metric), device))
    for line in Path("/proc/thread-self/net/ipv6_route").read_text().splitlines():
        to, length, _, _, _, metric, _, _, flags, device = line.split()
        # RTF_LOCAL routes are the node's own.
        if to == wanted[6] and length == "80" and not int(flags, 16) & 0x80000000:
            found[6].append((int(metric, 16), device))
    return {version: sorted(entries) for version, entries in found.items()}


@contextlib.contextmanager
def made(site: Site, directory: Path) -> Iterator[AgentsNet]:
    """Make it; all goes with it."""
    with contextlib.ExitStack() as stack:
        with namespaces.restored():
            fds = {"here": namespaces.open_own()}
            stack.callback(os.close, fds["here"])
            for name in (*NODES, "x", "r", *(f"g{node}" for node in NODES)):
                namespaces.enter_new()
                fds[name] = namespaces.open_own()
                stack.callback(os.close, fds[name])
                _run("ip link set lo up")
                for each in ("all", "default"):
                    Path(f"/proc/sys/net/ipv4/conf/{each}/rp_filter").write_text("0")
        net = AgentsNet(site, fds)
        _build(net, stack)
        _start(net, directory, stack)
        yield net
        clear(net)
        net.site.delete(DEFAULT)


@contextlib.contextmanager
def prepared(net: AgentsNet) -> Iterator[None]:
    """Let the guest be at a, and all be prepared for its move to b.

    Nothing is left afterwards, and meanwhile nothing went round or left by an uplink.
    """
    net.place("a")
    net.endpoint("a")
    net.endpoint("b", awaitRole=True)
    net.migrate("m", "a", "b")
    for name in "ab":
        net.until_redirectable(name)
    net.until(lambda: net.state("b") == "Target", "the target listens")
    before = net.strays()
    yield
    clear(net)
    net.until(lambda: not any(map(net.leads, NODES)), "no route is left")
    net.until(lambda: not any(map(net.exceptions, NODES)), "no exception is left")
    assert net.strays() == before, [net.run(node, "nft list table inet witness") for node in NODES]


def _build(net: AgentsNet, stack: contextlib.ExitStack) -> None:
    net.run("r", "ip link add br0 type bridge", "ip link set br0 up")
    for name in (*NODES, "x"):
        far = f"/proc/{os.getpid()}/fd/{net.fds['r']}"
        net.run(
            name,
            f"ip link add eth0 type veth peer name to{name} netns {far}",
            "ip link set eth0 up",
        )
        net.run("r", f"ip link set to{name} master br0 up")
        own = uplinks(name) if name in NODES else CLIENT
        net.run(
            name,
            f"ip address add {own[4]}/24 dev eth0",
            f"ip address add {own[6]}/64 dev eth0 nodad",
        )
    for node in NODES:
        net.run(node, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        # As every node's, it leads out: what is not for a guest here would leave again.
        net.run(
            node,
            f"ip route add default via {CLIENT[4]}",
            f"ip -6 route add default via {CLIENT[6]}",
        )
        far = f"/proc/{os.getpid()}/fd/{net.fds[f'g{node}']}"
        net.run(
            node,
            f"ip link add {TAP} address ee:ee:ee:ee:ee:ee type veth peer name eth netns {far}",
            f"ip link set {TAP} up",
        )
        net.run(f"g{node}", f"ip link set eth address {MAC} up")
        net.run(node, *WITNESS)
        number = NODES.index(node) + 1
        for version in (4, 6):
            net.sinks[node, version] = sink = _socket(net, f"g{node}", version, stack)
            sink.bind(("0.0.0.0" if version == 4 else "::", 7))
            net.clients[node, version] = client = _socket(net, "x", version, stack)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, number)
            via = uplinks(node)[version]
            net.run(
                "x",
                f"ip -{version} rule add fwmark {number} table {number}",
                f"ip -{version} route add {VM[version]} via {via} table {number}",
            )


def _start(net: AgentsNet, directory: Path, stack: contextlib.ExitStack) -> None:
    site = net.site
    # The operator's place is where the tests are.
    for place in ("here", *NODES):
        listen = partial(_listen, net, place)
        net.proxies[place] = Proxy(site.node, site.plane.shape.port, listen)
        stack.callback(net.proxies[place].end)
    for node in NODES:
        own = directory / node
        own.mkdir()
        environment = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(site.proxied(net.proxies[node])),
            "HANDOVER_NODE_NAME": f"node-{node}",
            "HANDOVER_NODE_ADDRESSES": ",".join(uplinks(node).values()),
            "HANDOVER_STATE_DIRECTORY": str(own / "state"),
            # As the chart sets it.
            "HANDOVER_PROCESSOR_PRIORITY": "high",
        }
        namespace = f"/proc/{os.getpid()}/fd/{net.fds[node]}"
        agent = net.agents[node] = AgentFork(namespace, environment, own)
        stack.callback(agent.kill)
    site.apply("HandoverConfiguration", "default", SETTINGS)
    operator = Fork(
        {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(site.proxied(net.proxies["here"])),
            "HANDOVER_PORT": "0",
            "HANDOVER_LISTEN_ADDRESS": "127.0.0.1",
            "HANDOVER_KUBEVIRT": "false",
        },
        directory / "operator.log",
    )
    stack.callback(_end, operator)
    for agent in net.agents.values():
        agent.start()


def _socket(net: AgentsNet, where: str, version: int, stack: contextlib.ExitStack) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    made = net.within(where, lambda: socket.socket(family, socket.SOCK_DGRAM))
    stack.callback(made.close)
    made.settimeout(0)
    if version == 6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def _end(operator: Fork) -> None:
    operator.send_signal(signal.SIGKILL)
    operator.wait(10)


def _listen(net: AgentsNet, where: str, port: int) -> socket.socket:
    return net.within(where, lambda: socket.create_server(("127.0.0.1", port)))


def clear(net: AgentsNet) -> None:
    """Take away all objects, and the guest."""
    net.place()
    for collection in (COLLECTIONS["LiveMigration"], COLLECTIONS["WorkloadEndpoint"], EVENTS):
        net.site.call("DELETE", collection)


def _run(command: str) -> str:
    done = subprocess.run(command.split(), check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
