"""The loop that joins the rooms: what happened → ``fsm.step`` → desired → kernel, then the rest.

Timers, statuses and machines go by the clock that is read here (:func:`now`). On the way from an
announcement to its route nothing waits and nothing is told; log lines, metrics, memory and reports
follow when the routes are in.
"""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import structlog

from handover_api.conditions import EndpointReason
from handover_api.configuration import Mode, Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, State, WorkloadEndpoint
from handover_nodeagent import fsm, metrics
from handover_nodeagent.distribution.advertising import Advertising
from handover_nodeagent.distribution.place import Place
from handover_nodeagent.faults import Faults
from handover_nodeagent.fsm import commands
from handover_nodeagent.fsm.commands import EventReason
from handover_nodeagent.fsm.events import Announced, Event, FellSilent, Unaskable
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.fsm.step import Step
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.memory.record import Record
from handover_nodeagent.network import gateways
from handover_nodeagent.network.desired import Affected
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.reconcile import publish
from handover_nodeagent.reconcile.alarms import Alarms
from handover_nodeagent.reconcile.cutover import Cutovers
from handover_nodeagent.reconcile.endpoint import Endpoint
from handover_nodeagent.reconcile.enforce import Enforcer
from handover_nodeagent.reconcile.figures import Figures
from handover_nodeagent.reconcile.forwarded import Forwarded
from handover_nodeagent.reconcile.holding import Holding
from handover_nodeagent.reconcile.interfaces import Interfaces
from handover_nodeagent.reconcile.link_index import LinkIndex
from handover_nodeagent.reconcile.listening import Listening
from handover_nodeagent.reconcile.orphan import Orphan
from handover_nodeagent.reconcile.orphans import Orphans
from handover_nodeagent.reconcile.peers import Peers
from handover_nodeagent.reconcile.publish import Publisher
from handover_nodeagent.reconcile.redirects import Redirects
from handover_nodeagent.reconcile.remaining import RemainingRedirects
from handover_nodeagent.reconcile.urgency import Urgency
from handover_nodeagent.sniff.own_frames import LastFrame, Unknown
from handover_nodeagent.status.conditions import Facts, Reported
from handover_nodeagent.status.report import Reporter

# The name under which ``faults`` has a machine that the world could not be made to follow.
FOLLOW: Final = "follow"
# What a person has to see to; of the other Events each tells that a machine went its way.
WARNINGS: Final = frozenset({EventReason.STILL_ALIVE, EventReason.ORPHAN_ROUTE})

_log: Final = structlog.get_logger()


class Unstarted(NamedTuple):
    """An endpoint whose machine is to be started, and what the last agent remembered of it."""

    object: WorkloadEndpoint
    record: Record | None
    is_told: bool
    """By the API, so that its status is known."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a reconciler begins with.

    ``misconfigured``: why the newest configuration does not count, "" when it does. ``paused``:
    the namespaces that are. ``api_servers``: the addresses that no endpoint can have. ``node``:
    which one of the cluster's it is.
    """

    settings: Settings
    misconfigured: str = ""
    paused: frozenset[str] = frozenset()
    api_servers: frozenset[IPAddress] = frozenset()
    node: str = ""


def _ignore(_: bool) -> None:  # noqa: FBT001  stands in for whoever wants to know
    """Stand in for whoever wants to know whether a guest is expected."""


