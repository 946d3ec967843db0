"""What our loops have in common: each writes while ``run`` runs, as the leader or beside it.

A replica that does not lead knows all, too, and writes what a migration waits for where the leader
has not written it (standby.py); all else is the leader's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from handover_operator.kube.client import Cluster
from handover_operator.kube.standby import Standby
from handover_operator.kube.workqueue import WorkQueue

K = TypeVar("K", bound=Hashable)


class WriteLoop(ABC, Generic[K]):
    """A work queue, and whether this replica may work on it now (``_may_act``).

    ``_standby``: how long the leader is waited for; None: this replica leads.
    """

    def __init__(self, cluster: Cluster, is_urgent: Callable[[K], bool]) -> None:
        self._cluster = cluster
        self._queue: WorkQueue[K] = WorkQueue(self._work, is_urgent)
        self._runs = False
        self._standby: Standby | None = None
        self._awaited: set[K] = set()

    def __len__(self) -> int:
        """Count the objects that wait to be written or asked for."""
        return len(self._queue)

    def denied(self) -> int:
        """Count the objects whose last write was refused."""
        return self._queue.denied()

    async def run(self, workers: int, standby: Standby | None = None) -> None:
        """Write until cancelled; whatever is not as it should be now is found anew.

        With *standby* somebody else leads.
        """
        self._standby = standby
        self._runs = True
        try:
            self._review()
            await self._queue.run(workers)
        finally:
            # Whoever runs next finds anew what is not as it should be (``_review``).
            self._runs = False
            self._clear()

    @property
    def _may_act(self) -> bool:
        # ``run`` is cancelled a moment after the Lease was lost; in that moment nothing is queued.
        return self._runs and (self._standby is not None or self._cluster.may_write())

    @abstractmethod
    def _review(self) -> None:
        """Look at everything, as when a term begins; only what differs is written."""

    @abstractmethod
    async def _work(self, key: K) -> None:
        """Work on one key, or raise Temporary."""

    def _await(self, key: K, standby: Standby) -> None:
        """Have in mind what the leader should write soon; it is worked on if that is missing."""
        # Once is enough: each new appointment replaces the former, and events that keep coming
        # would put it off for ever.
        if key not in self._awaited:
            self._awaited.add(key)
            self._queue.add_later(key, standby.delay)

    def _clear(self) -> None:
        """Forget all that waits."""
        self._queue.clear()
        self._awaited.clear()
