"""The control groups that a sandbox's nodes leave behind: no namespace owns them.

A node's group is called `handover-<sandbox>-<node>`, at the top of every hierarchy: of version 1,
of version 2, or of both beside each other.
"""

import errno
import os
import re
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final

NAME: Final = re.compile(r"handover-([0-9a-f]{6})(-.*)?")
PATIENCE: Final = 10.0
"""Seconds in which the last processes of a killed sandbox vanish."""


def hierarchies() -> list[Path]:
    """Find where hierarchies are mounted; later entries of mountinfo(5) lie over earlier ones."""
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    kinds = ((fields[4], fields[fields.index("-") + 1]) for fields in mounts)
    return [Path(place) for place, kind in kinds if kind in {"cgroup", "cgroup2"}]


def groups() -> Iterator[tuple[str, Path]]:
    """List all nodes' groups, each with the id of its sandbox."""
    for hierarchy in hierarchies():
        for group in hierarchy.glob("handover-*"):
            if found := NAME.fullmatch(group.name):
                yield found[1], group


def remove_others(living: Container[str]) -> list[Path]:
    """Remove the groups of all sandboxes but the *living*; return those that would not go."""
    deadline = time.monotonic() + PATIENCE
    dead = [group for sandbox, group in groups() if sandbox not in living]
    return [group for group in dead if not remove(group, deadline)]


def remove_of(sandbox: str) -> list[Path]:
    """Remove the groups of one sandbox; return those that would not go."""
    deadline = time.monotonic() + PATIENCE
    own = [group for owner, group in groups() if owner == sandbox]
    return [group for group in own if not remove(group, deadline)]


def remove(group: Path, deadline: float) -> bool:
    """Remove *group* and those in it, the deepest first; whether it is gone by *deadline*."""
    for directory, _, _ in os.walk(group, topdown=False):
        while not is_removed(directory):
            if time.monotonic() > deadline:
                return False
            # A version 1 group has no event that says "empty".
            time.sleep(0.02)
    return True


def is_removed(directory: str) -> bool:
    """Remove one group; it stays while a process in it is still on its way out."""
    try:
        Path(directory).rmdir()
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise_unless_gone(error)
    return True


def raise_unless_gone(error: OSError) -> None:
    """Raise *error*, but not where it says that somebody else has removed the group.

    Whoever had found or opened it by then is told that there is no such device.
    """
    if error.errno not in {errno.ENOENT, errno.ENODEV}:
        raise error
