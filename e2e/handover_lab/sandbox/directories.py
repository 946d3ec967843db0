"""What a sandbox has on the disk: one room each, in which its keeper holds a lock while it lives.

A room whose lock is free belonged to a sandbox that was killed. One lock over all rooms orders
who makes, judges and sweeps them.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

from handover_lab.processes import cgroups

ROOMS: Final = Path("/var/lib/handover-lab")


class NoSuchSandboxError(LookupError):
    """No living sandbox has this id."""


@dataclass(frozen=True, slots=True)
class Room:
    """The directory of one sandbox."""

    path: Path

    @classmethod
    def of(cls, sandbox: str) -> Self:
        """Return the room of the living sandbox with this id."""
        room = cls(ROOMS / sandbox)
        if sandbox not in {other.id for other in living()}:
            message = f"No sandbox {sandbox} is there; --list shows those that are."
            raise NoSuchSandboxError(message)
        return room

    @property
    def id(self) -> str:
        """The sandbox's name."""
        return self.path.name

    @property
    def files(self) -> Path:
        """A directory for whoever runs in the sandbox; it goes with it."""
        return self.path / "files"

    @property
    def first(self) -> Path:
        """The file with the number, as the outer world counts, of the first process inside."""
        return self.path / "first"

    @property
    def command(self) -> Path:
        """The file with the command that runs inside."""
        return self.path / "command"

    @property
    def bell(self) -> Path:
        """The socket on which the inside speaks to the keeper."""
        return self.path / "bell"

    def ring(self, text: str) -> None:
        """Say something to the keeper."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
            bell.sendto(text.encode(), str(self.bell))

    def lock(self) -> IO[str] | None:
        """Take the lock that means "alive"; None when its keeper has it."""
        file = (self.path / "lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def await_end(self) -> None:
        """Return when the sandbox has ended; it is alive when this is called."""
        with (self.path / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)

    def clear(self) -> None:
        """Remove it, unless somebody has; for who has ordered all rooms."""
        if self.path.exists():
            shutil.rmtree(self.path)


@contextlib.contextmanager
def ordered() -> Iterator[None]:
    """Be the only one who looks at all rooms; where none is left, nothing is."""
    # The lock is on the directory around, the only one that is sure to stay.
    around = os.open(ROOMS.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(around, fcntl.LOCK_EX)
        ROOMS.mkdir(mode=0o700, exist_ok=True)
        yield
        if not all_rooms():
            ROOMS.rmdir()
    finally:
        os.close(around)


def claim(command: str) -> tuple[Room, IO[str]]:
    """Make a new room for *command*; it is ours while the returned lock is open."""
    with ordered():
        room = Room(ROOMS / secrets.token_hex(3))
        room.files.mkdir(parents=True)
        room.command.write_text(command)
        lock = room.lock()
        assert lock is not None
        return room, lock


def living() -> list[Room]:
    """List the rooms of all living sandboxes."""
    with ordered():
        return [room for room in all_rooms() if not is_dead(room)]


def sweep() -> list[Path]:
    """Remove what killed sandboxes have left; return the groups that would not go."""
    with ordered():
        rooms = all_rooms()
        dead = [room for room in rooms if is_dead(room)]
        left = cgroups.remove_others({room.id for room in rooms} - {room.id for room in dead})
        for room in dead:
            room.clear()
        return left


def all_rooms() -> list[Room]:
    """List the rooms of the living and of the dead."""
    return [Room(path) for path in sorted(ROOMS.iterdir())]


def is_dead(room: Room) -> bool:
    """Whether nobody keeps it any more."""
    lock = room.lock()
    if lock:
        lock.close()
    return lock is not None
