"""The chart's last word: asks the agents to hand their nodes back, and waits until they have.

Only where ``onUninstall: handBack`` is in force; elsewhere routes and guard stay as they are.
"""

import asyncio
import uuid
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from handover_api import names
from handover_api.conditions import EndpointCondition, EndpointReason
from handover_api.configuration import OnUninstall
from handover_api.names import ObjectKey
from handover_operator.kinds import Kind
from handover_operator.kube.client import Cluster
from handover_operator.roles import parse
from handover_operator.roles.parse import RawObject

INTERVAL: Final = 0.5
"""Seconds between two looks at what the agents report."""

Specs = Mapping[str, RawObject]
"""The specs of all HandoverConfigurations, by name."""


class Left(NamedTuple):
    """The endpoints that still have routes of ours, with their nodes.

    ``late``: their agents have not handed back; ``kept``: they have, but nothing else leads there.
    """

    late: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


async def hand_back(cluster: Cluster, seconds: float) -> Left:
    """Ask, and wait until nobody is late or the time is over. May raise what Cluster raises."""
    specs = {
        raw["metadata"]["name"]: raw.get("spec") or {}
        async for page, _ in cluster.objects(Kind.CONFIGURATION)
        for raw in page
    }
    # Routes that stay need nobody's word, and an agent may not even be there to give one.
    if not any(spec.get("onUninstall") == OnUninstall.HAND_BACK for spec in specs.values()):
        return Left()
    # A new value each time, so that an agent also hears a second try, or one after a rollback.
    mark = {"metadata": {"annotations": {names.UNINSTALL: str(uuid.uuid4())}}}
    # On ``default``, which all agents read; not on each node's, of which there may be none.
    await cluster.patch(Kind.CONFIGURATION, ObjectKey("", names.DEFAULT_CONFIGURATION), mark)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        found = [raw async for page, _ in cluster.objects(Kind.ENDPOINT) for raw in page]
        still = left(found, specs)
        if not still.late or loop.time() > deadline:
            return still
        await asyncio.sleep(INTERVAL)


def left(endpoints: Iterable[RawObject], specs: Specs) -> Left:
    """Return who still has routes where none should be left."""
    late: list[str] = []
    kept: list[str] = []
    for raw in endpoints:
        status, node = raw.get("status") or {}, raw["spec"]["node"]
        if status.get("routes") and _hands_back(node, specs):
            (kept if _has_handed_back(status) else late).append(f"{parse.key(raw)} on {node}")
    return Left(tuple(late), tuple(kept))


def _has_handed_back(status: RawObject) -> bool:
    return any(
        each.get("type") == EndpointCondition.PROGRAMMED
        and each.get("reason") == EndpointReason.HANDED_BACK
        for each in status.get("conditions") or ()
    )


def _hands_back(node: str, specs: Specs) -> bool:
    default = specs.get(names.DEFAULT_CONFIGURATION, {})
    own = specs.get(f"{names.NODE_CONFIGURATION_PREFIX}{node}", {})
    # As the agents read them: a node's own fields go over the default's.
    return {**default, **own}.get("onUninstall") == OnUninstall.HAND_BACK
