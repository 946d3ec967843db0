"""What the API says of this node's endpoints, and what waits until it may count.

An end is believed only when all endpoints have been told and the agent may decide: what it
remembers but was not told, and what goes while it or a namespace is paused, is gone from then on.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from handover_api.names import ObjectKey
from handover_nodeagent import metrics
from handover_nodeagent.api import parse
from handover_nodeagent.fsm.events import Deleted
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.memory.record import Record
from handover_nodeagent.network.model import Link
from handover_nodeagent.reconcile.lifecycle import Lifecycle
from handover_nodeagent.reconcile.loop import Reconciler
from handover_nodeagent.reconcile.orphan import Orphan
from handover_nodeagent.routes.known import Observed
from handover_nodeagent.status.conditions import Reported
from handover_nodeagent.status.report import Reporter

_log: Final = structlog.get_logger()


class EndpointSink:
    """Tells a reconciler what the watch of this node's endpoints says.

    The kernel is left alone until :meth:`start` with records, or the first :meth:`synced`.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        lifecycle: Lifecycle,
        reporter: Reporter,
        memory: Memory,
        begun: Callable[[], None] = lambda: None,
    ) -> None:
        """Call *begun* once, when all endpoints are known for the first time."""
        self.is_synced = False
        self.outage_reason = ""
        self._reconciler = reconciler
        self._lifecycle = lifecycle
        self._reporter = reporter
        self._memory = memory
        self._begun = begun
        self._unconfirmed: set[ObjectKey] = set()

    def start(
        self, links: Mapping[int, Link], observed: Observed, records: Mapping[ObjectKey, Record]
    ) -> None:
        """Begin with what the kernel has and what the last agent remembered."""
        reconciler = self._reconciler
        reconciler.interfaces.links.replace_all(links)
        reconciler.routes.load(observed)
        # A remembered orphan counts only as long as the kernel has its route.
        kept = frozenset(observed.ours)
        for key, record in records.items():
            orphans = [route for route in record.routes if route in kept]
            for route in orphans:
                reconciler.routes.desired.put_orphan(route)
            if orphans:
                left = Orphan(key, tuple(orphans), record.learned_mac, record.gateways)
                reconciler.orphans.keep(left)
            redirects = [route for route in record.redirects if route in kept]
            reconciler.remaining.keep(redirects, record.until)
            if record.endpoint:
                self._unconfirmed.add(key)
                self._lifecycle.start(record.endpoint, record)
            elif record.spared:
                self._unconfirmed.add(key)
                reconciler.enforcer.spare(key, record.spared)
            elif not orphans and not redirects:
                # Nothing is left of it that anybody could still ask for.
                self._memory.keep(key, lambda: None)
        # Without any memory no endpoint is known: all waits for the first sync.
        if records:
            self._release(complete=False)

    def put(self, raw: Mapping[str, object]) -> None:
        """Take in one version of an endpoint."""
        obj = parse.endpoint(raw)
        self._unconfirmed.discard(obj.key)
        if isinstance(obj, parse.Unreadable):
            self._leave_unreadable(obj)
            return
        self._reporter.learn(obj.key, obj.metadata.uid, obj.status)
        endpoint = self._reconciler.endpoints.get(obj.key)
        if endpoint is None or endpoint.uid != obj.metadata.uid:
            self._lifecycle.start(obj, None)
            return
        self._reconciler.enforcer.spare(obj.key, ())
        # The status is the agent's own; what it was at first is all that ever counts, but for
        # whether others know of the guest: what is remembered may be from before that.
        told = {"advertised": obj.status.advertised}
        status = endpoint.object.status.model_copy(update=told)
        obj = obj.model_copy(update={"status": status})
        if self._reconciler.leaves(obj.key):
            endpoint.object = obj
        else:
            self._lifecycle.update(endpoint, obj)

    def drop(self, key: ObjectKey, uid: str) -> None:
        """Take in that an endpoint's object is gone."""
        endpoint = self._reconciler.endpoints.get(key)
        # The end of a former object of that name, told late, is none of this one's.
        if endpoint and endpoint.uid != uid:
            return
        # Believed when the pause ends, unless it is there again by then.
        if self._reconciler.leaves(key):
            self._unconfirmed.add(key)
        elif endpoint is None:
            self._lifecycle.forget(key)
            self._memory.keep(key, lambda: None)
        else:
            self._reconciler.feed(endpoint, Deleted())

    def synced(self) -> None:
        """Know that all endpoints of this node have been told."""
        self.outage_reason = ""
        self._drop_unconfirmed()
        is_first = not self.is_synced
        if is_first:
            self._begin()
        self._reporter.retry_now()
        if is_first:
            self._begun()

    def outage(self, reason: str, *, is_absent: bool) -> None:  # noqa: ARG002  the sink's form
        """Know that nobody can say now what there is: no end, and nothing goes for it."""
        self.outage_reason = reason
        _log.warning("outage", kind="WorkloadEndpoint", why=reason)

    def unready(self) -> str:
        """Say why nobody may rely on what is known here; "" when all may."""
        return "" if self.is_synced else "the node's endpoints are not all known yet"

    def confirm(self) -> None:
        """Take in the ends that waited for a pause to end."""
        if self.is_synced:
            self._drop_unconfirmed()

    def _begin(self) -> None:
        """Do all that had to wait until every endpoint is known."""
        self.is_synced = True
        # Before anything is pruned: a guest that answers keeps what nobody claims.
        self._doubt_unclaimed()
        self._release(complete=True)
        # Also where nothing is redirected: what an agent before this one left is to go.
        self._reconciler.redirects.enclose_soon()
        _log.info("synced", endpoints=len(self._reconciler.endpoints))

    def _drop_unconfirmed(self) -> None:
        """Take in the end of what was remembered but not told, or dropped while paused."""
        gone, self._unconfirmed = self._unconfirmed, set()
        for key in gone:
            endpoint = self._reconciler.endpoints.get(key)
            self.drop(key, endpoint.uid if endpoint else "")

    def _doubt_unclaimed(self) -> None:
        """Let guests be asked before routes go that no endpoint wants, nor any memory.

        Both may have been lost, or be a newer agent's. Who has no neighbor entry has not been
        spoken to since the node's start, or its interface's.
        """
        reconciler = self._reconciler
        for route in reconciler.routes.unclaimed():
            if route.way:
                # Nobody is behind it who could be asked; that it is old enough nobody knows.
                reconciler.redirects.adopt(route)
            elif reconciler.routes.find_mac([route.address], route.oif):
                # Speakers may not have heard of it so far.
                exported = dataclasses.replace(route, protocol=reconciler.settings.route_protocol)
                reconciler.routes.desired.put_orphan(exported)
                reconciler.orphans.keep(Orphan.unclaimed(exported))

    def _leave_unreadable(self, obj: parse.Unreadable) -> None:
        """Let an endpoint that nobody can read be as it is."""
        metrics.UNREADABLE.inc()
        _log.warning("unreadable_endpoint", endpoint=str(obj.key), why=str(obj))
        reported = Reported(obj.key, obj.uid, obj.generation, obj.status)
        self._reporter.learn(obj.key, obj.uid, obj.status)
        self._lifecycle.unreadable(reported, obj.ips, str(obj))

    def _release(self, *, complete: bool) -> None:
        self._reconciler.enforcer.release(complete=complete)
        self._reconciler.report(self._reconciler.endpoints)
