"""What is published when the routes are in: log lines, metrics, statuses and Events.

Nothing here may hold up a route. So what is told is only noted at first; a timer tells it a few
milliseconds later, a slice at a time, with a turn of the loop for others in between.
"""

import asyncio
import datetime as dt
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import structlog
from prometheus_client import Histogram

from handover_api.conditions import EndpointReason
from handover_api.configuration import Settings
from handover_api.model import Condition
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, State
from handover_nodeagent import faults, metrics
from handover_nodeagent.distribution.advertising import Advertising
from handover_nodeagent.faults import Attempt
from handover_nodeagent.fsm.machine import Machine, RouteLevel
from handover_nodeagent.fsm.restart import Found
from handover_nodeagent.fsm.step import Step
from handover_nodeagent.kernel.nft import names
from handover_nodeagent.network import placement
from handover_nodeagent.network.model import Link
from handover_nodeagent.reconcile import lines
from handover_nodeagent.reconcile.endpoint import Endpoint
from handover_nodeagent.reconcile.enforce import Enforcer
from handover_nodeagent.reconcile.guard import GuardReconciler
from handover_nodeagent.reconcile.lines import Line
from handover_nodeagent.sniff.endpoint_listener import EndpointListener
from handover_nodeagent.status import conditions
from handover_nodeagent.status.conditions import Facts, Reported
from handover_nodeagent.status.kubernetes_events import Event
from handover_nodeagent.status.report import Reporter

DELAY: Final = 0.003
"""Seconds for which the loop tells nothing, so that twenty guests at once get their routes."""
SLICE: Final = 16
"""Endpoints that are reported at a time: a guest may announce itself between two slices."""
LINES: Final = 4096
"""Log lines that wait, a fifth of a second's work; then the oldest are dropped, and counted."""

# Each is known once: the source answers once, and the last of the nodes is the last.
_LATER: Final[tuple[tuple[Histogram, Callable[[Cutover], int | None]], ...]] = (
    (metrics.ANNOUNCEMENT_TO_REDIRECT, lambda it: it.announcement_to_redirect_microseconds),
    (metrics.ANNOUNCEMENT_TO_LAST_NODE, lambda it: it.announcement_to_last_node_microseconds),
    (metrics.GUEST_SILENCE, lambda it: it.guest_silence_microseconds),
)

_log: Final = structlog.get_logger()


