"""The role annotations of an endpoint, read and written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_api.assignment import Assignment
from handover_api.livemigration import Outcome
from handover_api.workloadendpoint import Role

assignments = st.builds(
    Assignment,
    role=st.none() | st.sampled_from(Role),
    migration=st.none() | st.text(),
    migration_uid=st.none() | st.text(),
    armed=st.booleans(),
    outcome=st.none() | st.sampled_from(Outcome),
    ended_role=st.none() | st.sampled_from(Role),
)

foreign = st.dictionaries(
    st.text().filter(lambda key: not key.startswith("handover.dev/")), st.text()
)


def merge(before: dict[str, str], patch: dict[str, str | None]) -> dict[str, str]:
    """Apply a merge patch (RFC 7386) as the API server does."""
    return {key: value for key, value in {**before, **patch}.items() if value is not None}


@given(assignments, assignments, foreign)
def test_what_is_written_over_anything_is_read_back(
    before: Assignment, after: Assignment, others: dict[str, str]
) -> None:
    annotations = merge(merge(others, before.to_annotations()), after.to_annotations())
    assert Assignment.from_annotations(annotations) == after
    assert merge(annotations, Assignment().to_annotations()) == others


def test_the_annotations_are_those_of_the_contract() -> None:
    ended = Assignment(
        migration="m1",
        migration_uid="uid-1",
        armed=False,
        outcome=Outcome.ABORTED,
        ended_role=Role.TARGET,
    )
    assert ended.to_annotations() == {
        "handover.dev/role": None,
        "handover.dev/migration": "m1",
        "handover.dev/migration-uid": "uid-1",
        "handover.dev/armed": "false",
        "handover.dev/outcome": "Aborted",
        "handover.dev/ended-role": "target",
    }
    assert Assignment(role=Role.SOURCE).to_annotations()["handover.dev/role"] == "source"


@pytest.mark.parametrize(
    ("annotation", "value"),
    [("role", "both"), ("role", "Source"), ("outcome", "Failed"), ("ended-role", "")],
)
def test_a_value_outside_of_the_contract_counts_as_absent(annotation: str, value: str) -> None:
    assert Assignment.from_annotations({f"handover.dev/{annotation}": value}) == Assignment()


@pytest.mark.parametrize(
    ("value", "armed"), [(None, True), ("true", True), ("false", False), ("False", True)]
)
def test_only_false_disarms(value: str | None, *, armed: bool) -> None:
    annotations = {} if value is None else {"handover.dev/armed": value}
    assert Assignment.from_annotations(annotations).armed is armed
