"""`make bench-operator`: how fast and how light the real operator is, on a real API server.

Endpoints and migrations by the thousand are made, and one more migration is timed after the other,
beside bare requests to the same API server. Absolute figures move with the machine's neighbors,
the ratios do not.
"""

import argparse
import asyncio
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console

from handover_lab import paths
from handover_lab.bench.figures import is_kept, table
from handover_lab.bench.operator import kubevirt, report
from handover_lab.bench.operator.client import BenchError
from handover_lab.bench.operator.cluster import Cluster
from handover_lab.bench.operator.measurement import QUICK, Bench, Plan
from handover_lab.cluster.client import ClientError
from handover_lab.processes.waiting import NeverSeenError
from handover_lab.terminal.progress import Progress

BUILD: Final = paths.BUILD / "bench"


async def measure(plan: Plan, say: Callable[[str], None], directory: Path) -> Bench:
    """Start what is needed, and measure."""
    say("an API server, and the chart's rights on it")
    async with Cluster.running(directory / "large") as cluster:
        bench = Bench(cluster, directory, plan, say)
        await bench.run()
    found = await kubevirt.measure(directory, plan.vms, say)
    for name in report.WRITES:
        found[name] = max(bench.results[name], found[name])
    bench.results |= found
    return bench


def keep_logs(directory: Path) -> None:
    """Keep what the operators said."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for log in directory.glob("*.log"):
        shutil.copy(log, BUILD)


def main() -> None:
    """Measure, write the report and the picture, and show the table."""
    parser = argparse.ArgumentParser(prog="bench.operator", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    plan = QUICK if parser.parse_args().quick else Plan()
    console = Console()
    progress = Progress(console)
    with tempfile.TemporaryDirectory(prefix="handover-bench-") as directory, progress.running():
        try:
            bench = asyncio.run(measure(plan, progress.say, Path(directory)))
        except (BenchError, NeverSeenError, ClientError) as error:
            sys.exit(f"bench: {error}")
        finally:
            keep_logs(Path(directory))
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "plan": repr(plan)}
    report_path = BUILD / "operator.json"
    report_path.write_text(json.dumps({**bench.results, "machine": machine}, indent=2) + "\n")
    report.draw(bench.costs, bench.latencies, BUILD / "operator.png")
    console.print(table("The operator", report.FIGURES, bench.results))
    console.print(f"{report_path.relative_to(paths.ROOT)} and operator.png have it all.")
    sys.exit(0 if is_kept(report.FIGURES, bench.results) else 1)


if __name__ == "__main__":
    main()
