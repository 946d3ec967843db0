"""What the operator reads from its environment: every name begins with HANDOVER_."""

import socket
import uuid
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic_settings import BaseSettings, SettingsConfigDict


class OperatorSettings(BaseSettings):
    """Settings of the operator process; what agents do is HandoverConfiguration's."""

    model_config = SettingsConfigDict(env_prefix="HANDOVER_", frozen=True, extra="ignore")

    configuration_file: Path | None = None
    """YAML with the spec of HandoverConfiguration ``default``, kept applied."""

    listen_address: str = ""
    """Where /healthz, /readyz and /metrics are served; empty: all addresses."""

    port: Annotated[int, pydantic.Field(ge=0, le=65535)] = 8080
    """The port of all three; 0: a free one."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much it logs."""

    log_format: Literal["json", "console"] = "json"
    """One JSON object a line, or lines for a person."""

    sweep_interval: Annotated[float, pydantic.Field(gt=0)] = 300.0
    """Seconds between two looks for objects whose deletion no watch has told."""

    writers: Annotated[int, pydantic.Field(ge=1, le=64)] = 8
    """How many objects are written at the same time."""

    kubevirt: bool = True
    """Whether endpoints and LiveMigrations are made for KubeVirt's VMs, where KubeVirt is."""

    migration_ttl: Annotated[int, pydantic.Field(ge=0)] = 3600
    """Seconds for which a LiveMigration made for KubeVirt is kept after it has finished."""

    leader_election: bool = False
    """Whether several replicas agree, by a Lease, on one that writes."""

    namespace: str = "handover-system"
    """Where the Lease is."""

    pod_name: str = pydantic.Field(default_factory=socket.gethostname)
    """How the Lease calls this replica, with ``pod_uid``."""

    pod_uid: str = pydantic.Field(default_factory=lambda: str(uuid.uuid4()))
    """A container that is started again in its pod still holds the Lease that it held before."""
