"""A daemon's vty of FRR: what vtysh speaks, without vtysh, which no agent's image has.

A command ends with a zero byte; its answer with three, and the command's return code after them.
"""

import json
import socket
from pathlib import Path
from typing import Final, Self

_TIMEOUT: Final = 5.0
_CHUNK: Final = 65536
_CLOSED: Final = "the daemon has closed its vty"
_END: Final = b"\0\0\0"


class VtySocket:
    """One connection to one daemon."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_TIMEOUT)
        try:
            self._socket.connect(str(path))
            # As vtysh begins: without it a daemon shows no configuration.
            self.ask("enable")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, command: str) -> str:
        """Give one command that shows something. Raises OSError: the daemon is gone, or silent."""
        self._socket.sendall(command.encode() + b"\0")
        answer = b""
        while answer[-4:-1] != _END:
            chunk = self._socket.recv(_CHUNK)
            if not chunk:
                raise ConnectionResetError(_CLOSED)
            answer += chunk
        return answer[:-4].decode(errors="replace")

    def ask_json(self, command: str) -> dict[str, object]:
        """Give one command whose answer is an object; {} where the daemon says anything else."""
        try:
            answer = json.loads(self.ask(f"{command} json"))
        except json.JSONDecodeError:
            return {}
        return answer if isinstance(answer, dict) else {}
