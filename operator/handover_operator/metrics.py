"""What Prometheus can ask the operator."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

REGISTRY: Final = CollectorRegistry()

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
ROLES: Final = Counter(
    "handover_operator_roles",
    "Role annotations written, by the rule that asked for them",
    ["reason"],
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
OBJECTS: Final = Gauge(
    "handover_operator_objects",
    "Objects that are known",
    ["kind"],
    registry=REGISTRY,
)
SYNCED: Final = Gauge(
    "handover_operator_synced",
    "1 when the first lists of all kinds are complete",
    registry=REGISTRY,
)


def render() -> bytes:
    """Return all metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
