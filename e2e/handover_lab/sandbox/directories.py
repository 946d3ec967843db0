"""What sandboxes have on the disk: a directory each, with a lock that its supervisor holds.

A directory whose lock is free belonged to a sandbox that was killed. One lock over all of them
orders who makes, judges and sweeps them.
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

PARENT: Final = Path("/var/lib/handover-lab")


class NoSuchSandboxError(LookupError):
    """No living sandbox has this id."""


@dataclass(frozen=True, slots=True)
class SandboxDirectory:
    """The directory of one sandbox."""

    path: Path

    @classmethod
    def of(cls, sandbox: str) -> Self:
        """Return the directory of the living sandbox with this id."""
        directory = cls(PARENT / sandbox)
        if sandbox not in {other.id for other in living()}:
            message = f"No sandbox {sandbox} is there; --list shows those that are."
            raise NoSuchSandboxError(message)
        return directory

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
    def control(self) -> Path:
        """The socket on which the inside speaks to its supervisor."""
        return self.path / "control"

    def send(self, text: str) -> None:
        """Send the supervisor a command."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
            control.sendto(text.encode(), str(self.control))

    def lock(self) -> IO[str] | None:
        """Take the lock that means "alive"; None when its supervisor has it."""
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
        """Remove it, unless somebody has; for who holds the lock over all."""
        if self.path.exists():
            shutil.rmtree(self.path)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Be the only one who looks at all directories; where none is left, nothing is."""
    # The lock is on the directory around, the only one that is sure to stay.
    around = os.open(PARENT.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(around, fcntl.LOCK_EX)
        PARENT.mkdir(mode=0o700, exist_ok=True)
        yield
        if not all_directories():
            PARENT.rmdir()
    finally:
        os.close(around)


def claim(command: str) -> tuple[SandboxDirectory, IO[str]]:
    """Make a new directory for *command*; it is ours while the returned lock is open."""
    with locked():
        directory = SandboxDirectory(PARENT / secrets.token_hex(3))
        directory.files.mkdir(parents=True)
        directory.command.write_text(command)
        lock = directory.lock()
        assert lock is not None
        return directory, lock


def living() -> list[SandboxDirectory]:
    """List the directories of all living sandboxes."""
    with locked():
        return [directory for directory in all_directories() if not is_dead(directory)]


def sweep() -> list[Path]:
    """Remove what killed sandboxes have left; return the groups that would not go."""
    with locked():
        all_of_them = all_directories()
        dead = [directory for directory in all_of_them if is_dead(directory)]
        left = cgroups.remove_others(
            {directory.id for directory in all_of_them} - {directory.id for directory in dead}
        )
        for directory in dead:
            directory.clear()
        return left


def all_directories() -> list[SandboxDirectory]:
    """List those of the living and of the dead."""
    return [SandboxDirectory(path) for path in sorted(PARENT.iterdir())]


def is_dead(directory: SandboxDirectory) -> bool:
    """Whether nobody keeps it any more."""
    lock = directory.lock()
    if lock:
        lock.close()
    return lock is not None
