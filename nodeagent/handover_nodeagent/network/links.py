"""What this node's interfaces are, kept up to date by the kernel's notifications."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from handover_nodeagent.kernel.netlink.notifications import AddressChanged, LinkChanged, LinkRemoved
from handover_nodeagent.network.model import IPAddress, Link


@dataclass(frozen=True, slots=True)
class Turn:
    """What became of one link: ``before`` is None for a new one, ``after`` for one that is gone."""

    before: Link | None
    after: Link | None

    @property
    def names(self) -> frozenset[str]:
        """The names under which somebody may look for the link."""
        return frozenset(link.name for link in (self.before, self.after) if link)

    @property
    def lost_routes(self) -> bool:
        """Tell whether the kernel has dropped the link's routes, which it does not tell."""
        return bool(self.before and self.before.up and not (self.after and self.after.up))

    @property
    def came_up(self) -> bool:
        """Tell whether routes can be set now that could not before."""
        return bool(self.after and self.after.up and not (self.before and self.before.up))


class Node:
    """The links of the network namespace, by index and by name."""

    def __init__(self) -> None:
        self.links: dict[int, Link] = {}
        self.names: dict[str, Link] = {}
        self._addresses: frozenset[IPAddress] | None = None

    @property
    def addresses(self) -> frozenset[IPAddress]:
        """The node's own addresses, on whatever interface."""
        if self._addresses is None:
            own = (link.addresses for link in self.links.values())
            self._addresses = frozenset[IPAddress]().union(*own)
        return self._addresses

    def load(self, links: Mapping[int, Link]) -> tuple[Turn, ...]:
        """Take *links* for what there is now; return what differs."""
        before, self.links = self.links, dict(links)
        self._addresses = None
        self.names = {link.name: link for link in links.values()}
        return tuple(
            Turn(before.get(index), self.links.get(index))
            for index in sorted(before.keys() | self.links.keys())
            if before.get(index) != self.links.get(index)
        )

    def changed(self, told: LinkChanged) -> Turn | None:
        """Take in a link's notification; None when it says nothing new."""
        before = self.links.get(told.index)
        after = Link(told.index, told.name, told.mac, told.up, carrier=told.carrier)
        if before:
            after = dataclasses.replace(
                after,
                addresses=before.addresses,
                default_route=before.default_route,
                hosts=before.hosts,
            )
        return self._put(before, after)

    def removed(self, told: LinkRemoved) -> Turn | None:
        """Take in that a link is gone; None when it was not known."""
        before = self.links.pop(told.index, None)
        if before is None:
            return None
        self._addresses = None
        if self.names.get(before.name) == before:
            del self.names[before.name]
        return Turn(before, None)

    def readdressed(self, told: AddressChanged) -> Turn | None:
        """Take in that a link got or lost an address; None when it says nothing new."""
        before = self.links.get(told.index)
        if before is None:
            return None
        single = frozenset({told.address})
        addresses = before.addresses | single if told.present else before.addresses - single
        hosts = before.hosts | single if told.present and told.is_host else before.hosts - single
        return self._put(before, dataclasses.replace(before, addresses=addresses, hosts=hosts))

    def _put(self, before: Link | None, after: Link) -> Turn | None:
        if before == after:
            return None
        self._addresses = None
        if before and self.names.get(before.name) == before:
            del self.names[before.name]
        self.links[after.index] = self.names[after.name] = after
        return Turn(before, after)
