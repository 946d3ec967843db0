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
from handover_nodeagent.routes.host_routes import Observed
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
        reconciler.interfaces.links.replace_all(links)
        reconciler.routes.load(observed)
        kept = frozenset(observed.ours)
        for key, record in records.items():
            orphans = [route for route in record.routes if route in kept]
            for route in orphans:
                reconciler.routes.desired.put_orphan(route)
            if orphans:
                left = Orphan(key, tuple(orphans), record.learned_mac, record.gateways)
                reconciler.orphans.keep(left)
            if record.endpoint:
                self._unconfirmed.add(key)
                reconciler.start(record.endpoint, record)
            elif record.spared:
                self._unconfirmed.add(key)
                reconciler.enforcer.spare(key, record.spared)
            elif not orphans:
                self._memory.keep(key, lambda: None)
        if records:
            self._release(complete=False)

    def put(self, raw: Mapping[str, object]) -> None:
        """Take in one version of an endpoint."""
        obj = parse.endpoint(raw)
        self._unconfirmed.discard(obj.key)
        if isinstance(obj, parse.Unreadable):
            self._leave(obj)
            return
        self._reporter.learn(obj.key, obj.metadata.uid, obj.status)
        endpoint = self._reconciler.endpoints.get(obj.key)
        if endpoint is None or endpoint.uid != obj.metadata.uid:
            self._reconciler.start(obj, None)
            return
        self._reconciler.enforcer.spare(obj.key, ())
        # The status is the agent's own; what it was at first is all that ever counts.
        obj = obj.model_copy(update={"status": endpoint.object.status})
        if self._leaves(obj.key):
            endpoint.object = obj
        else:
            self._reconciler.update(endpoint, obj)

    def drop(self, key: ObjectKey, uid: str) -> None:
        """Take in that an endpoint's object is gone."""
        endpoint = self._reconciler.endpoints.get(key)
        if endpoint and endpoint.uid != uid:
            return
        if self._leaves(key):
            self._unconfirmed.add(key)
        elif endpoint is None:
            self._reconciler.forget(key)
            self._memory.keep(key, lambda: None)
        else:
            self._reconciler.feed(endpoint, Deleted())

    def synced(self) -> None:
        """Know that all endpoints of this node have been told."""
        self.outage = ""
        self._drop_unconfirmed()
        if self.is_synced:
            return
        self.is_synced = True
        self._doubt_strays()
        self._release(complete=True)
        _log.info("synced", endpoints=len(self._reconciler.endpoints))

    def configure(self, settings: Settings, misconfigured: str = "") -> None:
        """Have another configuration followed, and touch nothing that it does not concern."""
        reconciler = self._reconciler
        reconciler.misconfigured = misconfigured
        metrics.CONFIGURATION.set(not misconfigured)
        if reconciler.settings != settings:
            _log.info("configured", **settings.to_object())
            self._change(reconciler.settings, settings)
        reconciler.report(reconciler.endpoints)

    def pause(self, namespaces: frozenset[str]) -> None:
        """Leave the endpoints of *namespaces* as they are, and go on with those of others.

        The end is like a restart of the agent, for those alone whom it concerns.
        """
        reconciler, enforcer = self._reconciler, self._reconciler.enforcer
        concerned = enforcer.paused ^ namespaces
        endpoints = [one for one in reconciler.endpoints.values() if one.key.namespace in concerned]
        for endpoint in endpoints:
            reconciler.cutovers.catch_up(endpoint)
        enforcer.paused = namespaces
        enforcer.hold()
        for endpoint in endpoints:
            endpoint.is_paused = endpoint.key.namespace in namespaces
            reconciler.routes.desired.put(endpoint.local(reconciler.settings))
            if self._leaves(endpoint.key):
                reconciler.follow_machine(endpoint)
            else:
                reconciler.start(endpoint.object, endpoint.record())
        enforcer.follow(reconciler.settings, Affected(), {})
        if self.is_synced:
            self._drop_unconfirmed()
        reconciler.report(one.key for one in endpoints)

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
        desired = reconciler.routes.desired
        guard = desired.guard(desired.everything().interfaces)
        addresses = desired.everything().addresses
        for endpoint in reconciler.endpoints.values():
            reconciler.cutovers.catch_up(endpoint)
        reconciler.enforcer.hold()
        reconciler.enforcer.configure(settings)
        for endpoint in tuple(reconciler.endpoints.values()):
            endpoint.admission = reconciler.interfaces.admit(endpoint.object, endpoint.link)
            reconciler.routes.desired.put(endpoint.local(settings))
            if is_resumed and not endpoint.is_paused:
                reconciler.start(endpoint.object, endpoint.record())
        reconciler.enforcer.follow(before, Affected(addresses), guard)
        for endpoint in reconciler.endpoints.values():
            reconciler.follow_machine(endpoint)
        if is_resumed and self.is_synced:
            self._drop_unconfirmed()

    @property
    def _is_paused(self) -> bool:
        """While paused all is left as it is, as if no agent ran; the end is like its restart."""
        return self._reconciler.settings.mode is Mode.PAUSED

    def _leaves(self, key: ObjectKey) -> bool:
        """Tell whether an endpoint is left as it is, with all others or with its namespace."""
        return self._is_paused or key.namespace in self._reconciler.enforcer.paused

    def _drop_unconfirmed(self) -> None:
        """Take in the end of what was remembered but not told, or dropped while paused."""
        gone, self._unconfirmed = self._unconfirmed, set()
        for key in gone:
            endpoint = self._reconciler.endpoints.get(key)
            self.drop(key, endpoint.uid if endpoint else "")

    def _doubt_strays(self) -> None:
        """Let guests be asked before routes go that no endpoint wants, nor any memory.

        Both may have been lost, or be a newer agent's. Who has no neighbor entry has not been
        spoken to since the node's start, or its interface's.
        """
        reconciler = self._reconciler
        for route in reconciler.routes.strays():
            if reconciler.routes.find_mac([route.address], route.oif):
                reconciler.routes.desired.put_orphan(route)
                reconciler.orphans.keep(Orphan(stray_key(route), (route,)))

    def _leave(self, obj: parse.Unreadable) -> None:
        """Let an endpoint that nobody can read be as it is."""
        metrics.UNREADABLE.inc()
        _log.warning("unreadable_endpoint", endpoint=str(obj.key), why=str(obj))
        stub = Stub(obj.key, obj.uid, obj.generation, obj.status)
        self._reporter.learn(obj.key, obj.uid, obj.status)
        self._reconciler.unreadable(stub, obj.ips, str(obj))

    def _release(self, *, complete: bool) -> None:
        self._reconciler.enforcer.release(complete=complete)
        self._reconciler.report(self._reconciler.endpoints)
