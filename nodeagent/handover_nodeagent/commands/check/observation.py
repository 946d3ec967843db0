"""The node's links, routes, rules and programs, read by pyroute2: by another author than ours.

A person who doubts the agent should not have to believe its own reader. pyroute2 costs memory and
seconds to import, so nothing but the ``check`` command imports this module, when it runs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink import nlmsg
from pyroute2.netlink.exceptions import NetlinkError

from handover_nodeagent.commands.check.traps import Rule
from handover_nodeagent.kernel.netlink import ways
from handover_nodeagent.kernel.netlink.codec import INET, INET6, ObservationError
from handover_nodeagent.kernel.netlink.rtmsg import Entry
from handover_nodeagent.network.model import Encapsulated, IPAddress, Link, Route, Via, Way

_ATTEMPTS: Final = 8
_FAMILIES: Final = (INET, INET6)

# IFF_UP and IFF_LOWER_UP of linux/if.h, RTN_UNICAST and RTM_F_CLONED of linux/rtnetlink.h.
_UP: Final = 0x1
_LOWER_UP: Final = 0x10000
_UNICAST: Final = 1
_CLONED: Final = 0x200
_TO_TABLE: Final = 1
_ACTIONS: Final = {2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
"""FR_ACT_ of linux/fib_rules.h, but for FR_ACT_TO_TBL."""
_ANYWHERE: Final[Mapping[int, IPAddress]] = {INET: IPv4Address(0), INET6: IPv6Address(0)}
_CLSACT: Final = (0xFFFFFFF2, 0xFFFFFFF3)
"""TC_H_CLSACT with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS of linux/pkt_sched.h."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What there is. ``programs``: names of eBPF programs at tc, by interface."""

    links: Mapping[int, Link]
    entries: tuple[Entry, ...]
    rules: tuple[Rule, ...]
    programs: Mapping[str, tuple[str, ...]]


def observe(table: int) -> Observed:
    """Read all, and the routes of *table*. Raises ObservationError.

    pyroute2 does not tell of a dump that a change interrupted (NLM_F_DUMP_INTR): so what two
    readings show alike counts. Call it where no event loop runs: IPRoute raises inside one.
    """
    try:
        # NETLINK_GET_STRICT_CHK: without it the kernel dumps all tables, whichever is asked for.
        with IPRoute(strict_check=True) as kernel:
            before = _read(kernel, table)
            for _ in range(_ATTEMPTS):
                now = _read(kernel, table)
                if _lasting(now) == _lasting(before):
                    return now
                before = now
    except (NetlinkError, OSError) as error:
        raise ObservationError(str(error)) from error
    text = f"links or host routes changed during each of {_ATTEMPTS} attempts to read them"
    raise ObservationError(text)


def _lasting(observed: Observed) -> tuple[object, ...]:
    """Leave out the routes of routing daemons, which change all the time where there are many."""
    direct = [entry for entry in observed.entries if entry.is_host and entry.direct]
    return observed.links, direct, observed.rules, observed.programs


def _read(kernel: IPRoute, table: int) -> Observed:
    routes = [message for family in _FAMILIES for message in _routes(kernel, family, table)]
    links = _links(
        kernel, {index for one in routes if not one["dst_len"] for index in _devices(one)}
    )
    return Observed(
        links,
        tuple(map(_entry, routes)),
        tuple(rule for family in _FAMILIES for rule in _rules(kernel, family)),
        _programs(kernel, links.values()),
    )


def _links(kernel: IPRoute, with_default: set[int]) -> Mapping[int, Link]:
    """Return all links; *with_default* are the indexes of those that a default route leaves by."""
    addresses: dict[int, set[IPAddress]] = {}
    hosts: dict[int, set[IPAddress]] = {}
    # IPv6 has IFA_LOCAL only with a peer.
    for message in kernel.get_addr():
        # With a peer, IFA_ADDRESS is the other end.
        own = ip_address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
        addresses.setdefault(message["index"], set()).add(own)
        if message["prefixlen"] == own.max_prefixlen:
            hosts.setdefault(message["index"], set()).add(own)
    return {
        (index := message["index"]): Link(
            index,
            message.get_attr("IFLA_IFNAME"),
            message.get_attr("IFLA_ADDRESS") or "",
            bool(message["flags"] & _UP),
            frozenset(addresses.get(index, ())),
            index in with_default,
            frozenset(hosts.get(index, ())),
            bool(message["flags"] & _LOWER_UP),
        )
        for message in kernel.get_links()
    }