class Reconciler:
    """Every endpoint of this node, and the world that is made to follow them."""

    def __init__(
        self,
        start: Start,
        reporter: Reporter,
        memory: Memory,
        expects: Callable[[bool], None] = _ignore,
    ) -> None:
        """Touch nothing so far but the sockets that the kernel is asked through.

        Call *expects* when the first guest may come or go (True), and when none may any more.
        """
        self.settings = start.settings
        self.misconfigured = start.misconfigured
        self.endpoints: dict[ObjectKey, Endpoint] = {}
        self.unstarted: dict[ObjectKey, Unstarted] = {}
        self.faults = Faults(self.report_fault)
        link_index = LinkIndex()
        self.enforcer = Enforcer(start.settings, link_index, start.paused, self.report)
        self.routes = self.enforcer.routes
        self.interfaces = Interfaces(
            self.endpoints, link_index, self.enforcer, start.api_servers, self, self.faults.attempt
        )
        self.orphans = Orphans(self.enforcer, memory, self.interfaces.links)
        self.remaining = RemainingRedirects(self.enforcer, memory, now)
        self.peers = Peers(self.enforcer, self)
        self.redirects = Redirects(
            self.endpoints, self.enforcer, self.peers, self.remaining, self, now
        )
        self.remaining.changed = self.redirects.enclose_soon
        self.forwarded = Forwarded(self.endpoints, self.report)
        self.enforcer.redirect_table.counted = self.forwarded.counted
        self.enforcer.redirect_table.enclosed = self._tunnels_enclosed
        self.figures = Figures(self.endpoints, self._measured)
        self.cutovers = Cutovers(self.endpoints, self.enforcer, self, self.peers)
        self.listening = Listening(self.cutovers)
        self.holding = Holding(
            self.last_frame,
            lambda address, oif: self.routes.find_mac([address], oif),
            lambda key: self.report((key,)),
        )
        self.urgency = Urgency(expects)
        self.alarms = Alarms(self, now, self.urgency)
        self._memory = memory
        place = Place(
            start.node,
            start.settings,
            start.api_servers,
            is_paused=lambda key: key.namespace in self.enforcer.paused,
            recall=memory.load_heard,
            remember=memory.keep_heard,
            changed=lambda: self.report(tuple(self.endpoints)),
            let=self.enforcer.redirect_table.want_nodes,
            is_enclosed=self.enforcer.redirect_table.encloses,
            forward=self.enforcer.redirect_table.want_forwarded,
            expect=partial(self.urgency.expect, "distribution"),
        )
        self.advertising = Advertising(place)
        self.publisher = Publisher(
            *(reporter, self.describe, now, self.endpoints, self.faults.attempt),
            self.advertising,
        )
        self._moved = asyncio.Event()

    # What others want to know.

    @property
    def expects_guests(self) -> bool:
        """Tell whether an endpoint is in Target: who stops now misses its guest's announcement."""
        return any(one.machine.state is State.TARGET for one in self.endpoints.values())

    def leaves(self, key: ObjectKey) -> bool:
        """Tell whether an endpoint is left as it is, with all others or with its namespace."""
        return self.settings.mode is Mode.PAUSED or key.namespace in self.enforcer.paused

    async def moved(self) -> None:
        """Wait until some endpoint's state has changed."""
        self._moved.clear()
        await self._moved.wait()

    def flush(self) -> None:
        """Tell all that is still to be told."""
        self.publisher.flush()

    def close(self) -> None:
        """Hear and attempt nothing more; tell what is still to be told."""
        # In this order: one more attempt would open listeners and set timers anew.
        self.faults.close()
        self.orphans.close()
        self.remaining.close()
        self.peers.close()
        self.holding.close()
        for endpoint in self.endpoints.values():
            self.retire(endpoint)
        self.flush()

    def _tunnels_enclosed(self) -> None:
        self.redirects.retry()
        self.advertising.look_soon()

    # From an event to the world.

    def feed(self, endpoint: Endpoint, event: Event, received_ns: int = 0) -> None:
        """Step an endpoint's machine, and bring the world to where it stands then.

        What a guest announced was received at *received_ns*, in realtime ns.
        """
        what = type(event).__name__
        step = partial(self.step, endpoint, event, received_ns)
        self.faults.attempt(endpoint.key, what, step)

    def step(self, endpoint: Endpoint, event: Event, received_ns: int = 0) -> None:
        """Do what :meth:`feed` does, as a part of what is attempted already."""
        # What guest or peer said before comes first, so that the order of events stays.
        self.catch_up(endpoint)
        # Asked only now: the catch-up may have ended it, and a retry may come after its end.
        if endpoint.is_paused or self.endpoints.get(endpoint.key) is not endpoint:
            return
        if isinstance(event, FellSilent) and self.faults.has(endpoint.key, FOLLOW):
            # Nobody knows whether the guest was asked at all.
            event = Unaskable(event.episode)
        if isinstance(event, FellSilent):
            listener = self.listening.of(endpoint.key)
            if self.alarms.waits_on(endpoint, listener, event):
                return
        step = fsm.step(endpoint.machine, event, now(), self.settings)
        before = endpoint.machine
        if step.impossible and step.input:
            metrics.IMPOSSIBLE.labels(before.state, step.input).inc()
        elif step.machine is None:
            self._remove(endpoint, step)
        elif step.machine is before and isinstance(event, Announced):
            # A guest may send such frames as fast as it can: nothing else follows from them.
            self._ask(endpoint, step)
        else:
            endpoint.machine = step.machine
            self.settle(endpoint, step, received_ns)
        # Told when all is done; written when the routes of others are in, too.
        self.publisher.stepped(endpoint, before, step)
        self._moved.set()

    def catch_up(self, endpoint: Endpoint) -> None:
        """Step on what was heard of an endpoint, and shows in its routes already."""
        self.cutovers.catch_up(endpoint)
        self.redirects.catch_up(endpoint)

    def settle(self, endpoint: Endpoint, step: Step | None = None, received_ns: int = 0) -> None:
        """Let the world follow the machine, and again where that fails, until it steps anew.

        Without a *step* the machine has not changed, but what is known of its guest has.
        """
        step = step or Step(endpoint.machine)

        def follow() -> None:
            if endpoint.machine is step.machine and self.endpoints.get(endpoint.key) is endpoint:
                self._follow(endpoint, step, received_ns)

        self.faults.attempt(endpoint.key, FOLLOW, follow)

    def _follow(self, endpoint: Endpoint, step: Step, received_ns: int) -> None:
        """Let routes, then guest, listener, timers and memory follow the machine.

        The routes first, as all else can wait; the report last, as it says how all of it went.
        """
        if commands.KeepRedirect() in step.commands:
            # Before the machine's own goes, so that what comes meanwhile finds a way on.
            self.redirects.keep(endpoint, endpoint.admission.allowed)
        # It has just begun: by a word, or when nobody answered who was asked because of one.
        is_redirected = commands.EmitEvent(EventReason.REDIRECTED) in step.commands
        if is_redirected:
            self.redirects.hold(endpoint)
        self._apply(endpoint)
        if is_redirected:
            self.resend(endpoint)
        self._tell_of_cutover(endpoint, step, received_ns)
        # Before the listener follows: whom the kernel takes for the guest is asked, too.
        if endpoint.machine.state in {State.ASKING, State.REDIRECTED}:
            self.interfaces.learn_neigh_mac(endpoint)
        # The listener is opened before it is told to ask: without one nobody would be asked.
        self.follow_machine(endpoint)
        self._ask(endpoint, step)
        self._emit(endpoint, step)
        # As its routes do, the record of a paused one stays as it was when the pause began.
        if not endpoint.is_paused:
            self._memory.keep(endpoint.key, endpoint.record)
        self.publisher.report(endpoint)

    def _tell_of_cutover(self, endpoint: Endpoint, step: Step, received_ns: int) -> None:
        """Tell the guest, persons and peers what changed for them."""
        for command in step.commands:
            if isinstance(command, commands.AnnounceGateway):
                self._announce_gateway(endpoint)
            elif isinstance(command, commands.RecordCutover):
                endpoint.cutover = self.cutovers.measure(endpoint, command.signal, received_ns)
                self.publisher.cut_over(endpoint.key, endpoint.cutover)
            elif isinstance(command, commands.TellPeers):
                self.peers.tell(endpoint, has_guest=command.has_guest)
        if any(isinstance(command, commands.RecordCutover) for command in step.commands):
            # Only now: by then it is known how many nodes were told.
            self.figures.recorded(endpoint, received_ns)

    def follow_machine(self, endpoint: Endpoint) -> None:
        """Let listener, prepared cutover and timers follow the machine; while paused, none."""
        if self.settings.mode is Mode.PAUSED or endpoint.is_paused:
            self.leave(endpoint)
            return
        self.listening.follow(endpoint, self.settings)
        # After it: who records the port asks it for the guest's last frame.
        self.holding.follow(endpoint, self.settings)
        self.cutovers.prepare(endpoint)
        self.alarms.follow(endpoint, self.settings)
        self.redirects.follow(endpoint)
        self.forwarded.follow(endpoint)

    def leave(self, endpoint: Endpoint) -> None:
        """Hear and expect nothing more of an endpoint."""
        self.retire(endpoint)
        self.alarms.forget(endpoint)
        self.redirects.forget(endpoint.key)
        self.figures.forget(endpoint.key)
        self.holding.forget(endpoint.key)

    def retire(self, endpoint: Endpoint) -> None:
        """Stop an endpoint's timers and its listening."""
        self.alarms.cancel(endpoint.key)
        self.holding.leave(endpoint.key)
        self.listening.end(endpoint.key)
        self.cutovers.drop(endpoint)

    def _announce_gateway(self, endpoint: Endpoint) -> None:
        """Tell the guest where its gateway is now, and a person where that is a guess."""
        self.listening.announce_gateway(endpoint, self.settings)
        spec, link = endpoint.object.spec, endpoint.link
        if link and gateways.is_assumed(spec, link, gateways.of(spec, link, self.settings)):
            self.publisher.event(endpoint, "GatewayAssumed", gateways.ASSUMED)

    def _ask(self, endpoint: Endpoint, step: Step) -> None:
        """Ask the guest what the machine wants asked."""
        for command in step.commands:
            self.listening.ask(endpoint, command)

    def _emit(self, endpoint: Endpoint, step: Step) -> None:
        """Emit the Events that the machine wants emitted."""
        for command in step.commands:
            if isinstance(command, commands.EmitEvent):
                reason = command.reason
                text = commands.SENTENCES[reason]
                self.publisher.event(endpoint, reason, text, warning=reason in WARNINGS)

    def overdue(self, endpoint: Endpoint) -> None:
        """Report a Target that has heard nothing for too long; it listens on."""
        endpoint.overdue = True
        text = "The guest has not announced itself yet; its routes wait for that"
        self.publisher.event(endpoint, "TargetTimeout", text, warning=True)
        self.publisher.report(endpoint)

    def _remove(self, endpoint: Endpoint, step: Step) -> None:
        """Forget an endpoint whose machine is gone; its routes may outlive it.

        What raises before the endpoint is taken off the list is done again, whole; after that the
        next attempt finds it gone.
        """
        self.faults.forget(endpoint.key)
        is_orphan = commands.KeepOrphan() in step.commands
        is_redirected = endpoint.machine.underlying.redirect is not None
        had_routes = endpoint.machine.level is not RouteLevel.NONE and not is_redirected
        if commands.KeepRedirect() in step.commands:
            self.redirects.keep(endpoint, endpoint.admission.allowed)
        # Before it is off the list: nobody else could close its listener or cancel its timers then.
        self.leave(endpoint)
        self.forwarded.forget(endpoint.key)
        del self.endpoints[endpoint.key]
        affected = self.routes.desired.drop(endpoint.key, orphan=is_orphan)
        if is_orphan and endpoint.link:
            # Before anything is applied: what no orphan keeps would be taken out as unwanted. Also
            # those that were kept though they were not ours any more.
            for route in self.routes.known.ours_to(endpoint.admission.allowed, endpoint.link.index):
                self.routes.desired.put_orphan(route)
        # Where no routes were in no guest is here: a CNI's route that comes back would draw what is
        # meant for it elsewhere.
        self._enforce(endpoint, affected, give_back=had_routes)
        if commands.TellPeers(has_guest=False) in step.commands:
            self.peers.tell(endpoint, has_guest=False)
        # Memory before orphans: both keep under the same key, and what was said last is written.
        # The other way round a restart would know nothing of the routes that stay.
        self._memory.keep(endpoint.key, lambda: None)
        orphaned = self.routes.desired.orphans()
        orphans = tuple(route for route in orphaned if route.address in affected.addresses)
        if is_orphan and orphans and endpoint.link:
            named = gateways.of(endpoint.object.spec, endpoint.link, self.settings)
            self.orphans.keep(Orphan(endpoint.key, orphans, endpoint.mac, named))
        # An Event stands by itself; a status would be written to an object that is gone.
        self._emit(endpoint, step)
        self.publisher.removed(endpoint)
        # Whoever shares an address may have its route now.
        self.report(self.routes.desired.endpoints_with(affected.addresses))
        # Last: it may place another endpoint on the interface at once, with all that this entails.
        self.interfaces.let_go(endpoint)

    def _apply(self, endpoint: Endpoint) -> None:
        """Bring desired network and kernel to where the endpoint stands now."""
        self._enforce(endpoint, self.routes.desired.put(endpoint.local(self.settings)))

    def _enforce(self, endpoint: Endpoint, affected: Affected, *, give_back: bool = True) -> None:
        given_back = self.enforcer.apply(affected, give_back=give_back)
        if given_back:
            text = f"{given_back} routes of the CNI are back in their table"
            self.publisher.event(endpoint, "RoutesGivenBack", text)

    def relocate(self, endpoint: Endpoint, *, is_elsewhere: bool) -> None:
        """Follow the endpoint to another interface, or to other addresses."""
        relocate = partial(self._relocate, endpoint, is_elsewhere=is_elsewhere)
        self.faults.attempt(endpoint.key, "relocate", relocate)

    def _relocate(self, endpoint: Endpoint, *, is_elsewhere: bool) -> None:
        if self.endpoints.get(endpoint.key) is not endpoint:
            return
        self._apply(endpoint)
        self.follow_machine(endpoint)
        if is_elsewhere:
            self.listening.ask_afresh(endpoint)
        self.publisher.report(endpoint)

    def prepare_anew(self, keys: Iterable[ObjectKey]) -> None:
        """Have prepared cutovers carry what their owners' routes are known to carry by now."""
        self.cutovers.prepare_anew(keys)

    def heal(self) -> None:
        """Let listening and timers of all endpoints follow their machines once more."""
        for endpoint in tuple(self.endpoints.values()):
            follow = partial(self.follow_machine, endpoint)
            self.faults.attempt(endpoint.key, "heal", follow)

    # What is known of an endpoint as a whole.

    def report_fault(self, key: ObjectKey) -> None:
        """Have it told that an endpoint has a trouble of ours, or has it no more."""
        if key in self.endpoints:
            self.publisher.report(self.endpoints[key])
        elif key in self.unstarted:
            (obj, _, is_told), trouble = self.unstarted[key], self.faults.trouble(key)
            # What was only remembered has no status that could be kept; the API has it.
            if is_told or obj.status.state:
                reason = EndpointReason.INTERNAL_ERROR
                self.publisher.unstarted(Reported.of(obj), reason, trouble)

    def peers_changed(self) -> None:
        """Know that other nodes may send on to guests here than before."""
        self.redirects.enclose_soon()

    def asked(self, key: ObjectKey, uid: str, count: int) -> None:
        """Know to how many nodes it was said that an endpoint has the guest."""
        self.figures.asked(key, uid, count)

    def _measured(self, endpoint: Endpoint, before: Cutover) -> None:
        """Tell what else was measured of a cutover."""
        assert endpoint.cutover is not None
        self.publisher.followed(before, endpoint.cutover)
        self._memory.keep(endpoint.key, endpoint.record)
        self.publisher.report(endpoint)

    def last_frame(self, key: ObjectKey) -> LastFrame | Unknown:
        """Tell when a guest that leaves was last heard here, or why nobody knows."""
        return self.listening.last_frames.of(key)

    def resend(self, endpoint: Endpoint) -> None:
        """Send on what a guest did not take that another node has: its redirect is in."""
        self.holding.resend(endpoint, self.settings)

    def report(self, keys: Iterable[ObjectKey]) -> None:
        """Bring the statuses of those that live here up to date."""
        for key in keys:
            if key in self.endpoints:
                self.publisher.report(self.endpoints[key])

    def describe(self, endpoint: Endpoint) -> Facts:
        """Gather how an endpoint stands now."""
        listener = self.listening.of(endpoint.key)
        described = publish.describe(
            endpoint, listener, self.enforcer, self.settings, self.misconfigured
        )
        found = (described.internal_error, self.faults.trouble(endpoint.key))
        return dataclasses.replace(
            described,
            internal_error="; ".join(filter(None, found)),
            redirectable=self.peers.readiness(endpoint),
            agent=self.peers.agent_of(endpoint),
            holding=self.holding.readiness(endpoint, self.settings),
            redirect=self.holding.add_to(endpoint, self.forwarded.describe(endpoint)),
            is_advertised=self.advertising.decide(
                endpoint.object,
                endpoint.machine.state,
                endpoint.machine.assignment.role,
                [route.address for route in (*described.routes, *described.redirects)],
            ),
            strict_devices=self.advertising.strict_devices,
            unreachable=self.advertising.unreachable,
        )


def now() -> dt.datetime:
    """Read the clock of timers and statuses; a cutover is measured in the kernel's own times."""
    return dt.datetime.now(dt.UTC)  # noqa: TID251  the loop's clock
