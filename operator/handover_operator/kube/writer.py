"""The one way in which the loops write: on a condition, with the answer taken in as an event.

Each write names what it is based on: a patch the resourceVersion (in its body), a deletion the
uid, a creation that there is none of that name. So two who write at once, or one who knows too
little, do no harm; and the next decision is based on the answer even before a watch tells it.
"""

import contextlib
import datetime as dt
from collections.abc import Awaitable, Callable

import structlog

from handover_api.names import ObjectKey
from handover_operator.kinds import AnyKind, Kind
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Absent, Conflict, NotLeading, Outdated, Refused, Temporary
from handover_operator.kube.versions import version_of
from handover_operator.observability import metrics
from handover_operator.roles.parse import RawObject
from handover_operator.status.kubernetes_events import KubernetesEvent


class Writer:
    """Writes, counts and takes answers in; may raise Temporary.

    *uid_of*: the uid of an object as far as it is known. *observe*: takes in a version.
    ``as_leader=False``: such a write any replica may make (see standby.py).
    """

    def __init__(
        self,
        cluster: Cluster,
        uid_of: Callable[[Kind, ObjectKey], str | None],
        observe: Callable[[Kind, RawObject], None],
    ) -> None:
        self._cluster = cluster
        self._uid_of = uid_of
        self._observe = observe
        self._log = structlog.get_logger()

    async def create(
        self, kind: Kind, key: ObjectKey, body: RawObject, *, as_leader: bool
    ) -> RawObject | None:
        """Create an object; None where there is no place for it. Outdated: there is one by now."""
        request = self._cluster.create(kind, key.namespace, body, as_leader=as_leader)
        raw = await self._send(kind, key, request)
        if raw is not None:
            self._observe(kind, raw)
        return raw

    async def patch(
        self,
        kind: Kind,
        key: ObjectKey,
        body: RawObject,
        *,
        subresource: str = "",
        as_leader: bool = True,
    ) -> bool:
        """Merge into an object; False where it is gone. Outdated: it has changed meanwhile."""
        request = self._cluster.patch(kind, key, body, subresource=subresource, as_leader=as_leader)
        raw = await self._send(kind, key, request)
        # A watch may have told meanwhile that it is gone, or that it is another one by now.
        if raw is not None and self._uid_of(kind, key) == version_of(raw).uid:
            self._observe(kind, raw)
        return raw is not None

    async def delete(self, kind: Kind, key: ObjectKey, uid: str, *, as_leader: bool = True) -> None:
        """Delete this very object; one that is gone, or another of its name, is fine."""
        try:
            await self._cluster.delete(kind, key, uid, as_leader=as_leader)
        except Temporary as reason:
            _count_failure(kind, reason)
            raise
        # Its answer says that the deletion was accepted; a watch tells when the object is gone.
        metrics.WRITES.labels(kind.value, "done").inc()

    async def emit(
        self, kind: AnyKind, key: ObjectKey, uid: str, event: KubernetesEvent, now: dt.datetime
    ) -> None:
        """Record an Event about an object; one that is refused is lost."""
        try:
            await self._cluster.emit(kind, key, uid, event, now)
        except (Absent, Conflict, Refused) as reason:
            # Its namespace may be going; an Event is not worth a second attempt.
            self._log.warning("event_lost", about=f"{kind} {key}", reason=str(reason))
        except Temporary as reason:
            _count_failure(kind, reason)
            raise

    async def refresh(self, kind: Kind, key: ObjectKey) -> None:
        """Take in what an object is now. May raise Absent."""
        self._observe(kind, await self._cluster.get(kind, key))

    async def _send(
        self, kind: Kind, key: ObjectKey, request: Awaitable[RawObject]
    ) -> RawObject | None:
        try:
            raw = await request
        except Absent:
            return None
        except Conflict as reason:
            metrics.WRITES.labels(kind.value, "conflict").inc()
            # The watch would tell, too, but the next attempt is made at once.
            with contextlib.suppress(Absent):
                await self.refresh(kind, key)
            raise Outdated(str(reason)) from reason
        except Temporary as reason:
            _count_failure(kind, reason)
            raise
        metrics.WRITES.labels(kind.value, "done").inc()
        return raw


def _count_failure(kind: AnyKind, reason: Temporary) -> None:
    # Who does not lead has sent nothing.
    if not isinstance(reason, NotLeading):
        metrics.WRITES.labels(kind.value, "failed").inc()
