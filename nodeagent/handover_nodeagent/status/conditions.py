"""PURE: what an endpoint's status says, from what the loop knows of it."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from handover_api import names, wording
from handover_api.conditions import EndpointCondition as Type
from handover_api.conditions import EndpointReason as Reason
from handover_api.configuration import Mode, Settings
from handover_api.model import Condition
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import (
    Cutover,
    RouteStatus,
    WorkloadEndpoint,
    WorkloadEndpointStatus,
)
from handover_nodeagent.fsm import timers
from handover_nodeagent.fsm.machine import Machine, RouteLevel
from handover_nodeagent.network.admission import Admission
from handover_nodeagent.network.model import IPAddress, Link, Route
from handover_nodeagent.network.placement import Unplaced


@dataclass(frozen=True, slots=True)
class Standing:
    """All that a status is made of.

    ``refusals``: what the kernel said no to. ``shadow``: which route the kernel prefers to ours.
    ``contest``: whose foreign route comes back as often as it is parked. ``deafness``: why nobody
    listens who should. ``unguarded``: why the ARP guard is not as it should be. ``doubt``: why its
    interface would not be given to it now. ``fault``: what went wrong that nobody expected.
    ``misconfigured``: why the newest configuration does not count. ``handed_back``: an uninstall
    asked for the node, and got it. ``is_paused``: its namespace is.
    """

    endpoint: WorkloadEndpoint
    machine: Machine
    placement: Link | Unplaced
    admission: Admission
    settings: Settings
    owned: bool = True
    routes: tuple[Route, ...] = ()
    refusals: tuple[str, ...] = ()
    shadow: str = ""
    contest: str = ""
    unguarded: tuple[Reason, str] | None = None
    doubt: str = ""
    hears: bool = False
    deafness: str = ""
    fault: str = ""
    overdue: bool = False
    cutover: Cutover | None = None
    sharers: Mapping[IPAddress, tuple[ObjectKey, ...]] | None = None
    misconfigured: str = ""
    handed_back: bool = False
    is_paused: bool = False


_YES: Final = "True"
_NO: Final = "False"
_UNKNOWN: Final = "Unknown"


class _Draft(NamedTuple):
    type: Type
    status: str
    reason: Reason
    message: str = ""


def status(
    standing: Standing, before: Iterable[Condition], now: dt.datetime
) -> WorkloadEndpointStatus:
    """Return the status; a condition that stays keeps the time of its last transition."""
    current = standing.machine
    link = standing.placement if isinstance(standing.placement, Link) else None
    return WorkloadEndpointStatus(
        state=current.state,
        since=current.since,
        deadline=timers.deadline(current, standing.settings),
        role=current.assignment.role,
        migration_uid=current.uid,
        interface=link.name if link else None,
        routes=tuple(
            RouteStatus(
                address=route.address,
                metric=route.metric,
                table=route.table,
                protocol=route.protocol,
            )
            for route in sorted(
                standing.routes, key=lambda route: (str(route.address), route.metric)
            )
        ),
        last_cutover=standing.cutover,
        conditions=_dated(standing, before, now),
    )


class Stub(NamedTuple):
    """An endpoint that has no machine, and its status as the API has it."""

    key: ObjectKey
    uid: str
    generation: int
    status: WorkloadEndpointStatus

    @classmethod
    def of(cls, endpoint: WorkloadEndpoint) -> Self:
        """Take what is told of it."""
        metadata = endpoint.metadata
        return cls(endpoint.key, metadata.uid, metadata.generation, endpoint.status)

    def but(self, reason: Reason, message: str, now: dt.datetime) -> WorkloadEndpointStatus:
        """Return its status as it was, but for Programmed: what it had stays in the kernel."""
        before = self.status.conditions
        others = [one for one in before if one.type != Type.PROGRAMMED]
        draft = _Draft(Type.PROGRAMMED, _NO, reason, message)
        dated = _date(draft, before, self.generation, now)
        return self.status.model_copy(update={"conditions": (dated, *others)})


def _dated(
    standing: Standing, before: Iterable[Condition], now: dt.datetime
) -> tuple[Condition, ...]:
    known = tuple(before)
    generation = standing.endpoint.metadata.generation
    return tuple(_date(draft, known, generation, now) for draft in _drafts(standing))


def _date(
    draft: _Draft, before: Iterable[Condition], generation: int, now: dt.datetime
) -> Condition:
    old = next((condition for condition in before if condition.type == draft.type), None)
    since = old.last_transition_time if old and old.status == draft.status else now
    new = Condition(
        type=draft.type,
        status=draft.status,
        reason=draft.reason,
        message=wording.clipped(draft.message),
        last_transition_time=since,
        observed_generation=generation,
    )
    return old if old == new else new


def _drafts(standing: Standing) -> Iterator[_Draft]:
    """Say what holds; what is wrong only now and then is left out while it is not."""
    yield _programmed(standing)
    yield _listening(standing)
    if standing.misconfigured:
        yield _Draft(Type.CONFIGURED, _NO, Reason.INVALID, standing.misconfigured)
    else:
        yield _Draft(Type.CONFIGURED, _YES, Reason.ACCEPTED)
    doubt = standing.machine.doubt
    if doubt and doubt.is_heard:
        text = "the migration says that the guest is gone, but it answers; its routes stay"
        yield _Draft(Type.STILL_ALIVE, _YES, Reason.GUEST_ANSWERS, text)
    elif doubt:
        text = "the migration says that the guest is gone, but it cannot be asked; its routes stay"
        yield _Draft(Type.STILL_ALIVE, _UNKNOWN, Reason.CANNOT_ASK, text)
    refused = standing.admission.refused
    if refused:
        yield _Draft(
            Type.ADDRESS_NOT_ALLOWED, _YES, Reason.NOT_ALLOWED, "; ".join(refused.values())
        )
    if standing.sharers:
        yield _Draft(Type.ADDRESS_SHARED, _YES, Reason.SHARED, _shared(standing.sharers))
    elif elsewhere := standing.endpoint.metadata.annotations.get(names.ADDRESS_SHARED):
        # Only the operator sees two nodes at once.
        yield _Draft(Type.ADDRESS_SHARED, _YES, Reason.SERVED_ELSEWHERE, elsewhere)
    if standing.doubt:
        yield _Draft(Type.INTERFACE_DOUBTED, _YES, Reason.WOULD_BE_REFUSED, standing.doubt)
    if standing.unguarded:
        yield _Draft(Type.UNGUARDED, _YES, *standing.unguarded)
    if standing.overdue:
        text = f"no announcement within {standing.settings.target_timeout}; still listening"
        yield _Draft(Type.TARGET_TIMEOUT, _YES, Reason.NOT_ANNOUNCED, text)


def _programmed(standing: Standing) -> _Draft:
    if standing.fault:
        return _Draft(Type.PROGRAMMED, _NO, Reason.INTERNAL_ERROR, standing.fault)
    if standing.handed_back:
        return _Draft(Type.PROGRAMMED, _NO, Reason.HANDED_BACK, _kept(standing))
    problem = _problem(standing)
    if problem:
        return _Draft(Type.PROGRAMMED, _NO, *problem)
    if standing.machine.level is RouteLevel.NONE:
        text = "no route before the guest is known to run here"
        return _Draft(Type.PROGRAMMED, _YES, Reason.SUPPRESSED, text)
    return _Draft(Type.PROGRAMMED, _YES, Reason.PROGRAMMED)


def _problem(standing: Standing) -> tuple[Reason, str] | None:
    if idleness := _idleness(standing):
        return Reason.NOT_ACTIVE, idleness
    if not standing.owned:
        return Reason.NOT_OWNED, "routeOwnership is migrations, and there was none so far"
    if isinstance(standing.placement, Unplaced):
        return standing.placement.reason, standing.placement.message
    if standing.refusals:
        return Reason.REFUSED, "; ".join(standing.refusals)
    if standing.shadow:
        return Reason.SHADOWED, standing.shadow
    return _mismatch(standing, standing.placement)


def _idleness(standing: Standing) -> str:
    """Say why nothing is done for the endpoint now; "" where it is."""
    if standing.settings.mode is not Mode.ACTIVE:
        return f"the agent's mode is {standing.settings.mode}"
    namespace = standing.endpoint.key.namespace
    text = f"namespace {namespace} is paused, by its annotation {names.PAUSED}"
    return text if standing.is_paused else ""


def _kept(standing: Standing) -> str:
    """Say what an uninstall has left of the endpoint's routes."""
    kept = ", ".join(sorted(str(route.address) for route in standing.routes))
    text = "an uninstall asked for the node"
    return f"{text}; our route to {kept} stays: nothing else leads there" if kept else text


