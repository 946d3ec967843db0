"""PURE: what an endpoint's status says, from what the loop knows of it.

A new condition is a type and a reason in ``handover_api.conditions``, a fact here that
``reconcile/publish.py`` gathers, a line in ``_drafts``, a row in docs/conditions.md and a word in
crds/workloadendpoints.yaml (its copy in the chart is made by `make chart`).
Programmed, Listening and Configured are always there; all others only while they hold.
"""

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
    AgentAddress,
    Cutover,
    RedirectStatus,
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
class Facts:
    """All that a status is made of; a text is empty where nothing is wrong."""

    endpoint: WorkloadEndpoint
    machine: Machine
    placement: Link | Unplaced
    admission: Admission
    settings: Settings
    is_owned: bool = True
    """Its routes are ours to program (``routeOwnership``)."""
    routes: tuple[Route, ...] = ()
    """Those of ours that are in the kernel and lead to its interface."""
    redirects: tuple[Route, ...] = ()
    """Those that send what still comes here on to another node."""
    redirectable: tuple[bool, Reason, str] | None = None
    """Whether that could be, and why or why not; None where nobody asks."""
    holding: tuple[bool, Reason, str] | None = None
    """Whether what its guest does not take is kept, and why or why not; None where nobody would
    need it."""
    agent: AgentAddress | None = None
    """How the agents of other nodes reach this one, as far as they are to."""
    refusals: tuple[str, ...] = ()
    """What the kernel said no to."""
    shadowed_by: str = ""
    """Which route the kernel prefers to ours."""
    contested: str = ""
    """Whose foreign route comes back as often as it is parked."""
    unguarded: tuple[Reason, str] | None = None
    """Why the ARP guard is not as it should be."""
    interface_doubt: str = ""
    """Why its interface would not be given to it now."""
    has_listener: bool = False
    cannot_listen: str = ""
    """Why nobody listens who should."""
    internal_error: str = ""
    """What went wrong that nobody expected."""
    is_overdue: bool = False
    """It is in Target for longer than ``targetTimeout``."""
    cutover: Cutover | None = None
    redirect: RedirectStatus | None = None
    """What was sent on in its latest migration."""
    sharers: Mapping[IPAddress, tuple[ObjectKey, ...]] | None = None
    """Which endpoints of this node name an address of its, too."""
    misconfigured: str = ""
    """Why the newest configuration does not count."""
    is_handed_back: bool = False
    """An uninstall asked for the node, and got it."""
    is_paused: bool = False
    """Its namespace is."""
    is_advertised: bool | None = None
    """Other nodes are told of it; None where no agent tells others."""
    strict_devices: frozenset[str] = frozenset()
    """Devices on which packets that other nodes forward would be dropped (rp_filter)."""
    unreachable: tuple[str, ...] = ()
    """Nodes to which no next hop leads from here, so that none leads back either."""


# metav1.ConditionStatus has words for these, no booleans.
_YES: Final = "True"
_NO: Final = "False"
_UNKNOWN: Final = "Unknown"


class _Draft(NamedTuple):
    """A condition before it is known since when it holds."""

    type: Type
    status: str
    reason: Reason
    message: str = ""


def status(facts: Facts, before: Iterable[Condition], now: dt.datetime) -> WorkloadEndpointStatus:
    """Return the status of an endpoint that had the conditions *before*."""
    current = facts.machine
    link = facts.placement if isinstance(facts.placement, Link) else None
    return WorkloadEndpointStatus(
        state=current.state,
        since=current.since,
        deadline=timers.deadline(current, facts.settings),
        role=current.assignment.role,
        migration_uid=current.uid,
        interface=link.name if link else None,
        # In one order, so that the same routes are the same status and nothing is written.
        routes=tuple(
            RouteStatus(
                address=route.address,
                metric=route.metric,
                table=route.table,
                protocol=route.protocol,
            )
            for route in sorted(_exported(facts), key=lambda one: (str(one.address), one.metric))
        ),
        last_cutover=facts.cutover,
        agent=facts.agent,
        advertised=facts.is_advertised,
        redirect=facts.redirect,
        conditions=_dated(facts, before, now),
    )


def _exported(facts: Facts) -> tuple[Route, ...]:
    """Return what other nodes may come by; whoever reads of a route takes it for one of these."""
    protocol = facts.settings.route_protocol
    return (*facts.routes, *(one for one in facts.redirects if one.protocol == protocol))


class Reported(NamedTuple):
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

    def not_programmed(
        self, reason: Reason, message: str, now: dt.datetime
    ) -> WorkloadEndpointStatus:
        """Return its status as it was, but for Programmed: what it had stays in the kernel."""
        before = self.status.conditions
        others = [one for one in before if one.type != Type.PROGRAMMED]
        draft = _Draft(Type.PROGRAMMED, _NO, reason, message)
        dated = _date(draft, before, self.generation, now)
        return self.status.model_copy(update={"conditions": (dated, *others)})


