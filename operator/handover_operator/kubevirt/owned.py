"""Our objects that are made for KubeVirt's: one at a time brought up to date with what is desired.

Each write is based on what the API server says at that moment, as far as it matters, and goes the
one way that all writes go (kube/writer.py).
"""

from collections.abc import Callable

import structlog

from handover_operator.kinds import Foreign, Kind
from handover_operator.kube.errors import Temporary
from handover_operator.kube.standby import Standby
from handover_operator.kube.writer import Writer
from handover_operator.kubevirt import diff
from handover_operator.kubevirt.desired import Owner
from handover_operator.kubevirt.diff import Create, Delete, Diff, Patch, Write
from handover_operator.kubevirt.lookups import Lookups
from handover_operator.kubevirt.queue_items import Made, Subject
from handover_operator.observability import metrics
from handover_operator.roles.parse import RawObject


class Unconfigured(Temporary):
    """An agent that saw an endpoint now would act on what nobody has asked for."""


class Owned:
    """Creates, patches and deletes; no endpoint is made before *is_configured*."""

    def __init__(
        self,
        found: Diff,
        lookups: Lookups,
        writer: Writer,
        is_configured: Callable[[], bool],
    ) -> None:
        self._diff = found
        self._lookups = lookups
        self._writer = writer
        self._is_configured = is_configured
        self._log = structlog.get_logger()

    async def reconcile(self, subject: Subject, standby: Standby | None) -> Made | None:
        """Bring one object up to date; return what was made.

        With *standby* only what a migration waits for, and only where the leader has not.
        """
        # Whose pod or VMIM is really gone is asked only by who may delete or end it for that.
        if standby is None and self._diff.is_of_unknown_owner(subject.kind, subject.key):
            await self._lookups.look_up_owner(subject)
        write = await self._confirm(subject, standby)
        if write is None:
            return None
        return await self._send(subject, write, as_leader=standby is None)

    async def take_back(self, made: Made, standby: Standby | None) -> None:
        """Delete what was made while its owner went.

        Watches tell of that too, and the owner that is there takes it along when it goes; but no
        agent is to wait for a guest whose migration is gone. It is soon enough once the roles of
        others are given: a look per object is a fifth of what a migration asks of the API server.
        """
        as_leader = standby is None
        await self._writer.delete(made.kind, made.key, made.uid, as_leader=as_leader)
        self._log.info("taken_back", kind=made.kind.value, object=str(made.key))

    async def _confirm(self, subject: Subject, standby: Standby | None) -> Write | None:
        """Return the write that is due also by what the API server says now.

        What was there and went, went with its owner perhaps, so before it is made anew that one is
        looked at; and who does not lead may hear late of what the leader knows.
        """
        stands_in = standby is not None
        write = self._due(subject, stands_in=stands_in)
        if write is None:
            return None
        owner = self._diff.owner(subject.kind, subject.key)
        # A look before each creation held up the roles of all migrations. It is needed where one of
        # this owner's objects has gone: the garbage collector may have taken it after the owner, of
        # whose end our watch tells later, and what is made now would have nobody to go with.
        is_bereft = owner is not None and owner.uid in self._diff.bereft
        if stands_in or (is_bereft and isinstance(write, Create)):
            grounds = self._diff.grounds(subject.kind, subject.key, with_role=stands_in)
            for kind, key in grounds:
                await self._lookups.refresh(kind, key)
            # The answers were taken in like events, and may have changed what is desired.
            write = self._due(subject, stands_in=stands_in)
        if write is not None and standby is not None:
            standby.note_missed()
            metrics.STOOD_IN.labels(subject.kind.value).inc()
        return write

    def _due(self, subject: Subject, *, stands_in: bool) -> Write | None:
        write = self._diff.due(subject.kind, subject.key)
        if write is not None and stands_in and not diff.is_urgent(write):
            return None
        return write

    async def _send(self, subject: Subject, write: Write, *, as_leader: bool) -> Made | None:
        kind, key = subject.kind, subject.key
        match write:
            case Create(body):
                # Agents act on endpoints that they see, and see nothing of LiveMigrations.
                if kind is Kind.ENDPOINT and not self._is_configured():
                    message = "HandoverConfiguration default is not there so far"
                    raise Unconfigured(message)
                raw = await self._writer.create(kind, key, body, as_leader=as_leader)
                if raw is not None:
                    self._log.info("made", kind=kind.value, object=str(key))
                    return Made(kind, key, raw["metadata"]["uid"], _owner(raw))
            case Patch(body):
                if await self._writer.patch(kind, key, body, as_leader=as_leader):
                    spec = body.get("spec", {})
                    self._log.info("changed", kind=kind.value, object=str(key), spec=spec)
            case Delete(uid):
                # Only the leader deletes: what goes is never what a guest on its way waits for.
                await self._writer.delete(kind, key, uid)
                self._log.info("given_up", kind=kind.value, object=str(key))
        return None


def _owner(raw: RawObject) -> Owner:
    """Return the owner that an object was made with."""
    owned = raw["metadata"]["ownerReferences"][0]
    # The API server keeps the order that we sent, and manifests.py sends this one alone.
    return Owner(Foreign(owned["kind"]), owned["name"], owned["uid"])
