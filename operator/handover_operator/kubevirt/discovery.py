"""Whether KubeVirt is there: the adapter is idle until it is, and again when it has gone.

The kinds are asked for in an interval, which costs next to nothing and needs no rights. Then all
objects are listed, before anything is decided, and watched from those lists on.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final

import structlog

from handover_api.names import ObjectKey
from handover_operator.kinds import KUBEVIRT, Foreign
from handover_operator.kube import retry, watch
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Absent, Temporary
from handover_operator.kube.resync import Resync
from handover_operator.kube.watch import Watch
from handover_operator.kubevirt.controller import KubeVirtController
from handover_operator.observability import metrics
from handover_operator.roles.parse import RawObject

INTERVAL: Final = 2.0
"""Seconds between two looks for the kinds."""

KINDS: Final = frozenset({Foreign.VMI.plural, Foreign.VMIM.plural})
GONE_FOR: Final = 10.0
"""Seconds for which the kinds must be unserved until KubeVirt counts as gone: an API server that
begins, or one of several that is behind, says so too."""

ORDER: Final = (Foreign.POD, Foreign.VMI, Foreign.VMIM)
"""What a pod refers to was made before it, so it is listed after: absent is then absent."""


class Discovery:
    """Starts and stops the adapter, and feeds it (watch.Sink).

    ``has_begun``: it is known whether there is a KubeVirt.
    """

    def __init__(self, cluster: Cluster, adapter: KubeVirtController, interval: float) -> None:
        self.has_begun = False
        self._cluster = cluster
        self._adapter = adapter
        self._resync = Resync(self._sweep, interval)
        self._watches: tuple[Watch[Foreign], ...] = ()
        self._log = structlog.get_logger()

    async def begin(self) -> None:
        """Load what there is now, so that nothing is decided without it."""
        await retry.insist(self._load_if_present, "KubeVirt's objects")
        self.has_begun = True
        if not self._adapter.is_active:
            self._log.info("kubevirt_absent", looking_every=INTERVAL)

    async def run(self) -> None:
        """Follow KubeVirt's coming and going until cancelled."""
        while True:
            while not self._adapter.is_active:
                await asyncio.sleep(INTERVAL)
                # It is asked again in a moment, and an outage is told by others.
                with contextlib.suppress(Temporary):
                    await self._load_if_present()
            await self._watch_kinds()
            self._adapter.stop()
            self._log.info("kubevirt_gone", looking_every=INTERVAL)

    def observe(self, kind: Foreign, raw: RawObject) -> None:
        """Take in one version of an object."""
        metrics.EVENTS.labels(kind.value).inc()
        self._adapter.observe(kind, raw)

    def end(self, kind: Foreign, raw: RawObject) -> None:
        """Take in the last version of an object that is gone."""
        metrics.EVENTS.labels(kind.value).inc()
        self._adapter.end(kind, raw)

    def retain(self, kind: Foreign, existing: Mapping[ObjectKey, str], version: int) -> None:
        """Take in that a list was complete."""
        self._adapter.retain(kind, existing, version)
        self._resync.note_list()

    def miss(self, kind: Foreign, reason: Exception) -> None:
        """Say why changes may be missed for a while."""
        text = str(reason) or type(reason).__name__
        self._log.warning("watch_ended", kind=kind.value, reason=text)

    async def _watch_kinds(self) -> None:
        """Watch its kinds while KubeVirt is there."""
        work = [asyncio.create_task(each.run()) for each in self._watches]
        work.append(asyncio.create_task(self._resync.run()))
        try:
            await self._outlast()
        finally:
            for task in work:
                task.cancel()
            # They have ended before the adapter is stopped: no event may come after that.
            await asyncio.gather(*work, return_exceptions=True)

    async def _outlast(self) -> None:
        """Return when KubeVirt has gone."""
        loop = asyncio.get_running_loop()
        seen = loop.time()
        while loop.time() - seen <= GONE_FOR:
            await asyncio.sleep(INTERVAL)
            if await self._is_present_or_unknown():
                seen = loop.time()

    async def _sweep(self) -> None:
        """Forget objects that exist no more though no watch has told it."""
        await watch.sweep(self._cluster, self, ORDER)

    async def _load_if_present(self) -> None:
        if await self._is_present():
            # A kind went between the two requests: it is not there.
            with contextlib.suppress(Absent):
                await self._load()

    async def _load(self) -> None:
        # New ones each time: those of a KubeVirt that went would go on from its old versions.
        watches = tuple(Watch(self._cluster, kind, self) for kind in ORDER)
        for each in watches:
            await each.list()
        # Only now is what is absent really absent.
        self._watches = watches
        self._adapter.start()
        self._log.info("kubevirt_present")

    async def _is_present(self) -> bool:
        # All of them: an installation makes one after the other, and each is to be watched.
        return await self._cluster.resources(KUBEVIRT) >= KINDS

    async def _is_present_or_unknown(self) -> bool:
        """An API server that cannot be reached says nothing about KubeVirt."""
        try:
            return await self._is_present()
        except Temporary:
            return True
