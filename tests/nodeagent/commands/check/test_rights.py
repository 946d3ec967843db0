"""The rights that are asked for are those of the chart, and an answer is read as it is meant."""

import pytest

from handover_api import names
from handover_nodeagent.commands.check import rights
from handover_nodeagent.commands.check.rights import Right


def test_a_right_is_asked_for_in_all_namespaces() -> None:
    asked = rights.review(Right("patch", names.GROUP, "workloadendpoints", "status"))
    assert asked["kind"] == "SelfSubjectAccessReview"
    assert asked["spec"]["resourceAttributes"] == {
        "verb": "patch",
        "group": names.GROUP,
        "resource": "workloadendpoints",
        "subresource": "status",
    }


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"status": {"allowed": True}}, True),
        ({"status": {"allowed": False}}, False),
        ({"status": {}}, False),
        ({"status": None}, False),
        ({}, False),
    ],
)
def test_only_a_plain_yes_is_one(answer: dict[str, object], *, expected: bool) -> None:
    assert rights.is_allowed(answer) is expected


def test_each_right_has_a_sentence_of_its_own() -> None:
    said = [str(right) for right in rights.NEEDED]
    assert "patch workloadendpoints/status" in said
    assert "create events" in said
    assert len(set(said)) == len(said)
