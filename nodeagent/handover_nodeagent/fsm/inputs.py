"""From a change of the role annotations to the machine's event.

Inputs arise only from changes of role, uid or outcome; the first sight of an endpoint is no
change but a restart (``restart.py``).
"""

from collections.abc import Mapping
from typing import Final

from handover_api.assignment import Assignment
from handover_api.livemigration import Outcome
from handover_api.workloadendpoint import Role
from handover_nodeagent.fsm.events import Assigned, Input, Updated

_BY_ROLE: Final[Mapping[Role, Input]] = {Role.TARGET: Input.TARGET, Role.SOURCE: Input.SOURCE}
# Both sides of a failed migration have the input Aborted: which of them it is a fork asks, for only
# a state in which a guest may be served makes a difference of it.
_BY_ENDING: Final[Mapping[tuple[Outcome | None, Role | None], Input]] = {
    (Outcome.SUCCEEDED, Role.TARGET): Input.NO_ROLE,
    (Outcome.SUCCEEDED, Role.SOURCE): Input.LEFT,
    (Outcome.ABORTED, Role.TARGET): Input.ABORTED,
    (Outcome.ABORTED, Role.SOURCE): Input.ABORTED,
}


def of_change(
    before: Assignment, after: Assignment, *, routes_in: bool
) -> Assigned | Updated | None:
    """Tell what the change from *before* to *after* means; None when nothing changed."""
    if after == before:
        return None
    if _moving_part(after) == _moving_part(before):
        return Updated(after)
    return Assigned(of_assignment(after), after, routes_in)


def of_assignment(assignment: Assignment) -> Input:
    """Return the input that an assignment is, when it is news.

    A role that goes without an outcome, or with half of one, has vanished.
    """
    if assignment.role:
        return _BY_ROLE[assignment.role]
    return _BY_ENDING.get((assignment.outcome, assignment.ended_role), Input.VANISHED)


def denial(assignment: Assignment) -> Input | None:
    """Return the input by which the API says that no guest is here, if it says so."""
    said = of_assignment(assignment)
    is_failed_target = said is Input.ABORTED and assignment.ended_role is Role.TARGET
    return said if said is Input.LEFT or is_failed_target else None


def _moving_part(
    assignment: Assignment,
) -> tuple[Role | None, str | None, Outcome | None, Role | None]:
    return (
        assignment.role,
        assignment.migration_uid,
        assignment.outcome,
        assignment.ended_role,
    )
