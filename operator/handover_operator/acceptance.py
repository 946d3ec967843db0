"""Whether a HandoverConfiguration can be followed: its Accepted condition.

The API server has checked each field; here they are checked together, a node's over the default.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

import pydantic

from handover_api import model, names
from handover_api.conditions import ConfigurationCondition
from handover_api.configuration import DEFAULT_ONLY, Settings
from handover_api.model import Condition

Spec = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the condition Accepted says."""

    holds: bool
    reason: str
    message: str = ""


def accept(name: str, spec: Spec, default: Spec) -> Acceptance:
    """Check the object *name*; *default* is the spec of ``default``, empty when there is none."""
    if name == names.DEFAULT_CONFIGURATION:
        return _valid(spec)
    if not name.startswith(names.NODE_CONFIGURATION_PREFIX):
        message = "metadata.name must be default, or node. and the name of a node"
        return Acceptance(holds=False, reason="UnknownName", message=message)
    misplaced = sorted(DEFAULT_ONLY & spec.keys())
    if misplaced:
        message = f"may be set in default only: {', '.join(f'spec.{field}' for field in misplaced)}"
        return Acceptance(holds=False, reason="DefaultOnly", message=message)
    # Agents refuse an invalid default as a whole; this node's fields are then over the built-in.
    base = default if _valid(default).holds else {}
    return _valid({**base, **spec})


def _valid(spec: Spec) -> Acceptance:
    try:
        Settings.model_validate(dict(spec))
    except pydantic.ValidationError as error:
        message = "; ".join(_sentence(each["loc"], each["msg"]) for each in error.errors())
        return Acceptance(holds=False, reason="Invalid", message=message)
    return Acceptance(holds=True, reason="Valid")


def _sentence(location: tuple[int | str, ...], text: str) -> str:
    return f"{model.field_path(('spec', *location))}: {text}"


def condition(
    accepted: Acceptance, before: Condition | None, generation: int, now: dt.datetime
) -> Condition:
    """Return the condition; its transition time moves only with its status."""
    status = "True" if accepted.holds else "False"
    since = now.replace(microsecond=0)
    if before is not None and before.status == status:
        since = before.last_transition_time
    return Condition(
        type=ConfigurationCondition.ACCEPTED.value,
        status=status,
        reason=accepted.reason,
        message=accepted.message,
        last_transition_time=since,
        observed_generation=generation,
    )
