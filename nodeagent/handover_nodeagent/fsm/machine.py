"""One endpoint's machine as a value, and what follows from its state without any event.

Routes and listening are level-triggered: the loop asks these functions after each step and
makes the world agree, so that nothing depends on having seen a transition.
"""

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from handover_api.assignment import Assignment
from handover_api.workloadendpoint import Role, State
from handover_nodeagent.fsm.events import Input


class RouteLevel(enum.StrEnum):
    """The priority of an endpoint's routes."""

    NONE = "none"
    NORMAL = "normal"
    ELEVATED = "elevated"


@dataclass(frozen=True, slots=True)
class Question:
    """Why the guest is asked, and the machine to which another input returns."""

    cause: Input
    before: "Machine"


@dataclass(frozen=True, slots=True)
class Doubt:
    """A guest answers that should be gone: asked again after *patience*, which doubles.

    ``is_heard`` is false where it could not be asked, which counts as an answer.
    """

    cause: Input
    asked_at: dt.datetime
    patience: dt.timedelta
    is_heard: bool = True


@dataclass(frozen=True, slots=True)
class Machine:
    """Where one endpoint stands.

    ``episode`` grows with every entry into a state, so that what an older one started is known to
    be late. ``uid`` is the migration acted upon. ``awaiting``: Base has no routes so far.
    ``first_answer``: when Withdrawn heard the first of the two answers that it wants.
    """

    state: State
    episode: int
    since: dt.datetime
    assignment: Assignment
    uid: str | None = None
    awaiting: bool = False
    question: Question | None = None
    doubt: Doubt | None = None
    first_answer: dt.datetime | None = None


ROUTES: Final[Mapping[State, RouteLevel]] = {
    State.BASE: RouteLevel.NORMAL,
    State.TARGET: RouteLevel.NONE,
    State.LIVE: RouteLevel.ELEVATED,
    State.TIME_WAIT: RouteLevel.ELEVATED,
    State.WITHDRAWN: RouteLevel.NONE,
}
"""Asking has those of the state before; Base none while it awaits its role."""

LISTENING: Final = frozenset({State.TARGET, State.WITHDRAWN, State.ASKING})


def settled(machine: Machine) -> Machine:
    """Return the machine that decides the routes: while asking, the one before."""
    return machine.question.before if machine.question else machine


def level(machine: Machine) -> RouteLevel:
    """Return the priority of the routes that the endpoint is to have now."""
    return RouteLevel.NONE if machine.awaiting else ROUTES[settled(machine).state]


def is_listening(machine: Machine) -> bool:
    """Tell whether the guest's announcements are wanted."""
    return machine.state in LISTENING


def is_trusting(machine: Machine) -> bool:
    """Tell whether more than a RARP counts as a sign of life.

    While a migration is not armed the pod's own kernel may answer for the guest, so that an answer
    must not *give* a route. Where routes are in, and on the source's side, where the guest has
    been, every true answer counts: it can only keep what works.
    """
    if machine.assignment.armed or level(machine) is not RouteLevel.NONE:
        return True
    return machine.state is State.WITHDRAWN and is_on_source_side(machine.assignment)


def is_on_source_side(assignment: Assignment) -> bool:
    """Tell whether the endpoint is, or last was, a source."""
    return Role.SOURCE in (assignment.role, assignment.ended_role)
