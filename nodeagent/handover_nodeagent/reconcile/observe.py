"""Keeps the loop in step with the kernel: by its notifications, and by resyncs.

A resync observes everything anew. Notifications are heard from before the first one, so that
nothing falls between.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from handover_api.names import ObjectKey
from handover_nodeagent import metrics
from handover_nodeagent.kernel import links
from handover_nodeagent.kernel.netlink.changes import Change, DefaultRouteChanged
from handover_nodeagent.kernel.netlink.codec import ObservationError
from handover_nodeagent.kernel.netlink.notifications import Notifications
from handover_nodeagent.memory.record import Record
from handover_nodeagent.network.links import AddressChanged, LinkChanged, LinkDiff, LinkRemoved
from handover_nodeagent.network.model import IPAddress, Link
from handover_nodeagent.reconcile.endpoint_sink import EndpointSink
from handover_nodeagent.reconcile.loop import Reconciler
from handover_nodeagent.routes import host_routes
from handover_nodeagent.routes.known import Observed

ATTEMPTS: Final = 8
"""So often everything is observed anew because it changed meanwhile."""
RETRY_AFTER: Final = 1.0
"""Seconds until another attempt where the kernel could not be read: always the same, for until then
nothing of it is known."""
REST: Final = 0.1
"""Seconds between two resyncs, however much happens."""
RESTLESS: Final = 5.0
"""Seconds until the next resync when the last one is older than what happened meanwhile."""
REFRESH: Final = 300.0
"""Seconds between two resyncs that nobody asks for: what no notification tells is found so."""

_log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class View:
    """What there was; *is_current*: nothing happened while it was observed."""

    links: Mapping[int, Link]
    observed: Observed
    is_current: bool


class Observation:
    """Tells a reconciler what the kernel has, from :meth:`begin` until :meth:`close`."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._wanted = reconciler.enforcer.resync_wanted
        self._news = 0
        self._begun = False
        self._notifications = Notifications(
            self._heard,
            self._overflow,
            table=reconciler.settings.route_table,
            protocol=reconciler.settings.route_protocol,
            own_port=reconciler.routes.port,
        )

    async def begin(self, sink: EndpointSink, records: Mapping[ObjectKey, Record]) -> None:
        """Start *sink* from the kernel and the last agent's *records*."""
        addresses = [
            address
            for record in records.values()
            if record.endpoint
            for address in record.endpoint.spec.ips
        ]
        # Nobody else is known so far whose foreign routes would count.
        view = await self._observe(lambda: addresses)
        sink.start(view.links, view.observed, records)
        # What was heard until now is in the view, or the view is not current.
        self._begun = True
        if not view.is_current:
            self.request_resync()

    async def run(self) -> None:
        """Resync whenever that is wanted, and now and then, until cancelled."""
        rest = REFRESH
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._wanted.wait()
            try:
                is_current = await self._resync()
            except Exception:
                # Whoever runs this anew observes at once.
                self._wanted.set()
                raise
            rest = REFRESH if is_current else RESTLESS

    async def _resync(self) -> bool:
        self._wanted.clear()
        view = await self._observe(self._known)
        # Routes before links: an endpoint finds its link by the routes of the same view.
        self._reconciler.routes.load(view.observed)
        for diff in self._reconciler.interfaces.links.replace_all(view.links):
            self._reconciler.interfaces.link_changed(diff)
        self._reconciler.interfaces.observed()
        self._reconciler.redirects.observed(self._reconciler.interfaces.links)
        await asyncio.sleep(REST)
        return view.is_current

    def _known(self) -> list[IPAddress]:
        return list(self._reconciler.routes.desired.everything().addresses)

    def request_resync(self) -> None:
        """Have everything observed anew soon."""
        self._wanted.set()

    def close(self) -> None:
        """Hear nothing more."""
        self._notifications.close()

    async def _observe(self, known: Callable[[], list[IPAddress]]) -> View:
        """Observe until nothing happens meanwhile, or as near to that as a busy node lets us."""
        attempt = 0
        while True:
            # Read before all else: what happens from here on is told, and makes the view old.
            before, addresses = self._state(), known()
            settings = self._reconciler.settings
            self._notifications.configure(settings.route_table, settings.route_protocol)
            try:
                # In a thread: a dump of many routes takes longer than a guest may wait.
                found = await asyncio.to_thread(links.observe, settings.route_table)
                observed = await asyncio.to_thread(host_routes.observe, settings, addresses)
            except ObservationError as error:
                _log.warning("cannot_observe", why=str(error), again_in_seconds=RETRY_AFTER)
                self._reconciler.enforcer.seen(str(error))
                await asyncio.sleep(RETRY_AFTER)
                continue
            self._reconciler.enforcer.seen()
            # Of an address that came meanwhile nobody was asked for foreign routes.
            is_current = before == self._state() and set(addresses) >= set(known())
            attempt += 1
            if is_current or attempt == ATTEMPTS:
                return View(found, observed, is_current)

    def _state(self) -> tuple[int, int]:
        """Return what differs when something happened between."""
        return self._news, self._reconciler.routes.tables.writes

    def _heard(self, change: Change) -> None:
        self._news += 1
        if not self._begun:
            return
        reconciler = self._reconciler
        if isinstance(change, LinkChanged):
            self._link_changed(reconciler.interfaces.links.change(change))
        elif isinstance(change, LinkRemoved):
            reconciler.redirects.lost_link(change.index)
            self._link_changed(reconciler.interfaces.links.remove(change))
        elif isinstance(change, AddressChanged):
            self._link_changed(reconciler.interfaces.links.readdress(change))
        elif isinstance(change, DefaultRouteChanged):
            self.request_resync()
        elif reconciler.routes.notified(change):
            reconciler.interfaces.route_changed(change.route.address)

    def _link_changed(self, diff: LinkDiff | None) -> None:
        self._reconciler.interfaces.link_changed(diff)
        if diff:
            # Other nodes may be reached by it now.
            self._reconciler.redirects.retry()

    def _overflow(self) -> None:
        metrics.OVERFLOWS.inc()
        _log.warning("notifications_lost", why="the kernel dropped some; everything is observed")
        self._news += 1
        self.request_resync()
