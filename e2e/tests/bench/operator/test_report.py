"""The bars of the operator's bench: ratios, and memory with room below the chart's limit."""

import pytest

from handover_lab.bench.figures import is_kept
from handover_lab.bench.operator import report


@pytest.mark.parametrize(("limit", "mib"), [("768Mi", 768), ("1Gi", 1024)])
def test_the_limit_is_the_charts(limit: str, mib: int) -> None:
    values = f"operator: {{resources: {{limits: {{memory: {limit}}}}}}}"

    assert report.limit_mib(values) == mib


def test_no_bar_of_memory_is_above_six_tenths_of_the_limit() -> None:
    bars = [figure.bar for figure in report.FIGURES if "memory" in figure.what and figure.bar]

    assert len(bars) == 2
    assert max(bars) <= 0.6 * report.LIMIT_MIB


@pytest.mark.parametrize(
    ("role", "patch", "holds"), [(39.0, 10.0, True), (41.0, 10.0, False), (390.0, 100.0, True)]
)
def test_a_role_is_compared_with_a_bare_patch(role: float, patch: float, *, holds: bool) -> None:
    results = report.percentiles("applied_to_role", [role] * 5)
    results |= report.percentiles("bare_patch", [patch] * 5)

    assert is_kept(report.FIGURES, results) is holds
