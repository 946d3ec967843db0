"""What Prometheus can ask the agent; names and labels are users' and stay as they are.

Whoever does a thing counts it; nothing here looks at an endpoint, and no metric but
``last_cutover_seconds`` has a series for each.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from handover_api import __version__

# Our own: the library's default one adds figures of the Python process.
REGISTRY: Final = CollectorRegistry()

# Seconds; finest below a millisecond, in which an announcement becomes a route.
_FAST: Final = (
    *(0.00005, 0.0001, 0.0002, 0.0003, 0.0005),
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0),
)


# For counts whose owners keep them anyway: what is read once in a minute costs nothing before.
class Counted(Collector):
    """A counter of what others count themselves: ``sources`` by the value of the first label."""

    def __init__(self, name: str, documentation: str, labels: tuple[str, str]) -> None:
        self.sources: dict[str, Callable[[], Mapping[str, int]]] = {}
        self._name, self._documentation, self._labelnames = name, documentation, labels
        REGISTRY.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Read all sources."""
        labels = self._labelnames
        family = CounterMetricFamily(self._name, self._documentation, labels=labels)
        for first, read in self.sources.items():
            for second, number in read().items():
                family.add_metric([first, second], number)
        yield family


# Counters are named without the _total, and this without the _info, that the library adds.
BUILD: Final = Info("handover_nodeagent_build", "This agent's version", registry=REGISTRY)
BUILD.info({"version": __version__})

