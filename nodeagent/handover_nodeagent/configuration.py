"""PURE: what holds on this node: environment over ``node.<name>`` over ``default`` over built-in.

A person's brake on ``default`` goes before all of them.

A layer with an invalid value is refused as a whole, and named; the caller keeps what held before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pydantic

from handover_api import configuration, model, names
from handover_api.configuration import Mode, Settings

PREFIX: Final = "HANDOVER_"
DEFAULT_LAYER: Final = "HandoverConfiguration default"
NODE_LAYER: Final = "HandoverConfiguration of this node"
ENVIRONMENT_LAYER: Final = "environment"
VARIABLES: Final = {
    f"{PREFIX}{name.upper()}": field.alias or name for name, field in Settings.model_fields.items()
}
"""Environment variable → field of HandoverConfiguration."""
# Of these two the environment can hold several; all other fields are one word.
_LISTS: Final = frozenset({"allowedCIDRs", "gateways"})
# The most that a layer could allow: what is wrong even so, no HandoverConfiguration can mend.
_WIDEST: Final = {
    "ipv4NormalRoutePriority": 2147483646,
    "ipv6NormalRoutePriority": 2147483646,
    "ipv4ElevatedRoutePriority": 1,
    "ipv6ElevatedRoutePriority": 1,
}
_NO_OBJECT: Final = "handover.dev/no-object"
"""Stands in for a spec that is none; no field of the kind has such a name."""

Spec = Mapping[str, object]


def layer(spec: Spec | None, annotations: Mapping[str, str]) -> Spec:
    """Return what is remembered of an object: its spec, and whether it holds the brake.

    None for a spec that is no object: the layer is refused, and the brake holds all the same.
    """
    known: Spec = {_NO_OBJECT: True} if spec is None else spec
    return {**known, names.PAUSED: True} if configuration.is_braked(annotations) else known


def braked(settings: Settings, default_spec: Spec | None) -> Settings:
    """Return *settings*, paused where ``default`` holds the brake, whatever else it holds."""
    if not (default_spec or {}).get(names.PAUSED):
        return settings
    return settings.model_copy(update={"mode": Mode.PAUSED})


@dataclass(frozen=True, slots=True)
class Invalid:
    """Why a layer is refused; ``field`` is empty where only several together are wrong."""

    layer: str
    field: str
    message: str

    def __str__(self) -> str:
        named = f"{self.field}: {self.message}" if self.field else self.message
        return f"{self.layer}: {named}"


def effective(
    default_spec: Spec | None, node_spec: Spec | None, environment: Spec
) -> Settings | Invalid:
    """Put the layers over each other; the priorities of ``node.<name>`` do not count.

    *environment* is what :func:`overrides` returns. Fields that nobody knows are ignored.
    """
    default = default_spec or {}
    # Priorities must be the same on all nodes: routers compare those of one node with another's.
    node = {
        name: value
        for name, value in (node_spec or {}).items()
        if name not in configuration.DEFAULT_ONLY
    }
    # Each layer is read upon those below it, so that the one that spoils the whole is named.
    settings = _read(DEFAULT_LAYER, default)
    if not isinstance(settings, Invalid) and node:
        settings = _read(NODE_LAYER, {**default, **node})
    if not isinstance(settings, Invalid) and environment:
        settings = _read(ENVIRONMENT_LAYER, {**default, **node, **environment})
    # Last: a person who stops everything must not be overruled by a node's own mode.
    return settings if isinstance(settings, Invalid) else braked(settings, default_spec)


class Layers:
    """The HandoverConfigurations that concern this node, as told or else as *remembered*.

    ``own`` is the name of the node's own one.
    """

    def __init__(
        self,
        node_name: str,
        environment: Spec,
        remembered: Mapping[str, Spec] | None,
        *,
        somebody_applies_default: bool = False,
    ) -> None:
        """*environment* is what :func:`overrides` returns; *remembered* is None without memory."""
        # An empty memory is one, too: the last agent knew that nobody configures this node.
        self.are_remembered = remembered is not None
        # Where the chart says that its operator applies ``default``, a node that has never seen it
        # must not take its absence for an answer.
        self.needs_default = somebody_applies_default and not self.are_remembered
        self.specs: dict[str, Spec] = dict(remembered or {})
        self.own = f"{names.NODE_CONFIGURATION_PREFIX}{node_name}"
        self._environment = environment

    def effective(self, last: Settings) -> tuple[Settings, str]:
        """Return the settings in force, and why the newest ones are not: "" when they are.

        Where they are not it is *last*, but for the brake: ``default`` may still pause the agent.
        """
        default = self.specs.get(names.DEFAULT_CONFIGURATION)
        found = effective(default, self.specs.get(self.own), self._environment)
        if isinstance(found, Invalid):
            return braked(last, default), str(found)
        return found, ""


def overrides(environment: Mapping[str, str]) -> Spec:
    """Return the fields that HANDOVER_… variables set; a list is written with commas."""
    return {
        field: [part.strip() for part in text.split(",")] if field in _LISTS else text
        for variable, field in VARIABLES.items()
        if (text := environment.get(variable))
    }


def complaint(environment: Spec) -> Invalid | None:
    """Return what no HandoverConfiguration whatsoever could make right."""
    found = _read(ENVIRONMENT_LAYER, {**_WIDEST, **environment})
    return found if isinstance(found, Invalid) else None


def _read(layer: str, spec: Spec) -> Settings | Invalid:
    if _NO_OBJECT in spec:
        return Invalid(layer, "spec", "is no object")
    try:
        return Settings.model_validate(dict(spec))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        # pydantic's own words before those of our validators.
        message = first["msg"].removeprefix("Value error, ")
        return Invalid(layer, model.field_path(first["loc"]), message)
