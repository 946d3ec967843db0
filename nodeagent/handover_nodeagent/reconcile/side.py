"""What is known of an endpoint's other side, and whether late packets could be sent there."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from handover_api.conditions import EndpointReason
from handover_api.names import ObjectKey
from handover_api.peer import Peer
from handover_api.workloadendpoint import AgentAddress, Role
from handover_nodeagent.fsm.machine import Redirect
from handover_nodeagent.kernel import tunnel
from handover_nodeagent.kernel.tunnel import Refusal
from handover_nodeagent.network import model
from handover_nodeagent.network.model import Encapsulated, IPAddress, Redirection, Route, Via
from handover_nodeagent.peers.inner_routes import InnerRoutes
from handover_nodeagent.peers.messages import Way
from handover_nodeagent.peers.sockets import Refusal as SocketRefusal

Readiness = tuple[bool, EndpointReason, str]
"""Whether what arrives here would be sent on, and why or why not."""


class Path(Protocol):
    """How agents speak with each other (``peers/direct_path.py``)."""

    @property
    def agent(self) -> AgentAddress | None:
        """How others reach us; None while nobody can."""

    @property
    def refusals(self) -> tuple[SocketRefusal, ...]:
        """Why we are not reached at some address of the node."""

    @property
    def has_tunnel(self) -> bool:
        """Tell whether peers are asked through a tunnel, too."""

    def listen(self, addresses: Collection[IPAddress], port: int) -> None:
        """Be reached at these addresses of this node alone."""

    def close(self) -> None:
        """Say and hear nothing more."""

    def use_tunnel(self, tunnel: InnerRoutes | None) -> None:
        """Ask peers through this tunnel, too."""

    def know_advertised(self, key: ObjectKey, speaker: Peer | None) -> None:
        """Know who hosts an advertised endpoint of another node."""

    def know_nodes(self, nodes: Mapping[str, tuple[IPAddress, ...]]) -> None:
        """Know the other nodes."""

    def know_peers(
        self, key: ObjectKey, role: Role | None, peers: Iterable[Peer], uid: str | None
    ) -> None:
        """Know who may speak to the endpoint *key*, which has or had *role* in migration *uid*."""

    def forget(self, key: ObjectKey) -> None:
        """Know that the endpoint *key* is gone."""

    def prepare(self, key: ObjectKey, uid: str) -> None:
        """Have a HAVE ready."""

    def have(self, key: ObjectKey, uid: str) -> int:
        """Say that we have the guest; return to how many nodes."""

    def released(self, key: ObjectKey, uid: str) -> None:
        """Say that we have it no more."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A redirect to a *peer* as bytes; all of them leave in one send.

    *version*: of what was known (``KnownRoutes.version``) when they were seen to be plain
    replacements; None: that is to be seen when they are sent.
    """

    peer: Peer
    way: Redirection
    requests: tuple[bytes, ...]
    routes: tuple[Route, ...]
    version: tuple[int, int] | None


@dataclass(slots=True)
class Side:
    """What is known of the other side of one endpoint: *ways* by peer, *prepared* by what it says.

    That is the uid of its migration and the name of its endpoint.

    *role* and *uid* are the endpoint's own; a peer may be of a migration after that.
    """

    role: Role | None
    uid: str | None
    text: str
    peers: tuple[Peer, ...]
    ways: Mapping[Peer, Redirection | Refusal]
    prepared: Mapping[tuple[str, str], Prepared] = field(default_factory=dict)
    proved: frozenset[tuple[str, Way]] = frozenset()
    silent: frozenset[str] = frozenset()

    def find(self, uid: str, named: str = "") -> Peer | None:
        """Return the peer of that name that speaks; without one, that which the API believes."""
        those = (each for each in self.peers if each.uid == uid)
        return next((each for each in those if named in {"", each.endpoint}), None)

    def led_to(self, redirect: Redirect, led: Redirection) -> Peer | None:
        """Return whose node a redirect leads to, by *led*, as the API names it now."""
        those = [
            each
            for each in self.peers
            if each.role is redirect.peer and redirect.uid in {None, each.uid}
        ]
        # One alone may have any address by now; of several targets the address tells which.
        if len(those) > 1:
            remotes = {_remote(way) for way in (led.ipv4, led.ipv6)}
            those = [each for each in those if not remotes.isdisjoint(each.addresses)]
        return those[0] if len(those) == 1 else None


def _remote(way: model.Way | None) -> IPAddress | None:
    """Return the address of the node that *way* leads to."""
    match way:
        case Encapsulated():
            return way.remote
        case Via(gateway):
            return gateway
    return None


def judge(side: Side | None, uid: str | None, way: Way, trouble: str) -> Readiness:
    """Say whether what arrives could be sent on, and what stands in the way.

    *way* is the one by which a peer has to have answered; *trouble*: why the firewall's table is
    not as it should be, without which no tunnel is safe.
    """
    named = [each for each in side.peers if each.uid == uid] if side else []
    if side is None or not named:
        text = "the agent of the migration's other side is not known so far"
        return False, EndpointReason.NO_PEER, text
    ways = [side.ways[each] for each in named if each in side.ways]
    refused = next((each for each in ways if isinstance(each, Refusal)), None)
    # What a tunnel waits for is the table.
    if trouble and refused in {None, tunnel.WAITING}:
        return False, EndpointReason.TUNNEL_REFUSED, trouble
    if refused:
        return False, refused.reason, refused.message
    return _judge_answers(side, named, way)


def _judge_answers(side: Side, named: Iterable[Peer], way: Way) -> Readiness:
    unproved = [each.node for each in named if (each.node, way) not in side.proved]
    silent = [node for node in unproved if node in side.silent]
    if silent:
        text = f"the agent on {', '.join(silent)} does not answer; a firewall between nodes?"
        return False, EndpointReason.PEER_SILENT, text
    # A warning, and no reason to send nothing on: the guest is gone from here by then, so that
    # nothing is lost by it, and a tunnel may carry though no HELLO came through (no IPv6 there).
    shown = ", ".join(unproved)
    if any((node, Way.PLAIN) in side.proved for node in unproved):
        text = (
            f"the agent on {shown} answers, but not through the tunnel; a firewall between nodes?"
        )
        return False, EndpointReason.NOT_PROVED, text
    if unproved:
        return False, EndpointReason.NOT_PROVED, f"the way to {shown} is not proved so far"
    return True, EndpointReason.READY, ""
