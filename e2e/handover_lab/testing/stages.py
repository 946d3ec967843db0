"""Stages of the tests beside each other: most of their time they wait, for a kernel or a server.

    python -m handover_lab.testing.stages NAME=MARKERS [WORD...] [NAME=MARKERS...]... [-- OPTION...]

Each stage is a pytest of its own with the tests that `-m MARKERS` selects. Paths and options after
it are its own; those after `--` go to every stage. The first one's output is shown as it comes and
the others' after it, so that it reads as if one had followed the other. It fails if one of them
fails.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final, Self

from handover_lab.network.namespaces import WITH_US

LOOK: Final = 0.1
"""Seconds between two looks at what a stage has written."""
USAGE: Final = "stages NAME=MARKERS [WORD...] [NAME=MARKERS...]... [-- OPTION...]"
SELECTION: Final = re.compile(r"([a-z][a-z-]*)=(.+)")
"""What begins a stage: no path of ours and no option looks like it."""
PASSED: Final = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """A stage before it runs: which tests it has."""

    name: str
    markers: str
    words: tuple[str, ...] = ()
    """Paths and options that are its own."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One pytest that runs, and the file with all that it says."""

    name: str
    process: subprocess.Popen[bytes]
    output: BinaryIO
    began: float

    @classmethod
    def start(cls, selection: Selection, options: Sequence[str], directory: Path) -> Self:
        """Start one, whose output is kept in *directory*."""
        path = directory / selection.name
        with path.open("wb") as written:
            # Unbuffered, or the first one's output would come in blocks of some minutes.
            pytest = (sys.executable, "-um", "pytest", "-m", selection.markers)
            argv = [*WITH_US, *pytest, *selection.words, *options]
            process = subprocess.Popen(argv, stdout=written, stderr=subprocess.STDOUT)
        return cls(selection.name, process, path.open("rb"), time.monotonic())

    def show(self, to: BinaryIO) -> int:
        """Copy all that it says up to its end, and return its exit status."""
        status = None
        while status is None:
            # Looked at before the output is copied: what it said last comes before its end.
            status = self.process.poll()
            to.write(self.output.read())
            to.flush()
            if status is None:
                time.sleep(LOOK)
        self.output.close()
        return status


def run(selections: Sequence[Selection], options: Sequence[str], to: BinaryIO) -> list[str]:
    """Run all stages, show what they say, and return the names of those that failed."""
    with tempfile.TemporaryDirectory(prefix="handover-stages-") as directory:
        stages = [Stage.start(each, options, Path(directory)) for each in selections]
        failed = []
        try:
            for stage in stages:
                to.write(f"\nStage {stage.name}, beside the others:\n".encode())
                if stage.show(to) != PASSED:
                    failed.append(stage.name)
        finally:
            # Where a person interrupts us the terminal tells them as well, and they clear up.
            for stage in stages:
                stage.process.wait()
    return failed


def parse(words: Sequence[str]) -> list[Selection]:
    """Read which stages are wanted; none at all where a word belongs to no stage."""
    found: list[Selection] = []
    for word in words:
        if begun := SELECTION.fullmatch(word):
            found.append(Selection(begun[1], begun[2]))
        elif found:
            found[-1] = replace(found[-1], words=(*found[-1].words, word))
        else:
            return []
    return found


def main(argv: Sequence[str]) -> int:
    """Run the stages that the command line names; return 1 if one failed, 2 if it is odd."""
    words = list(argv)
    options = words[words.index("--") + 1 :] if "--" in words else []
    named = words[: len(words) - len(options) - ("--" in words)]
    selections = parse(named)
    if not selections:
        print(f"usage: {USAGE}", file=sys.stderr)
        return 2
    if sys.stdout.isatty():
        options = ["--color=yes", *options]
    failed = run(selections, options, sys.stdout.buffer)
    if failed:
        print(f"\nFailed: stage {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
