"""From a change of the role annotations to the machine's event.

Inputs arise only from changes of role, uid or outcome; the first sight of an endpoint is no
change but a restart (``restart.py``).
"""

from handover_api.assignment import Assignment
from handover_api.livemigration import Outcome
from handover_api.workloadendpoint import Role
from handover_nodeagent.events import Assigned, Input, Updated


def read(before: Assignment, after: Assignment, *, routes_in: bool) -> Assigned | Updated | None:
    """Tell what the change from *before* to *after* means; None when nothing changed."""
    if after == before:
        return None
    if _moving_part(after) == _moving_part(before):
        return Updated(after)
    return Assigned(_input(after), after, routes_in)


def _moving_part(assignment: Assignment) -> tuple[Role | None, str | None, Outcome | None, bool]:
    raise NotImplementedError


def _input(assignment: Assignment) -> Input:
    raise NotImplementedError
