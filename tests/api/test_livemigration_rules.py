"""What the API server says to a LiveMigration."""

from typing import Any, Final

import pytest

from handover_api.livemigration import LiveMigration
from handover_api.names import LIVE_MIGRATIONS

pytestmark = pytest.mark.api

Spec = dict[str, Any]

VM: Final = {"name": "vm"}
SOURCE: Final[Spec] = {"source": {"workload": VM}}

ONE_OR_OTHER: Final = "spec must have at least one of source and target"
ONE_SOURCE: Final = "spec.source must have exactly one of workload and endpoint"
ONE_TARGET: Final = "spec.target must have exactly one of selector, workload and endpoint"
EMPTY: Final = "spec.target.selector must not be empty; it needs matchLabels or matchExpressions"
LABEL_NAMES: Final = (
    "spec.target.selector.matchLabels must have label names as keys, such as kubevirt.io/domain"
)
LABEL_VALUES: Final = (
    "spec.target.selector.matchLabels must have label values: letters, digits, '-', '_' and '.',"
    " with a letter or digit at both ends"
)
KEYS: Final = (
    "spec.target.selector.matchExpressions must have label names as keys, such as"
    " kubevirt.io/domain"
)
VALUES: Final = (
    "spec.target.selector.matchExpressions must have label values: letters, digits, '-', '_' and"
    " '.', with a letter or digit at both ends"
)
VALUES_OR_NOT: Final = (
    "spec.target.selector.matchExpressions must have values with operator In or NotIn, and none"
    " with Exists or DoesNotExist"
)
IMMUTABLE_ID: Final = "spec.id is immutable; it can neither be added, changed nor removed later"
OUTCOME_ONCE: Final = "spec.outcome is set once; it can neither be changed nor removed"

LABELS: Final = "spec.target.selector.matchLabels"
EXPRESSION: Final = "spec.target.selector.matchExpressions[0]"


def labels(**given: str) -> Spec:
    """Select by labels."""
    return selector(matchLabels=given)


def expression(key: str, operator: str, *values: str) -> Spec:
    """Select by one expression."""
    values_if_any = {"values": list(values)} if values else {}
    return selector(matchExpressions=[{"key": key, "operator": operator, **values_if_any}])


def selector(**parts: object) -> Spec:
    """Select the target."""
    return {"target": {"selector": parts}}


OTHER_NAMESPACE: Final = "without '/': workloads are found in the namespace of the LiveMigration"
NO_ENDPOINT: Final = (
    "must be the name of a WorkloadEndpoint in the same namespace: lower case letters, digits, '-'"
    " and '.'"
)

