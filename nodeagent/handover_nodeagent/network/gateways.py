"""Which gateways a guest has, from the surest source that says so.

They ask the guest whether it is there, and are told to it after the switchover: a guest that knows
its gateway by another node's MAC is mute for tens of seconds, and one that answers its own subnet
alone (``arp_ignore=2``) answers no stranger.
"""

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from handover_api.configuration import Settings
from handover_api.workloadendpoint import WorkloadEndpointSpec
from handover_nodeagent.network.model import IPAddress, Link

ASSUMED: Final = (
    "The guest was told where 169.254.1.1 and the interface's link-local address are now; if its "
    "gateway is another one, name it in spec.gateways or in the configuration's gateways"
)
# Calico gives it to all interfaces on all nodes: there is nothing to correct.
SAME_EVERYWHERE: Final = "ee:ee:ee:ee:ee:ee"

_A = TypeVar("_A", bound=IPAddress)


def of(spec: WorkloadEndpointSpec, link: Link, settings: Settings) -> tuple[IPAddress, ...]:
    """Return the gateways of the families of *spec*; none of a family where nobody names one.

    What the endpoint names; else of the configuration those that are nearest to its addresses;
    else the node's own address on *link*, which is there for nothing else (``placement``).
    """
    found: list[IPAddress] = []
    # Family by family: who names a gateway of one says nothing of the other.
    for version in sorted({address.version for address in spec.ips}):
        guests = [address for address in spec.ips if address.version == version]
        named = _of_version(spec.gateways, version)
        configured = _of_version(settings.gateways, version)
        closest = [nearest(configured, guest) for guest in guests if configured]
        on_link = [one for one in _of_version(link.hosts, version) if not one.is_link_local]
        found += named or closest or sorted(on_link, key=int)
    return tuple(dict.fromkeys(found))


def nearest(gateways: Sequence[_A], guest: IPAddress) -> _A:
    """Return the one of *gateways* that has most in front in common with *guest*."""
    return min(gateways, key=lambda gateway: (int(gateway) ^ int(guest)).bit_length())


def is_assumed(spec: WorkloadEndpointSpec, link: Link, known: Iterable[IPAddress]) -> bool:
    """Tell whether a gateway of *spec* is only assumed, and may have had another MAC elsewhere."""
    versions = {address.version for address in spec.ips} - {address.version for address in known}
    return bool(versions) and link.mac != SAME_EVERYWHERE


def _of_version(addresses: Iterable[IPAddress], version: int) -> list[IPAddress]:
    return [address for address in addresses if address.version == version]
