"""What an answer of the API server's means for whoever asked."""

import json

import pytest

from handover_operator.kube import errors
from handover_operator.kube.errors import (
    Absent,
    Conflict,
    Expired,
    Refused,
    Unavailable,
    Unprepared,
    Unserved,
)

POLICY = "ValidatingAdmissionPolicy 'handover-allowed-addresses' denied request: "
NOT_FOUND = "failed to find resource referenced by paramKind: 'handover.dev/v1alpha1'"


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (401, "rotated", Unavailable),
        (403, "no right", Refused),
        (404, "no path", Unserved),
        (409, "changed", Conflict),
        (410, "too old", Expired),
        (422, f"{POLICY}10.1.2.3 is not in allowedCIDRs", Refused),
        (422, f"{POLICY}failed to configure policy: {NOT_FOUND}", Unprepared),
        (429, "storage is (re)initializing", Unavailable),
        (503, "starting", Unavailable),
    ],
)
def test_an_answer_is_sorted_by_what_can_be_done(
    status: int, message: str, expected: type[Exception]
) -> None:
    answer = json.dumps({"kind": "Status", "message": message})

    assert type(errors.from_response(status, answer)) is expected


def test_what_is_missing_is_an_object_or_its_kind() -> None:
    named = json.dumps({"message": "not found", "details": {"name": "vm"}})

    assert type(errors.from_response(404, named)) is Absent


def test_a_proxy_answers_in_prose() -> None:
    assert str(errors.from_response(502, "<html>")) == "502: <html>"
