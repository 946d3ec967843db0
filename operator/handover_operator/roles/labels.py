"""Kubernetes labels, and the selectors that match them. Pure.

Labels are kept once: of equal sets one mapping, of equal words one string. A pod, the endpoint that
was made for it and what was last observed of that endpoint carry the same labels, twenty of them
and more; apart they would be most of what ten thousand VMs take.
"""

import sys
from collections.abc import Mapping
from typing import Final
from weakref import WeakValueDictionary

from handover_api.livemigration import LabelSelector, SelectorRequirement


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


IndexLabel = tuple[str, str] | tuple[str]
"""A label that a match must carry: key and value, or the key alone."""


def is_match(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Return whether all requirements hold, as Kubernetes understands them."""
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        _holds(requirement, labels) for requirement in selector.match_expressions
    )


def _holds(requirement: SelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            # A label that is absent is not in the set either (labels.Requirement.Matches).
            return value not in requirement.values
        case "Exists":
            return value is not None
        case _:  # DoesNotExist
            return value is None


def index_labels(selector: LabelSelector) -> frozenset[IndexLabel]:
    """Return labels of which every match carries at least one; empty when there are none.

    One requirement is enough to find the candidates. The most selective kind is taken: a value
    before a few values before a mere key.
    """
    for key, value in sorted(selector.match_labels.items()):
        return frozenset({(key, value)})
    requirements = selector.match_expressions
    for requirement in requirements:
        if requirement.operator == "In":
            return frozenset((requirement.key, value) for value in requirement.values)
    for requirement in requirements:
        if requirement.operator == "Exists":
            return frozenset({(requirement.key,)})
    return frozenset()
