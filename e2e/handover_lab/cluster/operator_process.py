"""The operator as a process: the program that a pod starts, or a fork that has its imports done.

The imports are most of a start, and tests start the operator again and again. What is measured is
the program.
"""

import functools
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from handover_operator.kube.leadership import Leadership
from handover_operator.kube.lease import Periods

CLI: Final = "handover_operator.cli"
DEFAULT_LOCATION: Final = "kubernetes_asyncio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
PERIODS: Final = Periods(renewal=0.8, deadline=4.0, duration=6, poll=0.4)
"""Of a Lease that nobody waits for longer than a test must: two fifths of a cluster's, each."""
SHORT_LEASE: Final[Mapping[str, object]] = {
    "handover_operator.main.Leadership": functools.partial(Leadership, periods=PERIODS)
}
"""What is replaced so that replicas go by them."""

_SERVER: Final = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([CLI])


class Process(Protocol):
    """What of subprocess.Popen is needed here."""

    @property
    def pid(self) -> int:
        """What the kernel calls it."""

    def poll(self) -> int | None:
        """Return its exit status, or None as long as it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return the exit status. Raises subprocess.TimeoutExpired."""

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""


Start = Callable[[Mapping[str, str], Path], Process]
"""Starts the operator with this environment and nothing else of ours; its log is appended to."""


def start_program(environment: Mapping[str, str], log: Path) -> Process:
    """Start it as a pod does."""
    program = Path(sys.executable).with_name("handover-operator")
    with log.open("ab") as output:
        return subprocess.Popen([program, "run"], env=environment, stderr=output)


class Fork:
    """A process that was forked from one with all imports.

    It has the values of *replaced* in the place of these dotted names: seconds that are long for a
    cluster's sake may be short there.
    """

    def __init__(
        self, environment: Mapping[str, str], log: Path, replaced: Mapping[str, object] = {}
    ) -> None:
        # multiprocessing ends its "daemons" when we end, and waits for all others.
        self._process = _SERVER.Process(
            target=_run, args=(dict(environment), str(log), dict(replaced)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """What the kernel calls it."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return its exit status, or None as long as it runs; minus a signal that ended it."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return the exit status. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired(CLI, timeout or 0.0)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _run(environment: Mapping[str, str], log: str, replaced: Mapping[str, object]) -> None:
    """Be the operator; of ours it has what a new program would be told, and no more."""
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    # The client has read the variable when it was imported.
    location = {DEFAULT_LOCATION: environment["KUBECONFIG"]}
    for name, value in {**location, **replaced}.items():
        module, _, attribute = name.rpartition(".")
        # A name that nobody knows any more would change nothing, in silence.
        getattr(sys.modules[module], attribute)
        setattr(sys.modules[module], attribute, value)
    # The server has imported it, and whoever only asks for a process need not.
    importlib.import_module(CLI).app(["run"])
