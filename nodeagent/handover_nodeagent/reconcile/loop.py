"""The loop that joins the rooms: what happened → ``fsm.step`` → desired → kernel, then the rest.

It owns the clock. On the way from an announcement to its route nothing waits and nothing is told;
log lines, metrics, memory and reports follow when the routes are in.
"""

import asyncio
import dataclasses
import datetime as dt
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Final, NamedTuple

import structlog

from handover_api import names
from handover_api.assignment import Assignment
from handover_api.conditions import EndpointReason
from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, Signal, State, WorkloadEndpoint
from handover_nodeagent import faults, fsm, metrics
from handover_nodeagent.faults import Faults
from handover_nodeagent.fsm import commands, inputs, machine, restart
from handover_nodeagent.fsm.commands import EventReason
from handover_nodeagent.fsm.events import Announced, AwaitLifted, Event, FellSilent, Unaskable
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.fsm.restart import Found
from handover_nodeagent.fsm.step import Step
from handover_nodeagent.memory import Memory, Record
from handover_nodeagent.network import gateways
from handover_nodeagent.network.desired import Affected
from handover_nodeagent.network.model import IPAddress, Link
from handover_nodeagent.reconcile import publish
from handover_nodeagent.reconcile.alarms import Attendance
from handover_nodeagent.reconcile.endpoint import Heard, Resident
from handover_nodeagent.reconcile.enforce import Enforcement
from handover_nodeagent.reconcile.interfaces import Lodging
from handover_nodeagent.reconcile.orphans import Orphan, Orphans
from handover_nodeagent.reconcile.publish import Telling
from handover_nodeagent.reconcile.seating import Seating
from handover_nodeagent.sniff.verdict import Accepted
from handover_nodeagent.status.conditions import Standing, Stub
from handover_nodeagent.status.report import Reporter

EPISODES: Final = 1_000_000
"""Apart by so much are the episodes of two machines, of which one may follow the other."""
BREATH: Final = 0.001
"""Seconds between a prepared cutover and the machine's step."""
BREATHS: Final = 5
"""So many at most, while guests go on announcing themselves."""
START: Final = "start"
UPDATE: Final = "update"
FOLLOW: Final = "follow"
WARNINGS: Final = frozenset({EventReason.STILL_ALIVE, EventReason.ORPHAN_ROUTE})

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_log: Final = structlog.get_logger()


class Unstarted(NamedTuple):
    """An endpoint whose machine is to be started, and what the last agent remembered of it."""

    endpoint: WorkloadEndpoint
    record: Record | None
    is_told: bool
    """By the API, so that its status is known."""


