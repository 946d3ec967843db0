"""The long steps of a build: each says what it does and that it lives, and keeps its output."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from handover_lab.network.namespaces import WITH_US

SIGN_OF_LIFE: Final = 5.0


class StepError(RuntimeError):
    """A step failed; the text is one sentence that says which, why and where more is written."""


def _say(text: str) -> None:
    print(text, flush=True)


@dataclass(frozen=True, slots=True)
class Steps:
    """Runs programs one after the other; all of their output goes to one log."""

    log: Path
    say: Callable[[str], None] = _say
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, step: str, *argv: str | Path) -> None:
        """Run one program, announced as *step*; raises StepError when it fails."""
        if shutil.which(argv[0]) is None:
            message = f"{step} failed: there is no program {argv[0]}"
            raise StepError(message)
        self.say(f"{step} …")
        started = time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            # All steps share the log; the last words are looked for in this one's part.
            begin = log.tell()
            process = subprocess.Popen(
                # Whatever ends us ends it: a step is part of a build that is over then.
                [*WITH_US, *(str(part) for part in argv)],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                self._wait(process, step, started)
            finally:
                process.kill()
                process.wait()
        if process.returncode:
            message = f"{step} failed: {self._last_words(begin)} ({self.log} says all of it)"
            raise StepError(message)

    def _wait(self, process: subprocess.Popen[bytes], step: str, started: float) -> None:
        while True:
            try:
                process.wait(SIGN_OF_LIFE)
            except subprocess.TimeoutExpired:
                self.say(f"  {step}: {time.monotonic() - started:.0f} s")
            else:
                return

    def _last_words(self, begin: int) -> str:
        """Return the last line that this step wrote."""
        with self.log.open("rb") as log:
            log.seek(begin)
            lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no word of why")
