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
from handover_nodeagent.fsm import commands, inputs, restart
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
from handover_nodeagent.reconcile.alarms import Alarms
from handover_nodeagent.reconcile.endpoint import Endpoint, Heard
from handover_nodeagent.reconcile.enforce import Enforcer
from handover_nodeagent.reconcile.interfaces import Interfaces
from handover_nodeagent.reconcile.link_index import LinkIndex
from handover_nodeagent.reconcile.orphans import Orphan, Orphans
from handover_nodeagent.reconcile.publish import Publisher
from handover_nodeagent.sniff.verdict import Accepted
from handover_nodeagent.status.conditions import Facts, Stub
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

    object: WorkloadEndpoint
    record: Record | None
    is_told: bool
    """By the API, so that its status is known."""


class Reconciler:
    """Every endpoint of this node, and the world that is made to follow them."""

    def __init__(self, settings: Settings, reporter: Reporter, memory: Memory) -> None:
        """Touch nothing so far but the sockets that the kernel is asked through."""
        self.settings = settings
        self.misconfigured = ""
        self.endpoints: dict[ObjectKey, Endpoint] = {}
        self.unstarted: dict[ObjectKey, Unstarted] = {}
        self.faults = Faults(self._faulted)
        link_index = LinkIndex()
        self.enforcer = Enforcer(settings, link_index, self.report)
        self.routes = self.enforcer.routes
        self.interfaces = Interfaces(
            self.endpoints, link_index, self.enforcer, self._relocate, self.faults.attempt
        )
        self.orphans = Orphans(self.enforcer, memory, self.interfaces.links)
        self.alarms = Alarms(self, self.feed, self._overdue, _now)
        self._memory = memory
        self._publisher = Publisher(
            reporter, self.describe, _now, self.endpoints, self.faults.attempt
        )
        self._moved = asyncio.Event()
        self._episode = 0
        self._received_ns = 0
        self._heard_at = 0.0
        self._cut_over = deque[Endpoint]()

    # What others want to know.

    @property
    def awaits_guests(self) -> bool:
        """Tell whether an endpoint is in Target: no moment to go."""
        return any(one.machine.state is State.TARGET for one in self.endpoints.values())

    async def moved(self) -> None:
        """Wait until some endpoint's state has changed."""
        self._moved.clear()
        await self._moved.wait()

    def flush(self) -> None:
        """Tell all that is still to be told."""
        self._publisher.flush()

    def close(self) -> None:
        """Hear and attempt nothing more; tell what is still to be told."""
        self.faults.close()
        self.orphans.close()
        for endpoint in self.endpoints.values():
            endpoint.retire()
        self.flush()

    # What guests and kernel say.

    def heard(self, key: ObjectKey, episode: int, accepted: Accepted, received_at: int) -> None:
        """Take an announcement: the way to the route.

        What is prepared goes out at once. The machine steps a moment later, or before anything else
        happens to it: twenty guests that announce at the same instant all get their routes first.
        """
        endpoint = self.endpoints.get(key)
        if endpoint is None or endpoint.machine.episode != episode:
            return
        event = Announced(episode, accepted.signal, accepted.is_answer)
        prepared, endpoint.prepared = endpoint.prepared, None
        if prepared is None:
            self._take(endpoint, Heard(event, accepted.mac, received_at))
        elif endpoint.heard is None:
            try:
                self.routes.cut_over(prepared)
            except Exception as error:  # noqa: BLE001  the root of a cutover; costs nothing else
                faults.note("cutover", error, endpoint=str(key))
                self._take(endpoint, Heard(event, accepted.mac, received_at))
                return
            endpoint.heard = Heard(event, accepted.mac, received_at, prepared)
            loop = asyncio.get_running_loop()
            self._heard_at = loop.time()
            self._cut_over.append(endpoint)
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

    def digest(self, endpoint: Endpoint) -> None:
        """Step on what was heard, unless something else was faster to ask for it."""
        heard, endpoint.heard = endpoint.heard, None
        if heard and heard.sent:
            self.routes.catch_up(heard.sent)
        if heard and self.endpoints.get(endpoint.key) is endpoint:
            self._take(endpoint, heard)

    def _take(self, endpoint: Endpoint, heard: Heard) -> None:
        is_news = endpoint.mac is None
        if is_news:
            endpoint.learned_mac = heard.mac
        before = endpoint.machine
        self._received_ns = heard.received_ns
        self.feed(endpoint, heard.event)
        if is_news:
            self.routes.seed(endpoint.local(self.settings))
            if endpoint.machine is before:
                # The guest can be asked from now on.
                self._settle(endpoint, Step(before))

    def unaskable(self, key: ObjectKey, episode: int) -> None:
        """Take that a guest cannot be asked."""
        endpoint = self.endpoints.get(key)
        if endpoint is not None:
            self.feed(endpoint, Unaskable(episode))

    def listening_changed(self, key: ObjectKey) -> None:
        """Report that a listener was lost or is back."""
        endpoint = self.endpoints.get(key)
        if endpoint is not None:
            self._publisher.report(endpoint)

    # From an event to the world.

    def feed(self, endpoint: Endpoint, event: Event) -> None:
        """Step an endpoint's machine, and bring the world to where it stands then."""
        what = type(event).__name__
        self.faults.attempt(endpoint.key, what, partial(self._feed, endpoint, event))

    def _feed(self, endpoint: Endpoint, event: Event) -> None:
        self.digest(endpoint)
        if endpoint.is_paused or self.endpoints.get(endpoint.key) is not endpoint:
            return
        if isinstance(event, FellSilent) and self.faults.has(endpoint.key, FOLLOW):
            # Nobody knows whether the guest was asked at all.
            event = Unaskable(event.episode)
        if isinstance(event, FellSilent) and self.alarms.waits_on(endpoint, event):
            return
        step = fsm.step(endpoint.machine, event, _now(), self.settings)
        before = endpoint.machine
        if step.impossible and step.input:
            metrics.IMPOSSIBLE.labels(before.state, step.input).inc()
        elif step.machine is None:
            self._bury(endpoint, step)
        elif step.machine is before and isinstance(event, Announced):
            # A guest may send such frames as fast as it can: nothing else follows from them.
            self._question(endpoint, step)
        else:
            endpoint.machine = step.machine
            self._settle(endpoint, step)
        self._publisher.told(endpoint, before, step)
        self._moved.set()

    def _settle(self, endpoint: Endpoint, step: Step) -> None:
        """Let the world follow the machine, and again where that fails, until it steps anew."""

        def follow() -> None:
            if endpoint.machine is step.machine and self.endpoints.get(endpoint.key) is endpoint:
                self._let_follow(endpoint, step)

        self.faults.attempt(endpoint.key, FOLLOW, follow)

    def _let_follow(self, endpoint: Endpoint, step: Step) -> None:
        """Let routes, then guest, listening, timers and memory follow the machine."""
        self._follow(endpoint)
        for command in step.commands:
            if isinstance(command, commands.AnnounceGateway):
                self._correct(endpoint)
            elif isinstance(command, commands.RecordCutover):
                self._record(endpoint, command.signal)
        if endpoint.machine.state is State.ASKING:
            self.interfaces.look_for_mac(endpoint)
        self.alarms.follow(endpoint, self.routes, self.settings)
        self._question(endpoint, step)
        self._tell(endpoint, step)
        if not endpoint.is_paused:
            self._memory.keep(endpoint.key, endpoint.record)
        self._publisher.report(endpoint)

    def _correct(self, endpoint: Endpoint) -> None:
        """Tell the guest where its gateway is now, and a person where that is a guess."""
        self.alarms.correct(endpoint, self.settings)
        spec, link = endpoint.object.spec, endpoint.link
        if link and gateways.is_assumed(spec, link, gateways.of(spec, link, self.settings)):
            self._publisher.event(endpoint, "GatewayAssumed", gateways.ASSUMED)

    def _question(self, endpoint: Endpoint, step: Step) -> None:
        """Ask the guest what the machine wants asked."""
        for command in step.commands:
            self.alarms.question(endpoint, command)

    def _tell(self, endpoint: Endpoint, step: Step) -> None:
        """Emit the Events that the machine wants emitted."""
        for command in step.commands:
            if isinstance(command, commands.EmitEvent):
                reason = command.reason
                text = commands.SENTENCES[reason]
                self._publisher.event(endpoint, reason, text, warning=reason in WARNINGS)

    def _overdue(self, endpoint: Endpoint) -> None:
        endpoint.overdue, endpoint.overdue_alarm = True, None
        text = "The guest has not announced itself yet; its routes wait for that"
        self._publisher.event(endpoint, "TargetTimeout", text, warning=True)
        self._publisher.report(endpoint)

    def _record(self, endpoint: Endpoint, signal: Signal) -> None:
        """Note when the last of the guest's routes was in, by its own acknowledgment.

        One that was in before the announcement took no time; where none is, there is only now.
        """
        oif = endpoint.link.index if endpoint.link else 0
        known = self.routes.acknowledged_ns(endpoint.admission.allowed, oif)
        last = max(*known, self._received_ns) if known else time.time_ns()
        microseconds = max(0, last - self._received_ns) // 1000
        endpoint.cutover = Cutover(
            signal=signal,
            announcement_to_route_microseconds=microseconds,
            time=_moment(last),
            migration_uid=endpoint.machine.uid,
        )
        self._publisher.cut_over(endpoint)

    # Endpoints that come, change and go.

    def meet(self, obj: WorkloadEndpoint, record: Record | None) -> None:
        """Start an endpoint's machine from what is found, in place of one of the same name."""
        key, waiting = obj.key, self.unstarted.get(obj.key)
        is_told = record is None
        if waiting and is_told and waiting.object.metadata.uid == obj.metadata.uid:
            record = waiting.record
        self.unstarted[key] = Unstarted(obj, record, is_told)
        if not self.faults.attempt(key, START, partial(self._start, key)):
            # What it has in the kernel stays as it is, whoever else is known by then.
            self.enforcer.spare(key, obj.spec.ips)
            self._faulted(key)

    def _start(self, key: ObjectKey) -> None:
        if key not in self.unstarted:
            return
        obj, record, _ = self.unstarted[key]
        known = self.endpoints.pop(obj.key, None)
        if known:
            self.digest(known)
            self.alarms.leave(known)
        if known and known.uid != obj.metadata.uid:
            self._publisher.gone(known)
        admission = self.interfaces.admit(obj, None)
        self.routes.foreign.look(admission.allowed)
        place = self.interfaces.find(obj, remembered=record.interface if record else None)
        oif = place.index if isinstance(place, Link) else 0
        admission = self.interfaces.admit(obj, place if isinstance(place, Link) else None)
        self._episode += EPISODES
        found = Found(
            assignment=Assignment.from_annotations(obj.metadata.annotations),
            routes=self.routes.level_of(admission.allowed, oif),
            last=record.remembered if record else restart.from_status(obj.status),
            await_role=obj.spec.await_role,
            episode=self._episode,
            is_paused=key.namespace in self.enforcer.paused,
        )
        step = restart.resume(found, _now())
        assert step.machine is not None
        is_guarded = record is not None or found.has_routes or not found.is_paused
        paused = (found.is_paused, is_guarded)
        endpoint = Endpoint(obj, step.machine, place, admission, *paused)
        if record:
            endpoint.cutover, endpoint.learned_mac = record.cutover, record.learned_mac
        endpoint.cutover = endpoint.cutover or obj.status.last_cutover
        self.interfaces.take_in(endpoint)
        self.endpoints[obj.key] = endpoint
        del self.unstarted[key]
        self.enforcer.spare(key, ())
        self._settle(endpoint, step)
        self.orphans.make_way(key)
        self._publisher.met(endpoint, found)
        self.report(self.routes.desired.endpoints_with(admission.allowed))

    def update(self, endpoint: Endpoint, obj: WorkloadEndpoint) -> None:
        """Take in another version of an endpoint that is known."""
        before, endpoint.object = endpoint.object, obj
        told, tells = (each.metadata.annotations for each in (before, obj))
        if told.get(names.ADDRESS_SHARED) != tells.get(names.ADDRESS_SHARED):
            self.report({endpoint.key})
        is_other = before.spec != obj.spec or self.faults.has(endpoint.key, UPDATE)
        update = partial(self._update, endpoint, is_other=is_other)
        self.faults.attempt(endpoint.key, UPDATE, update)

    def _update(self, endpoint: Endpoint, *, is_other: bool) -> None:
        """Follow the endpoint's newest version; again, it changes nothing."""
        if endpoint.is_paused or self.endpoints.get(endpoint.key) is not endpoint:
            return
        obj = endpoint.object
        after = Assignment.from_annotations(obj.metadata.annotations)
        if is_other:
            concerned = self.routes.desired.endpoints_with(endpoint.admission.allowed)
            endpoint.admission = self.interfaces.admit(obj, endpoint.link)
            self.routes.foreign.look(endpoint.admission.allowed)
            self.interfaces.look_again(endpoint)
            self.interfaces.look_below(endpoint)
            self._relocate(endpoint, is_elsewhere=False)
            self.report(concerned | self.routes.desired.endpoints_with(endpoint.admission.allowed))
        link = endpoint.link
        routes_in = bool(link and self.routes.routes_of(endpoint.admission.allowed, link.index))
        event = inputs.of_change(endpoint.machine.assignment, after, routes_in=routes_in)
        if endpoint.machine.awaiting and not obj.spec.await_role:
            self._feed(endpoint, AwaitLifted())
        if event:
            self._feed(endpoint, event)
        elif is_other:
            self._memory.keep(endpoint.key, endpoint.record)
            self._publisher.report(endpoint)

    def _bury(self, endpoint: Endpoint, step: Step) -> None:
        """Forget an endpoint whose machine is gone; its routes may outlive it."""
        self.faults.forget(endpoint.key)
        is_orphan = commands.KeepOrphan() in step.commands
        had_routes = endpoint.machine.level is not RouteLevel.NONE
        self.alarms.leave(endpoint)
        del self.endpoints[endpoint.key]
        affected = self.routes.desired.drop(endpoint.key, orphan=is_orphan)
        if is_orphan and endpoint.link:
            # Also those that were kept though they were not ours any more.
            for route in self.routes.routes_of(endpoint.admission.allowed, endpoint.link.index):
                self.routes.desired.put_orphan(route)
        self._enforce(endpoint, affected, give_back=had_routes)
        self._memory.keep(endpoint.key, lambda: None)
        orphaned = self.routes.desired.orphans()
        orphans = tuple(route for route in orphaned if route.address in affected.addresses)
        if is_orphan and orphans and endpoint.link:
            named = gateways.of(endpoint.object.spec, endpoint.link, self.settings)
            self.orphans.keep(Orphan(endpoint.key, orphans, endpoint.mac, named))
        self._tell(endpoint, step)
        self._publisher.gone(endpoint)
        self.report(self.routes.desired.endpoints_with(affected.addresses))
        self.interfaces.let_go(endpoint)

    def _follow(self, endpoint: Endpoint) -> None:
        """Bring desired network and kernel to where the endpoint stands now."""
        self._enforce(endpoint, self.routes.desired.put(endpoint.local(self.settings)))

    def _enforce(self, endpoint: Endpoint, affected: Affected, *, give_back: bool = True) -> None:
        before = self.routes.given_back
        self.enforcer.apply(affected, give_back=give_back)
        if self.routes.given_back > before:
            text = f"{self.routes.given_back - before} routes of the CNI are back in their table"
            self._publisher.event(endpoint, "RoutesGivenBack", text)

    def _relocate(self, endpoint: Endpoint, *, is_elsewhere: bool) -> None:
        """Follow the endpoint to another interface, or to other addresses."""
        relocate = partial(self._let_relocate, endpoint, is_elsewhere=is_elsewhere)
        self.faults.attempt(endpoint.key, "relocate", relocate)

    def _let_relocate(self, endpoint: Endpoint, *, is_elsewhere: bool) -> None:
        if self.endpoints.get(endpoint.key) is not endpoint:
            return
        self._follow(endpoint)
        self.alarms.follow(endpoint, self.routes, self.settings)
        if is_elsewhere and endpoint.listener:
            endpoint.listener.start_probes()
        self._publisher.report(endpoint)

    def unreadable(self, stub: Stub, addresses: Iterable[IPAddress], why: str) -> None:
        """Leave alone what an endpoint has of which nobody can tell what it is to have.

        One that could be read before goes on as it was.
        """
        if stub.key not in self.endpoints:
            self.enforcer.spare(stub.key, addresses)
            self._publisher.unstarted(stub, EndpointReason.UNREADABLE, why)

    def forget(self, key: ObjectKey) -> None:
        """Forget an endpoint that is gone before it could be started or read."""
        if self.unstarted.pop(key, None):
            self.faults.forget(key)
        self.enforcer.reapply(self.enforcer.spare(key, ()))

    def heal(self) -> None:
        """Let listening and timers of all endpoints follow their machines once more."""
        for endpoint in tuple(self.endpoints.values()):
            follow = partial(self.alarms.follow, endpoint, self.routes, self.settings)
            self.faults.attempt(endpoint.key, "heal", follow)

    # What is known of an endpoint as a whole.

    def _faulted(self, key: ObjectKey) -> None:
        """Have it told that an endpoint has a trouble of ours, or has it no more."""
        if key in self.endpoints:
            self._publisher.report(self.endpoints[key])
        elif key in self.unstarted:
            (obj, _, is_told), trouble = self.unstarted[key], self.faults.trouble(key)
            # What was only remembered has no status that could be kept; the API has it.
            if is_told or obj.status.state:
                reason = EndpointReason.INTERNAL_ERROR
                self._publisher.unstarted(Stub.of(obj), reason, trouble)

    def report(self, keys: Iterable[ObjectKey]) -> None:
        """Bring the statuses of those that live here up to date."""
        for key in keys:
            if key in self.endpoints:
                self._publisher.report(self.endpoints[key])

    def describe(self, endpoint: Endpoint) -> Facts:
        """Gather how an endpoint stands now."""
        described = publish.describe(endpoint, self.enforcer, self.settings, self.misconfigured)
        found = (described.internal_error, self.faults.trouble(endpoint.key))
        return dataclasses.replace(described, internal_error="; ".join(filter(None, found)))


def _moment(nanoseconds: int) -> dt.datetime:
    """Return a time of the kernel's realtime clock."""
    return _EPOCH + dt.timedelta(microseconds=nanoseconds // 1000)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251  the agent's one clock
