"""Nodes on one segment, each a namespace, and agents that speak to each other by real sockets."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final, TypeVar

from tests.nodeagent import namespaces
from tests.nodeagent.peers.speakers import UID

from handover_api.names import ObjectKey
from handover_api.peer import Peer
from handover_api.workloadendpoint import Role
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers.direct_path import DirectPath
from handover_nodeagent.peers.keys import Key
from handover_nodeagent.peers.relations import Relation
from handover_nodeagent.peers.sink import Acknowledgment, Done, Proof

PORT: Final = 7473
NODES: Final = "abcx"
_T = TypeVar("_T")


def addresses(node: str) -> tuple[IPAddress, IPAddress]:
    """Return a node's addresses."""
    number = NODES.index(node) + 1
    return ip_address(f"10.0.0.{number}"), ip_address(f"fd00::{number}")


@dataclass(frozen=True)
class PeerNet:
    """Namespaces by name: nodes ``a``, ``b``, ``c``, a stranger ``x``, and the segment ``r``."""

    fds: dict[str, int]

    def run(self, where: str, *commands: str) -> str:
        """Run *commands* there and return what they print."""
        return self.within(where, lambda: "".join(map(_run, commands)))

    def within(self, where: str, work: Callable[[], _T]) -> _T:
        """Do *work* in a namespace; a socket that it makes stays there."""
        with namespaces.restored():
            namespaces.enter(self.fds[where])
            return work()

    def socket(self, where: str, address: IPAddress, port: int = PORT) -> socket.socket:
        """Return a UDP socket there; a foreign *address* may be forged."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        sock = self.within(where, lambda: socket.socket(family, socket.SOCK_DGRAM))
        # IP_TRANSPARENT lets root bind to what is no address of this node.
        transparent = (socket.IPPROTO_IP, 19) if address.version == 4 else (socket.IPPROTO_IPV6, 75)
        sock.setsockopt(*transparent, 1)
        sock.bind((str(address), port))
        return sock

    def start(self, where: str, program: str) -> subprocess.Popen[bytes]:
        """Start Python code there, which prints a line once it is at work."""
        command = ["/usr/bin/python3", "-c", program]
        started = self.within(
            where, lambda: subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        )
        assert started.stdout is not None
        assert started.stdout.readline()
        return started


@contextlib.contextmanager
def made() -> Iterator[PeerNet]:
    """Make it; all goes with it."""
    with namespaces.restored():
        fds = {}
        for name in (*NODES, "r"):
            namespaces.enter_new()
            fds[name] = namespaces.open_own()
            _run("ip link set lo up")
    net = PeerNet(fds)
    try:
        net.run("r", "ip link add br0 type bridge", "ip link set br0 up")
        for name in NODES:
            far = f"/proc/{os.getpid()}/fd/{fds['r']}"
            v4, v6 = addresses(name)
            net.run(
                name,
                f"ip link add eth type veth peer name to{name} netns {far}",
                "ip link set eth up",
                f"ip address add {v4}/24 dev eth",
                f"ip address add {v6}/64 dev eth nodad",
            )
            net.run("r", f"ip link set to{name} master br0 up")
        yield net
    finally:
        for fd in fds.values():
            os.close(fd)


def _run(command: str) -> str:
    done = subprocess.run(command.split(), check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@dataclass
class Agent:
    """One node's agent with one endpoint, and all that its direct path has told it."""

    net: PeerNet
    node: str
    endpoint: ObjectKey
    role: Role
    key: Key = field(default_factory=Key.make)
    heard: list[tuple[Any, ...]] = field(default_factory=list)
    acks: list[tuple[str, Acknowledgment]] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    follows: bool = True
    path: DirectPath = field(init=False)

    def __post_init__(self) -> None:
        self.path = DirectPath(self, self.key, boot=time.time_ns())

    def listen(self, where: Iterable[IPAddress] | None = None) -> "Agent":
        """Open its sockets, at its node."""
        where = addresses(self.node) if where is None else tuple(where)
        self.net.within(self.node, lambda: self.path.listen(where, PORT))
        return self

    def peer(self, uid: str = UID, *, without: int = 0) -> Peer:
        """Return what the API tells others of it; *without* leaves a family out."""
        text = self.path.agent
        shown = [one for one in addresses(self.node) if one.version != without]
        assert text is not None
        return Peer(
            uid=uid,
            endpoint=self.endpoint.name,
            node=self.node,
            role=self.role,
            public_key=text.public_key,
            addresses=tuple(shown),
            port=PORT,
        )

    def knows(self, *peers: Peer, uid: str | None = None) -> None:
        """Hear of its peers by the API, where it is in the migration *uid* itself."""
        self.path.know_peers(self.endpoint, self.role, peers, uid)

    def _done(self, *what: Any) -> Done | None:
        self.heard.append(what)
        return Done(time.time_ns(), 7, 8) if self.follows else None

    def peer_has(self, peer: Relation, received_ns: int) -> Done | None:
        return self._done("has", peer.key, peer.uid, received_ns)

    def peer_released(self, peer: Relation, received_ns: int) -> Done | None:
        return self._done("released", peer.key, peer.uid, received_ns)

    def bystander_has(self, key: ObjectKey, uid: str, received_ns: int) -> Done | None:
        return self._done("bystander", key, uid, received_ns)

    def acknowledged(self, key: ObjectKey, uid: str, node: str, ack: Acknowledgment) -> None:
        assert (key, bool(uid)) == (self.endpoint, True)
        self.acks.append((node, ack))

    def peer_proved(self, key: ObjectKey, uid: str, proof: Proof) -> None:
        assert (key, bool(uid)) == (self.endpoint, True)
        self.proofs.append(proof)

    def peer_silent(self, key: ObjectKey, uid: str, node: str) -> None:
        assert uid
        if key == self.endpoint:
            self.silent.append(node)

    @property
    def shown(self) -> list[IPAddress]:
        """Where it says that it is reached."""
        return [*self.path.agent.addresses] if self.path.agent else []

    @property
    def words(self) -> list[str]:
        """What it was told, in short."""
        return [what[0] for what in self.heard]
