"""PURE: the lines of the log that tell of an endpoint: its first sight, and each transition.

The names of lines and fields are for who searches logs: they stay.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_nodeagent.fsm import commands
from handover_nodeagent.fsm.machine import Machine
from handover_nodeagent.fsm.restart import Found
from handover_nodeagent.fsm.step import Step
from handover_nodeagent.reconcile.endpoint import Endpoint

GONE: Final = "gone"
"""Where a machine is that has ended; a state for logs and metrics alone."""


class Line(NamedTuple):
    """One line: what it tells of, and its fields."""

    event: str
    fields: Mapping[str, object]


def started(endpoint: Endpoint, state: State, found: Found) -> Line:
    """Tell that an endpoint was seen for the first time, and began in *state*."""
    return Line(
        "endpoint",
        {
            "endpoint": str(endpoint.key),
            "migration": endpoint.machine.uid,
            "state": state,
            "role": found.assignment.role,
            "found": found.routes,
            "interface": endpoint.link.name if endpoint.link else None,
        },
    )


def is_told(before: Machine, step: Step) -> bool:
    """Tell whether a step is worth a line, and a count."""
    # Most events leave a machine where it is, such as a Live guest's frames.
    return step.machine is None or step.machine.state is not before.state or step.impossible


def state_after(step: Step) -> str:
    """Return where a machine is after a step."""
    return step.machine.state if step.machine else GONE


def transition(key: ObjectKey, before: Machine, step: Step) -> Line:
    """Tell what an input did to a machine, or that it could not be."""
    current = step.machine or before
    return Line(
        "impossible_input" if step.impossible else "transition",
        {
            "endpoint": str(key),
            "migration": current.uid,
            "input": step.input,
            "before": before.state,
            "after": state_after(step),
            "why": _reason(current, step),
            "armed": current.assignment.armed,
        },
    )


def _reason(current: Machine, step: Step) -> str:
    """Say what the machine goes by."""
    said = current.assignment
    signals = [one.signal for one in step.commands if isinstance(one, commands.RecordCutover)]
    if signals:
        return f"the guest was heard: {signals[0]}"
    if current.asking:
        return f"the guest is asked because of {current.asking.cause}"
    if current.redirect:
        return f"the {current.redirect.peer} of the migration has the guest"
    if said.role:
        return f"role {said.role}"
    if said.outcome:
        return f"{said.ended_role} of a migration that {said.outcome.lower()}"
    return "no role"
