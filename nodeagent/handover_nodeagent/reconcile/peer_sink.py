"""What other nodes' agents say, taken in: each word goes to the room that acts on it."""

import time
from collections.abc import Callable

from handover_api.names import ObjectKey
from handover_nodeagent.peers.relations import Relation
from handover_nodeagent.peers.sink import Acknowledgment, Done, Proof
from handover_nodeagent.reconcile.loop import Reconciler

Follow = Callable[[ObjectKey, str], bool]
"""Follows an advertised endpoint of another node that has the guest of a migration."""


class PeerSink:
    """The sink of the direct path."""

    def __init__(self, reconciler: Reconciler, follow: Follow) -> None:
        self._reconciler = reconciler
        self._follow = follow

    def peer_has(self, peer: Relation, received_ns: int) -> Done | None:  # noqa: ARG002  the sink's form
        """Send on what arrives here for a guest that *peer* has."""
        return self._reconciler.redirects.peer_has(peer.key, peer.uid, peer.endpoint)

    def peer_released(self, peer: Relation, received_ns: int) -> Done | None:  # noqa: ARG002  the sink's form
        """Have the guest asked that *peer* has no more."""
        return self._reconciler.redirects.peer_released(peer.key, peer.uid)

    def bystander_has(self, key: ObjectKey, uid: str, received_ns: int) -> Done | None:  # noqa: ARG002  the sink's form
        """Follow a guest that is on its way between two other nodes."""
        return Done(time.time_ns()) if self._follow(key, uid) else None

    def acknowledged(self, key: ObjectKey, uid: str, node: str, ack: Acknowledgment) -> None:
        """Measure how soon *node* has followed; speakers may hear of what a source sends on."""
        # A bystander's answer bears no signature.
        if not ack.is_bystanders:
            self._reconciler.cutovers.exports.acknowledged(key, uid, node)
        self._reconciler.figures.acknowledged(key, uid, node, ack)

    def peer_proved(self, key: ObjectKey, uid: str, proof: Proof) -> None:  # noqa: ARG002  the sink's form
        """Know a way to a peer that works."""
        self._reconciler.peers.proved(key, proof.node, proof.way)

    def peer_silent(self, key: ObjectKey, uid: str, node: str) -> None:  # noqa: ARG002  the sink's form
        """Know a peer that does not answer."""
        self._reconciler.peers.silent(key, node)
