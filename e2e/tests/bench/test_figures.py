"""Which figures count: those that were measured, against their bars."""

import io

import pytest
from rich.console import Console

from handover_lab.bench import figures
from handover_lab.bench.figures import Figure

FIGURES = (
    Figure("mine / floor", lambda found: found["mine"] / found["floor"], 2),
    Figure("mine", lambda found: found["mine"]),
)


def test_what_was_not_measured_is_not_judged() -> None:
    assert [figure.what for figure, _ in figures.measured(FIGURES, {"mine": 900})] == ["mine"]
    assert figures.is_kept(FIGURES, {"mine": 900})


@pytest.mark.parametrize(("floor", "is_kept"), [(500, True), (450, True), (449, False)])
def test_a_figure_with_a_bar_is_judged(floor: int, *, is_kept: bool) -> None:
    assert figures.is_kept(FIGURES, {"mine": 900, "floor": floor}) is is_kept


def test_the_table_names_the_bars_and_what_missed_them() -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=80)
    console.print(figures.table("The agent", FIGURES, {"mine": 900, "floor": 300}))
    lines = [line.split() for line in shown.getvalue().splitlines()]
    assert ["mine", "/", "floor", "3", "2", "✗", "missed"] in lines
    assert ["mine", "900"] in lines
