"""What the API says of this node's endpoints and settings, and what waits until it may count.

An end is believed only when all endpoints have been told and the agent may decide: what it
remembers but was not told, and what goes while it or a namespace is paused, is gone from then on.
"""

from collections.abc import Mapping
from typing import Final

import structlog

from handover_api.configuration import Mode, Settings
from handover_api.names import ObjectKey
from handover_nodeagent import metrics
from handover_nodeagent.api import parse
from handover_nodeagent.fsm.events import Deleted
from handover_nodeagent.memory import Memory, Record
from handover_nodeagent.network.desired import Affected
from handover_nodeagent.network.model import Link
from handover_nodeagent.reconcile.loop import Reconciler
from handover_nodeagent.reconcile.orphans import Orphan, stray_key
from handover_nodeagent.routes.router import Observed
from handover_nodeagent.status.conditions import Stub
from handover_nodeagent.status.report import Reporter

_log: Final = structlog.get_logger()


class Intake:
    """Tells a reconciler what the API says.

    The kernel is left alone until :meth:`start` with records, or the first :meth:`synced`.
    """

    def __init__(self, reconciler: Reconciler, reporter: Reporter, memory: Memory) -> None:
        self.is_synced = False
        self.outage = ""
        self._reconciler = reconciler
        self._reporter = reporter
        self._memory = memory
        self._unconfirmed: set[ObjectKey] = set()
        self._written_under = reconciler.settings

    def start(
        self, links: Mapping[int, Link], observed: Observed, records: Mapping[ObjectKey, Record]
    ) -> None:
        """Begin with what the kernel has and what the last agent remembered."""
        reconciler = self._reconciler
        reconciler.lodging.links.replace_all(links)
        reconciler.router.load(observed)
        kept = frozenset(observed.ours)
        for key, record in records.items():
            orphans = [route for route in record.routes if route in kept]
            for route in orphans:
                reconciler.router.desired.put_orphan(route)
            if orphans:
                left = Orphan(key, tuple(orphans), record.learned_mac, record.gateways)
                reconciler.orphans.keep(left)
            if record.endpoint:
                self._unconfirmed.add(key)
                reconciler.meet(record.endpoint, record)
            elif record.spared:
                self._unconfirmed.add(key)
                reconciler.kernel.spare(key, record.spared)
            elif not orphans:
                self._memory.keep(key, lambda: None)
        if records:
            self._release(complete=False)

    def put(self, raw: Mapping[str, object]) -> None:
        """Take in one version of an endpoint."""
        endpoint = parse.endpoint(raw)
        self._unconfirmed.discard(endpoint.key)
        if isinstance(endpoint, parse.Unreadable):
            self._leave(endpoint)
            return
        self._reporter.known(endpoint.key, endpoint.metadata.uid, endpoint.status)
        resident = self._reconciler.residents.get(endpoint.key)
        if resident is None or resident.uid != endpoint.metadata.uid:
            self._reconciler.meet(endpoint, None)
            return
        self._reconciler.kernel.spare(endpoint.key, ())
        # The status is the agent's own; what it was at first is all that ever counts.
        endpoint = endpoint.model_copy(update={"status": resident.endpoint.status})
        if self._leaves(endpoint.key):
            resident.endpoint = endpoint
        else:
            self._reconciler.update(resident, endpoint)

    def drop(self, key: ObjectKey, uid: str) -> None:
        """Take in that an endpoint's object is gone."""
        resident = self._reconciler.residents.get(key)
        if resident and resident.uid != uid:
            return
        if self._leaves(key):
            self._unconfirmed.add(key)
        elif resident is None:
            self._reconciler.forget(key)
            self._memory.keep(key, lambda: None)
        else:
            self._reconciler.feed(resident, Deleted())

    def synced(self) -> None:
        """Know that all endpoints of this node have been told."""
        self.outage = ""
        self._drop_unconfirmed()
        if self.is_synced:
            return
        self.is_synced = True
        self._doubt_strays()
        self._release(complete=True)
        _log.info("synced", endpoints=len(self._reconciler.residents))

    def configure(self, settings: Settings, misconfigured: str = "") -> None:
        """Have another configuration followed, and touch nothing that it does not concern."""
        reconciler = self._reconciler
        reconciler.misconfigured = misconfigured
        metrics.CONFIGURATION.set(not misconfigured)
        if reconciler.settings != settings:
            _log.info("configured", **settings.to_object())
            self._change(reconciler.settings, settings)
        reconciler.report(reconciler.residents)

    def pause(self, namespaces: frozenset[str]) -> None:
        """Leave the endpoints of *namespaces* as they are, and go on with those of others.

        The end is like a restart of the agent, for those alone whom it concerns.
        """
        reconciler, kernel = self._reconciler, self._reconciler.kernel
        concerned = kernel.paused ^ namespaces
        residents = [one for one in reconciler.residents.values() if one.key.namespace in concerned]
        for resident in residents:
            reconciler.digest(resident)
        kernel.paused = namespaces
        kernel.hold()
        for resident in residents:
            resident.is_paused = resident.key.namespace in namespaces
            reconciler.router.desired.put(resident.local(reconciler.settings))
            if self._leaves(resident.key):
                reconciler.attendance.follow(resident, reconciler.router, reconciler.settings)
            else:
                reconciler.meet(resident.endpoint, resident.record())
        kernel.follow(reconciler.settings, Affected(), {})
        if self.is_synced:
            self._drop_unconfirmed()
        reconciler.report(one.key for one in residents)

    def _change(self, before: Settings, settings: Settings) -> None:
        if before.mode is not Mode.PAUSED:
            self._written_under = before
        elif settings.mode is not Mode.PAUSED:
            # What the kernel has says what it means under the settings it was written under.
            resumed = self._written_under.model_copy(update={"mode": settings.mode})
            self._follow_settings(before, resumed)
            before = resumed
        if before != settings:
            self._follow_settings(before, settings)

    def _follow_settings(self, before: Settings, settings: Settings) -> None:
        reconciler = self._reconciler
        reconciler.settings = settings
        is_resumed = before.mode is Mode.PAUSED and not self._is_paused
        desired = reconciler.router.desired
        guard = desired.guard(desired.everything().interfaces)
        addresses = desired.everything().addresses
        for resident in reconciler.residents.values():
            reconciler.digest(resident)
        reconciler.kernel.hold()
        reconciler.kernel.configure(settings)
        for resident in tuple(reconciler.residents.values()):
            resident.admission = reconciler.lodging.admit(resident.endpoint, resident.link)
            reconciler.router.desired.put(resident.local(settings))
            if is_resumed and not resident.is_paused:
                reconciler.meet(resident.endpoint, resident.record())
        reconciler.kernel.follow(before, Affected(addresses), guard)
        for resident in reconciler.residents.values():
            reconciler.attendance.follow(resident, reconciler.router, settings)
        if is_resumed and self.is_synced:
            self._drop_unconfirmed()

    @property
    def _is_paused(self) -> bool:
        """While paused all is left as it is, as if no agent ran; the end is like its restart."""
        return self._reconciler.settings.mode is Mode.PAUSED

    def _leaves(self, key: ObjectKey) -> bool:
        """Tell whether an endpoint is left as it is, with all others or with its namespace."""
        return self._is_paused or key.namespace in self._reconciler.kernel.paused

    def _drop_unconfirmed(self) -> None:
        """Take in the end of what was remembered but not told, or dropped while paused."""
        gone, self._unconfirmed = self._unconfirmed, set()
        for key in gone:
            resident = self._reconciler.residents.get(key)
            self.drop(key, resident.uid if resident else "")

    def _doubt_strays(self) -> None:
        """Let guests be asked before routes go that no endpoint wants, nor any memory.

        Both may have been lost, or be a newer agent's. Who has no neighbor entry has not been
        spoken to since the node's start, or its interface's.
        """
        reconciler = self._reconciler
        for route in reconciler.router.strays():
            if reconciler.router.find_mac([route.address], route.oif):
                reconciler.router.desired.put_orphan(route)
                reconciler.orphans.keep(Orphan(stray_key(route), (route,)))

    def _leave(self, endpoint: parse.Unreadable) -> None:
        """Let an endpoint that nobody can read be as it is."""
        metrics.UNREADABLE.inc()
        _log.warning("unreadable_endpoint", endpoint=str(endpoint.key), why=str(endpoint))
        stub = Stub(endpoint.key, endpoint.uid, endpoint.generation, endpoint.status)
        self._reporter.known(endpoint.key, endpoint.uid, endpoint.status)
        self._reconciler.unreadable(stub, endpoint.ips, str(endpoint))

    def _release(self, *, complete: bool) -> None:
        self._reconciler.kernel.release(complete=complete)
        self._reconciler.report(self._reconciler.residents)
