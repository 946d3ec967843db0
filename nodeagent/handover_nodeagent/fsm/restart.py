"""The first sight of an endpoint: from what is found to a machine.

This serves the agent's start and an endpoint that is new to a running agent alike. Kernel and
guest go before the API's status, and status alone never elevates: a memory of a silent state
counts only while the kernel has no route either.
"""

import dataclasses
import datetime as dt
from dataclasses import dataclass
from typing import Final

from handover_api.assignment import Assignment
from handover_api.conditions import EndpointCondition
from handover_api.workloadendpoint import Role, State, WorkloadEndpointStatus
from handover_nodeagent.fsm import inputs
from handover_nodeagent.fsm.commands import AnnounceGateway, AskGuest, StartProbes
from handover_nodeagent.fsm.events import Input
from handover_nodeagent.fsm.machine import (
    NO_RETURNS,
    Asking,
    Machine,
    Redirect,
    Returns,
    RouteLevel,
)
from handover_nodeagent.fsm.step import Step


@dataclass(frozen=True, slots=True)
class Remembered:
    """What survives the agent in ``/run/handover``; of an asking, the state before it."""

    state: State
    since: dt.datetime
    uid: str | None = None
    awaiting: bool = False
    in_doubt: bool = False
    redirect: Redirect | None = None
    returns: Returns = NO_RETURNS


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of an endpoint at first sight.

    ``routes``: the highest level at which the kernel has one of our routes for it, on its own
    interface. ``last``: the memory of this very object, not of an older one of the same name.
    ``await_role`` is the spec's. ``episode`` is above any that a machine of this key ever had.
    ``is_paused``: nothing may follow from any of it so far. ``redirect``: the highest level at
    which the kernel has one of our routes for it that leads to another node.
    """

    assignment: Assignment
    routes: RouteLevel
    last: Remembered | None
    await_role: bool
    episode: int
    is_paused: bool = False
    redirect: RouteLevel = RouteLevel.NONE

    @property
    def has_routes(self) -> bool:
        """Tell whether the kernel has any route of ours for the endpoint."""
        return self.routes is not RouteLevel.NONE

    @property
    def is_gateway_unknown(self) -> bool:
        """Tell whether the guest may not know yet where the gateway of its elevated routes is.

        They go in only now, or the last agent did not live to remember that they did.
        """
        return not (self.has_routes and self.was_heard)

    @property
    def was_heard(self) -> bool:
        """Tell whether the last agent lived to remember that it had heard the guest."""
        return self.last is not None and self.last.state in {State.LIVE, State.TIME_WAIT}

    @property
    def was_silent(self) -> bool:
        """Tell whether the endpoint had no routes on purpose.

        A route in the kernel gives that memory the lie: it is from before the route went in.
        """
        last_state = self.last and self.last.state
        return not self.has_routes and last_state in _ROUTELESS


# The routes of a Redirected lead elsewhere; where there are none either, its guest is to be asked.
_ROUTELESS: Final = frozenset({State.TARGET, State.WITHDRAWN, State.REDIRECTED})


def remember(machine: Machine) -> Remembered:
    """Return what the next start needs of *machine*."""
    underlying = machine.underlying
    return Remembered(
        underlying.state,
        underlying.since,
        underlying.uid,
        machine.awaiting,
        in_doubt=machine.doubt is not None,
        redirect=underlying.redirect,
        returns=machine.returns,
    )


def from_status(status: WorkloadEndpointStatus) -> Remembered | None:
    """Return the second-best memory, for when ``/run/handover`` has none."""
    if status.state is None or status.since is None:
        return None
    state = status.state
    if state is State.ASKING:
        # Which state it came from is not in the status; only Target has no routes.
        state = State.BASE if status.routes else State.TARGET
    if state is State.REDIRECTED:
        # To which peer is not in the status: what counts of it is that no guest was here.
        state = State.WITHDRAWN
    awaiting = state is State.BASE and not status.routes
    in_doubt = any(
        condition.type == EndpointCondition.STILL_ALIVE and condition.status != "False"
        for condition in status.conditions
    )
    return Remembered(state, status.since, status.migration_uid, awaiting, in_doubt)


def resume(found: Found, now: dt.datetime) -> Step:
    """Return the machine to start with and its first commands."""
    # What is paused stays as it was left, also in what it would make of its assignment.
    if found.is_paused and found.last:
        last = found.last
        kept = _in_state(last.state, found, now, awaiting=last.awaiting)
        return Step(dataclasses.replace(kept, uid=last.uid, redirect=last.redirect))
    machine = _redirected(found, now) or _by_assignment(found, now)
    if _has_come_back(found) and machine.has_routes and not machine.asking:
        # Told or not, it is told once more when it answers; a peer that knows acknowledges that.
        machine = _asking(Input.ANNOUNCED, machine, found, now)
    is_uncertain = machine.level is RouteLevel.ELEVATED and found.is_gateway_unknown
    told = (AnnounceGateway(),) if is_uncertain else ()
    if machine.asking:
        # No other reason to ask is one to take the guest for one that has just come.
        told = told if machine.asking.cause is Input.ANNOUNCED else ()
        return Step(machine, (*told, AskGuest(machine.episode)))
    if machine.is_listening:
        return Step(machine, (StartProbes(machine.episode),))
    return Step(machine, told)


def _by_assignment(found: Found, now: dt.datetime) -> Machine:
    """Return the machine of an endpoint whose guest no peer has, as far as anything tells."""
    match inputs.of_assignment(found.assignment):
        case Input.TARGET:
            return _target(found, now)
        case Input.NO_ROLE:
            return _after_success(found, now)
        case Input.LEFT:
            return _denied(found, Input.LEFT, now)
        case Input.ABORTED if found.assignment.ended_role is Role.TARGET:
            return _denied(found, Input.ABORTED, now)
        case Input.VANISHED:
            return _without_role(found, now)
    # A source, or one of a migration that failed: its guest is here, or is to stay here.
    return _source(found, now)


def _redirected(found: Found, now: dt.datetime) -> Machine | None:
    """Return the machine whose guest a peer has, where the kernel sends it on and nothing is newer.

    A route of its own beside the redirect went in when the guest was heard here again.
    """
    if found.redirect is RouteLevel.NONE or found.has_routes:
        return None
    said, last = inputs.of_assignment(found.assignment), found.last
    remembered = last.redirect if last and last.state is State.REDIRECTED else None
    redirect = remembered or Redirect(None, _peers_role(found.assignment), found.redirect)
    machine = dataclasses.replace(_in_state(State.REDIRECTED, found, now), redirect=redirect)
    # Live in this very migration, the last agent died with the redirect in: it was rolled back.
    uid = redirect.uid or (last.uid if last and found.was_heard else None)
    is_other = uid is None or uid != found.assignment.migration_uid
    # The table's own cells, for a word that came while nobody listened.
    if said is Input.TARGET and is_other:
        return None
    is_failed_source = said is Input.ABORTED and found.assignment.is_on_source_side
    is_contradicted = is_failed_source or said is Input.NO_ROLE
    if is_contradicted or remembered is None or (said is Input.SOURCE and is_other):
        return _asking(said, machine, found, now)
    return machine


def _peers_role(assignment: Assignment) -> Role:
    return Role.TARGET if assignment.is_on_source_side else Role.SOURCE


def _target(found: Found, now: dt.datetime) -> Machine:
    if found.routes is RouteLevel.ELEVATED:
        uid = found.assignment.migration_uid
        # The announcement that put them in was of this migration. Of any other one, and of one
        # that nobody remembers, the guest may have left since.
        if found.last is None or uid is None or found.last.uid != uid:
            return _asking(Input.TARGET, _routed(found, now), found, now)
        live = _in_state(State.LIVE, found, now)
        # Died right after them, the last agent may have told nobody: the guest's answer is told.
        return live if found.was_heard else _asking(Input.ANNOUNCED, live, found, now)
    # The same fork as in the table: before it is armed nobody can tell whose answer it would be.
    if found.routes is RouteLevel.NORMAL and found.assignment.armed:
        return _asking(Input.TARGET, _routed(found, now), found, now)
    return _in_state(State.TARGET, found, now)


def _source(found: Found, now: dt.datetime) -> Machine:
    if found.was_silent:
        return _asking(Input.SOURCE, _in_state(State.TARGET, found, now), found, now)
    return _in_state(State.BASE, found, now)


def _after_success(found: Found, now: dt.datetime) -> Machine:
    # The last agent waited for the guest, or had heard it, and died before its routes were in.
    is_missed = (
        not found.has_routes
        and found.last is not None
        and found.last.state in {State.TARGET, State.LIVE}
    )
    if found.routes is RouteLevel.ELEVATED or is_missed:
        return _in_state(State.TIME_WAIT, found, now)
    return _in_state(State.BASE, found, now)


def _denied(found: Found, cause: Input, now: dt.datetime) -> Machine:
    if found.has_routes:
        return _asking(cause, _routed(found, now), found, now)
    return _in_state(State.WITHDRAWN, found, now)


def _without_role(found: Found, now: dt.datetime) -> Machine:
    if found.routes is RouteLevel.ELEVATED:
        routed = _routed(found, now)
        if routed.state is State.TIME_WAIT and found.last and found.last.in_doubt:
            # Its timer must go on waiting for the doubt's end.
            return _asking(Input.ABORTED, routed, found, now)
        return routed
    if found.was_silent:
        return _in_state(State.WITHDRAWN, found, now)
    # Routes that were given once are not awaited again, though the object still says awaitRole.
    is_lifted = found.has_routes or (found.last is not None and not found.last.awaiting)
    return _in_state(State.BASE, found, now, awaiting=found.await_role and not is_lifted)


def _routed(found: Found, now: dt.datetime) -> Machine:
    """Return the machine that has the routes that were found, under their own uid."""
    state = State.BASE
    if found.routes is RouteLevel.ELEVATED:
        # Without a memory Live: it never ends by a timer, and the API's next word moves it on.
        was_waiting = found.last is not None and found.last.state is State.TIME_WAIT
        state = State.TIME_WAIT if was_waiting else State.LIVE
    uid = found.last.uid if found.last else None
    return dataclasses.replace(_in_state(state, found, now), uid=uid)


def _in_state(state: State, found: Found, now: dt.datetime, *, awaiting: bool = False) -> Machine:
    """Return a machine in *state*, since when it was remembered to be, but never in future."""
    since = now
    # The clock may have been set back since; a deadline counted from the future would never come.
    if found.last and found.last.state is state:
        since = min(found.last.since, now)
    uid = found.assignment.migration_uid
    machine = Machine(state, found.episode, since, found.assignment, uid, awaiting)
    return dataclasses.replace(machine, returns=_returns(found))


def _has_come_back(found: Found) -> bool:
    """Tell whether the last agent led back what it had redirected, and died before it was written.

    A route of its own beside the redirect went in when the guest was heard here again.
    """
    return found.has_routes and found.last is not None and found.last.redirect is not None


def _returns(found: Found) -> Returns:
    """Return how often the guest was found here, also when that was not written any more."""
    last = found.last
    if last is None:
        return NO_RETURNS
    if last.redirect is None or not _has_come_back(found):
        return last.returns
    uid = last.redirect.uid or last.uid
    return Returns(uid, last.returns.of(uid) + 1)


def _asking(cause: Input, before: Machine, found: Found, now: dt.datetime) -> Machine:
    asking = _in_state(State.ASKING, found, now)
    return dataclasses.replace(asking, asking=Asking(cause, before))
