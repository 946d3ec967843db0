"""The process between a sandbox and the world: it starts the first process, and clears up after it.

It dies with its caller until the command inside has released that one; then it lives on alone.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Sequence
from typing import Final

from handover_lab.network.namespaces import WITH_US
from handover_lab.processes import cgroups
from handover_lab.sandbox import directories
from handover_lab.sandbox.directories import SandboxDirectory

SANDBOX: Final = "HANDOVER_SANDBOX"
"""The environment variable that names the sandbox to those in it."""

PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
GRACE: Final = 5
"""Seconds that a sandbox has to end by itself when it is asked to."""

NAMESPACES: Final = ("--pid", "--mount", "--net", "--ipc", "--uts")

# The first process. Until the new /proc covers it, the old one tells the number by which the
# world outside knows it. Ctrl-Z is ignored because nobody in here could wake what it stops.
SETUP: Final = """
read -r number rest < /proc/self/stat
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock
ip link set lo up
echo "$1" > /proc/sys/kernel/hostname
trap '' TSTP
echo "$number" > "$2.new"
mv "$2.new" "$2"
shift 2
exec tini -- "$@"
"""

_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Supervisor:
    """Keeps one sandbox; *reports* is the pipe on which its caller reads how it ended."""

    def __init__(self, directory: SandboxDirectory, reports: int) -> None:
        self._directory = directory
        self._reports = reports
        self._released = False
        self._killed = False

    def keep(self, argv: Sequence[str], stdin: int | None) -> None:
        """Run *argv* in the sandbox until all of it has ended, and clear up."""
        try:
            status = asyncio.run(self._serve(argv, stdin))
            is_broken = status > 0 and not self._directory.first.exists()
        finally:
            clear(self._directory)
        if self._killed:
            status = -signal.SIGKILL
        if not self._released:
            self._report(128 - status if status < 0 else status, "broken" if is_broken else "ended")

    async def _serve(self, argv: Sequence[str], stdin: int | None) -> int:
        """Start the first process, pass signals and obey commands until it ends."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
            control.bind(str(self._directory.control))
            environment = {**os.environ, SANDBOX: self._directory.id}
            process = await asyncio.create_subprocess_exec(
                *first_process(self._directory, argv), env=environment, stdin=stdin
            )
            for number in PASSED_ON:
                loop.add_signal_handler(number, self._pass_on, process, number)
            loop.add_reader(control, lambda: self._obey(process, control.recv(64).decode().split()))
            status = await process.wait()
            loop.remove_reader(control)
        return status

    def _obey(self, process: asyncio.subprocess.Process, words: Sequence[str]) -> None:
        """Obey one command from inside."""
        match words:
            case ["release", status]:
                self._release(int(status))
            case ["end"]:
                self._pass_on(process, signal.SIGTERM)
                loop = asyncio.get_running_loop()
                loop.call_later(GRACE, self._pass_on, process, signal.SIGKILL)

    def _pass_on(self, process: asyncio.subprocess.Process, number: signal.Signals) -> None:
        """Give a signal to what runs inside, or end what has not begun."""
        if self._released and number == signal.SIGHUP:
            return  # only the terminal from which it was called is gone
        if not self._directory.first.exists():
            process.kill()
            return
        self._killed |= number == signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(self._directory.first.read_text()), number)

    def _release(self, status: int) -> None:
        """Let the caller go; from now on the sandbox lives without it."""
        self._released = True
        die_with_parent(0)
        self._report(status, "released")

    def _report(self, status: int, fate: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._reports, f"{status} {fate}\n".encode())


def first_process(directory: SandboxDirectory, argv: Sequence[str]) -> list[str]:
    """Compose the command that makes the namespaces and runs *argv* in them."""
    unshare = [*WITH_US, "unshare", *NAMESPACES, "--fork", "--kill-child=KILL"]
    words = ["sandbox", f"handover-{directory.id}", str(directory.first), *argv]
    return [*unshare, "--propagation", "private", "sh", "-ec", SETUP, *words]


def clear(directory: SandboxDirectory) -> None:
    """Remove all that the sandbox has left; its processes are gone or going."""
    cgroups.remove_of(directory.id)
    with directories.locked():
        directory.clear()


def die_with_parent(number: int) -> None:
    """Ask the kernel for signal *number* when the parent dies; 0 takes it back."""
    if _libc.prctl(_PR_SET_PDEATHSIG, number) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
