"""The chart's last word: asks the agents to hand their nodes back, and waits until they have.

Only where ``onUninstall: handBack`` is in force; elsewhere routes and guard stay as they are.
"""

import asyncio
import uuid
from collections.abc import Iterable, Mapping
from typing import Final

from handover_api import names
from handover_api.configuration import OnUninstall
from handover_api.names import ObjectKey
from handover_operator import gather
from handover_operator.cluster import Cluster
from handover_operator.gather import RawObject
from handover_operator.kinds import Kind

INTERVAL: Final = 0.5
"""Seconds between two looks at what the agents report."""

Specs = Mapping[str, RawObject]
"""The specs of all HandoverConfigurations, by name."""


async def hand_back(cluster: Cluster, seconds: float) -> tuple[str, ...]:
    """Ask, and wait; return who has not handed back in time. May raise what Cluster raises."""
    specs = {
        raw["metadata"]["name"]: raw.get("spec") or {}
        async for page, _ in cluster.objects(Kind.CONFIGURATION)
        for raw in page
    }
    if not any(spec.get("onUninstall") == OnUninstall.HAND_BACK for spec in specs.values()):
        return ()
    mark = {"metadata": {"annotations": {names.UNINSTALL: str(uuid.uuid4())}}}
    await cluster.patch(Kind.CONFIGURATION, ObjectKey("", names.DEFAULT_CONFIGURATION), mark)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while late := await _late(cluster, specs):
        if loop.time() > deadline:
            return late
        await asyncio.sleep(INTERVAL)
    return ()


async def _late(cluster: Cluster, specs: Specs) -> tuple[str, ...]:
    found: list[str] = []
    async for page, _ in cluster.objects(Kind.ENDPOINT):
        found += late(page, specs)
    return tuple(found)


def late(endpoints: Iterable[RawObject], specs: Specs) -> tuple[str, ...]:
    """Return the endpoints that still have routes where none should be left, with their nodes."""
    return tuple(
        f"{gather.key(raw)} on {raw['spec']['node']}"
        for raw in endpoints
        if (raw.get("status") or {}).get("routes") and _hands_back(raw["spec"]["node"], specs)
    )


def _hands_back(node: str, specs: Specs) -> bool:
    default = specs.get(names.DEFAULT_CONFIGURATION, {})
    own = specs.get(f"{names.NODE_CONFIGURATION_PREFIX}{node}", {})
    return {**default, **own}.get("onUninstall") == OnUninstall.HAND_BACK
