"""What a LiveMigration tells is counted when it is told for the first time."""

import datetime as dt
import itertools
from typing import Any

import pytest

from handover_api.livemigration import LiveMigrationStatus, SideStatus
from handover_api.model import Condition
from handover_api.workloadendpoint import Cutover, Signal
from handover_operator.observability import metrics

WHEN = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
MEASURED = {
    "announcement_to_redirect": "announcement_to_redirect_microseconds",
    "announcement_to_last_node": "announcement_to_last_node_microseconds",
    "guest_silence": "guest_silence_microseconds",
}


def status(cutover: Cutover | None = None, **fields: Any) -> LiveMigrationStatus:
    """Return a status with one target."""
    return LiveMigrationStatus(
        target=(SideStatus(endpoint="b", node="node-b", cutover=cutover),), **fields
    )


def cutover(**measured: int) -> Cutover:
    """Return what an agent measured."""
    return Cutover.model_validate(
        {"signal": Signal.PROBE, "announcementToRouteMicroseconds": 200, "time": WHEN, **measured}
    )


def value(name: str, **labels: str) -> float:
    """Return a metric of the operator."""
    return metrics.REGISTRY.get_sample_value(f"handover_operator_{name}", labels) or 0.0


@pytest.mark.parametrize(("name", "field"), MEASURED.items())
def test_what_others_answer_is_counted_once_though_it_comes_later(name: str, field: str) -> None:
    before = value(f"{name}_seconds_count")
    steps = [status(), status(cutover()), *[status(cutover(**{field: 640}))] * 2]

    for one, after in itertools.pairwise(steps):
        metrics.count_progress(one, after)

    assert value(f"{name}_seconds_count") == before + 1


def test_a_silence_below_nothing_is_none() -> None:
    before = value("guest_silence_seconds_sum")
    metrics.count_progress(status(), status(cutover(guest_silence_microseconds=-30)))
    assert value("guest_silence_seconds_sum") == before


@pytest.mark.parametrize(
    ("reason", "label"), [("Ready", "Ready"), ("NotReady", "NotReady"), (None, "none")]
)
def test_a_guest_that_moved_is_counted_by_whether_it_could_be_sent_on_to(
    reason: str | None, label: str
) -> None:
    said = [
        Condition(type="Redirectable", status="True", reason=each, last_transition_time=WHEN)
        for each in (reason,)
        if each is not None
    ]
    before = value("cutovers_total", redirectable=label)
    after = status(cutover(), cutover_time=WHEN, conditions=tuple(said))

    metrics.count_progress(status(), after)
    metrics.count_progress(after, after)

    assert value("cutovers_total", redirectable=label) == before + 1
