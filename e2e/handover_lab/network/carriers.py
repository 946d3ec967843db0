"""What carries the routes that agents write to everybody else: BIRD, FRR, the agents, or nobody."""

import asyncio
import contextlib
import functools
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from handover_lab.network import bird, topology
from handover_lab.network.bird import Bird, Speaker
from handover_lab.network.frr import Frr
from handover_lab.network.topology import Topology
from handover_lab.processes.place import Place
from handover_lab.processes.waiting import until

Carrier = Literal["none", "bird", "frr", "agents"]

FIRST: Final = -10
"""Niceness: a speaker must answer at once while an emulated guest takes all that it can get."""

ADVERTISE: Final[Mapping[Carrier, str]] = {
    "none": "none",
    "bird": "bgp",
    "frr": "bgp",
    "agents": "agents",
}
"""What agents are told of each carrier."""

USUAL, BELOW_ZEBRA = 512, 16
"""Elevated metrics: that of a new installation, and one below the 20 of what zebra installs."""

FRR_S: Final = 60.0
FRR_SESSIONS: Final = "show bgp summary established json"


@dataclass(frozen=True, slots=True)
class Niced:
    """A place whose programs get a processor before others, or after them.

    An emulated guest takes all it can get. On real nodes it would not stand in the way of those
    who have to answer within a millisecond.
    """

    place: Place
    niceness: int

    def command(self, *argv: str) -> list[str]:
        """Compose what runs *argv* there."""
        return self.place.command("nice", f"--adjustment={self.niceness}", *argv)


@dataclass(frozen=True, slots=True)
class Mesh:
    """All who would speak BGP with each other, the router first, and where each of them is."""

    members: Sequence[Speaker]
    places: Mapping[str, Place]
    """In the same order."""
    shape: Topology = "segment"

    def niced(self) -> list[tuple[Speaker, Place]]:
        """Return each member with the place where its speaker runs."""
        places = (Niced(place, FIRST) for place in self.places.values())
        return list(zip(self.members, places, strict=True))


def elevated(carrier: Carrier) -> int:
    """Return the elevated metric that *carrier* gets along with."""
    return BELOW_ZEBRA if carrier == "frr" else USUAL


@contextlib.asynccontextmanager
async def by_bird(mesh: Mesh, directory: Path) -> AsyncIterator[None]:
    """Let BIRD carry the routes; begins when all sessions are up."""
    with ExitStack() as cleanup:
        birds = []
        for speaker, place in mesh.niced():
            text = bird.configuration(speaker, mesh.members)
            text += topology.underlay(mesh.shape, speaker, mesh.members)
            birds.append(Bird.run(place, speaker.name, text, directory))
            cleanup.callback(birds[-1].stop)
        await asyncio.gather(*(each.established() for each in birds))
        yield


@contextlib.asynccontextmanager
async def by_frr(mesh: Mesh, _directory: Path) -> AsyncIterator[None]:
    """Let FRR carry the routes; begins when all sessions are up."""
    with ExitStack() as cleanup:
        # FRR's daemons have a user of their own, who can reach no directory of ours.
        own = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="handover-frr-"))
        directory = reachable(Path(own))
        routers = []
        for speaker, place in mesh.niced():
            routers.append(Frr.start(place, speaker, mesh.members, directory))
            cleanup.callback(routers[-1].stop)
        wanted = 2 * (len(mesh.members) - 1)
        for router in routers:
            count = functools.partial(asyncio.to_thread, established, router)
            await until(count, lambda n: n >= wanted, f"{wanted} sessions of {router.place}", FRR_S)
        yield


def reachable(directory: Path) -> Path:
    """Let every user into *directory*."""
    directory.chmod(0o755)
    return directory


def established(router: Frr) -> int:
    """Count the sessions of *router* that are up, of both families."""
    return router.ask(FRR_SESSIONS).count('"state":"Established"')


@contextlib.asynccontextmanager
async def by_nobody(_mesh: Mesh, _directory: Path) -> AsyncIterator[None]:
    """Start nothing: the agents do it themselves, or nobody does."""
    yield


CARRIERS: Final[Mapping[Carrier, Callable[[Mesh, Path], AbstractAsyncContextManager[None]]]] = {
    "none": by_nobody,
    "bird": by_bird,
    "frr": by_frr,
    "agents": by_nobody,
}