def _dated(facts: Facts, before: Iterable[Condition], now: dt.datetime) -> tuple[Condition, ...]:
    known = tuple(before)
    generation = facts.endpoint.metadata.generation
    return tuple(_date(draft, known, generation, now) for draft in _drafts(facts))


def _date(
    draft: _Draft, before: Iterable[Condition], generation: int, now: dt.datetime
) -> Condition:
    old = next((condition for condition in before if condition.type == draft.type), None)
    # A transition is one of the status; another reason is none (metav1.Condition).
    since = old.last_transition_time if old and old.status == draft.status else now
    new = Condition(
        type=draft.type,
        status=draft.status,
        reason=draft.reason,
        message=wording.clip(draft.message),
        last_transition_time=since,
        observed_generation=generation,
    )
    # Equal ones are one object: a node keeps those of all its endpoints.
    return old if old == new else new


def _drafts(facts: Facts) -> Iterator[_Draft]:
    """Say what holds; what is wrong only now and then is left out while it is not."""
    yield _programmed(facts)
    yield _listening(facts)
    if facts.misconfigured:
        yield _Draft(Type.CONFIGURED, _NO, Reason.INVALID, facts.misconfigured)
    else:
        yield _Draft(Type.CONFIGURED, _YES, Reason.ACCEPTED)
    yield from _still_alive(facts)
    if facts.admission.refused:
        text = "; ".join(facts.admission.refused.values())
        yield _Draft(Type.ADDRESS_NOT_ALLOWED, _YES, Reason.NOT_ALLOWED, text)
    if facts.sharers:
        yield _Draft(Type.ADDRESS_SHARED, _YES, Reason.SHARED, _shared(facts.sharers))
    elif elsewhere := facts.endpoint.metadata.annotations.get(names.ADDRESS_SHARED):
        # Only the operator sees two nodes at once.
        yield _Draft(Type.ADDRESS_SHARED, _YES, Reason.SERVED_ELSEWHERE, elsewhere)
    if facts.interface_doubt:
        yield _Draft(Type.INTERFACE_DOUBTED, _YES, Reason.WOULD_BE_REFUSED, facts.interface_doubt)
    if facts.unguarded:
        yield _Draft(Type.UNGUARDED, _YES, *facts.unguarded)
    if facts.redirectable:
        holds, reason, text = facts.redirectable
        yield _Draft(Type.REDIRECTABLE, _YES if holds else _NO, reason, text)
    if facts.holding:
        holds, reason, text = facts.holding
        yield _Draft(Type.HOLDING, _YES if holds else _NO, reason, text)
    if facts.is_overdue:
        text = f"no announcement within {facts.settings.target_timeout}; still listening"
        yield _Draft(Type.TARGET_TIMEOUT, _YES, Reason.NOT_ANNOUNCED, text)
    yield from _advertised(facts)


def _advertised(facts: Facts) -> Iterator[_Draft]:
    """Say whether what other nodes send to the guest would reach it, as far as this one knows."""
    if not facts.is_advertised:
        return
    if facts.strict_devices:
        devices = sorted(facts.strict_devices)
        # As sysctl(8) writes a dot in a device's name.
        names_there = [device.replace(".", "/") for device in devices]
        settings = ", ".join(f"net.ipv4.conf.{name}.rp_filter" for name in names_there)
        text = (
            f"rp_filter is strict on {wording.name_few(devices)}, by which other nodes reach the"
            f" guest: clients outside of the cluster lose it; set {settings} to 2"
        )
        yield _Draft(Type.ADVERTISED, _NO, Reason.STRICT_REVERSE_PATH, text)
    elif facts.unreachable:
        text = f"no next hop leads to node {wording.name_few(facts.unreachable)}"
        yield _Draft(Type.ADVERTISED, _NO, Reason.NO_NEXT_HOP, text)
    else:
        yield _Draft(Type.ADVERTISED, _YES, Reason.ADVERTISED)


def _still_alive(facts: Facts) -> Iterator[_Draft]:
    # A Redirected in doubt is one whose guest is silent: a peer has it, whatever is said.
    doubt = None if facts.machine.underlying.redirect else facts.machine.doubt
    if doubt and doubt.is_heard:
        text = "the migration says that the guest is gone, but it answers; its routes stay"
        yield _Draft(Type.STILL_ALIVE, _YES, Reason.GUEST_ANSWERS, text)
    elif doubt:
        # Unknown and not False: nobody could ask, so nobody knows.
        text = "the migration says that the guest is gone, but it cannot be asked; its routes stay"
        yield _Draft(Type.STILL_ALIVE, _UNKNOWN, Reason.CANNOT_ASK, text)


