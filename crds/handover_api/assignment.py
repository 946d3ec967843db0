"""The role annotations of an endpoint as one value, read by agents and written by the operator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from handover_api import names
from handover_api.livemigration import Outcome
from handover_api.workloadendpoint import Role

# Looked up, not converted: annotations are free text that anybody may write, and never an error.
_ROLES: Final = {role.value: role for role in Role}
_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}


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

    @property
    def is_on_source_side(self) -> bool:
        """Tell whether the endpoint is, or last was, a source."""
        return Role.SOURCE in {self.role, self.ended_role}

    @classmethod
    def from_annotations(cls, annotations: Mapping[str, str]) -> Self:
        """Read what is there; a value outside of the contract counts as absent."""
        return cls(
            role=_ROLES.get(annotations.get(names.ROLE, "")),
            migration=annotations.get(names.MIGRATION),
            migration_uid=annotations.get(names.MIGRATION_UID),
            # Absent means armed, as in spec.armed.
            armed=annotations.get(names.ARMED) != "false",
            outcome=_OUTCOMES.get(annotations.get(names.OUTCOME, "")),
            ended_role=_ROLES.get(annotations.get(names.ENDED_ROLE, "")),
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
