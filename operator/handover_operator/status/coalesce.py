"""When a LiveMigration's status is written: at once, or with what is told of it a moment later.

Agents of both sides report one after the other, and each report is a change of the status. What
people and programs wait for (a phase, a conflict) is never held back; the rest is collected, so
that one migration costs the API server few writes, however many agents report.
"""

from collections.abc import Hashable
from typing import Final

from handover_api.conditions import MigrationCondition as Type
from handover_api.livemigration import LiveMigrationStatus

COALESCE_FOR: Final = 0.5
"""Seconds between the first change that can wait and the write that tells it."""

URGENT: Final = (Type.TARGET_READY, Type.CUT_OVER, Type.CONFLICTED, Type.CONTRADICTED)
"""Conditions whose status somebody may be waiting for, besides those that a phase implies."""


class Coalescer:
    """Remembers since when a change of which object waits."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}

    def __len__(self) -> int:
        """Count the objects whose changes are being collected."""
        return len(self._since)

    def seconds_left(
        self, key: Hashable, before: LiveMigrationStatus, after: LiveMigrationStatus, now: float
    ) -> float:
        """Return how many seconds the difference may wait; nothing when there is none."""
        # A write that cannot wait takes along what has waited.
        if before == after or is_urgent(before, after):
            return 0.0
        # From the first change on, not the last: agents that go on reporting must not put it off.
        return max(self._since.setdefault(key, now) + COALESCE_FOR - now, 0.0)

    def forget(self, key: Hashable) -> None:
        """Take in that nothing of this object waits any more."""
        self._since.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._since.clear()


def is_urgent(before: LiveMigrationStatus, after: LiveMigrationStatus) -> bool:
    """Whether somebody may be waiting for what has changed."""
    if before.phase is not after.phase:
        return True
    return any(_status(before, wanted) != _status(after, wanted) for wanted in URGENT)


def _status(status: LiveMigrationStatus, wanted: Type) -> str | None:
    found = status.condition(wanted)
    return None if found is None else found.status