def _programmed(facts: Facts) -> _Draft:
    # Of several reasons the first one counts: it explains those behind it, or makes them moot.
    if facts.internal_error:
        return _Draft(Type.PROGRAMMED, _NO, Reason.INTERNAL_ERROR, facts.internal_error)
    if facts.is_handed_back:
        return _Draft(Type.PROGRAMMED, _NO, Reason.HANDED_BACK, _kept(facts))
    problem = _problem(facts)
    if problem:
        return _Draft(Type.PROGRAMMED, _NO, *problem)
    if facts.machine.level is RouteLevel.NONE:
        # True: that there is no route is as the state wants it.
        text = "no route before the guest is known to run here"
        return _Draft(Type.PROGRAMMED, _YES, Reason.SUPPRESSED, text)
    return _Draft(Type.PROGRAMMED, _YES, Reason.PROGRAMMED)


def _problem(facts: Facts) -> tuple[Reason, str] | None:
    """Say why the routes are not as the state wants them: the reason that explains the others."""
    # Where the agent is to leave all as it is, nothing below is looked at any more.
    if idleness := _idleness(facts):
        return Reason.NOT_ACTIVE, idleness
    if not facts.is_owned:
        return Reason.NOT_OWNED, "routeOwnership is migrations, and there was none so far"
    link = facts.placement if isinstance(facts.placement, Link) else None
    # What leads to another node needs no interface here.
    if isinstance(facts.placement, Unplaced) and not facts.redirects:
        return facts.placement.reason, facts.placement.message
    if facts.refusals:
        return Reason.REFUSED, "; ".join(facts.refusals)
    if facts.shadowed_by:
        return Reason.SHADOWED, facts.shadowed_by
    return _mismatch(facts, link)


def _idleness(facts: Facts) -> str:
    """Say why nothing is done for the endpoint now; "" where it is."""
    if facts.settings.mode is not Mode.ACTIVE:
        return f"the agent's mode is {facts.settings.mode}"
    namespace = facts.endpoint.key.namespace
    text = f"namespace {namespace} is paused, by its annotation {names.PAUSED}"
    return text if facts.is_paused else ""


def _kept(facts: Facts) -> str:
    """Say what an uninstall has left of the endpoint's routes."""
    kept = ", ".join(sorted(str(route.address) for route in facts.routes))
    text = "an uninstall asked for the node"
    return f"{text}; our route to {kept} stays: nothing else leads there" if kept else text


def _mismatch(facts: Facts, link: Link | None) -> tuple[Reason, str] | None:
    """Say where the kernel, as far as it was looked at, is not what the state wants."""
    present = {route.address for route in (*facts.routes, *facts.redirects)}
    if facts.machine.level is RouteLevel.NONE:
        still = ", ".join(map(str, sorted(present, key=str)))
        return (Reason.PENDING, f"a route to {still} is still in") if present else None
    absent = [one for one in facts.admission.allowed if one not in present]
    sharers = facts.sharers or {}
    # An address has one route: of several endpoints that name it one has it, the others say so.
    others = [one for one in absent if one in sharers]
    if others:
        text = f"the route to {', '.join(map(str, others))} is another endpoint's"
        return Reason.SHARED, text
    if absent:
        return Reason.PENDING, f"the route to {', '.join(map(str, absent))} is not in"
    if not facts.admission.allowed:
        return Reason.NOT_ALLOWED, "none of its addresses is allowed"
    # Last, for the route is in: it is the device's other end that is missing.
    if link and not link.carrier and not facts.redirects:
        text = f"interface {link.name} has no carrier: nobody is at its other end"
        return Reason.LINK_DOWN, text
    return None


def _listening(facts: Facts) -> _Draft:
    """Say whether the guest would be heard, and where it should be and is not, why."""
    if not facts.machine.is_listening:
        return _Draft(Type.LISTENING, _NO, Reason.NOT_NEEDED)
    if facts.has_listener:
        is_mute = facts.settings.mode is not Mode.ACTIVE
        text = f"only listens: in mode {facts.settings.mode} no guest is asked"
        return _Draft(Type.LISTENING, _YES, Reason.LISTENING, text if is_mute else "")
    if isinstance(facts.placement, Unplaced):
        return _Draft(Type.LISTENING, _NO, facts.placement.reason, facts.placement.message)
    if facts.settings.mode is Mode.PAUSED or facts.is_paused:
        return _Draft(Type.LISTENING, _NO, Reason.NOT_ACTIVE, _idleness(facts))
    return _Draft(Type.LISTENING, _NO, Reason.CANNOT_LISTEN, facts.cannot_listen)


def _shared(sharers: Mapping[IPAddress, tuple[ObjectKey, ...]]) -> str:
    return "; ".join(
        f"{address} is also named by {wording.name_few([str(key) for key in keys])}"
        for address, keys in sharers.items()
    )
