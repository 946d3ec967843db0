"""The user's cache of what takes long to make: each entry is made once, and then only read."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

RESULT: Final = "result"


def entry(name: str, make: Callable[[Path], None], *, fresh: bool = False) -> Path:
    """Return an entry of the cache, made now where it is missing or *fresh* asks for it.

    *make* gets an empty directory to work in, and leaves the entry as ``result`` in it. Whoever
    needs the same entry meanwhile waits for it.
    """
    finished = directory() / name
    scratch = finished.with_name(f"{name}.scratch")
    with alone(finished.with_name(f"{name}.lock")):
        if fresh or not finished.exists():
            with emptied(scratch):
                make(scratch)
                # The old entry stays until its successor is whole.
                shutil.rmtree(finished, ignore_errors=True)
                (scratch / RESULT).rename(finished)
    return finished


def directory() -> Path:
    """Return where the entries are, made where it is missing."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "handover" / "images"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def emptied(scratch: Path) -> Iterator[None]:
    """Make *scratch* an empty directory that goes at the end; a killed build leaves an old one."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Let one build of a thing run at a time; the lock goes with its process."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
