"""PURE: which endpoint has which link, and who is placed anew when a link changes.

An index by link and by name bounds the work of each notification by the endpoints that it concerns.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import TypeVar

from handover_api.names import ObjectKey
from handover_nodeagent.network.links import LinkDiff
from handover_nodeagent.network.model import Link


class LinkIndex:
    """Indexes of the endpoints by the link they have and by the names they would know theirs by."""

    def __init__(self) -> None:
        self._by_link: dict[int, set[ObjectKey]] = {}
        self._by_name: dict[str, set[ObjectKey]] = {}
        # What remove() takes out again: an endpoint may know its link by other names by then.
        self._entries: dict[ObjectKey, tuple[frozenset[str], int | None]] = {}
        self._unplaced: set[ObjectKey] = set()

    @property
    def devices(self) -> AbstractSet[int]:
        """The indexes of the links that some endpoint has."""
        return self._by_link.keys()

    def put(self, key: ObjectKey, interface_names: Iterable[str], link: Link | None) -> None:
        """Note that *key* has *link*, or none."""
        # It may have had another link, or another name to look for.
        self.remove(key)
        names = frozenset(interface_names)
        self._entries[key] = (names, link.index if link else None)
        for name in names:
            self._by_name.setdefault(name, set()).add(key)
        if link is None:
            self._unplaced.add(key)
        else:
            self._by_link.setdefault(link.index, set()).add(key)

    def remove(self, key: ObjectKey) -> None:
        """Forget *key*."""
        names, index = self._entries.pop(key, (frozenset[str](), None))
        self._unplaced.discard(key)
        for name in names:
            _discard(self._by_name, name, key)
        if index is not None:
            _discard(self._by_link, index, key)

    def of(self, key: ObjectKey) -> int | None:
        """Return the index of the link that *key* has."""
        _, index = self._entries.get(key, (None, None))
        return index

    def is_others(self, index: int, own: int | None) -> bool:
        """Tell whether another endpoint than the one that has *own* has the link *index*."""
        # On its own link the asker is one of them, so another one is there only if there are two.
        keys = self._by_link.get(index, ())
        return bool(keys) and (index != own or len(keys) > 1)

    def unplaced(self) -> frozenset[ObjectKey]:
        """Return the endpoints without a link."""
        return frozenset(self._unplaced)

    def concerned(self, diff: LinkDiff) -> frozenset[ObjectKey]:
        """Return the endpoints that have the link of *diff*, or would know theirs by its name."""
        none = set[ObjectKey]()
        links = [link for link in (diff.before, diff.after) if link]
        placed = [self._by_link.get(link.index, none) for link in links]
        named = [self._by_name.get(name, none) for name in diff.names]
        return frozenset[ObjectKey]().union(*placed, *named)


_K = TypeVar("_K")


def _discard(index: dict[_K, set[ObjectKey]], at: _K, key: ObjectKey) -> None:
    index[at].discard(key)
    # An empty set would stay for each link that ever was: pods come and go for years.
    if not index[at]:
        del index[at]
