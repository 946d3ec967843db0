"""What the operator says of a HandoverConfiguration: its conditions, and the mode it comes to.

The API server has checked each field; here they are checked together, a node's over the default.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

import pydantic

from handover_api import model, names
from handover_api.conditions import ConfigurationCondition as Type
from handover_api.conditions import ConfigurationReason as Reason
from handover_api.configuration import (
    DEFAULT_ONLY,
    HandoverConfiguration,
    HandoverConfigurationStatus,
    Mode,
    Settings,
    is_braked,
)
from handover_api.model import Condition
from handover_operator.status import draft
from handover_operator.status.draft import Draft

Spec = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Application:
    """How the last apply of ``default`` went.

    ``refusal``: what the API server says, where it takes it not. ``overridden``: the fields that
    somebody else has set otherwise, and by what the API server knows them.
    """

    refusal: str = ""
    overridden: Mapping[str, str] = field(default_factory=dict)


def accept(name: str, spec: Spec, default: Spec) -> Draft:
    """Check the object *name*; *default* is the spec of ``default``, empty when there is none."""
    if name == names.DEFAULT_CONFIGURATION:
        return _valid(spec)
    if not name.startswith(names.NODE_CONFIGURATION_PREFIX):
        message = "metadata.name must be default, or node. and the name of a node"
        return Draft(holds=False, reason=Reason.UNKNOWN_NAME, message=message)
    misplaced = sorted(DEFAULT_ONLY & spec.keys())
    if misplaced:
        message = f"may be set in default only: {', '.join(f'spec.{field}' for field in misplaced)}"
        return Draft(holds=False, reason=Reason.DEFAULT_ONLY, message=message)
    # Agents refuse an invalid default as a whole; this node's fields are then over the built-in.
    base = default if _valid(default).holds else {}
    return _valid({**base, **spec})


def _valid(spec: Spec) -> Draft:
    try:
        Settings.model_validate(dict(spec))
    except pydantic.ValidationError as error:
        message = "; ".join(_sentence(each["loc"], each["msg"]) for each in error.errors())
        return Draft(holds=False, reason=Reason.INVALID, message=message)
    return Draft(holds=True, reason=Reason.VALID)


def _sentence(location: tuple[int | str, ...], text: str) -> str:
    return f"{model.field_path(('spec', *location))}: {text}"


def status(
    found: HandoverConfiguration,
    default: HandoverConfiguration | None,
    application: Application | None,
    paused: frozenset[str] | None,
    now: dt.datetime,
) -> HandoverConfigurationStatus:
    """Return the status of one object; *application* is None where nobody applies ``default``.

    *paused*: the namespaces that hold the brake; where they are unknown, what was said stays.
    """
    name, base = found.metadata.name, default.spec if default else {}
    said = [(Type.ACCEPTED, accept(name, found.spec, base))]
    if name == names.DEFAULT_CONFIGURATION and application is not None:
        said += _of_application(application)
    before = {each.type: each for each in found.status.conditions}
    generation = found.metadata.generation
    after = {
        kind.value: draft.date(kind.value, told, before.get(kind.value), generation, now)
        for kind, told in said
        # Nothing is said of what never was.
        if kind is not Type.OVERRIDDEN or told.holds or kind.value in before
    }
    namespaces = found.status.paused_namespaces
    if name == names.DEFAULT_CONFIGURATION and paused is not None:
        namespaces = tuple(sorted(paused))
    return HandoverConfigurationStatus(
        mode=_mode(found, default),
        paused_namespaces=namespaces,
        # Conditions that only a later version of ours knows stay as they are.
        conditions=tuple({**before, **after}.values()),
    )


def _of_application(application: Application) -> list[tuple[Type, Draft]]:
    if application.refusal:
        refused = Draft(holds=False, reason=Reason.REFUSED, message=application.refusal)
        return [(Type.APPLIED, refused)]
    applied = Draft(holds=True, reason=Reason.APPLIED)
    overridden = Draft(holds=False, reason=Reason.AS_GIVEN)
    if application.overridden:
        fields = [f"spec.{name} ({why})" for name, why in sorted(application.overridden.items())]
        message = f"stays as somebody else has set it: {', '.join(fields)}"
        overridden = Draft(holds=True, reason=Reason.SET_ELSEWHERE, message=message)
    return [(Type.APPLIED, applied), (Type.OVERRIDDEN, overridden)]


def _mode(found: HandoverConfiguration, default: HandoverConfiguration | None) -> str:
    """Return the mode that this object comes to, with the default below and the brake above it."""
    # The brake is an annotation, so that it goes before every spec, a node's own included.
    if default is not None and is_braked(default.metadata.annotations):
        return Mode.PAUSED.value
    inherited = default.spec.get("mode", Mode.ACTIVE) if default else Mode.ACTIVE
    return str(found.spec.get("mode", inherited))


def news(
    before: HandoverConfigurationStatus, after: HandoverConfigurationStatus
) -> tuple[Condition, ...]:
    """Return the conditions of which a person should be told: bad ones that are new."""
    known = {(each.type, each.status, each.message) for each in before.conditions}
    return tuple(
        each
        for each in after.conditions
        if (each.type, each.status, each.message) not in known
        # Overridden is the one condition whose True is the bad news.
        and each.status == ("True" if each.type == Type.OVERRIDDEN else "False")
    )
