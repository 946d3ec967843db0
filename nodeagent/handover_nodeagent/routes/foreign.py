"""Parks the foreign direct host routes to our addresses, and gives them back.

What somebody puts back again and again is parked with patience. Which there are is known by
``observed_foreign``.
"""

import errno
import time
from collections.abc import Callable, Iterable
from typing import Final

from handover_api.configuration import Settings
from handover_nodeagent import metrics
from handover_nodeagent.kernel import parking, route_lookup
from handover_nodeagent.kernel.foreign_route import Foreign
from handover_nodeagent.kernel.netlink import answers
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress, Route
from handover_nodeagent.retry.buckets import Buckets
from handover_nodeagent.routes.observed_foreign import ObservedForeign

_HIDDEN: Final = 4
"""How many foreign routes of one address the lookup finds, one below the other."""
BURST: Final = 10
"""How often an address's routes may be put right at once, after a rest: a CNI that installs its
route now and then loses each time."""
INTERVAL: Final = 2.0
"""Seconds between two rounds with somebody who puts its route back as often as it is parked: as
fast as two programs can would be work without end for both."""


class ForeignRoutes:
    """``contested``: the addresses whose foreign route stays for a while, and what to say."""

    def __init__(
        self,
        channel: Channel,
        settings: Settings,
        observed: ObservedForeign,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask the kernel through *channel*; what it says goes into *observed*."""
        self.contested: dict[IPAddress, str] = {}
        self._observed = observed
        self._channel = channel
        self._settings = settings
        self._clock = clock
        self._rounds = Buckets[IPAddress](1 / INTERVAL, BURST)

    def configure(self, settings: Settings) -> None:
        """Go by other *settings*."""
        self._settings = settings

    def look_up(self, addresses: Iterable[IPAddress], *, oif: int = 0) -> None:
        """Find the foreign direct route that wins for each address: the kernel's own lookup.

        With *oif* the one that wins among those of that device: a speaker's route by a gateway may
        be above it, in IPv6 above every CNI's.
        """
        for address in addresses:
            message = route_lookup.match(self._channel, address, oif=oif)
            if isinstance(message, bytes):
                self._observed.note(message)

    def is_covered(self, address: IPAddress) -> bool:
        """Tell whether the lookup may have missed a route.

        So it is where a host route by a gateway wins, or one that only refuses, and where the
        kernel does not say what wins.
        """
        winner = route_lookup.winner(self._channel, address)
        # ENETUNREACH alone says that there is no route at all. EHOSTUNREACH, EACCES and EINVAL are
        # an unreachable, prohibit or blackhole route's (fib_props in net/ipv4/fib_semantics.c),
        # below which others may be.
        if isinstance(winner, int):
            return winner != errno.ENETUNREACH
        return winner.is_host and not winner.direct

    def park(self, address: IPAddress) -> str:
        """Park all that stands, also below the first; return "" or why one stays.

        A copy that somebody removed is written anew: nothing else could be given back.
        """
        if not self._restore(address):
            return self._leave_contested(address)
        # Each one that goes shows the next one below it.
        for _ in range(_HIDDEN):
            present = self._observed.of(address)
            for foreign in present:
                if not self._rounds.try_take(address, self._clock()):
                    return self._leave_contested(address)
                result = parking.park(self._channel, foreign)
                # ESRCH: its owner was faster to remove it, so that there is nothing to give back.
                if result not in {0, errno.ESRCH}:
                    return f"a foreign route stays: {answers.describe(result)}"
                self._moved(foreign, is_parked=result == 0)
            self.look_up([address])
            # A gateway's route may win over all of them, but not on their own devices.
            for oif in {foreign.route.oif for foreign in present}:
                self.look_up([address], oif=oif)
            if not self._observed.has(address):
                break
        self.contested.pop(address, None)
        return ""

    def give_back(self, address: IPAddress) -> int:
        """Put back what is parked for *address*; return how many routes that were."""
        given = 0
        table, ours = self._settings.route_table, self._settings.route_protocol
        for copy in self._observed.take_parked(address):
            if parking.unpark(self._channel, copy, table, ours) == 0:
                self._observed.given_back(copy)
                given += 1
        metrics.PARKED.labels("given_back").inc(given)
        self.contested.pop(address, None)
        self._rounds.forget(address)
        return given

    def supplant(self, ours: Route, *, crowded: bool) -> int | None:
        """Put *ours* into the place of a foreign route of its metric; None: none is known.

        *crowded*: a route by a gateway stands there too.
        """
        self.look_up([ours.address])
        self.look_up([ours.address], oif=ours.oif)
        rival = self._observed.rival_of(ours)
        if rival is None:
            return None
        result = parking.supplant(self._channel, rival, ours, crowded=crowded)
        if result == 0:
            self._moved(rival, is_parked=True)
        return result

    def _restore(self, address: IPAddress) -> bool:
        """Write missing copies anew; False where somebody removes them as often."""
        missing = self._observed.missing_of(address)
        if not missing:
            return True
        if not self._rounds.try_take(address, self._clock()):
            return False
        # One that the kernel refuses, for its interface is down or gone, went with that.
        written = [copy for copy in missing if parking.copy_anew(self._channel, copy) == 0]
        self._observed.restored(address, written)
        return True

    def _leave_contested(self, address: IPAddress) -> str:
        text = "somebody puts a foreign route back as often as it is parked"
        if address not in self.contested:
            metrics.PARKED.labels("contested").inc()
        self.contested[address] = f"{address}: {text}"
        return text

    def _moved(self, foreign: Foreign, *, is_parked: bool) -> None:
        """Know *foreign* as parked, or as gone."""
        if not is_parked:
            self._observed.gone(foreign.route)
            return
        self._observed.parked(foreign)
        metrics.PARKED.labels("parked").inc()
