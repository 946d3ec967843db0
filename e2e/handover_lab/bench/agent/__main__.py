"""`make bench`: how fast and how light the real agent is, beside the least that could do its work.

The floor is a C program (epoll, recv, sendmsg, ack) that hears the same frames in the same run; an
observer outside of both sees when the kernel has the route. Absolute figures move with the
machine's neighbors, the ratios do not.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console

from handover_lab import paths
from handover_lab.bench.agent import report
from handover_lab.bench.agent.measurement import QUICK, Bench, Plan
from handover_lab.bench.agent.node import running
from handover_lab.bench.agent.route_observer import BenchError
from handover_lab.bench.figures import is_kept
from handover_lab.cluster.nodegroup import GroupError
from handover_lab.processes import pods
from handover_lab.terminal.progress import Progress

BUILD: Final = paths.BUILD / "bench"


async def measure(plan: Plan, console: Console) -> bool:
    """Measure on a fresh node, and write the report; return whether every bar is kept."""
    BUILD.mkdir(parents=True, exist_ok=True)
    progress = Progress(console)
    pods.stand_aside()
    with tempfile.TemporaryDirectory(prefix="handover-bench-") as directory, progress.running():
        async with running(Path(directory)) as node:
            bench = Bench(node, plan, progress.say)
            await bench.run()
    bench.results["machine"] = {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cycles": plan.cycles,
        "agent_cpu_request_m": plan.request,
        "agent_priority": plan.priority,
    }
    (BUILD / "agent.json").write_text(json.dumps(bench.results, indent=2) + "\n")
    report.draw(bench.samples, BUILD / "agent.png")
    report.show(bench.results, console)
    console.print("build/bench/agent.json and agent.png have it all.")
    return is_kept(report.FIGURES, bench.results)


def main() -> int:
    """Run the bench; it needs root, and runs in a sandbox (`make bench` does that)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of it, to try a change")
    parser.add_argument("--cutovers", action="store_true", help="one by one, and nothing else")
    parser.add_argument("--cpu", metavar="REQUEST", help="another cpu request than the chart's")
    parser.add_argument("--priority", choices=["high", "normal"], default="high")
    arguments = parser.parse_args()
    plan = dataclasses.replace(
        QUICK if arguments.quick else Plan(),
        request=pods.millicores(arguments.cpu) if arguments.cpu else pods.chart_request(),
        priority=arguments.priority,
        is_cutovers_alone=arguments.cutovers,
    )
    console = Console(highlight=False)
    try:
        return 0 if asyncio.run(measure(plan, console)) else 1
    except (BenchError, GroupError) as error:
        console.print(f"The bench stopped: {error}", style="red")
        return 2


if __name__ == "__main__":
    sys.exit(main())
