"""Where the endpoints live: which interface each has, and which of its addresses it may have.

Follows what the kernel tells of links and routes, and calls ``moved`` for each endpoint of which
that makes a difference.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Protocol

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State, WorkloadEndpoint
from handover_nodeagent.faults import Attempt
from handover_nodeagent.network import admission as admissions
from handover_nodeagent.network.links import LinkDiff, Links
from handover_nodeagent.network.model import IPAddress, Link
from handover_nodeagent.network.placement import Unplaced
from handover_nodeagent.reconcile.endpoint import Resident
from handover_nodeagent.reconcile.enforce import Enforcement
from handover_nodeagent.reconcile.seating import Seating


class Moved(Protocol):
    """Who follows an endpoint; called synchronously on the loop."""

    def __call__(self, resident: Resident, *, is_elsewhere: bool) -> None:
        """Follow its addresses or, where it *is_elsewhere*, another interface or none."""


class Lodging:
    """The interfaces and addresses of all *residents*, which the loop alone adds and removes."""

    def __init__(
        self,
        residents: Mapping[ObjectKey, Resident],
        seating: Seating,
        kernel: Enforcement,
        moved: Moved,
        attempt: Attempt,
    ) -> None:
        """Call *moved* of those that live elsewhere; *attempt* what concerns one of them alone."""
        self.links = Links()
        self.api_servers = frozenset[IPAddress]()
        self._residents = residents
        self._seating = seating
        self._kernel = kernel
        self._router = kernel.router
        self._moved = moved
        self._attempt = attempt

    def admit(self, endpoint: WorkloadEndpoint, link: Link | None) -> admissions.Admission:
        """Judge the addresses of the endpoint on *link*.

        One that it has a route for there is let go only where the route of its owner can come back.
        """
        ours = self._router.routes_of(endpoint.spec.ips, link.index) if link else ()
        served = {
            route.address for route in ours if not self._router.foreigners.has_parked(route.address)
        }
        settings, own = self._kernel.settings, self.links.addresses
        return admissions.admit(endpoint.spec.ips, settings, own, served, self.api_servers)

    def find(self, endpoint: WorkloadEndpoint, *, remembered: str | None = None) -> Link | Unplaced:
        """Look for the endpoint's interface."""
        return self._seating.find(endpoint, self.links, self._router, remembered=remembered)

    def take_in(self, resident: Resident) -> None:
        """Note where the endpoint lives; see whom the kernel takes for its guest."""
        self._seating.take(resident.key, resident.wishes, resident.link)
        self.look_below(resident)
        self.look_for_mac(resident)

    def look_for_mac(self, resident: Resident) -> None:
        """Ask the kernel for the guest's MAC, if neither object nor guest has told it.

        Before a guest that is asked counts as silent, what they told may diff out wrong.
        """
        resident.neigh_mac = None
        is_asked = resident.machine.state is State.ASKING
        if resident.link and (is_asked or resident.mac is None):
            found = self._router.find_mac(resident.admission.allowed, resident.link.index)
            resident.neigh_mac = found

    def let_go(self, resident: Resident) -> None:
        """Forget an endpoint that is gone; another one may have been waiting for its interface."""
        self._seating.leave(resident.key)
        if resident.link:
            self._offer(resident.link)

    def look_again(self, resident: Resident) -> None:
        """Look for the endpoint's interface once more, and follow it where it is another."""
        before = resident.placement
        resident.placement = self.find(resident.endpoint)
        if resident.placement != before:
            try:
                self.take_in(resident)
            except Exception:
                # The next look is to find the difference again.
                resident.placement = before
                raise
            self._moved(resident, is_elsewhere=True)

    def _look(self, key: ObjectKey) -> None:
        """Look again for the interface of one of many: what it meets is its own."""

        def look() -> None:
            if resident and self._residents.get(key) is resident:
                self.look_again(resident)

        resident = self._residents.get(key)
        self._attempt(key, "interface", look)

    def look_below(self, resident: Resident) -> None:
        """Find a foreign route to the endpoint that the quick look could not see."""
        addresses, foreigners = resident.admission.allowed, self._router.foreigners
        if resident.link:
            foreigners.look(addresses, oif=resident.link.index)
            # Where the kernel is set so, it names no route of a link without carrier when asked for
            # the way, but goes by it as soon as there is one.
            is_hidden = not resident.link.carrier
        else:
            # It may leave by any interface, which may be the endpoint's.
            is_hidden = any(map(foreigners.is_covered, addresses))
        if is_hidden:
            self._kernel.observe()

    def changed(self, diff: LinkDiff | None) -> None:
        """Follow a link that came, went or changed."""
        if diff is None:
            return
        desired = self._router.desired
        touched: set[IPAddress] = set()
        if diff.before and diff.lost_routes:
            touched |= self._router.lose(diff.before.index)
        if diff.before and diff.after is None:
            touched |= desired.drop_link(diff.before.index).addresses
        if diff.came_up and diff.after:
            index = diff.after.index
            touched |= {route.address for route in desired.orphans() if route.oif == index}
        for key in self._seating.concerned(diff):
            self._look(key)
        for link in filter(None, {diff.before, diff.after}):
            self._offer(link)
        if _own(diff.before) != _own(diff.after):
            touched |= self._router.readdressed(_own(diff.before) - self.links.addresses)
            self._admit_again(_own(diff.before) ^ _own(diff.after))
        self._kernel.reapply(touched)

    def routed(self, address: IPAddress) -> None:
        """Follow a direct host route that somebody else added or removed."""
        for key in self._seating.standing() & self._router.desired.endpoints_with([address]):
            self._look(key)
        self._kernel.reapply([address])
        self._prepare_anew(self._router.desired.endpoints_with([address]))

    def observed(self) -> None:
        """Follow what the kernel was found to have."""
        for key in self._seating.standing():
            self._look(key)
        self._kernel.reapply_all()
        self._prepare_anew(self._residents)

    def _prepare_anew(self, keys: Iterable[ObjectKey]) -> None:
        """Have cutovers carry what their owners' routes are known to carry by now."""
        for key in keys:
            resident = self._residents[key]
            if resident.prepared:
                local = resident.local(self._kernel.settings)
                resident.prepared = self._router.prepare(local)

    def _offer(self, link: Link) -> None:
        """Let the endpoints without an interface look whether *link* is theirs."""
        holders = self._router.desired.endpoints_with(
            self._router.foreigners.leading_to(link.index)
        )
        for key in self._seating.standing() & holders:
            self._look(key)

    def _admit_again(self, changed: frozenset[IPAddress]) -> None:
        """Judge the endpoints anew that name an address which the node got or lost."""
        for key, resident in tuple(self._residents.items()):
            if not changed.isdisjoint(resident.endpoint.spec.ips):
                self._attempt(key, "addresses", partial(self._readmit, resident))

    def _readmit(self, resident: Resident) -> None:
        resident.admission = self.admit(resident.endpoint, resident.link)
        self._moved(resident, is_elsewhere=False)


def _own(link: Link | None) -> frozenset[IPAddress]:
    return link.addresses if link else frozenset()
