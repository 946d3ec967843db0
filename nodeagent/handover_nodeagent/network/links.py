"""What this node's interfaces are, kept up to date by the kernel's notifications.

Each change is returned as a value, so that whoever follows it need not compare again; what says
nothing new is None.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from handover_nodeagent.network.model import IPAddress, Link


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A link is there as described: new, renamed, up or down, another MAC, or just as before."""

    index: int
    name: str
    mac: str
    up: bool
    carrier: bool = True


@dataclass(frozen=True, slots=True)
class LinkRemoved:
    """A link is gone, and with it all that hung on it."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class AddressChanged:
    """The node has, or no longer has, *address* on the link *index*.

    ``is_host``: without a network, as a /32 or /128.
    """

    index: int
    address: IPAddress
    present: bool
    is_host: bool = False


@dataclass(frozen=True, slots=True)
class LinkDiff:
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
        # In IPv4 a link that goes down takes its routes along without one RTM_DELROUTE.
        return bool(self.before and self.before.up and not (self.after and self.after.up))

    @property
    def came_up(self) -> bool:
        """Tell whether routes can be set now that could not before."""
        return bool(self.after and self.after.up and not (self.before and self.before.up))


class Links:
    """The links of the network namespace, by index and by name."""

    def __init__(self) -> None:
        self.by_index: dict[int, Link] = {}
        self.by_name: dict[str, Link] = {}
        # Kept, as each endpoint that is judged asks; None: a link has changed since.
        self._addresses: frozenset[IPAddress] | None = None

    @property
    def addresses(self) -> frozenset[IPAddress]:
        """The node's own addresses, on whatever interface."""
        if self._addresses is None:
            own = (link.addresses for link in self.by_index.values())
            self._addresses = frozenset[IPAddress]().union(*own)
        return self._addresses

    def replace_all(self, links: Mapping[int, Link]) -> tuple[LinkDiff, ...]:
        """Take *links* for what there is now; return what differs."""
        before, self.by_index = self.by_index, dict(links)
        self._addresses = None
        self.by_name = {link.name: link for link in links.values()}
        # By index, so that the same difference is followed in the same order each time.
        return tuple(
            LinkDiff(before.get(index), self.by_index.get(index))
            for index in sorted(before.keys() | self.by_index.keys())
            if before.get(index) != self.by_index.get(index)
        )

    def change(self, told: LinkChanged) -> LinkDiff | None:
        """Take in a link's notification; None when it says nothing new."""
        before = self.by_index.get(told.index)
        after = Link(told.index, told.name, told.mac, told.up, carrier=told.carrier)
        # An RTM_NEWLINK knows nothing of addresses and routes, which have messages of their own.
        if before:
            after = dataclasses.replace(
                after,
                addresses=before.addresses,
                default_route=before.default_route,
                hosts=before.hosts,
            )
        return self._put(before, after)

    def remove(self, told: LinkRemoved) -> LinkDiff | None:
        """Take in that a link is gone; None when it was not known."""
        before = self.by_index.pop(told.index, None)
        if before is None:
            return None
        self._addresses = None
        # Another link may have got the name meanwhile.
        if self.by_name.get(before.name) == before:
            del self.by_name[before.name]
        return LinkDiff(before, None)

    def readdress(self, told: AddressChanged) -> LinkDiff | None:
        """Take in that a link got or lost an address; None when it says nothing new."""
        before = self.by_index.get(told.index)
        if before is None:
            return None
        single = frozenset({told.address})
        addresses = before.addresses | single if told.present else before.addresses - single
        hosts = before.hosts | single if told.present and told.is_host else before.hosts - single
        return self._put(before, dataclasses.replace(before, addresses=addresses, hosts=hosts))

    def _put(self, before: Link | None, after: Link) -> LinkDiff | None:
        # The kernel repeats itself: each change of a flag comes as the whole link.
        if before == after:
            return None
        self._addresses = None
        if before and self.by_name.get(before.name) == before:
            del self.by_name[before.name]
        self.by_index[after.index] = self.by_name[after.name] = after
        return LinkDiff(before, after)
