"""For which guests this node stands in the way of others: what comes for them is sent on.

The cluster's own routes, and the router's, lead to a guest's home, also while the guest is away. A
home sees what is sent to the guest, and nothing of what the guest answers: its conntrack takes the
client's second packet for invalid, and rules that drop those, as kube-proxy has them, would end
every connection from outside. So what the home forwards for others goes untracked.
"""

from collections.abc import Callable, Iterable

from handover_nodeagent.distribution.hops import Hops
from handover_nodeagent.distribution.known import Known
from handover_nodeagent.distribution.resolver import Resolver
from handover_nodeagent.network.model import IPAddress

Forward = Callable[[frozenset[IPAddress], frozenset[str]], None]
"""Takes the addresses that are forwarded, and the devices by which others send."""


class Forwarding:
    """The addresses that have a route of ours to another node, and no home elsewhere."""

    def __init__(self, known: Known, resolver: Resolver, hops: Hops, forward: Forward) -> None:
        """Tell *forward* of each change."""
        self._known = known
        self._resolver = resolver
        self._hops = hops
        self._forward = forward
        self._addresses: set[IPAddress] = set()
        self._told: tuple[frozenset[IPAddress], frozenset[str]] = frozenset(), frozenset()

    def follow(self, addresses: Iterable[IPAddress]) -> None:
        """Look at the routes to some addresses anew."""
        for address in addresses:
            is_led = bool(self._known.routes_to(address))
            # Where no home is known the router may lead to any node.
            if is_led and not self._resolver.has_other_home(address):
                self._addresses.add(address)
            else:
                self._addresses.discard(address)
        self.tell()

    def tell(self) -> None:
        """Tell of the devices, too, which may be others by now."""
        found = frozenset(self._addresses)
        said = found, self._hops.uplinks()
        if said != self._told:
            self._told = said
            self._forward(*said)

    def forget(self) -> None:
        """Forward nothing more."""
        self._addresses.clear()
        self._told = frozenset(), frozenset()
        self._forward(*self._told)
