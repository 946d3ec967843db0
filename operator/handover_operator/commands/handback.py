"""What is left of ours on the nodes while agents hand them back, and whom to wait for. Pure.

A node hands back where its own configuration says so, or else ``default``; where all is kept
nothing is left over, whatever routes there are.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from handover_api import names
from handover_api.conditions import EndpointCondition, EndpointReason
from handover_api.configuration import OnUninstall
from handover_operator.roles import parse
from handover_operator.roles.parse import RawObject

Specs = Mapping[str, RawObject]
"""The specs of all HandoverConfigurations, by name."""


class Left(NamedTuple):
    """The endpoints that still have routes of ours, with their nodes.

    ``late``: their agents have not handed back; ``kept``: they have, but nothing else leads there.
    """

    late: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def is_asked_for(specs: Specs) -> bool:
    """Return whether any configuration wants nodes handed back."""
    return any(spec.get("onUninstall") == OnUninstall.HAND_BACK for spec in specs.values())


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
    # The agent says so also where it has kept a route because nothing else leads there.
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
