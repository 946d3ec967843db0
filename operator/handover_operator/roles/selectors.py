"""Kubernetes label selectors: whether one matches, and which labels can find its matches."""

from collections.abc import Mapping

from handover_api.livemigration import LabelSelector, SelectorRequirement

Anchor = tuple[str, str] | tuple[str]
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


def anchors(selector: LabelSelector) -> frozenset[Anchor]:
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