REFUSED: Final[dict[str, tuple[Spec, str, str]]] = {
    "neither source nor target": ({}, "spec", ONE_OR_OTHER),
    "only an id": ({"id": "m"}, "spec", ONE_OR_OTHER),
    "an empty source": ({"source": {}}, "spec.source", ONE_SOURCE),
    "two sources": ({"source": {"workload": VM, "endpoint": VM}}, "spec.source", ONE_SOURCE),
    "a source without a name": (
        {"source": {"workload": {}}},
        "spec.source.workload.name",
        "Required value",
    ),
    "a source with an empty name": (
        {"source": {"endpoint": {"name": ""}}},
        "spec.source.endpoint.name",
        "should be at least 1 chars long",
    ),
    **{
        f"a {side} {kind} in another namespace": (
            {side: {kind: {"name": "default/vm"}}},
            f"spec.{side}.{kind}.name",
            sentence,
        )
        for side in ("source", "target")
        for kind, sentence in (("workload", OTHER_NAMESPACE), ("endpoint", NO_ENDPOINT))
    },
    **{
        f"a {kind} that moves to itself": (
            {"source": {kind: VM}, "target": {kind: VM}},
            f"spec.target.{kind}.name",
            f"spec.target.{kind}.name must be another one than the source's",
        )
        for kind in ("workload", "endpoint")
    },
    "an empty target": ({"target": {}}, "spec.target", ONE_TARGET),
    "a workload and an endpoint": (
        {"target": {"workload": VM, "endpoint": VM}},
        "spec.target",
        ONE_TARGET,
    ),
    "a selector and a workload": (
        {"target": {"selector": {"matchLabels": {"app": "vm"}}, "workload": VM}},
        "spec.target",
        ONE_TARGET,
    ),
    "three targets": (
        {"target": {"selector": {"matchLabels": {"a": "b"}}, "workload": VM, "endpoint": VM}},
        "spec.target",
        ONE_TARGET,
    ),
    "a target without a name": (
        {"target": {"endpoint": {}}},
        "spec.target.endpoint.name",
        "Required value",
    ),
    "an empty selector": (selector(), "spec.target.selector", EMPTY),
    "a selector of nothing": (
        selector(matchLabels={}, matchExpressions=[]),
        "spec.target.selector",
        EMPTY,
    ),
    "a label name with a space": (labels(**{"my app": "vm"}), LABELS, LABEL_NAMES),
    "an empty label name": (labels(**{"": "vm"}), LABELS, LABEL_NAMES),
    "a label name of two prefixes": (labels(**{"a/b/c": "vm"}), LABELS, LABEL_NAMES),
    "a label name of 64 characters": (labels(**{"n" * 64: "vm"}), LABELS, LABEL_NAMES),
    "a label value with a space": (labels(app="my vm"), f"{LABELS}[app]", LABEL_VALUES),
    "a label value that ends in a dash": (labels(app="vm-"), f"{LABELS}[app]", LABEL_VALUES),
    "a label value of 64 characters": (
        labels(app="v" * 64),
        f"{LABELS}.app",
        "may not be more than 63 bytes",
    ),
    "an expression without a key": (
        selector(matchExpressions=[{"operator": "Exists"}]),
        f"{EXPRESSION}.key",
        "Required value",
    ),
    "an expression without an operator": (
        selector(matchExpressions=[{"key": "app"}]),
        f"{EXPRESSION}.operator",
        "Required value",
    ),
    "another operator": (
        expression("app", "Equals", "vm"),
        f"{EXPRESSION}.operator",
        'supported values: "In", "NotIn", "Exists", "DoesNotExist"',
    ),
    "a key that is no label name": (expression("a b", "Exists"), f"{EXPRESSION}.key", KEYS),
    "a value that is no label value": (
        expression("app", "In", "vm", "v m"),
        f"{EXPRESSION}.values[1]",
        VALUES,
    ),
    "In without values": (expression("app", "In"), EXPRESSION, VALUES_OR_NOT),
    "NotIn without values": (expression("app", "NotIn"), EXPRESSION, VALUES_OR_NOT),
    "Exists with values": (expression("app", "Exists", "vm"), EXPRESSION, VALUES_OR_NOT),
    "DoesNotExist with values": (
        expression("app", "DoesNotExist", "vm"),
        EXPRESSION,
        VALUES_OR_NOT,
    ),
    "an empty id": (SOURCE | {"id": ""}, "spec.id", "should be at least 1 chars long"),
    "a long id": (SOURCE | {"id": "i" * 254}, "spec.id", "may not be more than 253 bytes"),
    "another outcome": (
        SOURCE | {"outcome": "Failed"},
        "spec.outcome",
        'supported values: "Succeeded", "Aborted"',
    ),
    "a negative time to live": (
        SOURCE | {"ttlSecondsAfterFinished": -1},
        "spec.ttlSecondsAfterFinished",
        "should be greater than or equal to 0",
    ),
    "a time to live with a unit": (
        SOURCE | {"ttlSecondsAfterFinished": "60s"},
        "spec.ttlSecondsAfterFinished",
        'must be of type integer: "string"',
    ),
}

ACCEPTED: Final[dict[str, Spec]] = {
    "a source workload": SOURCE,
    "a source endpoint": {"source": {"endpoint": VM}},
    "a target workload": {"target": {"workload": VM}},
    "a target endpoint": {"target": {"endpoint": VM}},
    "both sides": SOURCE | {"target": {"endpoint": VM}},
    "labels": labels(**{"kubevirt.io/migrationJobUID": "0ff7aeb7-d18a-4f18-911b-11fabcacf6e8"}),
    "an empty label value": labels(app=""),
    "the longest label": labels(**{"n" * 63: "v" * 63}),
    "In": expression("app", "In", "vm"),
    "NotIn": expression("app", "NotIn", "vm", ""),
    "Exists": expression("kubevirt.io/domain", "Exists"),
    "DoesNotExist": expression("app", "DoesNotExist"),
    "labels and expressions": selector(
        matchLabels={"app": "vm"}, matchExpressions=[{"key": "tier", "operator": "Exists"}]
    ),
    "no labels but expressions": selector(
        matchLabels={}, matchExpressions=[{"key": "tier", "operator": "Exists", "values": []}]
    ),
    "the longest id": SOURCE | {"id": "i" * 253},
    "disarmed": SOURCE | {"armed": False},
    "Succeeded from the start": SOURCE | {"outcome": "Succeeded"},
    "Aborted from the start": SOURCE | {"outcome": "Aborted"},
    "deleted at once": SOURCE | {"ttlSecondsAfterFinished": 0},
}

