"""What `make bench` shows: the agent's times beside the floor's, their bars and their picture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture
from rich.console import Console
from rich.table import Table

from handover_lab.bench.figures import Figure, Results, percentile, table

AGENT_COLOR: Final = "#0072B2"
FLOOR_COLOR: Final = "#8C8C8C"


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


def ratio(condition: str, rank: str) -> Callable[[Results], float]:
    """Return what reads a figure of the agent as a multiple of the floor's."""

    def read(results: Results) -> float:
        figures = results["announcement_to_route"][condition]
        return float(figures[f"{rank}_us"] / figures[f"floor_{rank}_us"])

    return read


def cost(name: str) -> Callable[[Results], float]:
    """Return what reads the agent's share of a processor as a multiple of a bare loop's."""
    return lambda results: float(
        results[f"cpu_percent_{name}"] / results[f"bare_cpu_percent_{name}"]
    )


def value(key: str) -> Callable[[Results], float]:
    """Return what reads a figure that is one number."""
    return lambda results: float(results[key])


FIGURES: Final = (
    Figure("idle p50 / floor p50", ratio("idle", "p50"), 3.0),
    Figure("idle p99 / floor p99", ratio("idle", "p99"), 5.0),
    Figure("busy p99 / floor p99", ratio("busy", "p99"), 2.0),
    Figure("20 guests at once, last, p50 / floor p50", ratio("20 at once", "p50"), 3.0),
    Figure("memory with 200 endpoints, MiB", value("rss_mib_200"), 72.0),
    Figure("memory with 2,000, MiB", value("rss_mib_2000"), 120.0),
    Figure("processor at rest / bare loop", cost("rest"), 4.0),
    Figure("the same, %", value("cpu_percent_rest")),
    Figure("processor under traffic / bare loop", cost("traffic"), 4.0),
    Figure("the same, %", value("cpu_percent_traffic")),
    Figure("flood, p99 with / without endpoint", value("flood_p99_ratio"), 2.0),
    Figure("start with 1,000 endpoints, s", value("start_1000_endpoints_s")),
)


def show(results: Results, console: Console) -> None:
    """Print what a person wants to know."""
    times = Table(title="The agent, measured", title_justify="left")
    for head in ("", "µs p50", "p99", "max", "floor p50", "floor p99", "floor max"):
        times.add_column(head, justify="right" if head else "left")
    for condition, figures in results["announcement_to_route"].items():
        cells = [f"{figures[key]:,.0f}" for key in figures]
        times.add_row(f"announcement to route, {condition}", *cells)
    console.print(times)
    console.print(table("", FIGURES, results))


def draw(samples: Mapping[str, Sample], path: Path) -> None:
    """Draw the distributions of agent and floor, idle and busy."""
    picture = Picture(figsize=(9, 4.5), dpi=120)
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    for condition, style in (("idle", "-"), ("busy", ":")):
        sample = samples[condition]
        for times, color, name in (
            (sample.agent, AGENT_COLOR, "agent"),
            (sample.floor, FLOOR_COLOR, "floor in C"),
        ):
            ordered = sorted(times)
            shares = [100 * (index + 1) / len(ordered) for index in range(len(ordered))]
            axes.plot(ordered, shares, style, color=color, label=f"{name}, {condition}")
    # Times of a busy node are a hundred times those of an idle one.
    axes.set_xscale("log")
    axes.set_xlabel("µs from the announcement on the wire to the route in the kernel")
    axes.set_ylabel("share of cutovers, %")
    axes.set_title("How soon the route follows the guest", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    picture.tight_layout()
    picture.savefig(path)
