"""Label selectors mean what they mean in Kubernetes."""

import pytest

from handover_api.livemigration import LabelSelector
from handover_operator.roles import selectors


def selector(**expressions: object) -> LabelSelector:
    """Build a selector from its JSON fields."""
    return LabelSelector.model_validate(expressions)


def expression(operator: str, *values: str) -> LabelSelector:
    """Build a selector with one expression on the label ``tier``."""
    return selector(
        matchExpressions=[{"key": "tier", "operator": operator, "values": list(values)}]
    )


@pytest.mark.parametrize(
    ("chosen", "labels", "expected"),
    [
        (selector(matchLabels={"a": "1"}), {"a": "1", "b": "2"}, True),
        (selector(matchLabels={"a": "1"}), {"a": "2"}, False),
        (selector(matchLabels={"a": "1", "b": "2"}), {"a": "1"}, False),
        (expression("In", "web", "db"), {"tier": "db"}, True),
        (expression("In", "web"), {"tier": "db"}, False),
        (expression("In", "web"), {}, False),
        (expression("NotIn", "web"), {"tier": "db"}, True),
        (expression("NotIn", "web"), {"tier": "web"}, False),
        (expression("NotIn", "web"), {}, True),
        (expression("Exists"), {"tier": ""}, True),
        (expression("Exists"), {}, False),
        (expression("DoesNotExist"), {}, True),
        (expression("DoesNotExist"), {"tier": ""}, False),
    ],
)
def test_all_requirements_must_hold(
    chosen: LabelSelector, labels: dict[str, str], *, expected: bool
) -> None:
    assert expected == selectors.is_match(chosen, labels)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (selector(matchLabels={"b": "2", "a": "1"}), {("a", "1")}),
        (expression("In", "web", "db"), {("tier", "web"), ("tier", "db")}),
        (expression("Exists"), {("tier",)}),
        (expression("NotIn", "web"), set()),
        (expression("DoesNotExist"), set()),
        (
            selector(
                matchLabels={"a": "1"}, matchExpressions=[{"key": "tier", "operator": "Exists"}]
            ),
            {("a", "1")},
        ),
    ],
)
def test_the_most_selective_requirement_finds_the_candidates(
    chosen: LabelSelector, expected: set[selectors.Anchor]
) -> None:
    assert expected == selectors.anchors(chosen)
