"""What remains of a redirect that no machine needs any more, until the convergence time is over.

Its endpoint is gone, or is the target of another migration by now. It hangs neither on an object
nor on a pod's interface, as senders that are late know nothing of either; and it loses to every
other route, so that it never has to be in time. The memory has the end, for the next agent.
"""

import asyncio
import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from handover_api.names import ObjectKey
from handover_nodeagent import faults
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.memory.record import Record
from handover_nodeagent.network.model import Redirection, Route
from handover_nodeagent.reconcile.enforce import Enforcer

AGAIN: Final = 1.0
"""Seconds until an end that raised is attempted once more."""

_log: Final = structlog.get_logger()


class RemainingRedirects:
    """The redirects that are left on this node, each with an end of its own."""

    def __init__(
        self, enforcer: Enforcer, memory: Memory, clock: Callable[[], dt.datetime]
    ) -> None:
        self.changed: Callable[[], None] = _ignore
        self._enforcer = enforcer
        self._memory = memory
        self._clock = clock
        self._ends: dict[Route, tuple[dt.datetime, asyncio.TimerHandle]] = {}

    @property
    def routes(self) -> frozenset[Route]:
        """All that are left."""
        return frozenset(self._ends)

    def keep(self, routes: Iterable[Route], until: dt.datetime | None = None) -> None:
        """Have *routes*, which are private, until then; None: for the convergence time."""
        now, longest = self._clock(), self._enforcer.settings.live_migration_route_convergence_time
        # A clock that was set back does not prolong it.
        end = min(until or now + longest, now + longest)
        kept = tuple(routes)
        for route in kept:
            # Of one address only the last one is kept (``desired.put_remaining``).
            for old in [one for one in self._ends if one.address == route.address]:
                self._forget(old)
            self._memory.keep(_key(route), partial(Record.of_remaining, (route,), end))
            self._ends[route] = (end, self._wind(route, (end - now).total_seconds()))
        self._enforcer.apply(self._enforcer.routes.desired.put_remaining(kept))

    def renew(self, renew: Callable[[Redirection], Redirection]) -> None:
        """Follow the tunnel to another index, and this node to another address."""
        for route, (end, _) in tuple(self._ends.items()):
            led = renew(Redirection(route.oif, route.way, route.way))
            renewed = replace(route, oif=led.oif, way=led.way(route.address))
            if renewed != route:
                self._enforcer.routes.desired.drop_remaining([route])
                self.keep([renewed], end)

    def close(self) -> None:
        """End nothing any more; what is in the kernel stays."""
        for _, alarm in self._ends.values():
            alarm.cancel()
        self._ends.clear()

    def _wind(self, route: Route, delay: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(max(0.0, delay), self._end, route)

    def _end(self, route: Route) -> None:
        try:
            self._enforcer.apply(self._enforcer.routes.desired.drop_remaining([route]))
        except Exception as error:  # noqa: BLE001  the root of one redirect's end
            faults.note("redirect", error, address=str(route.address))
            self._ends[route] = (self._clock(), self._wind(route, AGAIN))
            return
        self._forget(route)
        self.changed()
        _log.info("redirect_gone", address=str(route.address), way=str(route.way))

    def _forget(self, route: Route) -> None:
        _, alarm = self._ends.pop(route)
        alarm.cancel()
        self._memory.keep(_key(route), _nothing)


def _ignore() -> None:
    """Stand in for whoever wants to know that a redirect has ended."""


def _key(route: Route) -> ObjectKey:
    # No endpoint's key is like it: none has no namespace; nor is an orphan's, an address alone.
    return ObjectKey("", f"redirect.{route.address}")


def _nothing() -> Record | None:
    return None
