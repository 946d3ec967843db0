"""PURE: the ARP guard as nft commands, and back from nft's listing.

    table arp handover {
        map workloads { typeof oifname : verdict; elements = { "tap0" : jump to-tap0 } }
        chain output { type filter hook output priority 0; oifname vmap @workloads }
        chain to-tap0 { arp operation reply arp saddr ip 10.65.0.2 counter drop }
    }

Every change is written so that it succeeds from any state of what it changes: nft 1.0.6 has no
``destroy``, so what may be absent is added before it is deleted, in the same transaction. The map
says ``typeof``: what libnftables 1.1.3 notes of a ``type`` makes an nft 1.0.6 on the node crash.
"""

import json
import re
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from ipaddress import IPv4Address
from typing import Final

from handover_nodeagent.kernel.nft import names
from handover_nodeagent.network.model import ArpGuard

# What may be absent is added first: without ``destroy`` a delete of it would fail the whole.
REMOVE_ALL: Final = f"add table arp {names.TABLE}\ndelete table arp {names.TABLE}\n"
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.-]+")


def frame(table: str) -> str:
    """Return the commands that make *table* with all but the workloads in it."""
    return (
        f"add table arp {table}\n"
        f"add map arp {table} workloads {{ typeof oifname : verdict; }}\n"
        f"add chain arp {table} output {{ type filter hook output priority 0; policy accept; }}\n"
        f"add rule arp {table} output oifname vmap @workloads\n"
    )


def render(guard: ArpGuard) -> str:
    """Return the commands that make the whole table anew; what nft cannot name is left out."""
    return f"{REMOVE_ALL}{frame(names.TABLE)}" + "".join(
        _put(interface, guard[interface])
        for interface in sorted(guard)
        if guard[interface] and names.is_writable(interface)
    )


def render_change(interface: str, addresses: AbstractSet[IPv4Address]) -> str:
    """Return the commands that bring one interface to *addresses*; without any, remove it."""
    # Also where it is to go: the map may have no such element, and a delete of none is refused.
    put = _put(interface, addresses)
    if addresses:
        return put
    # A chain stays as long as an element leads to it.
    return (
        f'{put}delete element arp {names.TABLE} workloads {{ "{interface}" }}\n'
        f"delete chain arp {names.TABLE} {_chain(interface)}\n"
    )


def _put(interface: str, addresses: Iterable[IPv4Address]) -> str:
    chain = f"arp {names.TABLE} {_chain(interface)}"
    rules = (
        f"add rule {chain} arp operation reply arp saddr ip {address} counter drop\n"
        for address in sorted(addresses)
    )
    return (
        f"add chain {chain}\n"
        # An interface that was guarded before keeps its chain, and none of its old rules.
        f"flush chain {chain}\n"
        f"{''.join(rules)}"
        f'add element arp {names.TABLE} workloads {{ "{interface}" : jump {_chain(interface)} }}\n'
    )


def _chain(interface: str) -> str:
    """Return the name of the interface's chain, which must be no keyword and no other chain."""
    # The prefix keeps it apart from nft's keywords and from ``output``; what nft could not read as
    # a name goes in hex.
    if _IDENTIFIER.fullmatch(interface):
        return f"to-{interface}"
    return f"hex-{interface.encode().hex()}"


def parse(listing: str) -> ArpGuard | None:
    """Read ``nft -j list table``; None for anything that :func:`render` would not have made."""
    if not listing:
        return None
    # Sorted on both sides: nft lists what is there in no promised order.
    found = sorted(fact for item in json.loads(listing)["nftables"] for fact in _facts(item))
    dropped: dict[str, set[IPv4Address]] = {}
    for kind, chain, address in found:
        if kind == "drop":
            dropped.setdefault(chain, set()).add(IPv4Address(address))
    guard = {
        interface: frozenset(dropped.get(chain, ()))
        for kind, chain, interface in found
        if kind == "element"
    }
    return guard if found == sorted(_expected(guard)) else None


_Fact = tuple[str, str, str]
"""What is there, in which chain, about which interface or address."""
_FOREIGN: Final[_Fact] = ("foreign", "", "")


def _expected(guard: ArpGuard) -> Iterator[_Fact]:
    yield "base", "output", ""
    yield "entry", "output", ""
    for interface, addresses in guard.items():
        chain = _chain(interface)
        yield "chain", chain, ""
        yield "element", chain, interface
        for address in addresses:
            yield "drop", chain, str(address)


def _facts(item: object) -> Iterator[_Fact]:
    """Read one item of the listing; what is not of ours becomes a fact that nobody expects."""
    match item:
        # In the text: chain output. One with another hook or policy is taken for a plain chain
        # below, and as such nobody expects it.
        case {"chain": {"name": "output", "hook": "output", "prio": 0, "policy": "accept"}}:
            yield "base", "output", ""
        case {"chain": {"name": str(chain)}}:
            yield "chain", chain, ""
        # In the text: elements = { "tap0" : jump to-tap0 }. Of an empty map nft lists no elements.
        case {"map": {"name": "workloads", "elem": [*pairs]}}:
            yield from map(_element, pairs)
        # In the text: oifname vmap @workloads.
        case {"rule": {"chain": "output", "expr": [{"vmap": {"data": "@workloads"}}]}}:
            yield "entry", "output", ""
        case {"rule": {"chain": str(chain), "expr": [*statements]}}:
            yield _drop(chain, statements)
        case {"metainfo": _} | {"table": _} | {"map": {"name": "workloads"}}:
            pass
        case _:
            yield _FOREIGN


def _element(pair: object) -> _Fact:
    match pair:
        case [str(interface), {"jump": {"target": str(chain)}}]:
            return "element", chain, interface
    return _FOREIGN


def _drop(chain: str, statements: list[object]) -> _Fact:
    # In the text: arp operation reply arp saddr ip 10.65.0.2 counter drop. What was counted says
    # nothing; one statement more, fewer or in another order is not ours.
    match statements:
        case [
            {"match": {"op": "==", "left": {"payload": {"field": "operation"}}, "right": "reply"}},
            {
                "match": {
                    "op": "==",
                    "left": {"payload": {"field": "saddr ip"}},
                    "right": str(address),
                }
            },
            {"counter": _},
            {"drop": None},
        ]:
            return "drop", chain, address
    return _FOREIGN
