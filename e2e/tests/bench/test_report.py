"""The bars of the operator's benchmark leave room below what the chart allows."""

import pytest

from handover_lab.bench import report


@pytest.mark.parametrize(("limit", "mib"), [("768Mi", 768), ("1Gi", 1024)])
def test_the_limit_is_the_charts(limit: str, mib: int) -> None:
    values = f"operator: {{resources: {{limits: {{memory: {limit}}}}}}}"

    assert report.limit_mib(values) == mib


def test_no_bar_of_memory_is_above_six_tenths_of_the_limit() -> None:
    bars = {row.key: row.bar for row in report.ROWS if row.key.startswith("rss") and row.bar}

    assert set(bars) == {"rss_mib", "rss_mib_adapter"}
    assert max(bars.values()) <= 0.6 * report.LIMIT_MIB
