"""LiveMigration: who moves, to where, and how it ended."""

import enum
from typing import Annotated, Literal

import pydantic

from handover_api.conditions import MigrationCondition
from handover_api.model import Condition, Lenient, Metadata, Model, Moment
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, State


class Phase(enum.StrEnum):
    """The API's summary of one LiveMigration."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    READY = "Ready"
    LIVE = "Live"
    CONVERGING = "Converging"
    SUCCEEDED = "Succeeded"
    NOT_FOLLOWED = "NotFollowed"
    ABORTED = "Aborted"


class Outcome(enum.StrEnum):
    """How a migration ended."""

    SUCCEEDED = "Succeeded"
    ABORTED = "Aborted"


class NamedReference(Model):
    """An object of the LiveMigration's own namespace."""

    name: str


class SelectorRequirement(Model):
    """One matchExpressions entry of a Kubernetes LabelSelector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class LabelSelector(Model):
    """A Kubernetes LabelSelector; all of its requirements must hold."""

    match_labels: dict[str, str] = pydantic.Field(default_factory=dict)
    match_expressions: tuple[SelectorRequirement, ...] = ()


class Source(Model):
    """Exactly one of the fields is set."""

    workload: NamedReference | None = None
    endpoint: NamedReference | None = None


class Target(Model):
    """Exactly one of the fields is set."""

    selector: LabelSelector | None = None
    workload: NamedReference | None = None
    endpoint: NamedReference | None = None


class LiveMigrationSpec(Model):
    """What whoever drives the migration says."""

    source: Source | None = None
    target: Target | None = None
    id: str | None = None
    armed: bool = True
    outcome: Outcome | None = None
    ttl_seconds_after_finished: Annotated[int, pydantic.Field(ge=0, le=2**31 - 1)] | None = None


class SideStatus(Model):
    """One endpoint of one side, as its agent last reported it."""

    endpoint: str
    node: str
    state: State | None = None
    cutover: Cutover | None = None


class LiveMigrationStatus(Model):
    """Written by the operator only."""

    phase: Phase | None = None
    observed_generation: int | None = None
    source: tuple[SideStatus, ...] = ()
    source_count: int | None = None
    target: tuple[SideStatus, ...] = ()
    target_count: int | None = None
    start_time: Moment | None = None
    ready_time: Moment | None = None
    cutover_time: Moment | None = None
    completion_time: Moment | None = None
    conditions: tuple[Condition, ...] = ()

    def condition(self, wanted: MigrationCondition) -> Condition | None:
        """Return a condition by its type; None: nothing was ever said of it."""
        return next((found for found in self.conditions if found.type == wanted), None)

    def is_true(self, wanted: MigrationCondition) -> bool:
        """Its condition of this type is there, and True."""
        found = self.condition(wanted)
        return found is not None and found.status == "True"


class LiveMigration(Model):
    """One migration of one workload."""

    metadata: Metadata
    spec: LiveMigrationSpec
    status: Lenient[LiveMigrationStatus] = LiveMigrationStatus()

    @property
    def key(self) -> ObjectKey:
        """Namespace and name."""
        return ObjectKey(self.metadata.namespace, self.metadata.name)

    @property
    def migration_uid(self) -> str:
        """What ``handover.dev/migration-uid`` carries: spec.id, else metadata.uid."""
        return self.spec.id or self.metadata.uid

    @property
    def is_controlled(self) -> bool:
        """Somebody drives this migration, and says by spec.outcome how it ended."""
        return any(owner.controller for owner in self.metadata.owner_references)
