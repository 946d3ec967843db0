"""`make bench-outage`: what migrations cost the network of real guests, whatever carries routes.

    python -m handover_lab.bench.outage [--quick] [--migrations N] [ROW…]

Bars are zeros and multiples of a C program's time in the same run; absolute times just inform.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console

from handover_lab import paths
from handover_lab.bench.outage import figures, report, rows
from handover_lab.bench.outage.figures import Line
from handover_lab.bench.outage.measurement import Bench
from handover_lab.bench.outage.rows import Row
from handover_lab.terminal.progress import Progress

BUILD: Final = paths.BUILD / "bench"
MIGRATIONS: Final = 10
QUICK: Final = 2
STOPPED: Final = 130
EXPECTED: Final = (RuntimeError, OSError, subprocess.CalledProcessError, TimeoutError)
"""What the parts of the lab raise with a sentence for a person."""
WIDTH: Final = 150


def keep(lines: Sequence[Line]) -> None:
    """Write down what there is so far."""
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "outage.json").write_text(json.dumps(lines, indent=2) + "\n")
    report.draw(lines, BUILD / "outage.png")


def measure(chosen: Sequence[Row], migrations: int, console: Console) -> list[Line]:
    """Measure and write down; what was measured until an interruption is kept, too."""
    progress = Progress(console)
    with tempfile.TemporaryDirectory(prefix="handover-outage-") as name, progress.running():
        directory = Path(name)
        # FRR's daemons have a user of their own, who must get there.
        directory.chmod(0o755)
        bench = Bench(directory, migrations, progress.say, keep)
        asyncio.run(bench.run(chosen))
    return bench.lines


def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # a handler's
    """Take a wish to end as Ctrl-C, for which everybody is prepared."""
    signal.raise_signal(signal.SIGINT)


def main() -> int:
    """Run the bench; it needs root, and runs in a sandbox (`make bench-outage` does that)."""
    parser = argparse.ArgumentParser(prog="make bench-outage", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} migrations per row")
    parser.add_argument("--migrations", type=int, metavar="N", help=f"per row, {MIGRATIONS} else")
    parser.add_argument("rows", nargs="*", metavar="ROW", help='"bird routed redirect", say')
    arguments = parser.parse_args()
    migrations = arguments.migrations or (QUICK if arguments.quick else MIGRATIONS)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        lines = measure(rows.choose(arguments.rows), migrations, console)
    except KeyboardInterrupt:
        console.print("Stopped; nothing is left behind.")
        return STOPPED
    except (ValueError, *EXPECTED) as error:
        console.print(f"The bench stopped: {error}", style="red")
        return 2
    report.show(lines, console)
    console.print(f"build/bench/outage.json and outage.png have it all ({os.cpu_count()} cores).")
    missed = list(figures.faults(lines))
    for sentence in missed:
        console.print(f"✗ {sentence}", style="bold red")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
