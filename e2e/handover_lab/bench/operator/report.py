"""What `make bench-operator` shows: its figures beside their bars, and a picture."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from handover_lab.bench.figures import Figure, Results, percentile
from handover_lab.docs.chart import CHART


def limit_mib(values: str) -> int:
    """Return the memory in MiB that the chart's values allow the operator."""
    limit = str(yaml.safe_load(values)["operator"]["resources"]["limits"]["memory"])
    number, unit = limit[:-2], limit[-2:]
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]


def percentiles(name: str, took_ms: Sequence[float]) -> dict[str, float]:
    """Return what the results say of times."""
    return {f"{name}_p{rank}_ms": round(percentile(took_ms, rank), 1) for rank in RANKS}


def value(key: str) -> Callable[[Results], float]:
    """Return what reads a figure that is one number."""
    return lambda results: float(results[key])


def ratio(key: str, floor: str) -> Callable[[Results], float]:
    """Return what reads a figure as a multiple of its floor's."""
    return lambda results: float(results[key] / results[floor])


RANKS: Final = (50, 90, 99)
"""The last is shown and not judged: of some dozen times it is the worst, and the machine's."""
WRITES: Final = (
    "writes_per_migration_and_object_max",
    "status_writes_per_migration_and_object_max",
)


LIMIT_MIB: Final = limit_mib((CHART / "values.yaml").read_text())
MEMORY: Final = int(0.6 * LIMIT_MIB)
"""The rest of the chart's limit is for what comes at once: lists anew, thousands of migrations."""

FIGURES: Final = (
    Figure("LiveMigration applied → both roles, ms, p50", value("applied_to_role_p50_ms")),
    Figure("the same, p99", value("applied_to_role_p99_ms")),
    Figure("a bare conditional PATCH, ms, p50", value("bare_patch_p50_ms")),
    Figure("the same, p99", value("bare_patch_p99_ms")),
    Figure(
        "applied → roles / bare PATCH, p50", ratio("applied_to_role_p50_ms", "bare_patch_p50_ms"), 4
    ),
    Figure("the same, p90", ratio("applied_to_role_p90_ms", "bare_patch_p90_ms"), 4),
    Figure("the machine's own delay, ms, p99", value("machine_delay_p99_ms")),
    Figure("VMIM Scheduling → role on its target, ms, p50", value("scheduling_to_role_p50_ms")),
    Figure("the same, p99", value("scheduling_to_role_p99_ms")),
    Figure("a bare PATCH meanwhile, ms, p50", value("bare_patch_kubevirt_p50_ms")),
    Figure("the same, p99", value("bare_patch_kubevirt_p99_ms")),
    # Between the two lie a pod's binding, an endpoint's creation and the roles of both sides, each
    # a write or more, beside all the writes of fifty other migrations.
    Figure(
        "VMIM Scheduling → role / bare PATCH, p50",
        ratio("scheduling_to_role_p50_ms", "bare_patch_kubevirt_p50_ms"),
        25,
    ),
    Figure("the same, p90", ratio("scheduling_to_role_p90_ms", "bare_patch_kubevirt_p90_ms"), 25),
    Figure("all at once: pod bound → its role, ms, p50", value("burst_bound_to_role_p50_ms")),
    Figure("the same, p99", value("burst_bound_to_role_p99_ms")),
    Figure("start → synced, s", value("start_to_synced_s")),
    Figure("start → synced / bare import and lists", ratio("start_to_synced_s", "bare_start_s"), 4),
    Figure("start → synced, with VMs, s", value("start_to_synced_adapter_s")),
    Figure("resident memory, MiB", value("rss_mib"), 256),
    Figure("the same, after all migrations", value("rss_mib_at_the_end")),
    Figure("resident memory with VMs, MiB", value("rss_mib_adapter"), MEMORY),
    Figure("of which 1,000 VMs more take", value("rss_mib_per_1000_vms")),
    Figure("writes per migration and object, most", value(WRITES[0]), 3),
    Figure("writes of its status, most", value(WRITES[1]), 8),
    Figure(
        "cost of an event, 10,000 endpoints / 100", value("event_cost_ratio_10000_to_100"), 1.25
    ),
)


def draw(costs: Mapping[int, float], latencies: Mapping[int, Sequence[float]], path: Path) -> None:
    """Draw what an event costs and how long a role takes, by the number of endpoints."""
    picture = Picture(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(picture)
    left, right = picture.subplots(1, 2)
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
    picture.savefig(path, dpi=130)