def _mismatch(standing: Standing, link: Link) -> tuple[Reason, str] | None:
    """Say where the kernel, as far as it was looked at, is not what the state wants."""
    present = {route.address for route in standing.routes}
    if standing.machine.level is RouteLevel.NONE:
        still = ", ".join(map(str, sorted(present, key=str)))
        return (Reason.PENDING, f"a route to {still} is still in") if present else None
    absent = [one for one in standing.admission.allowed if one not in present]
    sharers = standing.sharers or {}
    others = [one for one in absent if one in sharers]
    if others:
        text = f"the route to {', '.join(map(str, others))} is another endpoint's"
        return Reason.SHARED, text
    if absent:
        return Reason.PENDING, f"the route to {', '.join(map(str, absent))} is not in"
    if not standing.admission.allowed:
        return Reason.NOT_ALLOWED, "none of its addresses is allowed"
    if not link.carrier:
        text = f"interface {link.name} has no carrier: nobody is at its other end"
        return Reason.LINK_DOWN, text
    return None


def _listening(standing: Standing) -> _Draft:
    if not standing.machine.is_listening:
        return _Draft(Type.LISTENING, _NO, Reason.NOT_NEEDED)
    if standing.hears:
        is_mute = standing.settings.mode is not Mode.ACTIVE
        text = f"only listens: in mode {standing.settings.mode} no guest is asked"
        return _Draft(Type.LISTENING, _YES, Reason.LISTENING, text if is_mute else "")
    if isinstance(standing.placement, Unplaced):
        return _Draft(Type.LISTENING, _NO, standing.placement.reason, standing.placement.message)
    if standing.settings.mode is Mode.PAUSED or standing.is_paused:
        return _Draft(Type.LISTENING, _NO, Reason.NOT_ACTIVE, _idleness(standing))
    return _Draft(Type.LISTENING, _NO, Reason.CANNOT_LISTEN, standing.deafness)


def _shared(sharers: Mapping[IPAddress, tuple[ObjectKey, ...]]) -> str:
    return "; ".join(
        f"{address} is also named by {wording.some([str(key) for key in keys])}"
        for address, keys in sharers.items()
    )
