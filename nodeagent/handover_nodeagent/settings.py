"""What the agent reads from its environment: every name begins with HANDOVER_.

It is read once, before anything else: what is wrong ends the start with a sentence that names the
variable, and not an agent that runs without it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from handover_api.workloadendpoint import NodeAddress
from handover_nodeagent import configuration
from handover_nodeagent.configuration import VARIABLES, Invalid


class Misconfigured(Exception):  # noqa: N818  tells a person what to do
    """A variable of the environment is missing or wrong; one sentence that names it."""


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class AgentSettings(BaseSettings):
    """Settings of the agent's process; the fields of HandoverConfiguration are ``overrides``."""

    # The fields of HandoverConfiguration share the prefix, hence "ignore". A variable that a chart
    # sets to nothing is as good as none.
    model_config = SettingsConfigDict(
        env_prefix=configuration.PREFIX, frozen=True, extra="ignore", env_ignore_empty=True
    )

    node_name: str
    """The Kubernetes name of the node that the agent runs on."""

    node_addresses: Annotated[
        tuple[NodeAddress, ...],
        NoDecode,
        pydantic.BeforeValidator(_split),
        pydantic.Field(max_length=4),
    ] = ()
    """The node's addresses, with commas between them, by which other nodes' agents reach this one;
    none: nobody does."""

    listen_address: str = "127.0.0.1"
    """Where /healthz, /readyz and /metrics are served: for the kubelet, the node itself."""

    metrics_address: str = ""
    """Where /metrics and /readyz are served besides, for who scrapes; empty: nowhere."""

    port: Annotated[int, pydantic.Field(ge=0, le=65535)] = 8081
    """The port of all of them; 0: a free one."""

    state_directory: Path = Path("/run/handover")
    """What must outlive a restart of the agent, but not of the node."""

    drain_seconds: Annotated[float, pydantic.Field(ge=0)] = 570.0
    """How long after SIGTERM to serve on while an endpoint is in Target; below the pod's grace."""

    await_configuration: bool = False
    """Whether to do nothing before there is a HandoverConfiguration ``default``, or the memory of
    one: true where somebody applies it, as the chart's operator does."""

    processor_priority: Literal["normal", "high"] = "normal"
    """How the thread that hears guests comes by a processor while one is awaited: ``high`` before
    every program of the normal class (SCHED_FIFO), which needs CAP_SYS_NICE; without it all is as
    with ``normal``."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much it logs."""

    log_format: Literal["json", "console"] = "json"
    """One JSON object a line, or lines for a person."""

    _overrides: Mapping[str, object] = pydantic.PrivateAttr(
        default_factory=lambda: configuration.overrides(os.environ)
    )

    @property
    def overrides(self) -> Mapping[str, object]:
        """The fields of HandoverConfiguration that the environment sets."""
        return self._overrides


def read() -> AgentSettings:
    """Read the environment. Raises Misconfigured."""
    try:
        settings = AgentSettings()
    except pydantic.ValidationError as error:
        raise Misconfigured(_sentence(error)) from None
    # The rest depends on objects that may change; this no object can mend.
    found = configuration.complaint(settings.overrides)
    if found is not None:
        raise Misconfigured(_override_sentence(found))
    return settings


def _sentence(error: pydantic.ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = f"{configuration.PREFIX}{first['loc'][0]}".upper()
    if first["type"] == "missing":
        return f"{name} is not set: take it from the downward API (fieldRef: spec.nodeName)"
    return f"{name}: {first['msg']}"


def _override_sentence(found: Invalid) -> str:
    """Name the variable; a message about no single field begins with the first one's name."""
    subject = found.field or found.message
    name = next(name for name, field in VARIABLES.items() if subject.startswith(field))
    return f"{name}: {found.message}"
