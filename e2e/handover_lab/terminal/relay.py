"""Carries a command's output on, so that a pipe we write to ends when we do.

A sandbox may outlive its caller, and who reads a pipe waits for the last of its writers. So those
inside write to pipes of ours. Files and terminals they have themselves.
"""

import contextlib
import os
import select
import stat
from collections.abc import Iterator
from typing import Final

SIZE: Final = 65536


class Relay:
    """Stands between our standard outputs that are pipes and a child that is forked meanwhile."""

    def __init__(self) -> None:
        self._inner: dict[int, int] = {}
        self._outer: dict[int, int] = {}
        for standard in (1, 2):
            if is_pipe(standard):
                outer, self._inner[standard] = os.pipe()
                self._outer[outer] = standard

    def enter_child(self) -> None:
        """Write to the relay from now on; for the child."""
        for standard, inner in self._inner.items():
            os.dup2(inner, standard)
            os.close(inner)
        for outer in self._outer:
            os.close(outer)

    @contextlib.contextmanager
    def enter_parent(self) -> Iterator[None]:
        """Leave the writing to the child; for us."""
        for inner in self._inner.values():
            os.close(inner)
        try:
            yield
        finally:
            for outer in self._outer:
                os.close(outer)

    def carry_until(self, news: int) -> None:
        """Return when *news* can be read, and what was written before that is carried on."""
        while True:
            ready, _, _ = select.select([news, *self._outer], [], [])
            if ready == [news]:
                return
            for outer in ready:
                if outer != news and not is_carried(outer, self._outer[outer]):
                    del self._outer[outer]
                    os.close(outer)


def is_carried(source: int, target: int) -> bool:
    """Carry a piece; when one end is gone, so is the relay."""
    piece = os.read(source, SIZE)
    left = memoryview(piece)
    try:
        while left:
            left = left[os.write(target, left) :]
    except BrokenPipeError:
        return False
    return bool(piece)


def is_pipe(descriptor: int) -> bool:
    """Whether somebody at the other end may wait for its end."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
