"""What is kept of labels: one mapping for equal sets, also of a pod and of its endpoint."""

import gc
import json

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
