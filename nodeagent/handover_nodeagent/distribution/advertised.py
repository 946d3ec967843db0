"""PURE: which endpoints are advertised, and what one of them says to all other nodes."""

import datetime as dt
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from handover_api import configuration
from handover_api.assignment import Assignment
from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role, State, WorkloadEndpoint, WorkloadEndpointStatus
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.network import admission
from handover_nodeagent.network.model import IPAddress

# Withdrawn says for sure that the guest is not here. An object that nobody advertises any more
# looks to the others like one that was deleted, which is no word about its guest.
_ALWAYS: Final = frozenset({State.TARGET, State.LIVE, State.TIME_WAIT, State.WITHDRAWN})
_ARRIVED: Final = frozenset({State.LIVE, State.TIME_WAIT})
_LONG_AGO: Final = dt.datetime.min.replace(tzinfo=dt.UTC)


def is_advertised(
    state: State,
    role: Role | None,
    routed: Iterable[IPAddress],
    node: Node | None,
) -> bool:
    """Decide whether other nodes need routes of their own for an endpoint of *node*.

    *routed* are its addresses that have routes here; of a node that nobody knows so far none is
    at home.
    """
    if state in _ALWAYS or role is Role.TARGET:
        return True
    addresses = tuple(routed)
    return bool(addresses) and not (node and node.is_home(addresses))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint of some node, as that node's agent describes it in the API.

    ``levels`` are those of its routes there, by address; ``addresses`` all that it may have.
    ``migration_uids``: of the role that it has by the API, and of the one acted upon.
    ``cutover`` is when its node's routes last followed the guest, for ``cutover_uid``.
    """

    key: ObjectKey
    uid: str
    node: str
    addresses: tuple[IPAddress, ...] = ()
    levels: Mapping[IPAddress, RouteLevel] = field(default_factory=dict)
    state: State | None = None
    is_source: bool = False
    migration_uids: frozenset[str] = frozenset()
    cutover: dt.datetime = _LONG_AGO
    cutover_uid: str | None = None
    created_at: dt.datetime = _LONG_AGO

    @property
    def has_arrived(self) -> bool:
        """Tell whether its guest has come to it by a migration that is not over yet."""
        return self.state in _ARRIVED and bool(self.levels)

    @property
    def is_redirected(self) -> bool:
        """Tell whether its node sends on what arrives there, as the guest is elsewhere."""
        return self.state is State.REDIRECTED


def read(
    found: WorkloadEndpoint, settings: Settings, api_servers: AbstractSet[IPAddress] = frozenset()
) -> Endpoint:
    """Read an endpoint as the API has it; addresses that no guest may have are left out."""
    return describe(found, found.status, settings, api_servers)


def describe(
    found: WorkloadEndpoint,
    status: WorkloadEndpointStatus,
    settings: Settings,
    api_servers: AbstractSet[IPAddress] = frozenset(),
) -> Endpoint:
    """Return what *status*, which the API may not have yet, says of an endpoint."""
    admitted = admission.admit(found.spec.ips, settings, frozenset(), api_servers=api_servers)
    assignment = Assignment.from_annotations(found.metadata.annotations)
    cutover = status.last_cutover
    return Endpoint(
        found.key,
        found.metadata.uid,
        found.spec.node,
        admitted.allowed,
        _levels(admitted.allowed, status, settings),
        status.state,
        assignment.is_on_source_side,
        frozenset(filter(None, (assignment.migration_uid, status.migration_uid))),
        cutover.time if cutover else _LONG_AGO,
        cutover.migration_uid if cutover else None,
        found.metadata.creation_timestamp or _LONG_AGO,
    )


def _levels(
    allowed: tuple[IPAddress, ...], status: WorkloadEndpointStatus, settings: Settings
) -> Mapping[IPAddress, RouteLevel]:
    """Return the level of each address that has a route which is meant for others."""
    found: dict[IPAddress, RouteLevel] = {}
    for route in status.routes:
        # A route of another protocol or table is its node's own business.
        is_meant = (route.protocol, route.table) == (settings.route_protocol, settings.route_table)
        if route.address not in allowed or not is_meant:
            continue
        if route.metric < metric(route.address, RouteLevel.ELEVATED, settings):
            found[route.address] = RouteLevel.ELEVATED
        else:
            found.setdefault(route.address, RouteLevel.NORMAL)
    return found


def metric(address: IPAddress, level: RouteLevel, settings: Settings) -> int:
    """Return the metric of a distributed route: its owner's, and one more.

    At the same level a node's own route wins.
    """
    if level is RouteLevel.ELEVATED:
        own = {4: settings.ipv4_elevated_route_priority, 6: settings.ipv6_elevated_route_priority}
    else:
        own = {4: settings.ipv4_normal_route_priority, 6: settings.ipv6_normal_route_priority}
    return configuration.private_metric(own[address.version])


def is_metric(number: int, settings: Settings) -> bool:
    """Tell whether *number* is the metric of distributed routes of some level and family."""
    own = (
        settings.ipv4_normal_route_priority,
        settings.ipv6_normal_route_priority,
        settings.ipv4_elevated_route_priority,
        settings.ipv6_elevated_route_priority,
    )
    return number in map(configuration.private_metric, own)
