"""The loop that joins the rooms: what happened → ``fsm.step`` → desired → kernel, then the rest.

It owns the clock. On the way from an announcement to its route nothing waits and nothing is told;
log lines, metrics, memory and reports follow when the routes are in.
"""

import asyncio
import datetime as dt
import time
from collections.abc import Iterable, Mapping
from typing import Final

import pydantic
import structlog

from handover_api.assignment import Assignment
from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, Signal, State, WorkloadEndpoint
from handover_nodeagent import addresses as admissions
from handover_nodeagent import (
    commands,
    ears,
    fsm,
    inputs,
    machine,
    metrics,
    placement,
    restart,
    timers,
)
from handover_nodeagent.commands import EventReason
from handover_nodeagent.desired import Touched
from handover_nodeagent.events import Announced, AwaitLifted, Deleted, Event, Unaskable
from handover_nodeagent.fsm import Step
from handover_nodeagent.guard import GuardKeeper
from handover_nodeagent.machine import RouteLevel
from handover_nodeagent.memory import Memory, Record
from handover_nodeagent.network import Guard, IPAddress, Link
from handover_nodeagent.node import Node, Turn
from handover_nodeagent.report import Reporter
from handover_nodeagent.resident import Resident
from handover_nodeagent.restart import Found
from handover_nodeagent.router import Observed, Router
from handover_nodeagent.seating import Seating
from handover_nodeagent.sniff.verdict import Accepted
from handover_nodeagent.standing import Standing
from handover_nodeagent.telling import Telling
from handover_nodeagent.timers import Timer

EPISODES: Final = 1_000_000
"""Apart by so much are the episodes of two machines, of which one may follow the other."""
FIRST_PATIENCE: Final = 0.1
LAST_PATIENCE: Final = 60.0
WARNINGS: Final = frozenset({EventReason.STILL_ALIVE, EventReason.ORPHAN_ROUTE})

_log: Final = structlog.get_logger()


