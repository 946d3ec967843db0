"""Foreign direct host routes for our addresses: kept aside in table 5254 while we program those.

With metric 0 such a route beats every metric of ours and hides our route from BIRD; in IPv6, with
the kernel's own 1024, it collides with ours. The parked copy is made of the kernel's own bytes,
so that it keeps what we do not know; it goes with its interface and is the memory across restarts.
"""

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from handover_nodeagent.kernel import netlink
from handover_nodeagent.network import IPAddress, Route

PARKING_TABLE: Final = 5254


@dataclass(frozen=True, slots=True)
class Foreign:
    """A direct host route of another owner; ``message`` is how the kernel showed it."""

    route: Route
    message: bytes


def observe_foreign(
    addresses: Container[IPAddress], table: int, protocol: int, *, oif: int | None = None
) -> tuple[Foreign, ...]:
    """Return the direct host routes to *addresses* whose protocol is not ours.

    With *oif* only those on that device: the kernel filters. Runs in a thread, never in the loop.
    Raises ObservationError.
    """
    raise NotImplementedError


def observe_parked() -> tuple[Foreign, ...]:
    """Return all parked copies, of both families; ``route.table`` is 5254. In a thread."""
    raise NotImplementedError


def park(channel: netlink.Channel, foreign: Foreign) -> int:
    """Copy *foreign* to table 5254, then delete it from its own; return an errno.

    A copy that fails leaves the original alone. Again, it changes nothing: a route that is gone
    meanwhile is success, and its copy stays. A few microseconds: for the loop.
    """
    raise NotImplementedError


def unpark(channel: netlink.Channel, parked: Foreign, table: int) -> int:
    """Put *parked* back into *table*, then delete the copy; return an errno.

    Call it before our own route goes. In IPv6, where it may have our route's metric and device,
    it takes that one's place; then the later delete of ours finds nothing, which is success.
    """
    raise NotImplementedError
