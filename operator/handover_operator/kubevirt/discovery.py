"""Whether KubeVirt is there: the adapter is idle until it is, and again when it has gone.

The kinds are asked for in an interval, which costs next to nothing and needs no rights. Then all
objects are listed, before anything is decided, and watched.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from handover_operator.kinds import KUBEVIRT, Foreign
from handover_operator.kube import listing
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Absent, Temporary
from handover_operator.kube.listing import Sweeper
from handover_operator.kubevirt.controller import AdapterReconciler

INTERVAL: Final = 2.0
"""Seconds between two looks for the kinds."""

KINDS: Final = frozenset({Foreign.VMI.plural, Foreign.VMIM.plural})
GONE_FOR: Final = 10.0
"""Seconds for which the kinds must be unserved until KubeVirt counts as gone: an API server that
begins, or one of several that is behind, says so too."""

ORDER: Final = (Foreign.POD, Foreign.VMI, Foreign.VMIM)
"""What a pod refers to was made before it, so it is listed after: absent is then absent."""

Watch = Callable[[Sweeper], Awaitable[None]]


class Presence:
    """Starts and stops the adapter."""

    def __init__(
        self, cluster: Cluster, adapter: AdapterReconciler, watch: Watch, sweep_interval: float
    ) -> None:
        self._cluster = cluster
        self._adapter = adapter
        self._watch = watch
        self._sweep_interval = sweep_interval
        self._log = structlog.get_logger()

    async def begin(self) -> None:
        """Load what there is now, so that nothing is decided without it."""
        await listing.insist(self._load_if_present, "KubeVirt's objects")
        self._adapter.has_begun = True
        if not self._adapter.is_active:
            self._log.info("kubevirt_absent", looking_every=INTERVAL)

    async def run(self) -> None:
        """Follow KubeVirt's coming and going until cancelled."""
        while True:
            while not self._adapter.is_active:
                await asyncio.sleep(INTERVAL)
                with contextlib.suppress(Temporary):
                    await self._load_if_present()
            await self._attend()
            self._adapter.stop()
            self._log.info("kubevirt_gone", looking_every=INTERVAL)

    async def _attend(self) -> None:
        """Watch while KubeVirt is there."""
        sweeper = Sweeper(self._sweep, self._sweep_interval)
        sweeping = asyncio.create_task(sweeper.run())
        watching = asyncio.create_task(
            listing.keep_watching(lambda: self._watch(sweeper), lambda: sweeper.lists)
        )
        try:
            await self._outlast()
        finally:
            for task in (watching, sweeping):
                task.cancel()
            await asyncio.gather(watching, sweeping, return_exceptions=True)

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
        for kind in ORDER:
            existing, version = await self._cluster.identities(kind)
            self._adapter.retain(kind, existing, version)

    async def _load_if_present(self) -> None:
        if await self._is_present():
            with contextlib.suppress(Absent):
                await self._load()

    async def _load(self) -> None:
        for kind in ORDER:
            async for page, _ in self._cluster.objects(kind):
                for raw in page:
                    self._adapter.observe(kind, raw)
        self._adapter.start()
        self._log.info("kubevirt_present")

    async def _is_present(self) -> bool:
        return await self._cluster.resources(KUBEVIRT) >= KINDS

    async def _is_present_or_unknown(self) -> bool:
        """An API server that cannot be reached says nothing about KubeVirt."""
        try:
            return await self._is_present()
        except Temporary:
            return True
