"""Which endpoint sits on which link, and who must look again when a link changes."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import TypeVar

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import WorkloadEndpoint
from handover_nodeagent.network import placement
from handover_nodeagent.network.links import LinkDiff, Links
from handover_nodeagent.network.model import Link
from handover_nodeagent.routes.host_routes import Routes


class LinkIndex:
    """Indexes of the endpoints by the link they have and by the names they wish for."""

    def __init__(self) -> None:
        self._on: dict[int, set[ObjectKey]] = {}
        self._wishing: dict[str, set[ObjectKey]] = {}
        self._seats: dict[ObjectKey, tuple[frozenset[str], int | None]] = {}
        self._standing: set[ObjectKey] = set()

    @property
    def taken(self) -> AbstractSet[int]:
        """The indexes of the links that some endpoint has."""
        return self._on.keys()

    def take(self, key: ObjectKey, interface_names: Iterable[str], link: Link | None) -> None:
        """Seat *key* on *link*, or let it stand without one."""
        self.leave(key)
        names = frozenset(interface_names)
        self._seats[key] = (names, link.index if link else None)
        for name in names:
            self._wishing.setdefault(name, set()).add(key)
        if link is None:
            self._standing.add(key)
        else:
            self._on.setdefault(link.index, set()).add(key)

    def leave(self, key: ObjectKey) -> None:
        """Forget *key*."""
        names, index = self._seats.pop(key, (frozenset[str](), None))
        self._standing.discard(key)
        for name in names:
            _discard(self._wishing, name, key)
        if index is not None:
            _discard(self._on, index, key)

    def find(
        self,
        obj: WorkloadEndpoint,
        links: Links,
        routes: Routes,
        *,
        remembered: str | None = None,
    ) -> Link | placement.Unplaced:
        """Look for the link that is, or may become, the endpoint's.

        What it had stays, or what is *remembered* and has its routes: where nothing tells a link
        any more, and where one is refused.
        """
        _, own = self._seats.get(obj.key, (None, None))
        directions = routes.foreign.directions(obj.spec.ips)
        devices = frozenset[int]().union(*directions.values())
        others = {index for index in devices if self._is_others(index, own)}
        held = links.by_index.get(own) if own else links.by_name.get(remembered or "")
        if held and not own:
            has_routes = bool(routes.routes_of(obj.spec.ips, held.index))
            held = held if has_routes or held.index in devices else None
        node = placement.NodeLinks(
            links.by_index, links.by_name, directions, others, held.index if held else None
        )
        return placement.place(obj, node)

    def _is_others(self, index: int, own: int | None) -> bool:
        keys = self._on.get(index, ())
        return bool(keys) and (index != own or len(keys) > 1)

    def standing(self) -> frozenset[ObjectKey]:
        """Return the endpoints without a link."""
        return frozenset(self._standing)

    def concerned(self, diff: LinkDiff) -> frozenset[ObjectKey]:
        """Return the endpoints that have the link of *diff*, or wish for its name."""
        links = [link for link in (diff.before, diff.after) if link]
        seated = [self._on.get(link.index, set[ObjectKey]()) for link in links]
        wishing = [self._wishing.get(name, set[ObjectKey]()) for name in diff.names]
        return frozenset[ObjectKey]().union(*seated, *wishing)


_K = TypeVar("_K")


def _discard(index: dict[_K, set[ObjectKey]], place: _K, key: ObjectKey) -> None:
    index[place].discard(key)
    if not index[place]:
        del index[place]
