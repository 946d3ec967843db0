"""PURE: what is left of an endpoint that is gone: its routes, and how its guest is asked."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_nodeagent.memory.record import Record
from handover_nodeagent.network.model import IPAddress, Link, Route
from handover_nodeagent.sniff.listen_spec import ListenSpec


@dataclass(frozen=True, slots=True)
class Orphan:
    """Routes that outlived their endpoint, by its name or, where none is known, by their own."""

    key: ObjectKey
    routes: tuple[Route, ...]
    mac: str | None = None
    gateways: tuple[IPAddress, ...] = ()

    @classmethod
    def unclaimed(
        cls, route: Route, mac: str | None = None, gateways: tuple[IPAddress, ...] = ()
    ) -> Self:
        """Return the orphan of a route that no endpoint's name stands for."""
        # No endpoint's key is like it: none has no namespace.
        return cls(ObjectKey("", str(route.address)), (route,), mac, gateways)

    def held(self, orphaned: Collection[Route]) -> tuple[Route, ...]:
        """Return the routes that nobody has claimed and no interface has taken along."""
        return tuple(route for route in self.routes if route in orphaned)

    def parts(self, held: Iterable[Route]) -> Iterator[Self]:
        """Yield an orphan for each route that is still *held*, under names of their own."""
        return (self.unclaimed(route, self.mac, self.gateways) for route in held)

    def record(self) -> Record:
        """Return what a restart needs."""
        return Record.of_orphans(self.routes, self.mac, self.gateways)

    def listen_spec(
        self, held: Iterable[Route], link: Link, episode: int, hint: str | None
    ) -> ListenSpec:
        """Return how its guest is asked on *link*; *hint*: the MAC that the kernel has for it."""
        return ListenSpec(
            link,
            tuple(dict.fromkeys(route.address for route in held)),
            self.gateways,
            self.mac,
            armed=True,
            state=State.ASKING,
            episode=episode,
            interval=0.0,
            hint=hint,
        )
