"""A unix socket in the state directory, root's alone, by which a person on the node may ask.

Who connects is sent one document and the connection is closed. Nothing is read from it, so that
nothing can be asked for that would disturb the agent.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

NAME: Final = "agent.sock"
TIMEOUT: Final = 5.0
"""Seconds for a whole answer; who reads more slowly is left alone."""
_MODE: Final = 0o600
"""connect(2) to a unix socket needs the right to write it: root has it, and nobody else."""
_CHUNK: Final = 64 * 1024


class Unanswered(Exception):  # noqa: N818  tells a person what to do
    """No agent answers; the sentence says what that may mean."""


async def serve(directory: Path, answer: Callable[[], Awaitable[bytes]]) -> asyncio.AbstractServer:
    """Answer from now on; the caller closes what is returned. Raises OSError."""

    async def reply(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(TIMEOUT):
                writer.write(await answer())
                await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(reply, sock=_bind(directory))


def ask(directory: Path) -> bytes:
    """Return what the agent answers. Raises Unanswered."""
    path = directory / NAME
    received = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        # Longer than the agent takes, so that its own end is seen and not ours.
        client.settimeout(2 * TIMEOUT)
        try:
            client.connect(str(path))
            while chunk := client.recv(_CHUNK):
                received += chunk
        except (FileNotFoundError, ConnectionRefusedError) as error:
            message = f"no agent runs on this node with the state directory {directory}"
            raise Unanswered(message) from error
        except PermissionError as error:
            message = f"only root may ask the agent: {path} cannot be opened"
            raise Unanswered(message) from error
        except OSError as error:
            message = f"the agent does not answer at {path}: {error}"
            raise Unanswered(message) from error
    if not received:
        message = f"the agent closed {path} without an answer: see its log"
        raise Unanswered(message)
    return bytes(received)


def _bind(directory: Path) -> socket.socket:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / NAME
    # A socket's file outlives its process; bind(2) would find it in the way.
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before the mode is set nobody else gets in: listen(2) comes only with the server.
        server.bind(str(path))
        path.chmod(_MODE)
    except OSError:
        server.close()
        raise
    return server
