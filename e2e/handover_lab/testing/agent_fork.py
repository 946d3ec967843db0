"""An agent as a process on a node, forked from one that has its imports done, and mortal (faults).

The imports are most of a start, and the tests kill agents again and again.
"""

import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

FAULTS: Final = "handover_lab.testing.faults"
_CLONE_NEWNET: Final = 0x40000000
_SERVER: Final = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([FAULTS, "handover_operator.cli"])


@dataclass
class AgentFork:
    """The agents of one node, one after the other: its *namespace* is a path, as of an open file.

    ``order``: the file that says at which moment one dies.
    """

    namespace: str
    environment: Mapping[str, str]
    directory: Path
    ends: list[int] = field(default_factory=list)
    """How each of them ended: minus the signal."""
    _process: ForkServerProcess | None = None

    @property
    def order(self) -> Path:
        """Where the moment stands at which it dies."""
        return self.directory / "order"

    @property
    def log(self) -> Path:
        """What all of them have said."""
        return self.directory / "log"

    @property
    def runs(self) -> bool:
        """Whether there is one."""
        return self._process is not None and self._process.exitcode is None

    def start(self) -> None:
        """Start one; it may not be ready yet."""
        arguments = (self.namespace, dict(self.environment), str(self.log), str(self.order))
        # multiprocessing ends its "daemons" when we end, and waits for all others.
        self._process = _SERVER.Process(target=_run, args=arguments, daemon=True)
        self._process.start()

    def order_death(self, moment: str) -> None:
        """Have it die once when it comes to that moment."""
        # The agent reads it before each of its steps: it must be whole as soon as it is there.
        draft = self.order.with_suffix(".draft")
        draft.write_text(moment)
        draft.replace(self.order)

    def has_died(self) -> bool:
        """Tell whether it has come to its end, and if so remember how."""
        if self._process is None or self._process.exitcode is None:
            return False
        self.ends.append(self._process.exitcode)
        self._process = None
        return True

    def kill(self) -> None:
        """End it as nobody can prepare for; one that is gone already stays so."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, number)
        process.join(10)
        if process.exitcode is None:
            process.kill()
            process.join()
        self.has_died()


def _run(namespace: str, environment: Mapping[str, str], log: str, order: str) -> None:
    """Be an agent on that node; of ours it has what a new program would be told, and no more."""
    os.environ.clear()
    os.environ.update(environment)
    with open(namespace, "rb") as file:  # noqa: PTH123  a link that only the kernel can follow
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    sys.argv = ["handover-nodeagent", order, "run"]
    # The server has imported it, and whoever only asks for a process need not.
    importlib.import_module(FAULTS).main()