def _routes(kernel: IPRoute, family: int, table: int) -> Iterator[nlmsg]:
    """Ask for the unicast routes; a kernel without the family shows those of the other one."""
    for message in kernel.route("dump", family=family, table=table):
        is_made = message["type"] == _UNICAST and not message["flags"] & _CLONED
        if is_made and message["family"] == family:
            yield message


def _entry(message: nlmsg) -> Entry:
    """Return the same value that our own reader makes of such a route."""
    destination: str | None = message.get_attr("RTA_DST")
    gateway: str | None = message.get_attr("RTA_GATEWAY")
    oif = message.get_attr("RTA_OIF") or 0
    way = _way(message)
    is_indirect = any(
        message.get_attr(kind) for kind in ("RTA_GATEWAY", "RTA_VIA", "RTA_MULTIPATH")
    )
    # Of a default route the kernel shows no destination, and of metric 0 in IPv4 no metric.
    return Entry(
        Route(
            ip_address(destination) if destination else _ANYWHERE[message["family"]],
            oif,
            message.get_attr("RTA_PRIORITY") or 0,
            message.get_attr("RTA_TABLE") or message["table"],
            message["proto"],
            way=way,
        ),
        message["dst_len"],
        ip_address(gateway) if gateway else None,
        bool(oif) and not is_indirect and not isinstance(way, Encapsulated),
    )


def _way(message: nlmsg) -> Way | None:
    """Return a gateway or a tunnel of ours; pyroute2 knows no nexthop objects in routes."""
    via = message.get_attr("RTA_VIA")
    if gateway := message.get_attr("RTA_GATEWAY") or (via and via["addr"]):
        return Via(ip_address(gateway))
    kind, tunnel = message.get_attr("RTA_ENCAP_TYPE"), message.get_attr("RTA_ENCAP")
    if not isinstance(tunnel, str):
        return None
    # Of an IP tunnel pyroute2 shows the octets alone.
    return ways.decode_tunnel(kind, bytes.fromhex(tunnel.replace(":", "")))


def _devices(message: nlmsg) -> tuple[int, ...]:
    """Return the devices of a route, of one that spreads over several all."""
    nexthops = message.get_attr("RTA_MULTIPATH") or ()
    return message.get_attr("RTA_OIF") or 0, *(nexthop["oif"] for nexthop in nexthops)


def _rules(kernel: IPRoute, family: int) -> Iterator[Rule]:
    for message in kernel.get_rules(family=family):
        if message["family"] == family:
            action = message["action"]
            # A number beyond 255 stands in the attribute alone.
            table = message.get_attr("FRA_TABLE") or message["table"]
            yield Rule(
                family,
                message.get_attr("FRA_PRIORITY") or 0,
                " ".join(_selector(message)),
                table if action == _TO_TABLE else 0,
                "" if action == _TO_TABLE else _ACTIONS.get(action, str(action)),
            )


def _selector(message: nlmsg) -> Iterator[str]:
    """Return what a packet has to have, as ip-rule(8) would name it."""
    for name, kind, length in (("from", "FRA_SRC", "src_len"), ("to", "FRA_DST", "dst_len")):
        if address := message.get_attr(kind):
            yield f"{name} {address}/{message[length]}"
    for name, kind in (("iif", "FRA_IIFNAME"), ("oif", "FRA_OIFNAME"), ("fwmark", "FRA_FWMARK")):
        if value := message.get_attr(kind):
            yield f"{name} {value:#x}" if kind == "FRA_FWMARK" else f"{name} {value}"
    if message.get_attr("FRA_L3MDEV"):
        yield "l3mdev"


def _programs(kernel: IPRoute, links: Iterable[Link]) -> Mapping[str, tuple[str, ...]]:
    """Return the eBPF programs at tc of the links that have any; each is named once."""
    found = {link.name: tuple(dict.fromkeys(_at_clsact(kernel, link.index))) for link in links}
    return {name: programs for name, programs in found.items() if programs}


def _at_clsact(kernel: IPRoute, index: int) -> Iterator[str]:
    # Where eBPF data planes attach theirs; of a link without that qdisc the kernel shows none.
    for parent in _CLSACT:
        for message in kernel.get_filters(index=index, parent=parent):
            options = message.get_attr("TCA_OPTIONS")
            # Each program is shown twice, at first without options.
            if message.get_attr("TCA_KIND") == "bpf" and options:
                yield options.get_attr("TCA_BPF_NAME") or "unnamed"
