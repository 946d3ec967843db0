"""Labels: one mapping for equal sets, and selectors that mean what they mean in Kubernetes."""

import gc
import json

import pytest

from handover_api.livemigration import LabelSelector
from handover_operator.roles import labels


def read(**pairs: str) -> dict[str, str]:
    """Read labels from JSON, as an answer does: no string is one that was there before."""
    found: dict[str, str] = json.loads(json.dumps(pairs))
    return found


def test_equal_labels_are_one_mapping_and_others_are_not() -> None:
    one = labels.share(read(app="web", tier="front"))
    assert labels.share(read(tier="front", app="web")) is one
    assert labels.share(read(app="web")) is not one
    assert dict(one) == {"app": "web", "tier": "front"}


def test_equal_words_of_unequal_labels_are_one_string() -> None:
    one, other = (labels.share(read(name=name, app="a long name")) for name in ("one", "other"))
    assert one["app"] is other["app"]
    assert [id(key) for key in one] == [id(key) for key in other]


def test_labels_that_nobody_keeps_are_forgotten() -> None:
    # What other tests have left in cycles goes first.
    gc.collect()
    before = len(labels._kept)
    kept = [labels.share(read(number=str(number))) for number in range(100)]
    assert len(labels._kept) == before + 100
    kept.clear()
    gc.collect()
    assert len(labels._kept) == before


def test_a_hash_that_two_sets_have_makes_no_difference() -> None:
    one = labels.share(read(app="web"))
    other = labels._Labels(app="another")
    labels._kept[hash(frozenset(one.items()))] = other
    assert labels.share(read(app="web")) == {"app": "web"}


def selector(**expressions: object) -> LabelSelector:
    """Build a selector from its JSON fields."""
    return LabelSelector.model_validate(expressions)


def expression(operator: str, *values: str) -> LabelSelector:
    """Build a selector with one expression on the label ``tier``."""
    return selector(
        matchExpressions=[{"key": "tier", "operator": operator, "values": list(values)}]
    )


@pytest.mark.parametrize(
    ("chosen", "carried", "expected"),
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
    chosen: LabelSelector, carried: dict[str, str], *, expected: bool
) -> None:
    assert expected == labels.is_match(chosen, carried)


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
    chosen: LabelSelector, expected: set[labels.IndexLabel]
) -> None:
    assert expected == labels.index_labels(chosen)
