"""What a demonstration needs for its second half, built while its first half is to be seen.

The VM that moves without Handover needs nodes and a network, but no Kubernetes. On a bare machine
the parts of that take most of the time until anything could be seen, so they and the images are
built beside it: by processes outside of the sandbox, where the network is, which give way to the
VM. Each writes a log, and at its end a file with its exit status, which those inside can read.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from handover_lab.images import build
from handover_lab.network.namespaces import WITH_US
from handover_lab.toolchain import tools

PROGRAMS: Final = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    *("kubelet", "kubectl", "helm"),
)
"""The parts of Kubernetes that a demonstration runs; the older Helm is for tests."""

COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "tools": (tools.__name__, *PROGRAMS),
    "images": (build.__package__ or "",),
}
"""The builds and the module that does each. They run side by side: while Go fetches sources, a
processor is free for the images.
"""

# The exit status is written to a draft first: the file is whole as soon as it is there.
SCRIPT: Final = '"$@" > "$0.log" 2>&1; echo $? > "$0.draft"; mv "$0.draft" "$0.status"'
COURTESY: Final = ("nice", "--adjustment=10")
LOOK_S: Final = 0.5
LAST_WORDS: Final = 8


class BuildFailedError(RuntimeError):
    """A build failed; the text is what it said last."""


@dataclass(frozen=True, slots=True)
class Builds:
    """The builds whose logs are in *directory*."""

    directory: Path

    @classmethod
    @contextlib.contextmanager
    def started(cls, directory: Path) -> Iterator[Self]:
        """Start all of them; those that run at the end are ended."""
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        processes = [start(directory / name, argv) for name, argv in COMMANDS.items()]
        try:
            yield cls(directory)
        finally:
            # Each with all that it has started: buildah and mmdebstrap have children of their own.
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                process.wait()

    def check(self) -> None:
        """Raise BuildFailedError when one of them has failed."""
        for name in COMMANDS:
            if self._status(name) not in {None, 0}:
                last = self._log(name).splitlines()[-LAST_WORDS:]
                raise BuildFailedError("\n".join(last) or f"{name}: no word of why")

    async def finished(self, name: str, say: Callable[[str], None]) -> None:
        """Wait for one of them; *say* hears its progress.

        Raises:
            BuildFailedError: one of them failed, this or another.
        """
        said = ""
        while self._status(name) is None:
            if (last := self._log(name).rpartition("\n")[2]) != said:
                say(last)
                said = last
            self.check()
            await asyncio.sleep(LOOK_S)
        self.check()

    def _status(self, name: str) -> int | None:
        """Return the exit status; None: it runs."""
        path = self.directory / f"{name}.status"
        return int(path.read_text()) if path.exists() else None

    def _log(self, name: str) -> str:
        path = self.directory / f"{name}.log"
        return path.read_text().strip() if path.exists() else ""


def start(stem: Path, module: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start one build, whose files begin with *stem*; it ends when we do."""
    python = (*WITH_US, *COURTESY, sys.executable, "-m", *module)
    argv = [*WITH_US, "sh", "-c", SCRIPT, str(stem), *python]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
