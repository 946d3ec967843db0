"""What Prometheus can ask the operator.

Counters count what this process did, gauges tell what it knows; a replica that does not lead knows
all and does nothing. What agents measured is counted when its LiveMigration first tells it.
"""

from collections import Counter as Multiset
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from handover_api import __version__
from handover_api.assignment import Assignment
from handover_api.conditions import MigrationCondition
from handover_api.conditions import MigrationReason as Reason
from handover_api.livemigration import LiveMigration, LiveMigrationStatus, Phase
from handover_api.workloadendpoint import Cutover
from handover_operator.kinds import Kind
from handover_operator.roles.rules import Verdict

# Our own, not the library's global one: nothing is exposed but what stands here.
REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

_MICROSECONDS: Final = 1_000_000
# A route is set within fractions of a millisecond, so the buckets are fine there; beyond 0.1 s it
# counts that it was slow, and not how slow.
_FAST: Final = (
    *(0.00005, 0.0001, 0.0002, 0.0003, 0.0005),
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0),
)
# A guest's pause: milliseconds, some hundred where it is busy.
_PAUSE: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5)
# From the moment in which a target listens to the hour that copying a guest's memory may take.
_SLOW: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600)

BUILD: Final = Info("handover_operator_build", "This operator's version", registry=REGISTRY)
BUILD.info({"version": __version__})

EVENTS: Final = Counter(
    "handover_operator_events",
    "Changes of objects that the API server told us",
    ["kind"],
    registry=REGISTRY,
)
WRITES: Final = Counter(
    "handover_operator_writes",
    "Writes to the API server: done, conflict, failed",
    ["kind", "result"],
    registry=REGISTRY,
)
RETRIES: Final = Counter(
    "handover_operator_retries",
    "Attempts to write that did not succeed and are repeated",
    registry=REGISTRY,
)
LOOKS: Final = Counter(
    "handover_operator_looks",
    "Objects of which it was asked whether they must be written; none while nothing changes",
    registry=REGISTRY,
)
# Above zero it is a fault of the program, whatever the cluster did: its log has the traceback.
DEFECTS: Final = Counter(
    "handover_operator_defects",
    "Exceptions that nobody foresaw; they are contained, logged with their traceback and retried",
    registry=REGISTRY,
)
SHARED: Final = Gauge(
    "handover_operator_shared_addresses",
    "Endpoints of whose addresses another node serves one, too, without a migration between them",
    registry=REGISTRY,
)
DENIED: Final = Gauge(
    "handover_operator_denied_objects",
    "Objects whose last write the API server refused (403, 422): tried again once a minute",
    registry=REGISTRY,
)
ROLES: Final = Counter(
    "handover_operator_roles",
    "Roles given, changed and removed: by the rule that gave them, or by the outcome",
    ["change", "role", "reason"],
    registry=REGISTRY,
)
UNREADABLE: Final = Counter(
    "handover_operator_unreadable_objects",
    "Versions of objects that do not keep to the contract",
    ["kind"],
    registry=REGISTRY,
)
QUEUE: Final = Gauge(
    "handover_operator_queue_length",
    "Objects that wait to be written, retries included",
    registry=REGISTRY,
)
SYNCED: Final = Gauge(
    "handover_operator_synced",
    "1 when the first lists of all kinds are complete",
    registry=REGISTRY,
)
APPLIED: Final = Gauge(
    "handover_operator_configuration_applied",
    "1 when HandoverConfiguration default is taken as this operator was given it, else 0",
    registry=REGISTRY,
)
OVERRIDDEN: Final = Gauge(
    "handover_operator_configuration_overridden_fields",
    "Fields of HandoverConfiguration default that somebody else has set otherwise",
    registry=REGISTRY,
)
LEADER: Final = Gauge(
    "handover_operator_leader",
    "1 while this replica writes; always, where it is the only one",
    registry=REGISTRY,
)
TERMS: Final = Counter(
    "handover_operator_terms",
    "Times that this replica began to lead",
    registry=REGISTRY,
)
STOOD_IN: Final = Counter(
    "handover_operator_stood_in",
    "Writes that a migration waited for and that the leader had left undone",
    ["kind"],
    registry=REGISTRY,
)
for _kind in (Kind.ENDPOINT, Kind.MIGRATION):
    # Prometheus sees no increase in the first sample of a series: shown from the start, the first
    # write counts.
    STOOD_IN.labels(_kind.value)
ANNOUNCEMENT_TO_ROUTE: Final = Histogram(
    "handover_operator_announcement_to_route_seconds",
    "From announcement to route on a target's node, as its agent measured it, by signal",
    ["signal"],
    buckets=_FAST,
    registry=REGISTRY,
)
ANNOUNCEMENT_TO_REDIRECT: Final = Histogram(
    "handover_operator_announcement_to_redirect_seconds",
    "From announcement at the target to the source sending on what still arrives there",
    buckets=_FAST,
    registry=REGISTRY,
)
ANNOUNCEMENT_TO_LAST_NODE: Final = Histogram(
    "handover_operator_announcement_to_last_node_seconds",
    "From announcement to the route on the last other node that follows",
    buckets=_FAST,
    registry=REGISTRY,
)
GUEST_SILENCE: Final = Histogram(
    "handover_operator_guest_silence_seconds",
    "From a guest's last frame at the source to its first one at the target",
    buckets=_PAUSE,
    registry=REGISTRY,
)
CUTOVERS: Final = Counter(
    "handover_operator_cutovers",
    "Guests that moved, by the reason of condition Redirectable then, if it was there",
    ["redirectable"],
    registry=REGISTRY,
)
for _reason in (Reason.READY, Reason.NOT_READY, Reason.AWAITING_AGENT, Reason.OFF, "none"):
    # As above: the first guest that moved without a redirect counts.
    CUTOVERS.labels(str(_reason))
