"""LiveMigration: who moves, to where, and how it ended."""

import enum
from typing import Annotated, Literal

import pydantic

from handover_api.conditions import MigrationCondition
from handover_api.model import Condition, Lenient, Metadata, Model, Moment
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, State


class Phase(enum.StrEnum):
    """The API's summary of one LiveMigration, in the order in which one comes by them."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    READY = "Ready"
    LIVE = "Live"
    CONVERGING = "Converging"
    # The last three are final.
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
    """From where: exactly one of the fields is set."""

    workload: NamedReference | None = None
    endpoint: NamedReference | None = None


class Target(Model):
    """To where: exactly one of the fields is set; a selector may match several endpoints."""

    selector: LabelSelector | None = None
    workload: NamedReference | None = None
    endpoint: NamedReference | None = None


class LiveMigrationSpec(Model):
    """What whoever drives the migration says: a person, another controller or our KubeVirt adapter.

    ``armed`` false: only a RARP counts as announcement so far. ``id`` is the migration's uid where
    the object may be deleted and made anew; ``outcome`` is set once, and neither ever changes.
    """

    source: Source | None = None
    target: Target | None = None
    id: str | None = None
    armed: bool = True
    outcome: Outcome | None = None
    # As in batch/v1 Job: seconds, an int32.
    ttl_seconds_after_finished: Annotated[int, pydantic.Field(ge=0, le=2**31 - 1)] | None = None


class SideStatus(Model):
    """One endpoint of one side, as its agent last reported it."""

    endpoint: str
    node: str
    state: State | None = None
    cutover: Cutover | None = None


class LiveMigrationStatus(Model):
    """Written by the operator only.

    ``source`` and ``target`` hold at most 64 entries each, as the schema allows; the counts say how
    many there are. The times are those at which phases began, each said once.
    """

    # None throughout: no operator has seen the object so far.
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
        # The object's own uid would make another migration of one that is restored from a backup.
        return self.spec.id or self.metadata.uid

    @property
    def is_controlled(self) -> bool:
        """Somebody drives this migration, and says by spec.outcome how it ended.

        That is its controller; a mere owner only takes the object along when it goes.
        """
        return any(owner.controller for owner in self.metadata.owner_references)