class Reconciler:
    """Every endpoint of this node, and the world that is made to follow them.

    Nothing is applied before :meth:`start` or the first :meth:`synced` has told all endpoints: one
    could take another one's route out.
    """

    def __init__(self, settings: Settings, reporter: Reporter, memory: Memory) -> None:
        """Touch nothing so far but the sockets that the kernel is asked through."""
        self.settings = settings
        self.misconfigured = ""
        self.is_synced = False
        self.residents: dict[ObjectKey, Resident] = {}
        self.node = Node()
        self.router = Router(settings)
        self.guard = GuardKeeper(self._wanted_guard)
        self._memory = memory
        self._telling = Telling(reporter, self._describe, _now)
        self._reporter = reporter
        self._seating = Seating()
        self._held: Touched | None = Touched()
        self._unconfirmed: set[ObjectKey] = set()
        self._moved = asyncio.Event()
        self._episode = 0
        self._acknowledged_ns = 0
        self._received_ns = 0
        self._patience = FIRST_PATIENCE
        self._retry: asyncio.TimerHandle | None = None

    # What the API says.

    def start(
        self, links: Mapping[int, Link], observed: Observed, records: Mapping[ObjectKey, Record]
    ) -> None:
        """Begin with what the kernel has and what the last agent remembered."""
        self.node.load(links)
        self.router.load(observed)
        kept = frozenset(observed.ours)
        for key, record in records.items():
            orphans = [route for route in record.routes if route in kept]
            for route in orphans:
                self.router.desired.adopt(route)
            if record.endpoint:
                self._unconfirmed.add(key)
                self._meet(record.endpoint, record)
            elif not orphans:
                self._memory.keep(key, lambda: None)
        if records:
            self._release()

    def put(self, raw: Mapping[str, object]) -> None:
        """Take in one version of an endpoint."""
        try:
            endpoint = WorkloadEndpoint.model_validate(raw)
        except pydantic.ValidationError as error:
            metrics.UNREADABLE.inc()
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            name = raw.get("metadata")
            _log.warning("unreadable_endpoint", field=field, why=first["msg"], metadata=name)
            return
        self._unconfirmed.discard(endpoint.key)
        self._reporter.known(endpoint.key, endpoint.metadata.uid, endpoint.status)
        resident = self.residents.get(endpoint.key)
        if resident is None or resident.uid != endpoint.metadata.uid:
            self._meet(endpoint, None)
        else:
            self._update(resident, endpoint)

    def drop(self, key: ObjectKey, uid: str) -> None:
        """Take in that an endpoint's object is gone."""
        resident = self.residents.get(key)
        if resident is not None and resident.uid == uid:
            self._feed(resident, Deleted())

    def synced(self) -> None:
        """Know that all endpoints of this node have been told."""
        for key in tuple(self._unconfirmed):
            self.drop(key, self.residents[key].uid)
        self._unconfirmed.clear()
        if self.is_synced:
            return
        self.is_synced = True
        self._hold(Touched(self.router.addresses()))
        self._release()
        _log.info("synced", endpoints=len(self.residents))

    def configure(self, settings: Settings, misconfigured: str = "") -> None:
        """Follow another configuration, and touch nothing that it does not concern."""
        self.misconfigured = misconfigured
        metrics.CONFIGURATION.set(not misconfigured)
        before, self.settings = self.settings, settings
        if before != settings:
            _log.info("configured", **settings.to_object())
            self.router.configure(settings)
            for resident in self.residents.values():
                resident.admission = self._admit(resident.endpoint)
                self.router.desired.put(resident.local(settings))
            self._apply(self.router.desired.everything())
            if before.mode is not settings.mode:
                self.guard.replace()
            for resident in self.residents.values():
                self._follow(resident)
        for resident in self.residents.values():
            self._telling.report(resident)

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

    # What guests and kernel say.

    def heard(self, key: ObjectKey, episode: int, accepted: Accepted, received_at: int) -> None:
        """Take an announcement: the way to the route."""
        resident = self.residents.get(key)
        if resident is None:
            return
        if resident.prepared and resident.machine.episode == episode:
            self.router.cut_over(resident.prepared)
            self._acknowledged_ns = time.time_ns()
        if resident.mac is None:
            resident.learned_mac = accepted.mac
        self._received_ns = received_at
        self._feed(resident, Announced(episode, accepted.signal, accepted.is_answer))

    def unaskable(self, key: ObjectKey, episode: int) -> None:
        """Take that a guest cannot be asked."""
        resident = self.residents.get(key)
        if resident is not None:
            self._feed(resident, Unaskable(episode))

    def hearing_changed(self, key: ObjectKey) -> None:
        """Report that a listener was lost or is back."""
        resident = self.residents.get(key)
        if resident is not None:
            self._telling.report(resident)

    def turned(self, turn: Turn | None) -> None:
        """Follow a link that came, went or changed."""
        if turn is None:
            return
        touched: set[IPAddress] = set()
        if turn.before and turn.lost_routes:
            touched |= self.router.lose(turn.before.index)
        if turn.before and turn.after is None:
            touched |= self.router.desired.lose_link(turn.before.index).addresses
        for key in self._seating.concerned(turn):
            self._seat_again(self.residents[key])
        if _own(turn.before) != _own(turn.after):
            self._admit_again(_own(turn.before) ^ _own(turn.after))
        self.reapply(touched)

    def reapply(self, touched: Iterable[IPAddress]) -> None:
        """Make the kernel what is desired for some addresses, once more."""
        self._apply(Touched(frozenset(touched)))

    def look_again(self) -> None:
        """Look for the interfaces of the endpoints that have none."""
        for key in self._seating.standing():
            self._seat_again(self.residents[key])

    # From an event to the world.

    def _feed(self, resident: Resident, event: Event) -> None:
        step = fsm.step(resident.machine, event, _now(), self.settings)
        before = resident.machine
        if step.impossible and step.input:
            metrics.IMPOSSIBLE.labels(before.state, step.input).inc()
        elif step.machine is None:
            self._bury(resident, step)
        else:
            resident.machine = step.machine
            self._settle(resident, step)
        self._telling.told(resident, before, step)
        self._moved.set()

    def _settle(self, resident: Resident, step: Step) -> None:
        """Let routes, then guest, ears, timers and memory follow the machine."""
        self._apply(self.router.desired.put(resident.local(self.settings)))
        self._acknowledged_ns = self._acknowledged_ns or time.time_ns()
        for command in step.commands:
            if isinstance(command, commands.AnnounceGateway):
                self._correct(resident)
            elif isinstance(command, commands.RecordCutover):
                self._record(resident, command.signal)
        self._acknowledged_ns = 0
        self._follow(resident)
        for command in step.commands:
            self._carry_out(resident, command)
        self._memory.keep(resident.key, resident.record)
        self._telling.report(resident)

    def _carry_out(self, resident: Resident, command: commands.Command) -> None:
        if isinstance(command, commands.StartProbes) and resident.ear:
            resident.ear.start_probes()
        elif isinstance(command, commands.AskGuest) and resident.ear:
            resident.ear.ask()
        elif isinstance(command, commands.EmitEvent):
            reason = command.reason
            self._telling.event(
                resident, reason, commands.SENTENCES[reason], warning=reason in WARNINGS
            )

    def _correct(self, resident: Resident) -> None:
        if resident.ear:
            resident.ear.correct()
        elif resident.link:
            ears.correct_without(resident.attention(resident.link, self.settings))

    def _record(self, resident: Resident, signal: Signal) -> None:
        microseconds = max(0, self._acknowledged_ns - self._received_ns) // 1000
        resident.cutover = Cutover(
            signal=signal,
            announcement_to_route_microseconds=microseconds,
            time=_now(),
            migration_uid=resident.machine.uid,
        )
        self._telling.cut_over(resident)

    def _follow(self, resident: Resident) -> None:
        """Let the ears, the prepared cutover and the timers follow the machine."""
        current, settings = resident.machine, self.settings
        tuning = resident.tuning(settings)
        if tuning is None:
            if resident.ear:
                resident.ear.close()
            resident.ear = None
        elif resident.ear:
            resident.ear.tune(tuning)
        else:
            resident.ear = ears.Ear(resident.key, tuning, self)
        is_target = current.state is State.TARGET
        resident.prepared = self.router.prepare(resident.local(settings)) if is_target else None
        self._wind(resident, timers.timer(current, settings))
        self._wind_overdue(resident)

    def _wind(self, resident: Resident, timer: Timer | None) -> None:
        if timer == resident.timer:
            return
        if resident.alarm:
            resident.alarm.cancel()
        resident.timer, resident.alarm = timer, None
        if timer:
            loop = asyncio.get_running_loop()
            resident.alarm = loop.call_later(timer.delay(_now()), self._pop, resident, timer)

    def _pop(self, resident: Resident, timer: Timer) -> None:
        resident.timer = resident.alarm = None
        self._feed(resident, timer.pops)

    def _wind_overdue(self, resident: Resident) -> None:
        """Report a Target that hears nothing; it listens on."""
        if resident.overdue_alarm:
            resident.overdue_alarm.cancel()
        due = timers.target_overdue(resident.machine, self.settings)
        left = (due - _now()).total_seconds() if due else 0.0
        resident.overdue = due is not None and left <= 0
        resident.overdue_alarm = None
        if left > 0:
            loop = asyncio.get_running_loop()
            resident.overdue_alarm = loop.call_later(left, self._overdue, resident)

    def _overdue(self, resident: Resident) -> None:
        resident.overdue, resident.overdue_alarm = True, None
        text = "The guest has not announced itself yet; its routes wait for that"
        self._telling.event(resident, "TargetTimeout", text, warning=True)
        self._telling.report(resident)

    # Endpoints that come, change and go.

    def _meet(self, endpoint: WorkloadEndpoint, record: Record | None) -> None:
        """Start an endpoint's machine from what is found, in place of one of the same name."""
        known = self.residents.pop(endpoint.key, None)
        if known:
            known.retire()
        admission = self._admit(endpoint)
        self.router.look(admission.allowed)
        place = self._place(endpoint)
        oif = place.index if isinstance(place, Link) else 0
        self._episode += EPISODES
        found = Found(
            assignment=Assignment.from_annotations(endpoint.metadata.annotations),
            routes=self.router.level_of(admission.allowed, oif),
            last=record.remembered if record else restart.from_status(endpoint.status),
            await_role=endpoint.spec.await_role,
            episode=self._episode,
        )
        step = restart.resume(found, _now())
        assert step.machine is not None
        resident = Resident(endpoint, step.machine, place, admission)
        if record:
            resident.cutover, resident.learned_mac = record.cutover, record.learned_mac
        resident.cutover = resident.cutover or endpoint.status.last_cutover
        self.residents[endpoint.key] = resident
        self._seating.take(resident.key, resident.wishes, resident.link)
        self._learn(resident)
        self._settle(resident, step)
        self._telling.met(resident, found)

    def _update(self, resident: Resident, endpoint: WorkloadEndpoint) -> None:
        """Take in another version of an endpoint that is known."""
        before, resident.endpoint = resident.endpoint, endpoint
        after = Assignment.from_annotations(endpoint.metadata.annotations)
        is_other = before.spec != endpoint.spec
        if is_other:
            resident.admission = self._admit(endpoint)
            self.router.look(resident.admission.allowed)
            self._seat_again(resident)
            self._apply(self.router.desired.put(resident.local(self.settings)))
            self._follow(resident)
        link = resident.link
        routes_in = bool(link and self.router.routes_of(resident.admission.allowed, link.index))
        event = inputs.read(resident.machine.assignment, after, routes_in=routes_in)
        if before.spec.await_role and not endpoint.spec.await_role:
            self._feed(resident, AwaitLifted())
        if event:
            self._feed(resident, event)
        elif is_other:
            self._memory.keep(resident.key, resident.record)
            self._telling.report(resident)

    def _bury(self, resident: Resident, step: Step) -> None:
        """Forget an endpoint whose machine is gone; its routes may outlive it."""
        is_orphan = commands.KeepOrphan() in step.commands
        had_routes = machine.level(resident.machine) is not RouteLevel.NONE
        resident.retire()
        del self.residents[resident.key]
        self._seating.leave(resident.key)
        touched = self.router.desired.drop(resident.key, orphan=is_orphan)
        if had_routes and not is_orphan:
            self._give_back(resident)
        self._apply(touched)
        orphans = self.router.desired.routes(touched.addresses) if is_orphan else ()
        record = Record.of_orphans(orphans) if orphans else None
        self._memory.keep(resident.key, lambda: record)
        for command in step.commands:
            if isinstance(command, commands.EmitEvent):
                self._carry_out(resident, command)
        self._telling.gone(resident)

    def _give_back(self, resident: Resident) -> None:
        given = self.router.give_back(resident.admission.allowed)
        if given:
            text = f"{given} routes of the CNI are back in their table"
            self._telling.event(resident, "RoutesGivenBack", text)

    # Interfaces and addresses.

    def _place(self, endpoint: WorkloadEndpoint) -> Link | placement.Unplaced:
        mine = self.residents.get(endpoint.key)
        own = mine.link if mine else None
        taken = self._seating.taken - ({own.index} if own else set())
        directions = self.router.directions(endpoint.spec.ips)
        surroundings = placement.Surroundings(self.node.links, self.node.names, directions, taken)
        return placement.place(endpoint, surroundings)

    def _seat_again(self, resident: Resident) -> None:
        """Look for the endpoint's interface once more, and follow it where it is another."""
        before = resident.placement
        resident.placement = self._place(resident.endpoint)
        if resident.placement == before:
            return
        self._seating.take(resident.key, resident.wishes, resident.link)
        self._learn(resident)
        self._apply(self.router.desired.put(resident.local(self.settings)))
        self._follow(resident)
        if resident.ear:
            resident.ear.start_probes()
        self._telling.report(resident)

    def _learn(self, resident: Resident) -> None:
        """Take the guest's MAC from the kernel where nobody has said it."""
        if resident.mac is None and resident.link:
            found = self.router.find_mac(resident.admission.allowed, resident.link.index)
            resident.learned_mac = found

    def _admit(self, endpoint: WorkloadEndpoint) -> admissions.Admission:
        return admissions.admit(endpoint.spec.ips, self.settings, self.node.addresses)

    def _admit_again(self, changed: frozenset[IPAddress]) -> None:
        """Judge the endpoints anew that name an address which the node got or lost."""
        for resident in self.residents.values():
            if changed.isdisjoint(resident.endpoint.spec.ips):
                continue
            resident.admission = self._admit(resident.endpoint)
            self._apply(self.router.desired.put(resident.local(self.settings)))
            self._follow(resident)
            self._telling.report(resident)

    # The kernel.

    def _hold(self, touched: Touched) -> None:
        self._held = touched if self._held is None else self._held | touched

    def _release(self) -> None:
        """Apply what has waited until all endpoints were known."""
        held, self._held = self._held or Touched(), None
        self._apply(held)
        self.guard.replace()
        for resident in self.residents.values():
            self._telling.report(resident)

    def _apply(self, touched: Touched) -> None:
        if self._held is not None:
            self._hold(touched)
            return
        self.router.devices = None if self.is_synced else self._seating.taken
        self.router.apply(touched.addresses)
        self.guard.touch(touched.interfaces)
        if self.router.refused and self._retry is None:
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(self._patience, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        refused = frozenset(self.router.refused)
        self._patience = min(2 * self._patience, LAST_PATIENCE)
        self.reapply(refused)
        if not self.router.refused:
            self._patience = FIRST_PATIENCE
        for resident in self.residents.values():
            if not refused.isdisjoint(resident.admission.allowed):
                self._telling.report(resident)

    def _describe(self, resident: Resident) -> Standing:
        """Gather what the endpoint's status is made of."""
        allowed, link = resident.admission.allowed, resident.link
        ours = self.router.routes_of(allowed, link.index) if link else ()
        rivals = [rival for route in ours if (rival := self.router.rival(route))]
        refused = self.router.refused
        return Standing(
            endpoint=resident.endpoint,
            machine=resident.machine,
            placement=resident.placement,
            admission=resident.admission,
            settings=self.settings,
            owned=resident.is_owned(self.settings),
            routes=ours,
            refusals=tuple(refused[address] for address in allowed if address in refused),
            shadow="; ".join(f"the kernel prefers {rival}" for rival in rivals),
            hears=resident.ear is not None and resident.ear.is_open,
            deafness=resident.ear.trouble if resident.ear else "",
            overdue=resident.overdue,
            cutover=resident.cutover,
            sharers=self.router.desired.sharers(resident.key),
            misconfigured=self.misconfigured,
        )

    def _wanted_guard(self, interfaces: Iterable[str] | None) -> Guard:
        desired = self.router.desired
        if interfaces is not None:
            return desired.guard(interfaces)
        return desired.guard(desired.everything().interfaces)


def _own(link: Link | None) -> frozenset[IPAddress]:
    return link.addresses if link else frozenset()


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251  the agent's one clock
