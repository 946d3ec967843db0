"""A program that serves until it is stopped: its output in a log, its end bound to ours.

The kernel kills it when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG), so start
daemons from the main thread.
"""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, Self

from handover_lab.network.namespaces import WITH_US

POLL: Final = 0.05

CAUSES: Final = (
    (r"[Nn]o space left on device", "The disk is full: make room where the logs and data are."),
    (r"too many open files", "The limit of open files is too low: raise it (ulimit -n 20000)."),
)


class DaemonError(RuntimeError):
    """A daemon did not start or has ended; the text has its last words and what to do."""


class PortTakenError(DaemonError):
    """It could not listen because another program does."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """One running program."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, argv: Iterable[str | Path], directory: Path) -> Self:
        """Start *argv* in *directory*, where its log is written, too."""
        words = [str(word) for word in argv]
        name = Path(words[0]).name
        log = directory / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*WITH_US, *words],
                cwd=directory,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return cls(name, process, log)

    def check(self) -> None:
        """Raise DaemonError when it has ended."""
        if (status := self.process.poll()) is not None:
            self.fail(f"{self.name} has ended with status {status}")

    def kill(self) -> None:
        """End it at once; a second time changes nothing."""
        self.process.kill()
        self.process.wait()

    def fail(self, what: str) -> NoReturn:
        """Raise the error that tells *what* went wrong, and what the log says last."""
        lines = self.log.read_text(errors="replace").splitlines()[-8:]
        words = "\n".join(f"  {line}" for line in lines) or "  (silent)"
        last = f"{what}. Its last lines in {self.log}:\n{words}"
        if taken := re.search(r"listen \w+ (\S+): bind: address already in use", words):
            message = f"{taken[1]} is taken: end what listens there (`ss -tlnp` names it).\n{last}"
            raise PortTakenError(message)
        cause = next((say for pattern, say in CAUSES if re.search(pattern, words)), "")
        message = f"{cause}\n{last}".strip()
        raise DaemonError(message)


def environment() -> dict[str, str]:
    """Return our environment without proxies: what the lab talks to is here."""
    return {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}


def wait_until(is_so: Callable[[], bool], daemons: Iterable[Daemon], seconds: float) -> None:
    """Wait until *is_so*, and no longer than all *daemons* live.

    Raises:
        DaemonError: one of them has ended, or the time is over (told of the last one).
    """
    daemons = list(daemons)
    deadline = time.monotonic() + seconds
    while not is_so():
        for daemon in daemons:
            daemon.check()
        if time.monotonic() > deadline:
            daemons[-1].fail(f"{daemons[-1].name} is not ready after {seconds:g} s")
        time.sleep(POLL)
