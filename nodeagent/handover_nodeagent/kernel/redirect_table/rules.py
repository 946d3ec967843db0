"""PURE: what bounds a redirect, as nft commands; and what nft has counted of it.

    table inet handover {
        set ports { typeof iifname; elements = { "tap0" } }
        set peers4 { typeof ip saddr; elements = { 192.0.2.2 } }
        set redirected4 { typeof ip daddr; counter; elements = { 10.65.0.2 } }
        set leaving4 { typeof ip daddr; elements = { 10.65.0.2 } }
        set uplinks { typeof iifname; elements = { "eth0", "handover1" } }
        set away4 { typeof ip daddr; elements = { 10.65.0.3 } }
        chain prerouting {
            type filter hook prerouting priority raw
            iifname @uplinks ip daddr @redirected4 notrack
            iifname @uplinks ip daddr @leaving4 fib daddr oifname "handover0" notrack
            iifname @uplinks ip daddr @away4 notrack
        }
        chain input {
            type filter hook input priority filter - 10
            iifname "handover0" ip6 saddr fe80::/64 ip6 daddr fe80::/64 udp dport 7473 accept
            iifname "handover0" drop
            udp dport 7472 ip saddr != @peers4 counter drop
        }
        chain forward {
            type filter hook forward priority filter - 10
            iifname "handover0" oifname != @ports counter drop
        }
        chain postrouting {
            type filter hook postrouting priority 300
            iifname "handover0" meta mark set meta mark or 0x2000
        }
    }

and the same for IPv6. Every change succeeds from any state of what it changes, and the sets say
``typeof``, both for the reasons that ``arp_guard/rules.py`` gives.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from handover_nodeagent.kernel.nft import names
from handover_nodeagent.network.model import IPAddress

REDIRECT: Final = "handover0"
DISTRIBUTION: Final = "handover1"
_TABLE: Final = f"inet {names.TABLE}"
# What may be absent is added first: without ``destroy`` a delete of it would fail the whole.
REMOVE_ALL: Final = f"add table {_TABLE}\ndelete table {_TABLE}\n"
_LINK_LOCAL: Final = "ip6 saddr fe80::/64 ip6 daddr fe80::/64"
"""The tunnel's inner addresses: by them the agents prove that it carries, and nothing else does."""
_BEFORE_FILTERS: Final = -10
"""So that nobody's established-only rule counts, logs or tracks what is dropped here anyway."""
_BEFORE_CONNTRACK: Final = -300
_AFTER_ALL: Final = 300
"""Behind whoever else goes by marks here."""
TUNNELED: Final = 0x2000
"""The bit of a packet's mark that says that it came by a redirect's tunnel."""


@dataclass(frozen=True, slots=True)
class Redirects:
    """What a node's tunnels may carry now.

    ``ports`` are the devices of its VMs, ``peers`` and ``nodes`` who may send into the first and
    into the second tunnel. A port of 0 says that there is no such tunnel. ``redirected`` are
    addresses whose route leads to another node by now; ``leaving`` those whose route may, any
    moment: what comes for them goes untracked from the very packet on that is sent on. ``away`` are
    those of guests elsewhere for which others send to this node, by ``uplinks``: none are named
    where nobody knows them.
    """

    tunnel_port: int
    peer_port: int
    ports: frozenset[str] = frozenset()
    peers: frozenset[IPAddress] = frozenset()
    redirected: frozenset[IPAddress] = frozenset()
    distribution_port: int = 0
    nodes: frozenset[IPAddress] = frozenset()
    away: frozenset[IPAddress] = frozenset()
    uplinks: frozenset[str] = frozenset()
    leaving: frozenset[IPAddress] = frozenset()


def render(redirects: Redirects) -> str:
    """Return the commands that make the whole table anew; what nft cannot name is left out."""
    sets = _sets(redirects)
    lines = (
        *(f"add set {_TABLE} {name} {{ {_TYPES[name]} }}" for name in sets),
        _chain("prerouting", _BEFORE_CONNTRACK),
        _chain("input", _BEFORE_FILTERS),
        _chain("forward", _BEFORE_FILTERS),
        _chain("postrouting", _AFTER_ALL),
        *(f"add rule {_TABLE} {rule}" for rule in _rules(redirects)),
        *(_element("add", name, sets[name]) for name in sets if sets[name]),
    )
    return f"{REMOVE_ALL}add table {_TABLE}\n" + "".join(f"{line}\n" for line in lines)


def render_change(before: Redirects, after: Redirects) -> str:
    """Return the commands, one transaction, that lead from one to the other; "" for none."""
    if _frame(before) != _frame(after):
        return render(after)
    old, new = _sets(before), _sets(after)
    lines = [_element("add", name, new[name] - old[name]) for name in new if new[name] - old[name]]
    for name in new:
        gone = old[name] - new[name]
        if gone:
            # Somebody may have deleted it: a delete of none is refused, and with it all the rest.
            lines += [_element("add", name, gone), _element("delete", name, gone)]
    return "".join(f"{line}\n" for line in lines)


def forwarded(listing: str) -> Mapping[IPAddress, int]:
    """Read from nft's JSON how many packets met the rule of each redirected address.

    What the address of a set's element is not is left out, also a listing that is none.
    """
    try:
        items = json.loads(listing)["nftables"]
    except (ValueError, KeyError, TypeError):
        return {}
    found: dict[IPAddress, int] = {}
    for item in items:
        match item:
            case {"set": {"name": "redirected4" | "redirected6", "elem": [*elements]}}:
                found |= dict(_counted(elements))
    return found