ORPHANS: Final = Gauge(
    "handover_nodeagent_orphans",
    "Endpoints that are gone while their guests answer, so that their routes stay.",
    registry=REGISTRY,
)
# Counted up and down with each transition, so that a scrape looks at no endpoint.
ENDPOINTS: Final = Gauge(
    "handover_nodeagent_endpoints",
    "Endpoints of this node by state",
    ["state"],
    registry=REGISTRY,
)
# Its labels are given by position: ``from`` cannot be an argument's name in Python.
TRANSITIONS: Final = Counter(
    "handover_nodeagent_transitions",
    "Steps of endpoints' state machines that changed their state",
    ["from", "to", "input"],
    registry=REGISTRY,
)
IMPOSSIBLE: Final = Counter(
    "handover_nodeagent_impossible_inputs",
    "Inputs that cannot be in the state that met them, and changed nothing",
    ["state", "input"],
    registry=REGISTRY,
)
ANNOUNCEMENTS: Final = Counter(
    "handover_nodeagent_announcements",
    "Frames that proved a guest alive, by signal",
    ["signal"],
    registry=REGISTRY,
)
REJECTED: Final = Counter(
    "handover_nodeagent_rejected_frames",
    "Frames that came through the kernel's filter and proved nothing, by reason",
    ["reason"],
    registry=REGISTRY,
)
ANNOUNCEMENT_TO_ROUTE: Final = Histogram(
    "handover_nodeagent_announcement_to_route_seconds",
    "From the kernel's receipt of the announcement to the kernel's acknowledgment of the routes",
    buckets=_FAST,
    registry=REGISTRY,
)
ANNOUNCEMENT_TO_REDIRECT: Final = Histogram(
    "handover_nodeagent_announcement_to_redirect_seconds",
    "From the announcement at the target to the redirect in the source's kernel, told by its agent",
    buckets=_FAST,
    registry=REGISTRY,
)
ANNOUNCEMENT_TO_LAST_NODE: Final = Histogram(
    "handover_nodeagent_announcement_to_last_node_seconds",
    "From the announcement to the answer of the last other node whose route follows",
    buckets=_FAST,
    registry=REGISTRY,
)
GUEST_SILENCE: Final = Histogram(
    "handover_nodeagent_guest_silence_seconds",
    "From a guest's last frame at the source to its first one at the target, by compared clocks",
    # A pause is some 50 ms, more for a guest that writes faster than it can be copied.
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0),
    registry=REGISTRY,
)
# A series for each endpoint: whoever forgets the endpoint removes it, or they grow for ever.
LAST_CUTOVER: Final = Gauge(
    "handover_nodeagent_last_cutover_seconds",
    "From announcement to route in the latest cutover of an endpoint that is on this node",
    ["namespace", "name"],
    registry=REGISTRY,
)
ROUTES: Final = Counter(
    "handover_nodeagent_route_operations",
    "Routes of ours added, replaced or removed in the kernel",
    ["operation"],
    registry=REGISTRY,
)
ROUTE_ERRORS: Final = Counter(
    "handover_nodeagent_route_errors",
    "Route operations that the kernel refused, by errno",
    ["errno"],
    registry=REGISTRY,
)
DISTRIBUTED_ROUTES: Final = Counter(
    "handover_nodeagent_distributed_route_operations",
    "Routes to guests on other nodes added, replaced or removed in the kernel",
    ["operation"],
    registry=REGISTRY,
)
DISTRIBUTED: Final = Gauge(
    "handover_nodeagent_distributed_routes",
    "Addresses of guests on other nodes that have a route here",
    registry=REGISTRY,
)
NODES: Final = Gauge(
    "handover_nodeagent_other_nodes",
    "Nodes of the cluster that hear of each guest that moves, this one left out",
    registry=REGISTRY,
)
UNREACHABLE: Final = Gauge(
    "handover_nodeagent_unreachable_nodes",
    "Nodes with guests, by family, to which no next hop leads from here",
    registry=REGISTRY,
)
FIRED: Final = Counter(
    "handover_nodeagent_fired_haves",
    "Messages of other agents that moved a guest's routes before the API told of it",
    registry=REGISTRY,
)
FORWARDED: Final = Counter(
    "handover_nodeagent_forwarded_packets",
    "Packets that were sent on to the nodes of guests that have moved, as nftables counted them",
    registry=REGISTRY,
)
ROLL_BACKS: Final = Counter(
    "handover_nodeagent_roll_backs",
    "Guests that were found here after another node had said that it has them",
    registry=REGISTRY,
)
HOLD: Final = Counter(
    "handover_nodeagent_hold_packets",
    "What paused guests did not take, by what became of it: held, resent, doubled, dropped",
    ["outcome"],
    registry=REGISTRY,
)
HOLD_BYTES: Final = Gauge(
    "handover_nodeagent_hold_bytes",
    "Memory of rings that hold such packets",
    registry=REGISTRY,
)
PARKED: Final = Counter(
    "handover_nodeagent_parked_routes",
    "Foreign routes parked and given back",
    ["operation"],
    registry=REGISTRY,
)
GUARD: Final = Counter(
    "handover_nodeagent_guard_operations",
    "Transactions on the ARP guard: one interface changed, or the whole table replaced",
    ["operation"],
    registry=REGISTRY,
)
GUARD_ERRORS: Final = Counter(
    "handover_nodeagent_guard_errors",
    "Transactions on the ARP guard that failed",
    registry=REGISTRY,
)
# Beside the errors, for a guard that others undo is off without any.
GUARD_OFF: Final = Gauge(
    "handover_nodeagent_guard_off",
    "1 while the ARP guard is not as it should be: no library, refused, or undone by others",
    registry=REGISTRY,
)
DRIFT: Final = Counter(
    "handover_nodeagent_guard_drift_repairs",
    "Changes of the ARP guard by somebody else that were repaired",
    registry=REGISTRY,
)
OVERFLOWS: Final = Counter(
    "handover_nodeagent_notification_overflows",
    "Times that the kernel dropped notifications, so that everything was observed anew",
    registry=REGISTRY,
)
WATCH_RESTARTS: Final = Counted(
    "handover_nodeagent_watch_restarts",
    "Watches opened anew, by kind of object and reason",
    ("kind", "reason"),
)
REPORTS: Final = Counted(
    "handover_nodeagent_reports",
    "Statuses and Events sent to the API server, by result: written, told or the failure",
    ("kind", "result"),
)
# Also in minutes: a guest that is being migrated does not answer before it runs here.
PROBE_TO_ANSWER: Final = Histogram(
    "handover_nodeagent_probe_to_answer_seconds",
    "From the latest probe to the guest's answer; one that does not run yet answers when it does",
    buckets=(*_FAST, 10.0, 60.0),
    registry=REGISTRY,
)
REFUSED_MESSAGES: Final = Counter(
    "handover_nodeagent_refused_messages",
    "Datagrams to the port of the agents that changed nothing, by what was wrong with them",
    ["reason"],
    registry=REGISTRY,
)
ACCEPTED_MESSAGES: Final = Counter(
    "handover_nodeagent_accepted_messages",
    "Messages of other agents that were believed, by kind; repeated ones count, too",
    ["kind"],
    registry=REGISTRY,
)
SENT_MESSAGES: Final = Counter(
    "handover_nodeagent_sent_messages",
    "Messages to other agents, by result: sent, or failed in this node's kernel",
    ["result"],
    registry=REGISTRY,
)
CONFIGURATION: Final = Gauge(
    "handover_nodeagent_configuration_valid",
    "1 when the newest configuration is in force, 0 when it was refused and an older one stays",
    registry=REGISTRY,
)
# Two series at most, of ``default`` and of the node's own; each goes with its object.
GENERATION: Final = Gauge(
    "handover_nodeagent_configuration_generation",
    "The generation last seen of each HandoverConfiguration that concerns this node",
    ["name"],
    registry=REGISTRY,
)
UNREADABLE: Final = Counter(
    "handover_nodeagent_unreadable_objects",
    "Versions of endpoints that do not keep to the contract",
    registry=REGISTRY,
)

MEMORY_ERRORS: Final = Counter(
    "handover_nodeagent_memory_errors",
    "Files of the state directory that could not be written, each attempt",
    registry=REGISTRY,
)
LOST_LINES: Final = Counter(
    "handover_nodeagent_lost_log_lines",
    "Lines of the log that were dropped because too many waited, or nobody read those before",
    registry=REGISTRY,
)
FAULTS: Final = Counter(
    "handover_nodeagent_faults",
    "Exceptions that nobody expected, by what was done; each is in the log with its traceback",
    ["what"],
    registry=REGISTRY,
)


def render() -> bytes:
    """Return all metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