PLAIN: Final = SOURCE
NAMED: Final = SOURCE | {"id": "vmim-uid"}
ENDED: Final = SOURCE | {"outcome": "Succeeded"}

NOT_CHANGED: Final[dict[str, tuple[Spec, Spec, str, str]]] = {
    "an id added": (PLAIN, {"id": "new"}, "spec.id", IMMUTABLE_ID),
    "an id changed": (NAMED, {"id": "new"}, "spec.id", IMMUTABLE_ID),
    "an id removed": (NAMED, {"id": None}, "spec.id", IMMUTABLE_ID),
    "an outcome changed": (ENDED, {"outcome": "Aborted"}, "spec.outcome", OUTCOME_ONCE),
    "an outcome removed": (ENDED, {"outcome": None}, "spec.outcome", OUTCOME_ONCE),
    "the last side removed": (PLAIN, {"source": None}, "spec", ONE_OR_OTHER),
    "a second source": (PLAIN, {"source": {"endpoint": VM}}, "spec.source", ONE_SOURCE),
}

CHANGED: Final[dict[str, tuple[Spec, Spec]]] = {
    "an outcome": (PLAIN, {"outcome": "Aborted"}),
    "the same outcome again": (ENDED, {"outcome": "Succeeded"}),
    "the same id again": (NAMED, {"id": "vmim-uid"}),
    "another source": (NAMED, {"source": {"workload": None, "endpoint": VM}}),
    "a target added": (NAMED, {"target": {"workload": {"name": "vm-b"}}}),
    "the source removed for a target": (NAMED, {"source": None, "target": {"endpoint": VM}}),
    "armed": (NAMED, {"armed": False}),
    "a time to live": (ENDED, {"ttlSecondsAfterFinished": 60}),
}


@pytest.mark.parametrize(("spec", "field", "sentence"), REFUSED.values(), ids=REFUSED)
async def test_a_wrong_migration_is_refused(
    api: Any, spec: Spec, field: str, sentence: str
) -> None:
    with pytest.raises(api.refused) as raised:
        await api.create(LIVE_MIGRATIONS, spec)
    assert list(raised.value.causes) == [field]
    assert raised.value.causes[field].endswith(sentence)


@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED)
async def test_the_nearest_right_migration_is_accepted(api: Any, spec: Spec) -> None:
    stored = await api.create(LIVE_MIGRATIONS, spec)
    assert stored["spec"] == {"armed": True} | spec
    assert LiveMigration.model_validate(stored).spec.armed == stored["spec"]["armed"]


async def test_there_is_no_migration_without_a_spec(api: Any) -> None:
    with pytest.raises(api.refused) as raised:
        await api.create(LIVE_MIGRATIONS, None)
    assert raised.value.causes == {"spec": "Required value"}


@pytest.mark.parametrize(
    ("before", "change", "field", "sentence"), NOT_CHANGED.values(), ids=NOT_CHANGED
)
async def test_what_stays_cannot_be_changed(
    api: Any, before: Spec, change: Spec, field: str, sentence: str
) -> None:
    await api.create(LIVE_MIGRATIONS, before, dry=False)
    try:
        with pytest.raises(api.refused) as raised:
            await api.change(LIVE_MIGRATIONS, {"spec": change})
        assert list(raised.value.causes) == [field]
        assert raised.value.causes[field].endswith(sentence)
    finally:
        await api.delete(LIVE_MIGRATIONS)


@pytest.mark.parametrize(("before", "change"), CHANGED.values(), ids=CHANGED)
async def test_what_may_change_can_be_changed(api: Any, before: Spec, change: Spec) -> None:
    await api.create(LIVE_MIGRATIONS, before, dry=False)
    try:
        await api.change(LIVE_MIGRATIONS, {"spec": change})
    finally:
        await api.delete(LIVE_MIGRATIONS)
