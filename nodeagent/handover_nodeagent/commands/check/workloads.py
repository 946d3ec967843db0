"""PURE: which links are workloads', and what the kernel's settings there come to.

What cannot be read is named, not guessed.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from handover_nodeagent.commands.check.traps import Workload
from handover_nodeagent.kernel.netlink.rtmsg import Entry
from handover_nodeagent.network.model import Link


class Setting(NamedTuple):
    """A file below /proc/sys/net: of one interface, or of ``all``."""

    family: str
    interface: str
    name: str


def leading_to_guests(
    links: Iterable[Link], entries: Iterable[Entry], protocol: int
) -> tuple[Link, ...]:
    """Return the links with direct host routes that are none of the node's own.

    Where one of ours is, a guest is, whatever else the link has got meanwhile.
    """
    direct = [entry.route for entry in entries if entry.is_host and entry.direct]
    ours = {route.oif for route in direct if route.protocol == protocol}
    indexes = {route.oif for route in direct}
    return tuple(
        link
        for link in links
        if link.index in ours or (link.index in indexes and not _is_nodes_own(link))
    )


def reaching_nodes(links: Iterable[Link], entries: Iterable[Entry]) -> tuple[Link, ...]:
    """Return the links by which other nodes' networks of pods are reached, but not the world.

    What other nodes forward to a guest here comes by them, and its answer leaves elsewhere. Where
    there is no way to the world nobody there is answered at all.
    """
    known = tuple(links)
    if not any(link.default_route for link in known):
        return ()
    indexes = {
        entry.route.oif
        for entry in entries
        if entry.gateway and entry.route.address.version == 4 and not entry.is_host  # noqa: PLR2004
    }
    return tuple(link for link in known if link.index in indexes and not link.default_route)


def _is_nodes_own(link: Link) -> bool:
    """Tell whether the node itself speaks from there, so that it is no workload's."""
    # A CNI may give a workload's port an address of its own without a network; a link-local one
    # each port makes for itself.
    own = link.addresses - link.hosts
    return link.default_route or not all(address.is_link_local for address in own)


def settings(link: Link, *, has_ipv6: bool) -> tuple[Setting, ...]:
    """Return the settings that tell what the kernel does on *link*."""
    ipv4 = (
        Setting("ipv4", interface, name)
        for name in ("rp_filter", "proxy_arp")
        for interface in (link.name, "all")
    )
    ipv6 = (Setting("ipv6", link.name, name) for name in ("accept_ra", "forwarding"))
    return (*ipv4, *ipv6) if has_ipv6 else tuple(ipv4)


def workload(link: Link, values: Mapping[Setting, int | None]) -> Workload:
    """Return what the kernel does on *link* by its settings' *values*, None where unreadable."""
    accept, forwards = _highest(values, "accept_ra"), _highest(values, "forwarding")
    return Workload(
        link.name,
        link.mac,
        # All interfaces' setting counts too where it is the stricter one.
        rp_filter=_highest(values, "rp_filter"),
        proxy_arp=bool(_highest(values, "proxy_arp")),
        # 1 means: unless this interface forwards; 2: always (ip-sysctl.rst).
        accepts_ra=accept > 1 or (accept == 1 and not forwards),
        unread=tuple(setting.name for setting, value in values.items() if value is None),
    )


def _highest(values: Mapping[Setting, int | None], name: str) -> int:
    return max((value or 0 for setting, value in values.items() if setting.name == name), default=0)
