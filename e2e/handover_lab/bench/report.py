"""What `make bench-operator` shows: a table of its figures beside their bars, and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from handover_lab.docs.chart import CHART


def limit_mib(values: str) -> int:
    """Return the memory in MiB that the chart's values allow the operator."""
    limit = str(yaml.safe_load(values)["operator"]["resources"]["limits"]["memory"])
    number, unit = limit[:-2], limit[-2:]
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]


WRITES: Final = (
    "writes_per_migration_and_object_max",
    "status_writes_per_migration_and_object_max",
)


LIMIT_MIB: Final = limit_mib((CHART / "values.yaml").read_text())
MEMORY: Final = int(0.6 * LIMIT_MIB)
"""The rest of the chart's limit is for what comes at once: lists anew, thousands of migrations."""


class Row(NamedTuple):
    """One figure; without a bar it is only told."""

    key: str
    what: str
    bar: float | None = None


ROWS: Final = (
    Row("applied_to_role_p50_ms", "LiveMigration applied → both roles, ms, p50"),
    Row("applied_to_role_p99_ms", "the same, p99", 50),
    Row("machine_delay_p99_ms", "of which the machine's own delay, p99"),
    Row("scheduling_to_role_p50_ms", "VMIM Scheduling → role on its target, ms, p50"),
    Row("scheduling_to_role_p99_ms", "the same, p99", 250),
    Row("burst_bound_to_role_p50_ms", "all at once: pod bound → its role, ms, p50"),
    Row("burst_bound_to_role_p99_ms", "the same, p99"),
    Row("start_to_synced_s", "start → synced, s", 15),
    Row("start_to_synced_adapter_s", "start → synced, with VMs, s"),
    Row("rss_mib", "resident memory, MiB", 256),
    Row("rss_mib_at_the_end", "the same, after all migrations"),
    Row("rss_mib_adapter", "resident memory with VMs, MiB", MEMORY),
    Row("rss_mib_per_1000_vms", "of which 1,000 VMs more take"),
    Row(WRITES[0], "writes per migration and object, most", 3),
    Row(WRITES[1], "writes of its status, most", 8),
    Row("event_cost_ratio_10000_to_100", "cost of an event, 10,000 endpoints / 100", 1.25),
)


def is_kept(results: Mapping[str, Any]) -> bool:
    """Return whether every bar is kept by what was measured."""
    return all(results[row.key] <= row.bar for row in ROWS if row.bar and row.key in results)


def table(results: Mapping[str, Any]) -> Table:
    """Compose the table."""
    rows = Table(title="The operator", title_justify="left", box=None)
    for head in ("", "measured", "at most", ""):
        rows.add_column(head, justify="right" if head else "left", no_wrap=True)
    for row in ROWS:
        value = results.get(row.key)
        if value is None:
            continue
        bar = "" if row.bar is None else f"{row.bar:g}"
        is_within = row.bar is None or value <= row.bar
        mark = "" if row.bar is None else "✓" if is_within else "✗ missed"
        rows.add_row(row.what, f"{value:g}", bar, mark, style=None if is_within else "bold red")
    return rows


def draw(costs: Mapping[int, float], latencies: Mapping[int, Sequence[float]], path: Path) -> None:
    """Draw what an event costs and how long a role takes, by the number of endpoints."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    sizes = list(costs)
    left.plot(sizes, [costs[size] * 1e6 for size in sizes], marker="o", color="#0072B2")
    left.set_title("What one event costs the operator", fontsize=10)
    left.set_ylabel("CPU time, µs")
    right.boxplot(
        [latencies[size] for size in sizes],
        positions=range(len(sizes)),
        tick_labels=[f"{size:,}" for size in sizes],
        whis=(1, 99),
        sym="",
        medianprops={"color": "#D55E00"},
    )
    right.set_title("LiveMigration applied to both roles written", fontsize=10)
    right.set_ylabel("ms; whiskers: 1st and 99th percentile")
    left.set_xscale("log")
    left.set_xticks(sizes, [f"{size:,}" for size in sizes])
    left.minorticks_off()
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.set_xlabel("endpoints in the cluster")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
