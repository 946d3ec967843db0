"""The process that speaks to libnftables for us: asked over a socket, and started when needed.

All of it blocks: call it from one thread, off the loop. The process ends with that thread.
"""

import contextlib
import os
import socket
import subprocess
import sys
from typing import IO, Final

from handover_nodeagent.kernel.nft import libnftables, outcome
from handover_nodeagent.kernel.nft.outcome import Answer

PATIENCE: Final = 10.0
"""Seconds for one answer. A table of 500 workloads takes 0.1 s on a busy node."""
LAST_PATIENCE: Final = 10.0
"""Seconds for a killed process to go: the kernel holds one until its transaction is done, which
can take a second on a node that adds and removes many devices. Later it goes by itself."""
LONGEST: Final = 64 << 20
"""Octets of an answer: far more than our table can be, far less than the pod's limit."""


class _LostError(Exception):
    """The process cannot be asked; the sentence says why."""


class NftProcess:
    """One process at a time, in the network namespace of the thread that asks first.

    *author* is the name by which the kernel tells its transactions from somebody else's.
    """

    def __init__(self, author: str, library: str, patience: float = PATIENCE) -> None:
        self._author = author
        self._library = library
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._words: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process else None

    def run(self, commands: str) -> Answer:
        """Run *commands* as one transaction."""
        return self._ask(libnftables.RUN, commands)

    def show(self, command: str) -> Answer:
        """Ask for the JSON that *command* prints."""
        return self._ask(libnftables.SHOW, command)

    def close(self) -> None:
        """End the process; the next question starts another one."""
        if self._socket:
            self._socket.close()
        if self._process:
            # No orderly end is needed: a transaction is in the kernel whole, or not at all.
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LAST_PATIENCE)
        if self._words:
            self._words.close()
        self._socket = self._process = self._words = None

    def interrupt(self) -> None:
        """End the process, and so whatever is asked of it now; from any thread."""
        process = self._process
        if process:
            process.kill()

    def _ask(self, kind: int, text: str) -> Answer:
        try:
            status, answer = self._exchange(kind, text.encode())
        except _LostError as error:
            self.close()
            return Answer(trouble=str(error), is_lost=True)
        if status == libnftables.UNAVAILABLE:
            self.close()
            return Answer(trouble=answer.decode(), is_lost=True)
        # An answer like any other: the process is well, and goes on.
        if status == libnftables.REFUSED:
            return Answer(trouble=outcome.complaint(answer))
        return Answer(answer)

    def _exchange(self, kind: int, text: bytes) -> tuple[int, bytes]:
        """Ask and wait. Raises _LostError."""
        try:
            sock = self._socket or self._start()
            sock.settimeout(self._patience)
            sock.sendall(libnftables.HEADER.pack(kind, len(text)) + text)
            status, length = libnftables.HEADER.unpack(_receive(sock, libnftables.HEADER.size))
            # Before anything is received: the length is the child's word, and it may have run wild.
            if length > LONGEST:
                message = f"libnftables answers with {length} octets"
                raise _LostError(message)
            return status, _receive(sock, length)
        except TimeoutError:
            message = f"libnftables gave no answer within {self._patience:.0f} s"
            raise _LostError(message) from None
        except (OSError, EOFError) as error:
            raise _LostError(self._cause(error)) from None

    def _start(self) -> socket.socket:
        """Start the process; it has one end of the socket, the name, and nothing else of ours."""
        ours, theirs = socket.socketpair()
        self._socket = ours
        # The image's file system cannot be written, and a pipe that nobody reads would fill.
        self._words = os.fdopen(os.memfd_create("words"), "w+b")
        arguments = [self._library, self._author, str(os.getpid())]
        with theirs:
            self._process = subprocess.Popen(
                # Isolated and without site: 10 MiB in place of 20, and nobody's files are run.
                [sys.executable, "-I", "-S", libnftables.__file__, *arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                # A Ctrl-C is meant for the agent, which still has its tables to see to.
                start_new_session=True,
            )
        return ours

    def _cause(self, error: Exception) -> str:
        """Say why the process is gone."""
        if self._process is None:
            return f"libnftables cannot be started: {error}"
        try:
            status = self._process.wait(LAST_PATIENCE)
        except subprocess.TimeoutExpired:
            return f"libnftables cannot be asked: {error}"
        return outcome.describe_end(status, self._last_words())

    def _last_words(self) -> bytes:
        """Return the end of what the process wrote for a person."""
        assert self._words
        size = self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, size - outcome.LAST_WORDS))
        return self._words.read()


def _receive(sock: socket.socket, length: int) -> bytes:
    """Return so many octets. Raises EOFError when there are no more."""
    received = bytearray()
    while len(received) < length:
        part = sock.recv(length - len(received))
        if not part:
            raise EOFError
        received += part
    return bytes(received)
