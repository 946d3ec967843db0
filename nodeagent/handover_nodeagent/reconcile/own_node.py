"""This node's own Node: by which addresses other nodes reach it, whenever those change."""

from collections.abc import Callable

from handover_api.names import ObjectKey
from handover_nodeagent.api.errors import RawObject
from handover_nodeagent.distribution import nodes
from handover_nodeagent.network.model import IPAddress


class OwnNodeSink:
    """Takes in one Node; what a pod's ``status.hostIPs`` are, no running pod hears again."""

    def __init__(self, name: str, move: Callable[[tuple[IPAddress, ...]], None]) -> None:
        """Have *move* follow the addresses of the Node *name*."""
        self._name = name
        self._move = move

    def put(self, raw: RawObject) -> None:
        """Take the Node as it is now; one without any address is that of a kubelet that starts."""
        node = nodes.read(raw)
        if node and node.name == self._name and node.published:
            self._move(node.published)

    def drop(self, key: ObjectKey, uid: str) -> None:
        """Take its end: who still runs on it is reached as before."""

    def synced(self) -> None:
        """Know that it was told, or that there is none of that name."""

    def outage(self, reason: str, *, is_absent: bool) -> None:
        """Know that it may be otherwise."""
