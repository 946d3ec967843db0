"""The foreign direct host routes to our addresses: which there are, parked and given back.

A mirror of the kernel's. What somebody puts back again and again is parked with patience.
"""

import dataclasses
import errno
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from handover_api.configuration import Settings
from handover_nodeagent import metrics
from handover_nodeagent.kernel import parking, routes
from handover_nodeagent.kernel.netlink import answers, codec, rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.parking import Foreign
from handover_nodeagent.network.model import IPAddress, Route
from handover_nodeagent.retry.buckets import Buckets

_HIDDEN: Final = 4
"""How many foreign routes of one address the quick look finds, one below the other."""
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask the kernel through *channel*."""
        self.contested: dict[IPAddress, str] = {}
        self._channel = channel
        self._settings = settings
        self._clock = clock
        self._rounds = Buckets[IPAddress](1 / INTERVAL, BURST)
        self._present: dict[IPAddress, dict[Route, Foreign]] = {}
        self._parked: dict[IPAddress, dict[Route, Foreign]] = {}
        # Copies that somebody took out of the parking table: here alone is known what they were.
        self._missing: dict[IPAddress, dict[Route, Foreign]] = {}

    def configure(self, settings: Settings) -> None:
        """Go by other *settings*; what stood in another table is to be observed anew."""
        # Parked ones stay: their table is the same one, whatever the settings.
        if settings.route_table != self._settings.route_table:
            self._present = {}
        self._settings = settings

    def load(
        self,
        present: Iterable[Foreign],
        parked: Iterable[Foreign],
        is_known: Callable[[IPAddress], bool],
    ) -> None:
        """Take these for all that the kernel has.

        A parked copy that is not among them was removed by somebody, and is to be written anew if
        its address *is_known* to be an endpoint's.
        """
        # Parked routes are our memory: one that is gone from the kernel must not be forgotten.
        before = self._parked
        self._present, self._parked = {}, {}
        for foreign in present:
            self._add(foreign)
        for foreign in parked:
            self._parked.setdefault(foreign.route.address, {})[foreign.route] = foreign
        for address, copies in before.items():
            if not is_known(address):
                continue
            there = self._parked.get(address, {})
            for route, copy in copies.items():
                if route not in there:
                    self._missing.setdefault(address, {})[route] = copy

    def forget(self, address: IPAddress) -> None:
        """Keep no trace of an address that nobody has, unless a route of it is parked."""
        self._present.pop(address, None)
        self._missing.pop(address, None)
        # What is parked is still there to be given back, until it goes with its interface.
        if not self._parked.get(address):
            self._parked.pop(address, None)

    def has(self, address: IPAddress, *, oif: int = 0) -> bool:
        """Tell whether a foreign route to *address* stands in our table; with *oif* by it alone."""
        return any(oif in {0, route.oif} for route in self._present.get(address, ()))

    def has_parked(self, address: IPAddress) -> bool:
        """Tell whether there is something to give back."""
        return bool(self._parked.get(address))

    def devices(self, addresses: Iterable[IPAddress]) -> Mapping[IPAddress, AbstractSet[int]]:
        """Return the devices of foreign direct routes to *addresses*, parked ones included."""
        return {
            address: {
                route.oif
                for kept in (self._present, self._parked)
                for route in kept.get(address, ())
            }
            for address in addresses
        }

    def carried(self, address: IPAddress, oif: int) -> bytes | None:
        """Return what the best foreign route by *oif* carries; None when there is none."""
        there = [
            route
            for known in (self._present, self._parked)
            for route in known.get(address, ())
            if route.oif == oif
        ]
        best = min(there, key=lambda route: route.metric, default=None)
        return best.carried if best else None

    def leading_to(self, oif: int) -> frozenset[IPAddress]:
        """Return the addresses that have a foreign route by *oif*, parked ones included."""
        return frozenset(
            address
            for known in (self._present, self._parked)
            for address, kept in known.items()
            if any(route.oif == oif for route in kept)
        )

    def look(self, addresses: Iterable[IPAddress], *, oif: int = 0) -> None:
        """Find the foreign direct route that wins for each address: the quick look.

        With *oif* the one that wins among those of that device: a speaker's route by a gateway may
        be above it, in IPv6 above every CNI's.
        """
        for address in addresses:
            message = routes.match(self._channel, address, oif=oif)
            if isinstance(message, bytes):
                self.note(message)

    def is_covered(self, address: IPAddress) -> bool:
        """Tell whether the quick look may have missed a route.

        So it is where a host route by a gateway wins, or one that only refuses, and where the
        kernel does not say what wins.
        """
        winner = routes.winner(self._channel, address)
        # ENETUNREACH alone says that there is no route at all. EHOSTUNREACH, EACCES and EINVAL are
        # an unreachable, prohibit or blackhole route's (fib_props in net/ipv4/fib_semantics.c),
        # below which others may be.
        if isinstance(winner, int):
            return winner != errno.ENETUNREACH
        return winner.is_host and not winner.direct

    def note(self, message: bytes) -> None:
        """Know what the kernel showed, unless it is no foreign direct host route of our table."""
        try:
            entry = rtmsg.decode(message)
        except codec.MalformedError:
            return
        is_here = entry.route.table == self._settings.route_table
        is_foreign = entry.route.protocol != self._settings.route_protocol
        if entry.is_host and entry.direct and is_here and is_foreign:
            self._add(Foreign(entry.route, message))

    def copy_gone(self, route: Route, *, is_known: bool) -> bool:
        """Know that somebody removed a parked copy; tell whether it was known.

        It is to be written anew if its address *is_known* to be an endpoint's.
        """
        copy = self._parked.get(route.address, {}).pop(route, None)
        if copy and is_known:
            self._missing.setdefault(route.address, {})[route] = copy
        return copy is not None

    def gone(self, route: Route) -> None:
        """Know that its owner removed *route*."""
        self._present.get(route.address, {}).pop(route, None)

    def replaced(self, route: Route) -> None:
        """Know that somebody put *route* into the place of its (prefix, metric)."""
        present = self._present.get(route.address, {})
        for other in [other for other in present if other.metric == route.metric]:
            del present[other]

    def lose(self, oif: int) -> frozenset[IPAddress]:
        """Forget all routes of an interface that went down or is gone; return their addresses."""
        lost: set[IPAddress] = set()
        for known in (self._present, self._parked, self._missing):
            for address, foreign in known.items():
                for route in [route for route in foreign if route.oif == oif]:
                    lost.add(address)
                    del foreign[route]
        return frozenset(lost)

    def park(self, address: IPAddress) -> str:
        """Park all that stands, also below the first; return "" or why one stays.

        A copy that somebody removed is written anew: nothing else could be given back.
        """
        if not self._restore(address):
            return self._leave_contested(address)
        # Each one that goes shows the next one below it.
        for _ in range(_HIDDEN):
            present = tuple(self._present.get(address, {}).values())
            for foreign in present:
                if not self._rounds.try_take(address, self._clock()):
                    return self._leave_contested(address)
                result = parking.park(self._channel, foreign)
                # ESRCH: its owner was faster to remove it, so that there is nothing to give back.
                if result not in {0, errno.ESRCH}:
                    return f"a foreign route stays: {answers.describe(result)}"
                self._moved(foreign, is_parked=result == 0)
            self.look([address])
            # A gateway's route may win over all of them, but not on their own devices.
            for oif in {foreign.route.oif for foreign in present}:
                self.look([address], oif=oif)
            if not self.has(address):
                break
        self.contested.pop(address, None)
        return ""

    def give_back(self, address: IPAddress) -> int:
        """Put back what is parked for *address*; return how many routes that were."""
        given = 0
        table, ours = self._settings.route_table, self._settings.route_protocol
        # Also what somebody removed from its table is known here as it was.
        self._parked.setdefault(address, {}).update(self._missing.pop(address, {}))
        for route, parked in list(self._parked.get(address, {}).items()):
            if parking.unpark(self._channel, parked, table, ours) == 0:
                del self._parked[address][route]
                back = dataclasses.replace(route, table=table)
                self._add(Foreign(back, parked.message))
                given += 1
        metrics.PARKED.labels("given_back").inc(given)
        self.contested.pop(address, None)
        self._rounds.forget(address)
        return given

    def supplant(self, ours: Route, *, crowded: bool) -> int | None:
        """Put *ours* into the place of a foreign route of its metric; None: none is known.

        *crowded*: a route by a gateway stands there too.
        """
        self.look([ours.address])
        self.look([ours.address], oif=ours.oif)
        present = self._present.get(ours.address, {}).values()
        rivals = [one for one in present if one.route.metric == ours.metric]
        # In IPv6 one on our own device has to go; any other might stand beside ours.
        rival = min(rivals, key=lambda one: one.route.oif != ours.oif, default=None)
        if rival is None:
            return None
        result = parking.supplant(self._channel, rival, ours, crowded=crowded)
        if result == 0:
            self._moved(rival, is_parked=True)
        return result

    def _restore(self, address: IPAddress) -> bool:
        """Write missing copies anew; False where somebody removes them as often."""
        missing = self._missing.get(address)
        if not missing:
            return True
        if not self._rounds.try_take(address, self._clock()):
            return False
        for route, copy in missing.items():
            # One that the kernel refuses, for its interface is down or gone, went with that.
            if parking.copy_anew(self._channel, copy) == 0:
                self._parked.setdefault(address, {})[route] = copy
        del self._missing[address]
        return True

    def _add(self, foreign: Foreign) -> None:
        self._present.setdefault(foreign.route.address, {})[foreign.route] = foreign

    def _leave_contested(self, address: IPAddress) -> str:
        text = "somebody puts a foreign route back as often as it is parked"
        if address not in self.contested:
            metrics.PARKED.labels("contested").inc()
        self.contested[address] = f"{address}: {text}"
        return text

    def _moved(self, foreign: Foreign, *, is_parked: bool) -> None:
        """Know *foreign* as parked, in the place of an older copy, or as gone."""
        address = foreign.route.address
        self._present[address].pop(foreign.route, None)
        if not is_parked:
            return
        # As ``parking.park`` leaves it: of one device and metric only the newest copy.
        copy = parking.parked_form(foreign)
        parked = self._parked.setdefault(address, {})
        place = (copy.route.oif, copy.route.metric)
        for old in [old for old in parked if (old.oif, old.metric) == place]:
            del parked[old]
        parked[copy.route] = copy
        metrics.PARKED.labels("parked").inc()
