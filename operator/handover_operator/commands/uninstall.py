"""The chart's last word: asks the agents to hand their nodes back, and waits until they have.

Only where ``onUninstall: handBack`` is in force; elsewhere routes and guard stay as they are.
"""

import asyncio
import uuid
from typing import Final

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator.commands import handback
from handover_operator.commands.handback import Left
from handover_operator.kinds import Kind
from handover_operator.kube.client import Cluster

INTERVAL: Final = 0.5
"""Seconds between two looks at what the agents report."""


async def hand_back(cluster: Cluster, seconds: float) -> Left:
    """Ask, and wait until nobody is late or the time is over. May raise what Cluster raises."""
    specs = {
        raw["metadata"]["name"]: raw.get("spec") or {}
        async for page, _ in cluster.objects(Kind.CONFIGURATION)
        for raw in page
    }
    # Routes that stay need nobody's word, and an agent may not even be there to give one.
    if not handback.is_asked_for(specs):
        return Left()
    # A new value each time, so that an agent also hears a second try, or one after a rollback.
    mark = {"metadata": {"annotations": {names.UNINSTALL: str(uuid.uuid4())}}}
    # On ``default``, which all agents read; not on each node's, of which there may be none.
    await cluster.patch(Kind.CONFIGURATION, ObjectKey("", names.DEFAULT_CONFIGURATION), mark)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        found = [raw async for page, _ in cluster.objects(Kind.ENDPOINT) for raw in page]
        still = handback.left(found, specs)
        if not still.late or loop.time() > deadline:
            return still
        await asyncio.sleep(INTERVAL)
