"""Labels are kept once: of equal sets one mapping, of equal words one string. Pure.

A pod, the endpoint that was made for it and what was last seen of that endpoint carry the same
labels, twenty of them and more; apart they would be most of what ten thousand VMs take.
"""

import sys
from collections.abc import Mapping
from typing import Final
from weakref import WeakValueDictionary


class _Labels(dict[str, str]):
    """What nobody keeps any more goes by itself; a plain dict could not be referred to weakly."""

    __slots__ = ("__weakref__",)


_kept: Final[WeakValueDictionary[int, _Labels]] = WeakValueDictionary()
"""By their hash alone: a set as the key would be larger than the labels."""


def share(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return the one mapping that is equal to *labels*; nobody may change it."""
    number = hash(frozenset(labels.items()))
    known = _kept.get(number)
    if known is not None and known == labels:
        return known
    shared = _Labels((sys.intern(key), sys.intern(value)) for key, value in labels.items())
    # Of two sets with the same hash the newer one is found from now on; the other one is no worse.
    _kept[number] = shared
    return shared
