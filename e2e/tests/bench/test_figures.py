"""The figures of the agent's bench, and which of them count."""

import pytest

from handover_lab.bench import figures as bench_figures
from handover_lab.bench.figures import Sample


def results(agent: float, floor: float) -> dict[str, object]:
    """Return what a run of cutovers alone finds, all of them alike, in µs."""
    figures = Sample((agent,) * 5, (floor,) * 5).figures()
    return {"announcement_to_route": {"idle": figures, "busy": figures}, "rss_mib_200": 66.0}


def test_what_was_not_measured_is_not_judged() -> None:
    judged = {what for what, *_ in bench_figures.measured(results(100, 60))}
    assert "busy p99 / floor p99" in judged
    assert "processor at rest, %" not in judged


@pytest.mark.parametrize(
    ("agent", "floor", "is_kept"), [(1900, 1000, True), (2100, 1000, False), (9900, 5000, True)]
)
def test_on_a_busy_node_the_ratio_counts_and_not_the_machine(
    agent: float, floor: float, *, is_kept: bool
) -> None:
    assert bench_figures.is_kept(results(agent, floor)) is is_kept