START_TO_READY: Final = Histogram(
    "handover_operator_start_to_ready_seconds",
    "From both sides known to every target listening",
    buckets=_SLOW,
    registry=REGISTRY,
)
START_TO_END: Final = Histogram(
    "handover_operator_start_to_end_seconds",
    "From both sides known to all told and settled, by outcome",
    ["outcome"],
    buckets=_SLOW,
    registry=REGISTRY,
)


class Known(Protocol):
    """What is known of the cluster (cache.Cache)."""

    def count(self, kind: Kind) -> int:
        """Count the objects of a kind."""

    def migrations(self) -> Iterator[LiveMigration]:
        """Return all LiveMigrations."""


class _Census(Collector):
    """Counts what is known when somebody asks: no gauge beside it could come apart from it."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count objects by kind, and LiveMigrations by phase."""
        objects = GaugeMetricFamily(
            "handover_operator_objects", "Objects that are known", labels=["kind"]
        )
        for kind in Kind:
            objects.add_metric([kind.value], self._known.count(kind))
        yield objects
        phases = GaugeMetricFamily(
            "handover_operator_migrations", "LiveMigrations by phase", labels=["phase"]
        )
        counts = Multiset(migration.status.phase for migration in self._known.migrations())
        # Also those that none is in: a series that is missing says neither "none" nor "unknown".
        for phase in Phase:
            phases.add_metric([phase.value], counts[phase])
        yield phases


def watch(
    queue_length: Callable[[], int],
    denied: Callable[[], int],
    shared: Callable[[], int],
    known: Known,
) -> None:
    """Let some gauges ask these at each scrape, and count what is *known* then.

    Once for a process: a second call would expose the counts of both.
    """
    SHARED.set_function(shared)
    DENIED.set_function(denied)
    QUEUE.set_function(queue_length)
    REGISTRY.register(_Census(known))


def count_role(before: Assignment, verdict: Verdict) -> None:
    """Count what was written on an endpoint."""
    after = verdict.assignment
    if after.role is None:
        role, reason, change = after.ended_role, after.outcome, "removed"
        ROLES.labels(change, role and role.value, reason and reason.value).inc()
        return
    same = (before.role, before.migration_uid) == (after.role, after.migration_uid)
    ROLES.labels("changed" if same else "given", after.role.value, verdict.reason.value).inc()


def count_progress(before: LiveMigrationStatus, after: LiveMigrationStatus) -> None:
    """Count what a LiveMigration tells for the first time."""
    # A measurement stays in the status, and the status is written again and again: what it told
    # before is counted.
    told = {side.endpoint: side.cutover for side in before.target if side.cutover is not None}
    for side in after.target:
        if side.cutover is not None:
            _count_cutover(told.get(side.endpoint), side.cutover)
    if before.cutover_time is None and after.cutover_time is not None:
        found = after.condition(MigrationCondition.REDIRECTABLE)
        CUTOVERS.labels("none" if found is None else found.reason).inc()
    if before.ready_time is None and after.ready_time is not None:
        since = after.start_time or after.ready_time
        START_TO_READY.observe((after.ready_time - since).total_seconds())
    if before.completion_time is None and after.completion_time is not None and after.phase:
        # One whose sides were never known has an end, too: it counts among the outcomes.
        since = after.start_time or after.completion_time
        took = (after.completion_time - since).total_seconds()
        START_TO_END.labels(after.phase.value).observe(took)


def _count_cutover(before: Cutover | None, after: Cutover) -> None:
    """Count what is new of one; what others answer comes later than the route."""
    if before is None:
        took = after.announcement_to_route_microseconds / _MICROSECONDS
        ANNOUNCEMENT_TO_ROUTE.labels(after.signal.value).observe(took)
    for histogram, read in _OF_OTHERS:
        measured = read(after)
        if measured is not None and (before is None or read(before) is None):
            # Compared clocks may say that a guest spoke here before it was silent there.
            histogram.observe(max(measured, 0) / _MICROSECONDS)


_OF_OTHERS: Final[tuple[tuple[Histogram, Callable[[Cutover], int | None]], ...]] = (
    (ANNOUNCEMENT_TO_REDIRECT, lambda told: told.announcement_to_redirect_microseconds),
    (ANNOUNCEMENT_TO_LAST_NODE, lambda told: told.announcement_to_last_node_microseconds),
    (GUEST_SILENCE, lambda told: told.guest_silence_microseconds),
)


def render() -> bytes:
    """Return all metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
