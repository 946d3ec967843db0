"""Which interface each has, and which of its addresses it may have.

Follows what the kernel tells of links and routes, and has each endpoint relocated of which
that makes a difference.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Protocol

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State, WorkloadEndpoint
from handover_nodeagent.faults import Attempt
from handover_nodeagent.network import admission as admissions
from handover_nodeagent.network import placement
from handover_nodeagent.network.links import LinkDiff, Links
from handover_nodeagent.network.model import IPAddress, Link
from handover_nodeagent.network.placement import Unplaced
from handover_nodeagent.reconcile.endpoint import Endpoint
from handover_nodeagent.reconcile.enforce import Enforcer
from handover_nodeagent.reconcile.link_index import LinkIndex


class Loop(Protocol):
    """Who follows an endpoint; called synchronously on the loop."""

    def relocate(self, endpoint: Endpoint, *, is_elsewhere: bool) -> None:
        """Follow its addresses or, where it *is_elsewhere*, another interface or none."""

    def prepare_anew(self, keys: Iterable[ObjectKey]) -> None:
        """Have prepared cutovers carry what their owners' routes are known to carry by now."""


class Interfaces:
    """The interfaces and addresses of all *endpoints*, which the loop alone adds and removes.

    ``links`` are all of the node's.
    """

    def __init__(
        self,
        endpoints: Mapping[ObjectKey, Endpoint],
        link_index: LinkIndex,
        enforcer: Enforcer,
        api_servers: frozenset[IPAddress],
        loop: Loop,
        attempt: Attempt,
    ) -> None:
        """Call *attempt* with what concerns one endpoint alone; none has one of *api_servers*."""
        self.links = Links()
        self._api_servers = api_servers
        self._endpoints = endpoints
        self._link_index = link_index
        self._enforcer = enforcer
        self._routes = enforcer.routes
        self._loop = loop
        self._attempt = attempt

    def admit(self, obj: WorkloadEndpoint, link: Link | None) -> admissions.Admission:
        """Judge the addresses of the endpoint on *link*.

        One that it has a route for there is let go only where the route of its owner can come back.
        """
        ours = self._routes.known.ours_to(obj.spec.ips, link.index) if link else ()
        foreign = self._routes.known.foreign
        served = {route.address for route in ours if not foreign.has_parked(route.address)}
        settings, own = self._enforcer.settings, self.links.addresses
        return admissions.admit(obj.spec.ips, settings, own, served, self._api_servers)

    def find(self, obj: WorkloadEndpoint, *, remembered: str | None = None) -> Link | Unplaced:
        """Look for the link that is, or may become, the endpoint's.

        What it had stays, or what is *remembered* and has its routes: where nothing tells a link
        any more, and where one is refused.
        """
        links, own = self.links, self._link_index.of(obj.key)
        routed = self._routes.known.foreign.devices(obj.spec.ips)
        devices = frozenset[int]().union(*routed.values())
        taken = {index for index in devices if self._link_index.is_others(index, own)}
        held = links.by_index.get(own) if own else links.by_name.get(remembered or "")
        # A remembered name may be another one's by now, unless routes lead there.
        if held and not own:
            has_routes = bool(self._routes.known.ours_to(obj.spec.ips, held.index))
            held = held if has_routes or held.index in devices else None
        current = held.index if held else None
        node = placement.NodeLinks(links.by_index, links.by_name, routed, taken, current)
        return placement.place(obj, node)

    def take_in(self, endpoint: Endpoint) -> None:
        """Note where the endpoint lives; see whom the kernel takes for its guest."""
        self._link_index.put(endpoint.key, endpoint.interface_names, endpoint.link)
        self.look_up_hidden(endpoint)
        self.learn_neigh_mac(endpoint)

    def learn_neigh_mac(self, endpoint: Endpoint) -> None:
        """Ask the kernel for the guest's MAC, if neither object nor guest has told it.

        Before a guest that is asked counts as silent, what they told may diff out wrong.
        """
        endpoint.neigh_mac = None
        is_asked = endpoint.machine.state is State.ASKING
        if endpoint.link and (is_asked or endpoint.mac is None):
            found = self._routes.find_mac(endpoint.admission.allowed, endpoint.link.index)
            endpoint.neigh_mac = found

    def let_go(self, endpoint: Endpoint) -> None:
        """Forget an endpoint that is gone; another one may have been waiting for its interface."""
        self._link_index.remove(endpoint.key)
        if endpoint.link:
            self._offer(endpoint.link)

    def place_again(self, endpoint: Endpoint) -> None:
        """Look for the endpoint's interface once more, and follow it where it is another."""
        before = endpoint.placement
        endpoint.placement = self.find(endpoint.object)
        if endpoint.placement != before:
            try:
                self.take_in(endpoint)
            except Exception:
                # The next attempt is to find the difference again.
                endpoint.placement = before
                raise
            self._loop.relocate(endpoint, is_elsewhere=True)

    def _attempt_placement(self, key: ObjectKey) -> None:
        """Place one of many anew: what it meets is its own."""

        def place() -> None:
            if endpoint and self._endpoints.get(key) is endpoint:
                self.place_again(endpoint)

        endpoint = self._endpoints.get(key)
        self._attempt(key, "interface", place)

    def look_up_hidden(self, endpoint: Endpoint) -> None:
        """Find a foreign route to the endpoint that the plain lookup could not see."""
        addresses, foreign = endpoint.admission.allowed, self._routes.foreign
        if endpoint.link:
            foreign.look_up(addresses, oif=endpoint.link.index)
            # Where the kernel is set so, it names no route of a link without carrier when asked for
            # the way, but goes by it as soon as there is one.
            is_hidden = not endpoint.link.carrier
        else:
            # It may leave by any interface, which may be the endpoint's.
            is_hidden = any(map(foreign.is_covered, addresses))
        if is_hidden:
            self._enforcer.request_resync()

    def link_changed(self, diff: LinkDiff | None) -> None:
        """Follow a link that came, went or changed."""
        if diff is None:
            return
        desired = self._routes.desired
        affected: set[IPAddress] = set()
        # The kernel drops the routes of a link that goes down, those of IPv4 without a word.
        if diff.before and diff.lost_routes:
            affected |= self._routes.known.lose(diff.before.index)
        if diff.before and diff.after is None:
            affected |= desired.drop_link(diff.before.index).addresses
        # Endpoints are placed anew below; an orphan has nobody who would have it applied.
        if diff.came_up and diff.after:
            index = diff.after.index
            affected |= {route.address for route in desired.orphans() if route.oif == index}
        for key in self._link_index.concerned(diff):
            self._attempt_placement(key)
        # What one endpoint has left, or cannot have, may be what another one waits for.
        for link in filter(None, {diff.before, diff.after}):
            self._offer(link)
        if _own(diff.before) != _own(diff.after):
            affected |= self._routes.known.readdressed(_own(diff.before) - self.links.addresses)
            self._admit_again(_own(diff.before) ^ _own(diff.after))
        self._enforcer.reapply(affected)

    def route_changed(self, address: IPAddress) -> None:
        """Follow a direct host route that somebody else added or removed."""
        for key in self._link_index.unplaced() & self._routes.desired.endpoints_with([address]):
            self._attempt_placement(key)
        # Its owner's route may have changed what ours is to carry, or be back in its way.
        self._enforcer.reapply([address])
        self._loop.prepare_anew(self._routes.desired.endpoints_with([address]))

    def observed(self) -> None:
        """Follow what the kernel was found to have."""
        for key in self._link_index.unplaced():
            self._attempt_placement(key)
        self._enforcer.reapply_all()
        self._loop.prepare_anew(self._endpoints)

    def _offer(self, link: Link) -> None:
        """Place the endpoints without an interface anew that may have *link*."""
        routed = self._routes.known.foreign.leading_to(link.index)
        holders = self._routes.desired.endpoints_with(routed)
        for key in self._link_index.unplaced() & holders:
            self._attempt_placement(key)

    def _admit_again(self, changed: frozenset[IPAddress]) -> None:
        """Judge the endpoints anew that name an address which the node got or lost."""
        for key, endpoint in tuple(self._endpoints.items()):
            if not changed.isdisjoint(endpoint.object.spec.ips):
                self._attempt(key, "addresses", partial(self._readmit, endpoint))

    def _readmit(self, endpoint: Endpoint) -> None:
        endpoint.admission = self.admit(endpoint.object, endpoint.link)
        self._loop.relocate(endpoint, is_elsewhere=False)


def _own(link: Link | None) -> frozenset[IPAddress]:
    return link.addresses if link else frozenset()