class Publisher:
    """Collects what is to be told and tells it a little later.

    Lines and Events are told in their order; a status is made only then, from how its endpoint
    stands by that time.
    """

    def __init__(
        self,
        reporter: Reporter,
        describe: Callable[[Endpoint], Facts],
        clock: Callable[[], dt.datetime],
        endpoints: Mapping[ObjectKey, Endpoint],
        attempt: Attempt,
        advertising: Advertising,
    ) -> None:
        """Ask *describe* for how one of *endpoints* stands when its status is made.

        *advertising* has each status before the API: where a guest is that came here decides where
        this node sends what it forwards.
        """
        self._advertising = advertising
        self._reporter = reporter
        self._describe = describe
        self._clock = clock
        self._endpoints = endpoints
        self._attempt = attempt
        # Lines may be dropped when there are too many; statuses and Events never are.
        self._lines = deque[Callable[[], object]]()
        self._later = deque[Callable[[], object]]()
        # As often as an endpoint is to be reported meanwhile, it is once, as it is then.
        self._unreported: dict[ObjectKey, None] = {}
        # By uid, for the times of the last transitions: what the API has may be older.
        self._conditions: dict[str, tuple[Condition, ...]] = {}
        self._states: dict[ObjectKey, State] = {}
        self._timer: asyncio.TimerHandle | None = None

    def started(self, endpoint: Endpoint, found: Found) -> None:
        """Tell that an endpoint was seen for the first time."""
        self._count(endpoint.key, endpoint.machine.state)
        state = endpoint.machine.state
        self._line(lambda: _write(lines.started(endpoint, state, found)))

    def stepped(self, endpoint: Endpoint, before: Machine, step: Step) -> None:
        """Tell what one event did to an endpoint's machine, if anything."""
        if step.machine and step.machine.returns.count > before.returns.of(
            step.machine.returns.uid
        ):
            metrics.ROLL_BACKS.inc()
        if step.input is None or not lines.is_told(before, step):
            return
        self._count(endpoint.key, step.machine.state if step.machine else None)
        metrics.TRANSITIONS.labels(before.state, lines.state_after(step), step.input).inc()
        self._line(lambda: _write(lines.transition(endpoint.key, before, step)))

    def cut_over(self, key: ObjectKey, cutover: Cutover) -> None:
        """Tell what the network's share of a switchover was."""
        seconds = cutover.announcement_to_route_microseconds / 1e6
        metrics.ANNOUNCEMENT_TO_ROUTE.observe(seconds)
        metrics.LAST_CUTOVER.labels(*key).set(seconds)

    def followed(self, before: Cutover, cutover: Cutover) -> None:
        """Tell what else was measured of a cutover since it was as *before*."""
        for histogram, read in _LATER:
            microseconds = read(cutover)
            if microseconds is not None and read(before) is None:
                histogram.observe(microseconds / 1e6)

    def event(
        self, endpoint: Endpoint, reason: str, message: str, *, warning: bool = False
    ) -> None:
        """Tell the readers of the endpoint."""
        event = Event(endpoint.key, endpoint.uid, reason, message, warning)
        self._soon(lambda: self._reporter.add_event(event))

    def report(self, endpoint: Endpoint) -> None:
        """Bring the endpoint's status up to date soon, once for all that happens until then."""
        self._unreported[endpoint.key] = None
        self._schedule()

    def unstarted(self, reported: Reported, reason: EndpointReason, message: str) -> None:
        """Report an endpoint that has no machine."""
        status = reported.not_programmed(reason, message, self._clock())
        self._soon(lambda: self._reporter.want(reported.key, reported.uid, status))

    def removed(self, endpoint: Endpoint) -> None:
        """Write no status of an endpoint any more; Events and lines that are noted are still told.

        Its object is gone, or another one has its name.
        """
        self._unreported.pop(endpoint.key, None)
        self._conditions.pop(endpoint.uid, None)
        self._advertising.removed(endpoint.key)
        # A series per endpoint would else stay in each scrape for ever.
        if endpoint.cutover:
            metrics.LAST_CUTOVER.remove(*endpoint.key)
        self._reporter.forget(endpoint.key, endpoint.uid)

    def flush(self) -> None:
        """Tell all that is pending."""
        if self._timer:
            self._timer.cancel()
        # At the end nobody is kept waiting: all slices in one turn of the loop.
        while self._has_more():
            self._tell()
        self._timer = None

    def _tick(self) -> None:
        # First: whatever is met, the next news have their timer.
        self._timer = None
        self._tell()
        if self._has_more():
            self._schedule()

    def _has_more(self) -> bool:
        return bool(self._later or self._lines or self._unreported)

    def _tell(self) -> None:
        """Tell one slice: so many Events and lines, then so many statuses.

        What one of them raises is noted, and costs the others nothing.
        """
        # More of these than of statuses: none of them asks the kernel, as ``describe`` does.
        for _ in range(min(4 * SLICE, len(self._later) + len(self._lines))):
            # Statuses and Events go before lines: others act on them.
            tell = (self._later or self._lines).popleft()
            try:
                tell()
            except Exception as error:  # noqa: BLE001  the root of a line or an Event
                faults.note("telling", error)
        for key in tuple(itertools.islice(self._unreported, SLICE)):
            # Taken off first: what happens while it is described is reported once more.
            del self._unreported[key]
            self._attempt(key, "report", partial(self._report, key))

    def _report(self, key: ObjectKey) -> None:
        """Make the status of an endpoint that is still here, and the Events that go with it."""
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            return
        facts = self._describe(endpoint)
        # Told when it begins, or when it is another one: not with each report.
        shadowed_by = facts.shadowed_by
        if shadowed_by and shadowed_by != endpoint.shadowed_by:
            event = Event(endpoint.key, endpoint.uid, "Shadowed", shadowed_by, is_warning=True)
            self._reporter.add_event(event)
        endpoint.shadowed_by = shadowed_by
        if facts.contested and not endpoint.contested:
            self.event(endpoint, "RouteContested", facts.contested, warning=True)
        endpoint.contested = facts.contested
        before = self._conditions.get(endpoint.uid, endpoint.object.status.conditions)
        status = conditions.status(facts, before, self._clock())
        self._conditions[endpoint.uid] = status.conditions
        self._advertising.published(endpoint.object, status)
        self._reporter.want(endpoint.key, endpoint.uid, status)

    def _line(self, tell: Callable[[], object]) -> None:
        """Write a line of the log soon; of too many the newest."""
        # Not a deque's own bound, which would drop without a count.
        if len(self._lines) == LINES:
            self._lines.popleft()
            metrics.LOST_LINES.inc()
        self._lines.append(tell)
        self._schedule()

    def _soon(self, tell: Callable[[], object]) -> None:
        self._later.append(tell)
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self._tick)

    def _count(self, key: ObjectKey, state: State | None) -> None:
        """Keep the number of endpoints in each state."""
        before = self._states.pop(key, None)
        if before:
            metrics.ENDPOINTS.labels(before).dec()
        if state:
            self._states[key] = state
            metrics.ENDPOINTS.labels(state).inc()


