"""One endpoint's machine as a value, and what follows from its state without any event.

Routes and listening are level-triggered: the loop reads these properties after each step and
makes the world agree, so that nothing depends on having seen a transition.
"""

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from handover_api.assignment import Assignment
from handover_api.workloadendpoint import Role, State
from handover_nodeagent.fsm import inputs
from handover_nodeagent.fsm.events import Input, PeerHas


class RouteLevel(enum.StrEnum):
    """The priority of an endpoint's routes; nobody exports private ones, and all others win."""

    NONE = "none"
    PRIVATE = "private"
    NORMAL = "normal"
    ELEVATED = "elevated"


@dataclass(frozen=True, slots=True)
class Asking:
    """Why the guest is asked, and the machine to which another input returns.

    ``peer`` says that it has the guest, which is believed when no guest answers here.
    """

    cause: Input
    before: "Machine"
    peer: PeerHas | None = None


@dataclass(frozen=True, slots=True)
class Doubt:
    """A guest answers that should be gone: asked again after *interval*, which doubles.

    ``is_heard`` is false where it could not be asked, which counts as an answer.
    """

    cause: Input
    asked_at: dt.datetime
    interval: dt.timedelta
    is_heard: bool = True


@dataclass(frozen=True, slots=True)
class Redirect:
    """Who has the guest of a Redirected, and of which level its routes were before.

    ``peer`` is the role that the other endpoint has in migration ``uid``, which an agent that was
    started anew may not know.
    """

    uid: str | None
    peer: Role
    level: RouteLevel


@dataclass(frozen=True, slots=True)
class Returns:
    """How often in migration *uid* the guest was found here after a peer had said it has it."""

    uid: str | None = None
    count: int = 0

    def of(self, uid: str | None) -> int:
        """Return the count in migration *uid*."""
        return self.count if uid == self.uid else 0


NO_RETURNS: Final = Returns()

ROUTES: Final[Mapping[State, RouteLevel]] = {
    State.BASE: RouteLevel.NORMAL,
    State.TARGET: RouteLevel.NONE,
    State.LIVE: RouteLevel.ELEVATED,
    # A guest that has moved has its elevated routes until all others have followed: a normal one
    # would lose to the source's that some router still knows.
    State.TIME_WAIT: RouteLevel.ELEVATED,
    State.WITHDRAWN: RouteLevel.NONE,
}
"""Asking and Redirected have those of the state before; Base none while it awaits its role."""

# Withdrawn and Redirected listen because their guest may come back, or was never gone.
LISTENING: Final = frozenset({State.TARGET, State.WITHDRAWN, State.ASKING, State.REDIRECTED})


@dataclass(frozen=True, slots=True)
class Machine:
    """The state of one endpoint, and what that state knows.

    ``episode`` grows with every entry into a state, so that what an older one started is known to
    be late. ``uid`` is the migration acted upon. ``awaiting``: Base has no routes so far.
    ``first_answer``: when Withdrawn heard the first of the two answers that it wants.
    ``redirect`` is Redirected's; ``returns`` outlives every state.
    """

    state: State
    episode: int
    since: dt.datetime
    assignment: Assignment
    uid: str | None = None
    awaiting: bool = False
    asking: Asking | None = None
    doubt: Doubt | None = None
    first_answer: dt.datetime | None = None
    redirect: Redirect | None = None
    returns: Returns = NO_RETURNS

    @property
    def underlying(self) -> "Machine":
        """The machine that decides the routes: while asking, the one before."""
        return self.asking.before if self.asking else self

    @property
    def level(self) -> RouteLevel:
        """The priority of the routes that the endpoint is to have now."""
        if self.awaiting:
            return RouteLevel.NONE
        redirect = self.underlying.redirect
        return self._redirect_level(redirect) if redirect else ROUTES[self.underlying.state]

    def _redirect_level(self, redirect: Redirect) -> RouteLevel:
        # The API agrees that the guest is gone: from now on no other node is to come this way.
        if inputs.denial(self.assignment):
            return RouteLevel.PRIVATE
        # A source's routes must lose to its target's; as Live it may have been heard of first.
        return RouteLevel.NORMAL if self.assignment.is_on_source_side else redirect.level

    @property
    def has_routes(self) -> bool:
        """Tell whether the endpoint is to have routes now."""
        return self.level is not RouteLevel.NONE

    @property
    def is_listening(self) -> bool:
        """Tell whether the guest's announcements are wanted."""
        return self.state in LISTENING

    @property
    def is_trusting(self) -> bool:
        """Tell whether more than a RARP counts as a sign of life.

        While a migration is not armed the pod's own kernel may answer for the guest, so that an
        answer must not *give* a route. Where routes are in, and on the source's side, where the
        guest has been, every true answer counts: it can only keep what works.
        """
        if self.assignment.armed or self.has_routes:
            return True
        return self.state is State.WITHDRAWN and self.assignment.is_on_source_side
