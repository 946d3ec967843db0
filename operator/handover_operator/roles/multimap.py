"""Sets by key, for indexes that many thousand objects are in. Pure."""

from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Multimap(Generic[K, V]):
    """Sets by key; a key without values takes no room.

    Most keys have one value, such as all that name one VM: a set for each would be most of it all.
    """

    def __init__(self) -> None:
        # A set of one takes 216 bytes, a tuple of one 48 (CPython 3.11).
        self._values: dict[K, tuple[V] | set[V]] = {}

    def __getitem__(self, key: K) -> AbstractSet[V]:
        found = self._values.get(key, ())
        # No copy: who changes the map while reading a value copies that first.
        return found if isinstance(found, set) else frozenset(found)

    def add(self, key: K, value: V) -> None:
        """Put *value* into the set of *key*."""
        found = self._values.get(key)
        if found is None:
            self._values[key] = (value,)
        elif isinstance(found, set):
            found.add(value)
        elif found != (value,):
            self._values[key] = {*found, value}

    def remove(self, key: K, value: V) -> None:
        """Take *value*, which is there, out of the set of *key*."""
        found = self._values[key]
        if isinstance(found, set) and len(found) > 1:
            found.remove(value)
        elif value in found:
            del self._values[key]
        else:
            raise KeyError(value)
