"""The routes by which a HELLO goes through the tunnel: to each peer's address inside of it.

They are of link-local scope, so that nothing goes by them but what names the tunnel's device, and
they go with it.
"""

from collections.abc import Collection
from typing import Final

from handover_nodeagent.kernel import tunnel
from handover_nodeagent.kernel.netlink import rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress, Route

_MAIN: Final = 254
"""RT_TABLE_MAIN of linux/rtnetlink.h: no rule has to lead to it."""


class InnerRoutes:
    """Those of one device; *protocol* is one that no speaker exports."""

    def __init__(
        self, channel: Channel, device: int, protocol: int, own: Collection[IPAddress] = ()
    ) -> None:
        """Send from *own* addresses of the underlay, as a guest's packets will be."""
        self._own = own
        self._channel = channel
        self._protocol = protocol
        self._remotes: frozenset[IPAddress] = frozenset()
        self.device = device

    def lead_to(self, remotes: Collection[IPAddress]) -> None:
        """Have a route to each of *remotes*, and none of ours to another one."""
        wanted = frozenset(remotes)
        gone, new = self._remotes - wanted, wanted - self._remotes
        requests = [rtmsg.encode_remove(self._route(remote)) for remote in gone]
        requests += [rtmsg.encode_replace(self._route(remote)) for remote in new]
        # One that is refused is found by the HELLO that nobody answers.
        if requests:
            self._channel.transact(requests)
        self._remotes = wanted

    def _route(self, remote: IPAddress) -> Route:
        way = tunnel.way_to(remote, self._own)
        return tunnel.inner_route(self.device, way, _MAIN, self._protocol)
