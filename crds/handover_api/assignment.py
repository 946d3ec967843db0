"""The role annotations of an endpoint as one value, read by agents and written by the operator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from handover_api import names
from handover_api.livemigration import Outcome
from handover_api.workloadendpoint import Role


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the operator says of one endpoint.

    Either a role is given, or one has ended (``outcome`` and ``ended_role``), or neither. The
    migration, its uid and ``armed`` outlive the role.
    """

    role: Role | None = None
    migration: str | None = None
    migration_uid: str | None = None
    armed: bool = True
    outcome: Outcome | None = None
    ended_role: Role | None = None

    @classmethod
    def from_annotations(cls, annotations: Mapping[str, str]) -> Self:
        """Read what is there; a value outside of the contract counts as absent."""
        role = annotations.get(names.ROLE)
        outcome = annotations.get(names.OUTCOME)
        ended_role = annotations.get(names.ENDED_ROLE)
        return cls(
            role=Role(role) if role in Role else None,
            migration=annotations.get(names.MIGRATION),
            migration_uid=annotations.get(names.MIGRATION_UID),
            armed=annotations.get(names.ARMED) != "false",
            outcome=Outcome(outcome) if outcome in Outcome else None,
            ended_role=Role(ended_role) if ended_role in Role else None,
        )

    def to_annotations(self) -> dict[str, str | None]:
        """Return every annotation of ours, None where it must be absent (RFC 7386)."""
        return {
            names.ROLE: self.role,
            names.MIGRATION: self.migration,
            names.MIGRATION_UID: self.migration_uid,
            names.ARMED: None if self.armed else "false",
            names.OUTCOME: self.outcome,
            names.ENDED_ROLE: self.ended_role,
        }
