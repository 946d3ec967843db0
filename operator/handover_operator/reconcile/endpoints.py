"""WorkloadEndpoints: their roles as annotations, and which other endpoints concern them."""

import datetime as dt
from collections.abc import Callable

import structlog

from handover_api.names import ObjectKey
from handover_operator.cache import Cache
from handover_operator.kinds import Kind
from handover_operator.kube.errors import Absent
from handover_operator.kube.standby import Standby
from handover_operator.kube.writer import Writer
from handover_operator.observability import metrics
from handover_operator.reconcile import due
from handover_operator.reconcile.due import Due
from handover_operator.reconcile.request import DONE, Result
from handover_operator.roles.model import Endpoint
from handover_operator.roles.rules import Verdict
from handover_operator.status import kubernetes_events


class Endpoints:
    """Writes what the resolver decides, in one patch for each endpoint and change."""

    def __init__(self, cache: Cache, writer: Writer, clock: Callable[[], dt.datetime]) -> None:
        self._cache = cache
        self._writer = writer
        self._clock = clock
        self._log = structlog.get_logger()

    async def reconcile(self, key: ObjectKey, standby: Standby | None) -> Result:
        """Bring one endpoint up to date; with *standby* only where the leader has not."""
        if standby is not None and not await self._has_leader_missed(key, standby):
            return DONE
        endpoint = self._cache.resolver.index.endpoints.get(key)
        # Asked for now, not when it was queued: what is written is what is true at this moment.
        verdict = self._cache.resolver.verdict(key)
        if endpoint is None or verdict is None:
            return DONE
        shared, told = endpoint.shared, due.said_of_peers(endpoint)
        # Who stands in writes roles alone: nobody waits for the rest.
        if standby is None:
            shared = self._cache.sharing.message(key, self._clock())
            told = self._cache.peers.told(key)
        patch = due.endpoint_patch(endpoint, verdict, shared, told)
        if patch is None:
            return DONE
        if not await self._writer.patch(Kind.ENDPOINT, key, patch, as_leader=standby is None):
            return DONE
        if verdict.assignment != endpoint.assignment:
            self._report(endpoint, verdict)
        if shared and not endpoint.shared:
            return Result((kubernetes_events.shared(shared),), endpoint.uid)
        return DONE

    async def _has_leader_missed(self, key: ObjectKey, standby: Standby) -> bool:
        """Say whether a role must be given that the leader has not given, and note that.

        A watch of ours may be late, and then the leader, who knows better, would be contradicted:
        every migration that has a say is read anew first.
        """
        resolver = self._cache.resolver
        if due.role(resolver, key) is not Due.GIVE:
            return False
        for migration in due.concerned(resolver, key):
            try:
                await self._writer.refresh(Kind.MIGRATION, migration)
            except Absent:
                # The verdict still counts it; once a watch tells that it is gone, another follows.
                if migration in resolver.index.migrations:
                    return False
        # The answers were taken in, and may say that nothing is missing.
        if due.role(resolver, key) is not Due.GIVE:
            return False
        standby.note_missed()
        metrics.STOOD_IN.labels(Kind.ENDPOINT.value).inc()
        return True

    def _report(self, endpoint: Endpoint, verdict: Verdict) -> None:
        metrics.count_role(endpoint.assignment, verdict)
        written = verdict.assignment
        self._log.info(
            "role",
            endpoint=str(endpoint.key),
            node=endpoint.node,
            role=written.role and written.role.value,
            migration=written.migration,
            uid=written.migration_uid,
            outcome=written.outcome and written.outcome.value,
            ended_role=written.ended_role and written.ended_role.value,
            reason=verdict.reason.value,
        )