class Reconciler:
    """Every endpoint of this node, and the world that is made to follow them."""

    def __init__(self, settings: Settings, reporter: Reporter, memory: Memory) -> None:
        """Touch nothing so far but the sockets that the kernel is asked through."""
        self.settings = settings
        self.misconfigured = ""
        self.residents: dict[ObjectKey, Resident] = {}
        self.unstarted: dict[ObjectKey, Unstarted] = {}
        self.faults = Faults(self._faulted)
        seating = Seating()
        self.kernel = Enforcement(settings, seating, self.report)
        self.router = self.kernel.router
        self.lodging = Lodging(
            self.residents, seating, self.kernel, self._relocate, self.faults.attempt
        )
        self.orphans = Orphans(self.kernel, memory, self.lodging.links)
        self.attendance = Attendance(self, self.feed, self._overdue, _now)
        self._memory = memory
        self._telling = Telling(reporter, self.describe, _now, self.residents, self.faults.attempt)
        self._moved = asyncio.Event()
        self._episode = 0
        self._received_ns = 0
        self._heard_at = 0.0
        self._cut_over = deque[Resident]()

    # What others want to know.

    @property
    def awaits_guests(self) -> bool:
        """Tell whether an endpoint is in Target: no moment to go."""
        return any(one.machine.state is State.TARGET for one in self.residents.values())

    async def moved(self) -> None:
        """Wait until some endpoint's state has changed."""
        self._moved.clear()
        await self._moved.wait()

    def flush(self) -> None:
        """Tell all that is still to be told."""
        self._telling.flush()

    def close(self) -> None:
        """Hear and attempt nothing more; tell what is still to be told."""
        self.faults.close()
        self.orphans.close()
        for resident in self.residents.values():
            resident.retire()
        self.flush()

    # What guests and kernel say.

    def heard(self, key: ObjectKey, episode: int, accepted: Accepted, received_at: int) -> None:
        """Take an announcement: the way to the route.

        What is prepared goes out at once. The machine steps a moment later, or before anything else
        happens to it: twenty guests that announce at the same instant all get their routes first.
        """
        resident = self.residents.get(key)
        if resident is None or resident.machine.episode != episode:
            return
        event = Announced(episode, accepted.signal, accepted.is_answer)
        prepared, resident.prepared = resident.prepared, None
        if prepared is None:
            self._take(resident, Heard(event, accepted.mac, received_at))
        elif resident.heard is None:
            try:
                self.router.cut_over(prepared)
            except Exception as error:  # noqa: BLE001  the root of a cutover; costs nothing else
                faults.note("cutover", error, endpoint=str(key))
                self._take(resident, Heard(event, accepted.mac, received_at))
                return
            resident.heard = Heard(event, accepted.mac, received_at, prepared)
            loop = asyncio.get_running_loop()
            self._heard_at = loop.time()
            self._cut_over.append(resident)
            if len(self._cut_over) == 1:
                loop.call_later(BREATH, self._breathe, BREATHS - 1)

    def _breathe(self, left: int) -> None:
        """Let one machine step, unless other guests have just announced themselves.

        Their routes go first, also between two steps.
        """
        loop = asyncio.get_running_loop()
        if left and loop.time() - self._heard_at < BREATH:
            loop.call_later(BREATH, self._breathe, left - 1)
            return
        try:
            self.digest(self._cut_over.popleft())
        finally:
            # Whatever one of them meets, the others have their turn.
            if self._cut_over:
                loop.call_soon(self._breathe, left)

    def digest(self, resident: Resident) -> None:
        """Step on what was heard, unless something else was faster to ask for it."""
        heard, resident.heard = resident.heard, None
        if heard and heard.sent:
            self.router.catch_up(heard.sent)
        if heard and self.residents.get(resident.key) is resident:
            self._take(resident, heard)

    def _take(self, resident: Resident, heard: Heard) -> None:
        is_news = resident.mac is None
        if is_news:
            resident.learned_mac = heard.mac
        before = resident.machine
        self._received_ns = heard.received_ns
        self.feed(resident, heard.event)
        if is_news:
            self.router.seed(resident.local(self.settings))
            if resident.machine is before:
                # The guest can be asked from now on.
                self._settle(resident, Step(before))

    def unaskable(self, key: ObjectKey, episode: int) -> None:
        """Take that a guest cannot be asked."""
        resident = self.residents.get(key)
        if resident is not None:
            self.feed(resident, Unaskable(episode))

    def hearing_changed(self, key: ObjectKey) -> None:
        """Report that a listener was lost or is back."""
        resident = self.residents.get(key)
        if resident is not None:
            self._telling.report(resident)

    # From an event to the world.

    def feed(self, resident: Resident, event: Event) -> None:
        """Step an endpoint's machine, and bring the world to where it stands then."""
        what = type(event).__name__
        self.faults.attempt(resident.key, what, partial(self._feed, resident, event))

    def _feed(self, resident: Resident, event: Event) -> None:
        self.digest(resident)
        if resident.is_paused or self.residents.get(resident.key) is not resident:
            return
        if isinstance(event, FellSilent) and self.faults.has(resident.key, FOLLOW):
            # Nobody knows whether the guest was asked at all.
            event = Unaskable(event.episode)
        if isinstance(event, FellSilent) and self.attendance.waits_on(resident, event):
            return
        step = fsm.step(resident.machine, event, _now(), self.settings)
        before = resident.machine
        if step.impossible and step.input:
            metrics.IMPOSSIBLE.labels(before.state, step.input).inc()
        elif step.machine is None:
            self._bury(resident, step)
        elif step.machine is before and isinstance(event, Announced):
            # A guest may send such frames as fast as it can: nothing else follows from them.
            self._question(resident, step)
        else:
            resident.machine = step.machine
            self._settle(resident, step)
        self._telling.told(resident, before, step)
        self._moved.set()

    def _settle(self, resident: Resident, step: Step) -> None:
        """Let the world follow the machine, and again where that fails, until it steps anew."""

        def follow() -> None:
            if resident.machine is step.machine and self.residents.get(resident.key) is resident:
                self._let_follow(resident, step)

        self.faults.attempt(resident.key, FOLLOW, follow)

    def _let_follow(self, resident: Resident, step: Step) -> None:
        """Let routes, then guest, ears, timers and memory follow the machine."""
        self._follow(resident)
        for command in step.commands:
            if isinstance(command, commands.AnnounceGateway):
                self._correct(resident)
            elif isinstance(command, commands.RecordCutover):
                self._record(resident, command.signal)
        if resident.machine.state is State.ASKING:
            self.lodging.look_for_mac(resident)
        self.attendance.follow(resident, self.router, self.settings)
        self._question(resident, step)
        self._tell(resident, step)
        if not resident.is_paused:
            self._memory.keep(resident.key, resident.record)
        self._telling.report(resident)

    def _correct(self, resident: Resident) -> None:
        """Tell the guest where its gateway is now, and a person where that is a guess."""
        self.attendance.correct(resident, self.settings)
        spec, link = resident.endpoint.spec, resident.link
        if link and gateways.is_assumed(spec, link, gateways.of(spec, link, self.settings)):
            self._telling.event(resident, "GatewayAssumed", gateways.ASSUMED)

    def _question(self, resident: Resident, step: Step) -> None:
        """Ask the guest what the machine wants asked."""
        for command in step.commands:
            self.attendance.question(resident, command)

    def _tell(self, resident: Resident, step: Step) -> None:
        """Emit the Events that the machine wants emitted."""
        for command in step.commands:
            if isinstance(command, commands.EmitEvent):
                reason = command.reason
                text = commands.SENTENCES[reason]
                self._telling.event(resident, reason, text, warning=reason in WARNINGS)

    def _overdue(self, resident: Resident) -> None:
        resident.overdue, resident.overdue_alarm = True, None
        text = "The guest has not announced itself yet; its routes wait for that"
        self._telling.event(resident, "TargetTimeout", text, warning=True)
        self._telling.report(resident)

    def _record(self, resident: Resident, signal: Signal) -> None:
        """Note when the last of the guest's routes was in, by its own acknowledgment.

        One that was in before the announcement took no time; where none is, there is only now.
        """
        oif = resident.link.index if resident.link else 0
        known = self.router.acknowledged_ns(resident.admission.allowed, oif)
        last = max(*known, self._received_ns) if known else time.time_ns()
        microseconds = max(0, last - self._received_ns) // 1000
        resident.cutover = Cutover(
            signal=signal,
            announcement_to_route_microseconds=microseconds,
            time=_moment(last),
            migration_uid=resident.machine.uid,
        )
        self._telling.cut_over(resident)

    # Endpoints that come, change and go.

    def meet(self, endpoint: WorkloadEndpoint, record: Record | None) -> None:
        """Start an endpoint's machine from what is found, in place of one of the same name."""
        key, waiting = endpoint.key, self.unstarted.get(endpoint.key)
        is_told = record is None
        if waiting and is_told and waiting.endpoint.metadata.uid == endpoint.metadata.uid:
            record = waiting.record
        self.unstarted[key] = Unstarted(endpoint, record, is_told)
        if not self.faults.attempt(key, START, partial(self._start, key)):
            # What it has in the kernel stays as it is, whoever else is known by then.
            self.kernel.spare(key, endpoint.spec.ips)
            self._faulted(key)

    def _start(self, key: ObjectKey) -> None:
        if key not in self.unstarted:
            return
        endpoint, record, _ = self.unstarted[key]
        known = self.residents.pop(endpoint.key, None)
        if known:
            self.digest(known)
            self.attendance.leave(known)
        if known and known.uid != endpoint.metadata.uid:
            self._telling.gone(known)
        admission = self.lodging.admit(endpoint, None)
        self.router.foreigners.look(admission.allowed)
        place = self.lodging.find(endpoint, remembered=record.interface if record else None)
        oif = place.index if isinstance(place, Link) else 0
        admission = self.lodging.admit(endpoint, place if isinstance(place, Link) else None)
        self._episode += EPISODES
        found = Found(
            assignment=Assignment.from_annotations(endpoint.metadata.annotations),
            routes=self.router.level_of(admission.allowed, oif),
            last=record.remembered if record else restart.from_status(endpoint.status),
            await_role=endpoint.spec.await_role,
            episode=self._episode,
            is_paused=key.namespace in self.kernel.paused,
        )
        step = restart.resume(found, _now())
        assert step.machine is not None
        is_guarded = record is not None or found.has_routes or not found.is_paused
        paused = (found.is_paused, is_guarded)
        resident = Resident(endpoint, step.machine, place, admission, *paused)
        if record:
            resident.cutover, resident.learned_mac = record.cutover, record.learned_mac
        resident.cutover = resident.cutover or endpoint.status.last_cutover
        self.lodging.take_in(resident)
        self.residents[endpoint.key] = resident
        del self.unstarted[key]
        self.kernel.spare(key, ())
        self._settle(resident, step)
        self.orphans.make_way(key)
        self._telling.met(resident, found)
        self.report(self.router.desired.endpoints_with(admission.allowed))

    def update(self, resident: Resident, endpoint: WorkloadEndpoint) -> None:
        """Take in another version of an endpoint that is known."""
        before, resident.endpoint = resident.endpoint, endpoint
        told, tells = (each.metadata.annotations for each in (before, endpoint))
        if told.get(names.ADDRESS_SHARED) != tells.get(names.ADDRESS_SHARED):
            self.report({resident.key})
        is_other = before.spec != endpoint.spec or self.faults.has(resident.key, UPDATE)
        update = partial(self._update, resident, is_other=is_other)
        self.faults.attempt(resident.key, UPDATE, update)

    def _update(self, resident: Resident, *, is_other: bool) -> None:
        """Follow the endpoint's newest version; again, it changes nothing."""
        if resident.is_paused or self.residents.get(resident.key) is not resident:
            return
        endpoint = resident.endpoint
        after = Assignment.from_annotations(endpoint.metadata.annotations)
        if is_other:
            concerned = self.router.desired.endpoints_with(resident.admission.allowed)
            resident.admission = self.lodging.admit(endpoint, resident.link)
            self.router.foreigners.look(resident.admission.allowed)
            self.lodging.look_again(resident)
            self.lodging.look_below(resident)
            self._relocate(resident, is_elsewhere=False)
            self.report(concerned | self.router.desired.endpoints_with(resident.admission.allowed))
        link = resident.link
        routes_in = bool(link and self.router.routes_of(resident.admission.allowed, link.index))
        event = inputs.read(resident.machine.assignment, after, routes_in=routes_in)
        if resident.machine.awaiting and not endpoint.spec.await_role:
            self._feed(resident, AwaitLifted())
        if event:
            self._feed(resident, event)
        elif is_other:
            self._memory.keep(resident.key, resident.record)
            self._telling.report(resident)

    def _bury(self, resident: Resident, step: Step) -> None:
        """Forget an endpoint whose machine is gone; its routes may outlive it."""
        self.faults.forget(resident.key)
        is_orphan = commands.KeepOrphan() in step.commands
        had_routes = machine.level(resident.machine) is not RouteLevel.NONE
        self.attendance.leave(resident)
        del self.residents[resident.key]
        affected = self.router.desired.drop(resident.key, orphan=is_orphan)
        if is_orphan and resident.link:
            # Also those that were kept though they were not ours any more.
            for route in self.router.routes_of(resident.admission.allowed, resident.link.index):
                self.router.desired.put_orphan(route)
        self._enforce(resident, affected, give_back=had_routes)
        self._memory.keep(resident.key, lambda: None)
        orphaned = self.router.desired.orphans()
        orphans = tuple(route for route in orphaned if route.address in affected.addresses)
        if is_orphan and orphans and resident.link:
            named = gateways.of(resident.endpoint.spec, resident.link, self.settings)
            self.orphans.keep(Orphan(resident.key, orphans, resident.mac, named))
        self._tell(resident, step)
        self._telling.gone(resident)
        self.report(self.router.desired.endpoints_with(affected.addresses))
        self.lodging.let_go(resident)

    def _follow(self, resident: Resident) -> None:
        """Bring desired network and kernel to where the endpoint stands now."""
        self._enforce(resident, self.router.desired.put(resident.local(self.settings)))

    def _enforce(self, resident: Resident, affected: Affected, *, give_back: bool = True) -> None:
        before = self.router.given_back
        self.kernel.apply(affected, give_back=give_back)
        if self.router.given_back > before:
            text = f"{self.router.given_back - before} routes of the CNI are back in their table"
            self._telling.event(resident, "RoutesGivenBack", text)

    def _relocate(self, resident: Resident, *, is_elsewhere: bool) -> None:
        """Follow the endpoint to another interface, or to other addresses."""
        relocate = partial(self._let_relocate, resident, is_elsewhere=is_elsewhere)
        self.faults.attempt(resident.key, "relocate", relocate)

    def _let_relocate(self, resident: Resident, *, is_elsewhere: bool) -> None:
        if self.residents.get(resident.key) is not resident:
            return
        self._follow(resident)
        self.attendance.follow(resident, self.router, self.settings)
        if is_elsewhere and resident.ear:
            resident.ear.start_probes()
        self._telling.report(resident)

    def unreadable(self, stub: Stub, addresses: Iterable[IPAddress], why: str) -> None:
        """Leave alone what an endpoint has of which nobody can tell what it is to have.

        One that could be read before goes on as it was.
        """
        if stub.key not in self.residents:
            self.kernel.spare(stub.key, addresses)
            self._telling.unstarted(stub, EndpointReason.UNREADABLE, why)

    def forget(self, key: ObjectKey) -> None:
        """Forget an endpoint that is gone before it could be started or read."""
        if self.unstarted.pop(key, None):
            self.faults.forget(key)
        self.kernel.reapply(self.kernel.spare(key, ()))

    def heal(self) -> None:
        """Let ears and timers of all endpoints follow their machines once more."""
        for resident in tuple(self.residents.values()):
            follow = partial(self.attendance.follow, resident, self.router, self.settings)
            self.faults.attempt(resident.key, "heal", follow)

    # What is known of an endpoint as a whole.

    def _faulted(self, key: ObjectKey) -> None:
        """Have it told that an endpoint has a trouble of ours, or has it no more."""
        if key in self.residents:
            self._telling.report(self.residents[key])
        elif key in self.unstarted:
            (endpoint, _, is_told), trouble = self.unstarted[key], self.faults.trouble(key)
            # What was only remembered has no status that could be kept; the API has it.
            if is_told or endpoint.status.state:
                reason = EndpointReason.INTERNAL_ERROR
                self._telling.unstarted(Stub.of(endpoint), reason, trouble)

    def report(self, keys: Iterable[ObjectKey]) -> None:
        """Bring the statuses of those that live here up to date."""
        for key in keys:
            if key in self.residents:
                self._telling.report(self.residents[key])

    def describe(self, resident: Resident) -> Standing:
        """Gather how an endpoint stands now."""
        described = publish.describe(resident, self.kernel, self.settings, self.misconfigured)
        found = (described.fault, self.faults.trouble(resident.key))
        return dataclasses.replace(described, fault="; ".join(filter(None, found)))


def _moment(nanoseconds: int) -> dt.datetime:
    """Return a time of the kernel's realtime clock."""
    return _EPOCH + dt.timedelta(microseconds=nanoseconds // 1000)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251  the agent's one clock
