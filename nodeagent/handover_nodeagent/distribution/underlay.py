"""The second tunnel: by it go nodes to each other that share no link and that no CNI joins.

Both ends have the device: whoever finds another node so far away takes it that this one is as far
from there, and lets it send.
"""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from handover_nodeagent.distribution import lookup
from handover_nodeagent.distribution.nexthop import Tunneled
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.kernel import tunnel
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.nhmsg import NextHop
from handover_nodeagent.kernel.tunnel import Refusal
from handover_nodeagent.network.model import IPAddress


class Underlay:
    """The device, made when the first node needs it, and who may send into it."""

    def __init__(
        self,
        channel: Channel,
        port: int,
        let: Callable[[frozenset[IPAddress]], None],
        own: Callable[[], Iterable[IPAddress]] = tuple,
        is_enclosed: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Tunnel on *port*, from *own*; tell *let* the addresses of those that may send.

        No device is made before *is_enclosed* tells that the firewall has its rules.
        """
        self._own = own
        self._is_enclosed = is_enclosed
        self._channel = channel
        self._port = port
        self._let = let
        self._device: int | Refusal | None = None
        self._is_sure = False

    def to_node(self, node: Node, version: int) -> NextHop | str:
        """Return the next hop into the tunnel, or why there is none."""
        remote = tunnel.choose_remote(self._channel, node.addresses)
        if isinstance(remote, Refusal):
            return remote.message
        device = self._ensure()
        if isinstance(device, Refusal):
            return device.message
        return NextHop(version, device, tunnel=tunnel.way_to(remote, self._own()))

    def is_far(self, node: Node, guests: AbstractSet[int]) -> bool:
        """Tell whether a node is reached by nothing else, in a family that it or *guests* have."""
        versions = {one.version for one in (*node.addresses, *node.pod_cidrs)} | guests
        return any(
            isinstance(lookup.to_node(self._channel, node, version), Tunneled)
            for version in versions
        )

    def admit(self, far: Iterable[Node]) -> None:
        """Let these nodes send, and no others; have the device where there are any."""
        nodes = tuple(far)
        self.look_again()
        self._let(frozenset(address for node in nodes for address in node.addresses))
        if nodes:
            self._ensure()

    def look_again(self) -> None:
        """Find or make the device anew when it is needed next: it may be gone."""
        # What it was until now is known still: by that the end of it is heard.
        self._is_sure = False

    def try_again(self) -> None:
        """Try anew to have the device, where it was refused."""
        if isinstance(self._device, Refusal):
            self._is_sure = False

    def is_at(self, device: int) -> bool:
        """Tell whether the tunnel has, or had until now, the device of this index."""
        return self._device == device

    def remove(self) -> None:
        """Give the device back, and let nobody send."""
        self._let(frozenset())
        tunnel.remove(self._channel, tunnel.DISTRIBUTION)

    def _ensure(self) -> int | Refusal:
        # A millisecond each time, and there may be many nodes.
        if self._device is None or not self._is_sure:
            self._is_sure = True
            self._device = tunnel.ensure_enclosed(
                self._channel, tunnel.DISTRIBUTION, self._port, self._is_enclosed
            )
        return self._device
