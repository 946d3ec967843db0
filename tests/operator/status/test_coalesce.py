"""What is written at once, and what is collected."""

from typing import Any

import pytest

from handover_api.livemigration import LiveMigrationStatus
from handover_operator.status import coalesce
from handover_operator.status.coalesce import Coalescer

WHEN = "2026-11-24T12:00:00Z"


def status(
    phase: str = "Preparing", state: str | None = None, **conditions: str
) -> LiveMigrationStatus:
    """Build a status; *state* is the source's, conditions are by type."""
    fields: dict[str, Any] = {
        "phase": phase,
        "source": [{"endpoint": "a", "node": "n", "state": state}],
        "conditions": [
            {"type": of, "status": holds, "reason": "R", "message": "", "lastTransitionTime": WHEN}
            for of, holds in conditions.items()
        ],
    }
    return LiveMigrationStatus.model_validate(fields)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(status(), status("Ready"), True, id="another phase"),
        pytest.param(
            status(TargetReady="False"), status(TargetReady="True"), True, id="the target is ready"
        ),
        pytest.param(status(), status(Conflicted="True"), True, id="a conflict"),
        pytest.param(status(), status(state="Base"), False, id="an agent's report"),
        pytest.param(
            status(SourceLingers="True"), status(SourceLingers="False"), False, id="it lingers"
        ),
    ],
)
def test_what_is_urgent(
    before: LiveMigrationStatus, after: LiveMigrationStatus, *, expected: bool
) -> None:
    assert coalesce.is_urgent(before, after) is expected


def test_reports_are_collected_from_the_first_on() -> None:
    collector, none = Coalescer(), status()
    assert collector.seconds_left("m1", none, status(state="Base"), 100) == coalesce.COALESCE_FOR
    assert (
        collector.seconds_left("m1", none, status(state="Asking"), 100.25)
        == coalesce.COALESCE_FOR - 0.25
    )
    assert len(collector) == 1
    assert collector.seconds_left("m1", none, status(state="Base"), 101) == 0
    collector.forget("m1")
    assert collector.seconds_left("m1", none, status(state="Base"), 101) == coalesce.COALESCE_FOR
    collector.clear()
    assert len(collector) == 0


def test_nothing_waits_where_nothing_is_to_be_written() -> None:
    collector = Coalescer()
    assert collector.seconds_left("m1", status(), status(), 100) == 0
    assert collector.seconds_left("m1", status(), status("Ready", state="Base"), 100) == 0
    assert len(collector) == 0
