"""The figures of `make bench`: what is said of them, their bars and their drawing."""

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Sample:
    """The agent's and the floor's times of one condition, in µs."""

    agent: tuple[float, ...]
    floor: tuple[float, ...]

    def figures(self) -> dict[str, float]:
        """Return what the report says of them."""
        return {
            "p50_us": round(percentile(self.agent, 50), 1),
            "p99_us": round(percentile(self.agent, 99), 1),
            "max_us": round(max(self.agent), 1),
            "floor_p50_us": round(percentile(self.floor, 50), 1),
            "floor_p99_us": round(percentile(self.floor, 99), 1),
            "floor_max_us": round(max(self.floor), 1),
        }


def percentile(values: Sequence[float], rank: int) -> float:
    """Return the value below which *rank* per cent lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[rank - 1]


GOALS: Final = (
    ("idle p50 / floor p50", "≤ 3", lambda r: ratio(r, "idle", "p50_us", "floor_p50_us"), 3.0),
    ("idle p99 / floor p99", "≤ 5", lambda r: ratio(r, "idle", "p99_us", "floor_p99_us"), 5.0),
    ("busy p99 / floor p99", "≤ 2", lambda r: ratio(r, "busy", "p99_us", "floor_p99_us"), 2.0),
    ("20 guests at once, last, ms", "≤ 2", lambda r: r["evacuation_20_last_us"] / 1000, 2.0),
    ("memory with 200 endpoints, MiB", "≤ 72", lambda r: r["rss_mib_200"], 72.0),
    ("memory with 2,000, MiB", "≤ 120", lambda r: r["rss_mib_2000"], 120.0),
    ("processor at rest, %", "≤ 0.1", lambda r: r["cpu_percent_rest"], 0.1),
    ("processor under traffic, %", "≤ 0.1", lambda r: r["cpu_percent_traffic"], 0.1),
    ("flood, p99 with / without endpoint", "≤ 2", lambda r: r["flood_p99_ratio"], 2.0),
    ("start with 1,000 endpoints, s", "", lambda r: r["start_1000_endpoints_s"], 1e9),
)


def ratio(results: dict[str, Any], condition: str, mine: str, floor: str) -> float:
    """Return a figure of the agent as a multiple of the floor's."""
    figures = results["announcement_to_route"][condition]
    return float(figures[mine] / figures[floor])


def is_kept(results: dict[str, Any]) -> bool:
    """Return whether every bar is kept by what was measured."""
    return all(value <= limit for _, _, value, limit in measured(results))


def measured(results: dict[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    """Yield each goal with its value, where that was measured."""
    for what, goal, read, limit in GOALS:
        with contextlib.suppress(KeyError):
            yield what, goal, read(results), limit


def show(results: dict[str, Any], console: Console) -> None:
    """Print what a person wants to know."""
    table = Table(title="The agent, measured", title_justify="left")
    for head in ("", "µs p50", "p99", "max", "floor p50", "floor p99", "floor max"):
        table.add_column(head, justify="right" if head else "left")
    for condition, figures in results["announcement_to_route"].items():
        cells = [f"{figures[key]:,.0f}" for key in figures]
        table.add_row(f"announcement to route, {condition}", *cells)
    console.print(table)
    goals = Table(title_justify="left")
    for head in ("", "measured", "bar", ""):
        goals.add_column(head, justify="right" if head else "left")
    for what, goal, value, limit in measured(results):
        is_within = value <= limit
        mark = "" if not goal else "✓" if is_within else "✗ missed"
        goals.add_row(what, f"{value:,.2f}", goal, mark, style=None if is_within else "bold red")
    console.print(goals)


def draw(samples: dict[str, Sample], path: Path) -> None:
    """Draw both distributions, agent and floor."""
    figure = Figure(figsize=(9, 4.5), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for condition, style in (("idle", "-"), ("busy", ":")):
        sample = samples[condition]
        for values, color, name in (
            (sample.agent, "#0072B2", "agent"),
            (sample.floor, "#8C8C8C", "floor in C"),
        ):
            ordered = sorted(values)
            shares = [100 * (index + 1) / len(ordered) for index in range(len(ordered))]
            axes.plot(ordered, shares, style, color=color, label=f"{name}, {condition}")
    axes.set_xscale("log")
    axes.set_xlabel("µs from the announcement on the wire to the route in the kernel")
    axes.set_ylabel("share of cutovers, %")
    axes.set_title("How soon the route follows the guest", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
