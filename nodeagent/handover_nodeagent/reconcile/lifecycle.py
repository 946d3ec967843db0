"""Endpoints that come, change and go: what of their objects becomes a machine, or an event for one.

A start that raises is attempted again, and nothing of the endpoint is touched until then.
"""

from collections.abc import Iterable
from functools import partial
from typing import Final

from handover_api import names
from handover_api.assignment import Assignment
from handover_api.conditions import EndpointReason
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import WorkloadEndpoint
from handover_nodeagent.fsm import inputs, restart
from handover_nodeagent.fsm.events import AwaitLifted
from handover_nodeagent.fsm.restart import Found
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.memory.record import Record
from handover_nodeagent.network.admission import Admission
from handover_nodeagent.network.model import IPAddress, Link
from handover_nodeagent.network.placement import Unplaced
from handover_nodeagent.reconcile import loop
from handover_nodeagent.reconcile.endpoint import Endpoint
from handover_nodeagent.reconcile.loop import Reconciler, Unstarted
from handover_nodeagent.status.conditions import Reported

EPISODES: Final = 1_000_000
"""Apart by so much are the episodes of two machines, of which one may follow the other."""
START: Final = "start"
UPDATE: Final = "update"


class Lifecycle:
    """Starts, updates and forgets the endpoints of a reconciler."""

    def __init__(self, reconciler: Reconciler, memory: Memory) -> None:
        self._loop = reconciler
        self._memory = memory
        self._episode = 0

    def start(self, obj: WorkloadEndpoint, record: Record | None) -> None:
        """Start an endpoint's machine from what is found, in place of one of the same name."""
        key, waiting = obj.key, self._loop.unstarted.get(obj.key)
        # A remembered endpoint that could not be started so far, and is told of now, is still
        # what was remembered of it.
        is_told = record is None
        if waiting and is_told and waiting.object.metadata.uid == obj.metadata.uid:
            record = waiting.record
        self._loop.unstarted[key] = Unstarted(obj, record, is_told)
        if not self._loop.faults.attempt(key, START, partial(self._start, key)):
            # What it has in the kernel stays as it is, whoever else is known by then.
            self._loop.enforcer.spare(key, obj.spec.ips)
            self._loop.report_fault(key)

    def _start(self, key: ObjectKey) -> None:
        if key not in self._loop.unstarted:
            return
        obj, record, _ = self._loop.unstarted[key]
        self._end_former(obj)
        place, admission = self._place(obj, record)
        found = self._find(obj, record, place, admission)
        step = restart.resume(found, loop.now())
        assert step.machine is not None
        is_guarded = record is not None or found.has_routes or not found.is_paused
        paused = (found.is_paused, is_guarded)
        endpoint = Endpoint(obj, step.machine, place, admission, *paused)
        if record:
            endpoint.cutover, endpoint.learned_mac = record.cutover, record.learned_mac
        endpoint.cutover = endpoint.cutover or obj.status.last_cutover
        if step.machine.underlying.redirect:
            # The kernel first: the tunnel may have been made anew under another index.
            _, led_to = self._loop.routes.redirect_of(admission.allowed)
            endpoint.redirection = led_to or (record.led_to if record else None)
        # Known only when nothing of the above has raised; until then it stays to be started.
        self._loop.interfaces.take_in(endpoint)
        self._loop.endpoints[key] = endpoint
        del self._loop.unstarted[key]
        self._loop.enforcer.spare(key, ())
        # Its routes first: what they do not claim of an orphan goes on under another key.
        self._loop.settle(endpoint, step)
        self._loop.orphans.make_way(key)
        self._loop.publisher.started(endpoint, found)
        self._loop.report(self._loop.routes.desired.endpoints_with(admission.allowed))

    def _end_former(self, obj: WorkloadEndpoint) -> None:
        """Hear nothing more for the endpoint of this key; its routes are found as they are."""
        former = self._loop.endpoints.pop(obj.key, None)
        if former:
            self._loop.catch_up(former)
            self._loop.leave(former)
        if former and former.uid != obj.metadata.uid:
            self._loop.publisher.removed(former)

    def _place(
        self, obj: WorkloadEndpoint, record: Record | None
    ) -> tuple[Link | Unplaced, Admission]:
        """Find its interface, and which of its addresses it may have there.

        The addresses are judged twice: which interface it has depends on routes to them, and which
        of them it may have on what serves them on that interface.
        """
        interfaces = self._loop.interfaces
        self._loop.routes.foreign.look_up(interfaces.admit(obj, None).allowed)
        place = interfaces.find(obj, remembered=record.interface if record else None)
        return place, interfaces.admit(obj, place if isinstance(place, Link) else None)

    def _find(
        self,
        obj: WorkloadEndpoint,
        record: Record | None,
        place: Link | Unplaced,
        admission: Admission,
    ) -> Found:
        """Gather what the machine starts from: kernel and memory go before the status."""
        oif = place.index if isinstance(place, Link) else 0
        # What a former machine of this key started must not be taken for this one's.
        self._episode += EPISODES
        redirect, _ = self._loop.routes.redirect_of(admission.allowed)
        return Found(
            assignment=Assignment.from_annotations(obj.metadata.annotations),
            routes=self._loop.routes.level_of(admission.allowed, oif),
            last=record.remembered if record else restart.from_status(obj.status),
            await_role=obj.spec.await_role,
            episode=self._episode,
            is_paused=obj.key.namespace in self._loop.enforcer.paused,
            redirect=redirect,
        )

    def update(self, endpoint: Endpoint, obj: WorkloadEndpoint) -> None:
        """Take in another version of an endpoint that is known."""
        before, endpoint.object = endpoint.object, obj
        told, tells = (each.metadata.annotations for each in (before, obj))
        if told.get(names.ADDRESS_SHARED) != tells.get(names.ADDRESS_SHARED):
            self._loop.report({endpoint.key})
        is_other = before.spec != obj.spec or self._loop.faults.has(endpoint.key, UPDATE)
        update = partial(self._update, endpoint, is_other=is_other)
        self._loop.faults.attempt(endpoint.key, UPDATE, update)

    def _update(self, endpoint: Endpoint, *, is_other: bool) -> None:
        """Follow the endpoint's newest version; again, it changes nothing."""
        if endpoint.is_paused or self._loop.endpoints.get(endpoint.key) is not endpoint:
            return
        obj = endpoint.object
        after = Assignment.from_annotations(obj.metadata.annotations)
        if is_other:
            self._change_spec(endpoint)
        link, routes = endpoint.link, self._loop.routes
        routes_in = bool(link and routes.known.ours_to(endpoint.admission.allowed, link.index))
        # Before the role: a peer that has the guest answers what an outcome would have asked.
        self._loop.redirects.follow(endpoint)
        self._loop.redirects.confirm(endpoint)
        # After the interface: whether its routes are in decides what a new role means.
        event = inputs.of_change(endpoint.machine.assignment, after, routes_in=routes_in)
        if endpoint.machine.awaiting and not obj.spec.await_role:
            self._loop.step(endpoint, AwaitLifted())
        if event:
            self._loop.step(endpoint, event)
        elif is_other:
            self._memory.keep(endpoint.key, endpoint.record)
            self._loop.publisher.report(endpoint)

    def _change_spec(self, endpoint: Endpoint) -> None:
        """Take its other addresses or interface in, and tell all who share one."""
        desired, interfaces = self._loop.routes.desired, self._loop.interfaces
        concerned = desired.endpoints_with(endpoint.admission.allowed)
        endpoint.admission = interfaces.admit(endpoint.object, endpoint.link)
        self._loop.routes.foreign.look_up(endpoint.admission.allowed)
        interfaces.place_again(endpoint)
        interfaces.look_up_hidden(endpoint)
        self._loop.relocate(endpoint, is_elsewhere=False)
        self._loop.report(concerned | desired.endpoints_with(endpoint.admission.allowed))

    def unreadable(self, reported: Reported, addresses: Iterable[IPAddress], why: str) -> None:
        """Leave alone what an endpoint has of which nobody can tell what it is to have.

        One that could be read before goes on as it was.
        """
        if reported.key not in self._loop.endpoints:
            self._loop.enforcer.spare(reported.key, addresses)
            self._loop.publisher.unstarted(reported, EndpointReason.UNREADABLE, why)

    def forget(self, key: ObjectKey) -> None:
        """Forget an endpoint that is gone before it could be started or read."""
        if self._loop.unstarted.pop(key, None):
            self._loop.faults.forget(key)
        enforcer = self._loop.enforcer
        enforcer.reapply(enforcer.spare(key, ()))
