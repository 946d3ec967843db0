"""BIRD's control socket: what birdc speaks, without birdc, which no agent's image has.

A reply is lines that begin with a code of four digits; the last one has a space after it, all
before it a hyphen, or a space in place of the code where it is the one of the line before.
"""

import socket
from pathlib import Path
from typing import Final, Self

from handover_nodeagent.commands.check_bgp.bird_replies import Reply

# A person waits; a BIRD that is this busy would not follow either.
_TIMEOUT: Final = 5.0
_CHUNK: Final = 65536
_CLOSED: Final = "BIRD has closed its control socket"
_RESTRICT: Final = "restrict"


class BirdSocket:
    """One connection to one BIRD, which answers questions and takes no orders."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_TIMEOUT)
        self._received = b""
        try:
            self._socket.connect(str(path))
            self.greeting = self._read()
            # From here on BIRD itself refuses whatever would change it.
            self.ask(_RESTRICT)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, question: str) -> Reply:
        """Put one question. Raises OSError: BIRD is gone, or silent."""
        self._socket.sendall(f"{question}\n".encode())
        return self._read()

    def _read(self) -> Reply:
        lines: list[str] = []
        while True:
            while b"\n" not in self._received:
                chunk = self._socket.recv(_CHUNK)
                if not chunk:
                    raise ConnectionResetError(_CLOSED)
                self._received += chunk
            line, _, self._received = self._received.partition(b"\n")
            lines.append(line.decode(errors="replace"))
            if Reply.is_last(lines[-1]):
                return Reply.of(lines)
