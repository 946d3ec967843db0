"""The figures of the agent's bench, and which of them count."""

import pytest

from handover_lab.bench.agent.report import FIGURES, Sample
from handover_lab.bench.figures import is_kept, measured


def results(agent: float, floor: float) -> dict[str, object]:
    """Return what a run of cutovers alone finds, all of them alike, in µs."""
    figures = Sample((agent,) * 5, (floor,) * 5).figures()
    return {"announcement_to_route": {"idle": figures, "busy": figures}, "rss_mib_200": 66.0}


def test_what_was_not_measured_is_not_judged() -> None:
    judged = {figure.what for figure, _ in measured(FIGURES, results(100, 60))}
    assert "busy p99 / floor p99" in judged
    assert "flood, p99 with / without endpoint" not in judged


@pytest.mark.parametrize(
    ("agent", "floor", "holds"), [(1900, 1000, True), (2100, 1000, False), (9900, 5000, True)]
)
def test_on_a_busy_node_the_ratio_counts_and_not_the_machine(
    agent: float, floor: float, *, holds: bool
) -> None:
    assert is_kept(FIGURES, results(agent, floor)) is holds


@pytest.mark.parametrize(
    ("agent", "floor", "holds"), [(2900, 1000, True), (3100, 1000, False), (29000, 10000, True)]
)
def test_twenty_guests_at_once_are_compared_with_the_floors_twenty(
    agent: float, floor: float, *, holds: bool
) -> None:
    together = Sample((agent,) * 5, (floor,) * 5).figures()
    assert is_kept(FIGURES, {"announcement_to_route": {"20 at once": together}}) is holds
