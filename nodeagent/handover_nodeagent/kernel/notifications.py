"""What changes in the kernel without us: links, addresses, direct host routes, default routes."""

from collections.abc import Callable
from dataclasses import dataclass

from handover_nodeagent.network import IPAddress, Route


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A link is there as described: new, renamed, up or down, another MAC, or just as before."""

    index: int
    name: str
    mac: str
    up: bool


@dataclass(frozen=True, slots=True)
class LinkRemoved:
    """A link is gone, and with it all that hung on it."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class AddressChanged:
    """The node has, or no longer has, *address* on the link *index*."""

    index: int
    address: IPAddress
    present: bool


@dataclass(frozen=True, slots=True)
class RouteChanged:
    """Somebody else added or removed a direct host route, ours or foreign.

    ``direct`` is false for a route with a gateway that took another one's place, perhaps ours.
    ``message`` is the kernel's, for :class:`parking.Foreign`.
    """

    route: Route
    present: bool
    direct: bool
    message: bytes


@dataclass(frozen=True, slots=True)
class DefaultRouteChanged:
    """A default route came or went; :func:`links.observe` tells which are left."""


Notification = LinkChanged | LinkRemoved | AddressChanged | RouteChanged | DefaultRouteChanged


class Notifications:
    """Listens on the running loop from its making on, until ``close``.

    What *own_port* (``Channel.port``) caused is not told. ``overflow``: the kernel dropped some;
    observe everything.
    """

    def __init__(
        self,
        heard: Callable[[Notification], None],
        overflow: Callable[[], None],
        *,
        table: int,
        own_port: int = 0,
        receive_buffer: int = 1 << 20,
    ) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Stop listening; again, it changes nothing."""
