"""The node's interfaces, with its own addresses and default routes."""

from collections.abc import Mapping

from handover_nodeagent.network import Link


def observe() -> Mapping[int, Link]:
    """Return all links by index. Runs in a thread, never in the loop. Raises ObservationError."""
    raise NotImplementedError
