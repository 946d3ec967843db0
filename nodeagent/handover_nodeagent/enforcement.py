"""Makes the kernel's routes and guard what is desired, and tries again where it was refused."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from handover_api.configuration import Settings
from handover_nodeagent.desired import Touched
from handover_nodeagent.guard import GuardKeeper
from handover_nodeagent.network import Guard, IPAddress
from handover_nodeagent.pacing import Backoff
from handover_nodeagent.router import Router
from handover_nodeagent.seating import Seating

FIRST_PATIENCE: Final = 0.1
LAST_PATIENCE: Final = 60.0


class Enforcement:
    """The kernel as the endpoints want it; left alone until :meth:`release`.

    As long as not all endpoints are known, one could take another one's route out.
    """

    def __init__(
        self,
        settings: Settings,
        seating: Seating,
        retried: Callable[[frozenset[IPAddress]], None],
    ) -> None:
        """Call *retried* with the addresses that another attempt was made for."""
        self.router = Router(settings)
        self.guard = GuardKeeper(self._wanted_guard)
        self._seating = seating
        self._retried = retried
        self._held: Touched | None = Touched()
        self._is_complete = False
        self._backoff = Backoff(FIRST_PATIENCE, LAST_PATIENCE)
        self._retry: asyncio.TimerHandle | None = None

    def release(self, *, complete: bool) -> None:
        """Apply what was held; when *complete*, also prune what no endpoint wants."""
        touched = self._held or Touched()
        self._held = None
        if complete and not self._is_complete:
            self._is_complete = True
            touched |= Touched(self.router.addresses())
        self.apply(touched)
        self.guard.replace()

    def apply(self, touched: Touched) -> None:
        """Make routes and guard what is desired where something was *touched*."""
        if self._held is not None:
            self._held |= touched
            return
        # A route on a device that nobody has told us of may be that of an endpoint to come.
        self.router.devices = None if self._is_complete else self._seating.taken
        self.router.apply(touched.addresses)
        self.guard.touch(touched.interfaces)
        if self.router.refused and self._retry is None:
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(self._backoff.next(), self._try_again)

    def reapply(self, addresses: Iterable[IPAddress]) -> None:
        """Make the kernel what is desired for *addresses*, once more."""
        self.apply(Touched(frozenset(addresses)))

    def configure(self, settings: Settings) -> None:
        """Go by other *settings* from the next apply on."""
        self.router.configure(settings)

    def close(self) -> None:
        """Try nothing again; what is in the kernel stays."""
        if self._retry:
            self._retry.cancel()
        self.router.close()

    def _try_again(self) -> None:
        self._retry = None
        refused = frozenset(self.router.refused)
        self.reapply(refused)
        if not self.router.refused:
            self._backoff.reset()
        self._retried(refused)

    def _wanted_guard(self, interfaces: Iterable[str] | None) -> Guard:
        desired = self.router.desired
        return desired.guard(desired.everything().interfaces if interfaces is None else interfaces)