def describe(
    endpoint: Endpoint,
    listener: EndpointListener | None,
    enforcer: Enforcer,
    settings: Settings,
    misconfigured: str,
) -> Facts:
    """Gather what the endpoint's status is made of; asks the kernel which routes win."""
    allowed, link, routes = endpoint.admission.allowed, endpoint.link, enforcer.routes
    ours = routes.known.ours_to(allowed, link.index) if link else ()
    redirects = routes.redirects_to(allowed) if endpoint.machine.underlying.redirect else ()
    contested = routes.foreign.contested
    # Normal routes are there to lose: the source's own yields to the one that BGP brings.
    is_elevated = endpoint.machine.level is RouteLevel.ELEVATED
    rivals = [
        rival for route in (*ours, *redirects) if is_elevated and (rival := routes.rival(route))
    ]
    return Facts(
        endpoint=endpoint.object,
        machine=endpoint.machine,
        placement=endpoint.placement,
        admission=endpoint.admission,
        settings=settings,
        is_owned=endpoint.is_owned(settings),
        routes=ours,
        redirects=redirects,
        refusals=(
            *(trouble for one in allowed if (trouble := enforcer.trouble(one).refused)),
            *([f"the kernel cannot be read: {enforcer.blindness}"] if enforcer.blindness else ()),
        ),
        shadowed_by="; ".join(rivals),
        contested="; ".join(contested[one] for one in allowed if one in contested),
        unguarded=_unguarded(link, enforcer.guard),
        interface_doubt=placement.objection_to_current(endpoint.object, link) if link else "",
        has_listener=listener is not None and listener.is_open,
        cannot_listen=listener.trouble if listener else "",
        internal_error="; ".join(
            trouble for one in allowed if (trouble := enforcer.trouble(one).fault)
        ),
        is_overdue=endpoint.overdue,
        cutover=endpoint.cutover,
        sharers=routes.desired.shared_addresses(endpoint.key),
        misconfigured=misconfigured,
        is_handed_back=enforcer.handed_back,
        is_paused=endpoint.is_paused,
    )


def _unguarded(link: Link | None, guard: GuardReconciler) -> tuple[EndpointReason, str] | None:
    """Say why the ARP guard of *link* may not be as it should be; the routes do without."""
    # The name first: whatever becomes of the table, this interface goes without.
    if link and not names.is_writable(link.name):
        text = f"nftables cannot name interface {link.name!r}"
        return EndpointReason.GUARD_REFUSED, text
    if link and guard.trouble:
        return EndpointReason.GUARD_REFUSED, guard.trouble
    return (EndpointReason.GUARD_CONTESTED, guard.contested) if link and guard.contested else None


def _write(line: Line) -> None:
    _log.info(line.event, **line.fields)
