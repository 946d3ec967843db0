"""Lends this program's terminal to another one that lives in a sandbox, and takes it back.

A Ctrl-C reaches us alone, who ask the other one to end; and the other one can live on when we have
ended, without holding our terminal or a pipe of ours open.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

VARIABLE: Final = "HANDOVER_TERMINAL"
"""Where the other one finds the socket over which it gets the terminal."""


@dataclass(frozen=True, slots=True)
class Returned:
    """How the other one left: its status, and its process if that lives on."""

    status: int
    pid: int | None = None


def lend(argv: Sequence[str], log: Path) -> Returned:
    """Run *argv* with our terminal until it gives it back; what else it says goes to *log*.

    Ctrl-C and SIGTERM are passed on to it, as SIGTERM.
    """
    with (
        tempfile.TemporaryDirectory(prefix="handover-") as room,
        socket.socket(socket.AF_UNIX) as door,
    ):
        door.bind(f"{room}/terminal")
        door.listen()
        with log.open("wb") as file:
            process = subprocess.Popen(
                argv,
                env={**os.environ, VARIABLE: f"{room}/terminal"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        with passed_on(process):
            return wait(process, door)


@contextlib.contextmanager
def passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass signals that want to end us on to *process*."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: process.terminate()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait(process: subprocess.Popen[bytes], door: socket.socket) -> Returned:
    """Hand the terminal out at the *door*, and wait for its return or the process's end."""
    ended = os.pidfd_open(process.pid)
    try:
        if door.fileno() not in select.select([door.fileno(), ended], [], [])[0]:
            return Returned(process.wait())
        connection, _ = door.accept()
        with connection:
            socket.send_fds(connection, [b"."], [1])
            if status := connection.recv(1):
                pid = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                return Returned(status[0], int.from_bytes(pid[:4], "little"))
    finally:
        os.close(ended)
    return Returned(process.wait())


class Loan:
    """The terminal at the one who has borrowed it: its standard output."""

    def __init__(self, owner: socket.socket) -> None:
        self._owner = owner
        self._returned = threading.Event()
        threading.Thread(target=self._watch_owner, daemon=True).start()

    @classmethod
    def take(cls) -> Self:
        """Take the terminal that `lend` has to give."""
        owner = socket.socket(socket.AF_UNIX)
        owner.connect(os.environ.pop(VARIABLE))
        _, (terminal,), _, _ = socket.recv_fds(owner, 1, 1)
        os.dup2(terminal, sys.stdout.fileno())
        os.close(terminal)
        return cls(owner)

    def give_back(self, status: int) -> None:
        """Let the owner go on with *status*, while we live on without a terminal."""
        sys.stdout.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        self._returned.set()
        self._owner.send(bytes([status]))

    def _watch_owner(self) -> None:
        """End with the owner, unless the terminal was given back before."""
        if not self._owner.recv(1) and not self._returned.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
