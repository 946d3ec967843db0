"""A bench's figures and their bars, as both benches judge and show them.

A bar is a multiple of what the same run measured beside it, so that it means the same on a busy
machine; only memory, which depends on no neighbor, has bars in MiB. All other figures just inform.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rich.table import Table

Results = Mapping[str, Any]
"""What a bench writes into its JSON."""

HEADS: Final = ("", "measured", "at most", "")


class Figure(NamedTuple):
    """One figure; without a bar it is only shown."""

    what: str
    read: Callable[[Results], float]
    """Raises KeyError where it was not measured."""
    bar: float | None = None

    def is_within(self, value: float) -> bool:
        """Return whether the bar is kept."""
        return self.bar is None or value <= self.bar


def percentile(values: Sequence[float], rank: int) -> float:
    """Return the value below which *rank* per cent lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[rank - 1]


def measured(figures: Sequence[Figure], results: Results) -> Iterator[tuple[Figure, float]]:
    """Yield each figure that was measured, with its value."""
    for figure in figures:
        try:
            value = figure.read(results)
        except KeyError:
            continue
        yield figure, value


def is_kept(figures: Sequence[Figure], results: Results) -> bool:
    """Return whether every bar is kept by what was measured."""
    return all(figure.is_within(value) for figure, value in measured(figures, results))


def table(title: str, figures: Sequence[Figure], results: Results) -> Table:
    """Compose the table of what was measured."""
    rows = Table(title=title, title_justify="left", box=None)
    for head in HEADS:
        rows.add_column(head, justify="right" if head else "left", no_wrap=True)
    for figure, value in measured(figures, results):
        bar, mark = "", ""
        if figure.bar is not None:
            bar, mark = f"{figure.bar:g}", "✓" if figure.is_within(value) else "✗ missed"
        style = None if figure.is_within(value) else "bold red"
        rows.add_row(figure.what, f"{value:,.4g}", bar, mark, style=style)
    return rows
