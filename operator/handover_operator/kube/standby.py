"""When a replica that does not lead writes what a migration waits for.

A guest does not wait until a Lease has expired. So every replica knows all, and what the leader has
left unwritten for a moment is written by whoever lives. Each such write is conditional (on a
resourceVersion, or on there being no object of that name), so that two who write it do no harm;
the moment is there so that normally the leader alone does.
"""

import zlib
from typing import Final

HEAD_START: Final = 0.2
"""Seconds that the leader has. Its own writes take some ten milliseconds, also under load; with a
chain of two writes the role is there 500 ms after the leader's death."""

JITTER: Final = 0.1
"""Seconds between the first and the last of several replicas that would all stand in."""

_STEPS: Final = 1 << 32


class Standby:
    """How long this replica leaves the writing to the leader.

    One write that it had to make shows that nobody leads: the next ones are made at once, until
    the Lease is seen renewed.
    """

    def __init__(self, identity: str) -> None:
        # By the name, so that each replica keeps its place among the others.
        self._head_start = HEAD_START + JITTER * zlib.crc32(identity.encode()) / _STEPS
        self._is_alone = False

    @property
    def delay(self) -> float:
        """Return the seconds from when a write is due until we make it."""
        return 0.0 if self._is_alone else self._head_start

    def note_missed(self) -> None:
        """Take in that the leader has left a write undone."""
        self._is_alone = True

    def note_renewal(self) -> None:
        """Take in that somebody else has renewed the Lease."""
        self._is_alone = False
