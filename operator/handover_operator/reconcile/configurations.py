"""HandoverConfigurations: their status, which says whether they are accepted and applied."""

import datetime as dt
from collections.abc import Callable

from handover_api.names import DEFAULT_CONFIGURATION, ObjectKey
from handover_operator.cache import Cache
from handover_operator.kinds import Kind
from handover_operator.kube.writer import Writer
from handover_operator.reconcile import due
from handover_operator.reconcile.request import DONE, Result
from handover_operator.status import configuration
from handover_operator.status.kubernetes_events import KubernetesEvent


class Configurations:
    """Writes statuses; what an agent does with a configuration is the agent's."""

    def __init__(self, cache: Cache, writer: Writer, clock: Callable[[], dt.datetime]) -> None:
        self._cache = cache
        self._writer = writer
        self._clock = clock

    async def reconcile(self, key: ObjectKey) -> Result:
        """Bring the status of one configuration up to date."""
        cache = self._cache
        found = cache.configurations.get(key.name)
        if found is None:
            return DONE
        # A node's configuration is judged with the default that it overrides.
        default = cache.configurations.get(DEFAULT_CONFIGURATION)
        before = found.status
        after = configuration.status(found, default, cache.application, cache.paused, self._clock())
        if after == before:
            return DONE
        patch = due.configuration_patch(found, after)
        if not await self._writer.patch(Kind.CONFIGURATION, key, patch, subresource="/status"):
            return DONE
        events = (
            KubernetesEvent(each.reason, each.message, warning=True)
            for each in configuration.news(before, after)
        )
        return Result(tuple(events), found.metadata.uid)
