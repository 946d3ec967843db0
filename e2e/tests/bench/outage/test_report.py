"""The table and the picture of a bench that never ran."""

import dataclasses
import io
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console

from handover_lab.bench.outage import figures, report
from handover_lab.bench.outage.figures import Sample, Source
from handover_lab.bench.outage.moments import Moments
from handover_lab.bench.outage.rows import ROWS

SAMPLE: Final = Sample(
    *(40.0, 30, 0, 60.0, 90.0, Moments(0, 300_000, 900_000, 400_000, 950_000)),
    request_gap_ms=132.5,
    answer_ms=80.0,
    source=Source(70.0, 20.0),
)
LATE: Final = dataclasses.replace(
    SAMPLE, lost_after_switch=990, silence_ms=None, moments=Moments(0, floor_ns=310_000)
)
LINES: Final = figures.compared(
    [
        figures.line(row, family, [SAMPLE if row.redirect else LATE], 1)
        for row in ROWS
        for family in (4, 6)
    ]
)


def shown(lines: list[figures.Line]) -> str:
    console = Console(file=io.StringIO(), width=200)
    report.show(lines, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_has_a_line_for_each_and_says_what_is_reached() -> None:
    text = shown(LINES)
    # Each in both tables.
    assert text.count("segment") == text.count("routed") == 2 * 24
    assert "✓ lost after the switch with a redirect, at most: 0 (0)" in text
    assert "✓ announcement → redirect: 2.90 times the C program (3)" in text
    assert "0.90 to 0.90 ms" in text
    assert "✓ lost in all with resend, at most: 0 (0)" in text
    assert "✓ a client's gap beyond pause and answer: 12.5 to 12.5 ms" in text
    assert "✓ announcement → route: 1.00 times that without resend (1.05)" in text
    assert "✓ announcement → redirect: 1.00 times that without resend (1.05)" in text


def test_a_loss_is_marked() -> None:
    lost = dataclasses.replace(SAMPLE, lost_after_switch=3)
    text = shown([figures.line(ROWS[1], 4, [lost], 1)])
    assert "✗ lost after the switch with a redirect, at most: 3 (0)" in text
    assert "with resend" not in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lost_total_max": 3}, "lost in all with resend, at most: 3 (0)"),
        (
            {"tcp_gap_minus_pause_and_wakeup_ms_median": 31.0},
            "a client's gap beyond pause and answer: 12.5 to 31.0 ms, the rows' medians (30 ms)",
        ),
        (
            {"announcement_to_redirect_ratio": 1.2},
            "announcement → redirect: 1.10 times that without resend (1.05)",
        ),
    ],
)
def test_what_a_row_with_resend_does_not_reach_is_marked(
    changes: dict[str, object], expected: str
) -> None:
    (first, *others) = [each for each in LINES if each["resend"]][:2]
    text = shown([{**first, **changes}, *others])  # type: ignore[dict-item]
    assert f"✗ {expected}" in text


def test_a_row_of_which_nothing_was_measured_is_no_reached_target() -> None:
    empty = figures.line(ROWS[2], 4, [], 1)
    text = shown([*LINES, empty])
    assert "✗ lost in all with resend, at most: 0 (0)" in text


def test_what_was_not_measured_is_a_dash() -> None:
    assert [report.cell(value, 1.0) for value in (None, 0, 3, 0.5, 123.4)] == [
        *("-", "0", "3", "0.50", "123")
    ]


def test_a_picture_is_drawn_of_whatever_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "outage.png"
    report.draw(LINES, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    report.draw(LINES[:1], path)
    assert path.read_bytes().startswith(b"\x89PNG")