def _counted(elements: Iterable[object]) -> Iterator[tuple[IPAddress, int]]:
    for element in elements:
        match element:
            case {"elem": {"val": str(address), "counter": {"packets": int(packets)}}}:
                yield ip_address(address), packets


_TYPES: Final = {
    "ports": "typeof iifname;",
    "peers4": "typeof ip saddr;",
    "peers6": "typeof ip6 saddr;",
    # With its counter it is known how many packets a redirect has saved.
    "redirected4": "typeof ip daddr; counter;",
    "redirected6": "typeof ip6 daddr; counter;",
    "leaving4": "typeof ip daddr;",
    "leaving6": "typeof ip6 daddr;",
    "nodes4": "typeof ip saddr;",
    "nodes6": "typeof ip6 saddr;",
    "uplinks": "typeof iifname;",
    "away4": "typeof ip daddr;",
    "away6": "typeof ip6 daddr;",
}


def _frame(redirects: Redirects) -> tuple[int, int, int, bool, bool]:
    """Return what no element can say."""
    return (
        redirects.tunnel_port,
        redirects.peer_port,
        redirects.distribution_port,
        bool(redirects.away),
        bool(redirects.uplinks),
    )


def _sets(redirects: Redirects) -> dict[str, frozenset[str]]:
    """Return the elements of each set; what has no rule has no set either."""
    sets = {"ports": _devices(redirects.ports)}
    for name, addresses in (("peers", redirects.peers), ("redirected", redirects.redirected)):
        sets |= _by_version(name, addresses)
    if redirects.tunnel_port:
        sets |= _by_version("leaving", redirects.leaving)
    if redirects.distribution_port:
        sets |= _by_version("nodes", redirects.nodes)
    if redirects.uplinks:
        # By the second tunnel comes what a bystander sends that has not followed so far.
        sets["uplinks"] = _devices(redirects.uplinks | {DISTRIBUTION})
        sets |= _by_version("away", redirects.away) if redirects.away else {}
    return sets


def _devices(found: AbstractSet[str]) -> frozenset[str]:
    return frozenset(f'"{name}"' for name in filter(names.is_writable, found))


def _by_version(name: str, addresses: AbstractSet[IPAddress]) -> dict[str, frozenset[str]]:
    return {
        f"{name}{version}": frozenset(str(one) for one in addresses if one.version == version)
        for version in (4, 6)
    }


def _rules(redirects: Redirects) -> Iterator[str]:
    # A node that sees one direction of a connection alone takes the client's acknowledgments for
    # invalid, and a rule that drops those ends every download. Not what a VM of this node sends, or
    # a pod, where the uplinks are known: the answers to that come back here.
    by = "iifname @uplinks" if redirects.uplinks else "iifname != @ports"
    yield f"prerouting {by} ip daddr @redirected4 notrack"
    yield f"prerouting {by} ip6 daddr @redirected6 notrack"
    if redirects.tunnel_port:
        # The set above follows a route after a millisecond or ten. A client that has an answer from
        # the guest's new node by then acknowledges what was not seen here: its next request would
        # be invalid, and come again a fifth of a second later.
        onward = f'fib daddr oifname "{REDIRECT}"'
        yield f"prerouting {by} ip daddr @leaving4 {onward} notrack"
        yield f"prerouting {by} ip6 daddr @leaving6 {onward} notrack"
    if redirects.uplinks and redirects.away:
        # For as long as the guest is away.
        yield "prerouting iifname @uplinks ip daddr @away4 notrack"
        yield "prerouting iifname @uplinks ip6 daddr @away6 notrack"
    if redirects.tunnel_port:
        yield from _open(redirects.tunnel_port, "peers")
        yield f'input iifname "{REDIRECT}" {_LINK_LOCAL} udp dport {redirects.peer_port} accept'
        yield f'input iifname "{REDIRECT}" drop'
        # What a node has from a peer goes to a VM of its own, or nowhere: so no packet passes a
        # node twice, whatever two of them believe of each other.
        yield f'forward iifname "{REDIRECT}" oifname != @ports counter drop'
        # So that whoever holds packets for a guest that leaves in its turn tells these from others.
        yield f'postrouting iifname "{REDIRECT}" meta mark set meta mark or {TUNNELED:#x}'
    if redirects.distribution_port:
        yield from _open(redirects.distribution_port, "nodes")
        yield f'input iifname "{DISTRIBUTION}" drop'
        # A guest that has just moved on is followed, by the first tunnel.
        onward = f'oifname != "{REDIRECT}"'
        yield f'forward iifname "{DISTRIBUTION}" oifname != @ports {onward} counter drop'


def _open(port: int, senders: str) -> Iterator[str]:
    """Open a tunnel's port to its senders alone: the device takes packets from anybody."""
    yield f"input udp dport {port} ip saddr != @{senders}4 counter drop"
    yield f"input udp dport {port} ip6 saddr != @{senders}6 counter drop"


def _chain(hook: str, priority: int) -> str:
    settings = f"type filter hook {hook} priority {priority}; policy accept;"
    return f"add chain {_TABLE} {hook} {{ {settings} }}"


def _element(verb: str, name: str, elements: AbstractSet[str]) -> str:
    return f"{verb} element {_TABLE} {name} {{ {', '.join(sorted(elements))} }}"
