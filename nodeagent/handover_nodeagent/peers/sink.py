"""PURE: what the direct path tells whoever joins it to the machines, and is told in return."""

from typing import NamedTuple, Protocol

from handover_api.names import ObjectKey
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers.clocks import Offset
from handover_nodeagent.peers.messages import NEVER, Times, Way
from handover_nodeagent.peers.relations import Relation


class Done(NamedTuple):
    """All that a statement asks for is done: when, and when the guest was last heard here."""

    done_ns: int
    last_frame_ns: int = NEVER
    last_frame_error_ns: int = 0


class Acknowledgment(NamedTuple):
    """An ACK of one node, for a statement that was first sent at ``sent_ns``.

    ``times`` are by that node's clock, which is ahead of ours by ``offset`` (None: unknown);
    the others are by ours.
    """

    sent_ns: int
    acknowledged_ns: int
    times: Times
    offset: Offset | None
    is_bystanders: bool


class Proof(NamedTuple):
    """A peer has answered a HELLO that went to this address by this way."""

    node: str
    address: IPAddress
    way: Way
    offset: Offset | None


class Sink(Protocol):
    """Called on the loop, from the reading of a datagram: a few routes, and nothing that waits.

    None instead of a Done: not yet. The peer repeats what is not acknowledged, and each repetition
    is told again, until ``DirectPath.answer`` says that it is done.
    """

    def peer_has(self, peer: Relation, received_ns: int) -> Done | None:
        """Hear that *peer*, of the endpoint ``peer.key`` of ours, has the guest."""

    def peer_released(self, peer: Relation, received_ns: int) -> Done | None:
        """Hear that *peer* has the guest no more."""

    def bystander_has(self, key: ObjectKey, uid: str, received_ns: int) -> Done | None:
        """Hear that *key*, an advertised endpoint of another node, has the guest."""

    def acknowledged(self, key: ObjectKey, uid: str, node: str, ack: Acknowledgment) -> None:
        """Hear that *node* has followed a HAVE or RELEASED of the endpoint *key* of ours."""

    def peer_proved(self, key: ObjectKey, uid: str, proof: Proof) -> None:
        """Hear that a peer is reached by one more of its addresses or ways."""

    def peer_silent(self, key: ObjectKey, uid: str, node: str) -> None:
        """Hear that a peer has answered no HELLO for three seconds, at whatever address."""
