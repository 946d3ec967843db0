"""PURE: the ARP guard as nft commands, and back from nft's listing.

    table arp handover {
        map workloads { type ifname : verdict; elements = { "tap0" : jump to-tap0 } }
        chain output { type filter hook output priority 0; oifname vmap @workloads }
        chain to-tap0 { arp operation reply arp saddr ip 10.65.0.2 counter drop }
    }

Every change is written so that it succeeds from any state of what it changes: nft 1.0.6 has no
``destroy``, so what may be absent is added before it is deleted, in the same transaction.
"""

import json
import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from ipaddress import IPv4Address
from typing import Final

from handover_nodeagent.network import Guard

TABLE: Final = "handover"

REMOVE_ALL: Final = f"add table arp {TABLE}\ndelete table arp {TABLE}\n"
_FRAME: Final = f"""{REMOVE_ALL}add table arp {TABLE}
add map arp {TABLE} workloads {{ type ifname : verdict; }}
add chain arp {TABLE} output {{ type filter hook output priority 0; policy accept; }}
add rule arp {TABLE} output oifname vmap @workloads
"""
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.-]+")
_WRITABLE: Final = re.compile(r"[!#-)+-\[\]-~]+")
"""What a quoted string of nft can hold and takes for itself: no quote, asterisk, backslash."""


def is_writable(interface: str) -> bool:
    """Tell whether nft can name *interface* at all."""
    return _WRITABLE.fullmatch(interface) is not None


def render(guard: Guard) -> str:
    """Return the commands that make the whole table anew; what nft cannot name is left out."""
    return _FRAME + "".join(
        _put(interface, guard[interface])
        for interface in sorted(guard)
        if guard[interface] and is_writable(interface)
    )


def render_change(interface: str, addresses: AbstractSet[IPv4Address]) -> str:
    """Return the commands that bring one interface to *addresses*; without any, remove it."""
    put = _put(interface, addresses)
    if addresses:
        return put
    # A chain stays as long as an element leads to it.
    return (
        f'{put}delete element arp {TABLE} workloads {{ "{interface}" }}\n'
        f"delete chain arp {TABLE} {_chain(interface)}\n"
    )


def _put(interface: str, addresses: Iterable[IPv4Address]) -> str:
    chain = f"arp {TABLE} {_chain(interface)}"
    rules = (
        f"add rule {chain} arp operation reply arp saddr ip {address} counter drop\n"
        for address in sorted(addresses)
    )
    return (
        f"add chain {chain}\n"
        f"flush chain {chain}\n"
        f"{''.join(rules)}"
        f'add element arp {TABLE} workloads {{ "{interface}" : jump {_chain(interface)} }}\n'
    )


def _chain(interface: str) -> str:
    """Return the name of the interface's chain, which must be no keyword and no other chain."""
    if _IDENTIFIER.fullmatch(interface):
        return f"to-{interface}"
    return f"hex-{interface.encode().hex()}"


def parse(listing: str) -> Guard | None:
    """Read ``nft -j list table``; None for anything that :func:`render` would not have made."""
    if not listing:
        return None
    content: object = json.loads(listing)
    reading = _Reading()
    match content:
        case {"nftables": [*items]} if all(map(reading.take, items)):
            return reading.guard()
        case _:
            return None


class _Reading:
    """What was read of a listing so far."""

    def __init__(self) -> None:
        self._entries = 0
        self._targets: dict[str, str] = {}
        self._chains: dict[str, set[IPv4Address]] = {}

    def take(self, item: object) -> bool:
        """Read one item; false when it is none of ours."""
        match item:
            case {"chain": chain}:
                return self._take_chain(chain)
            case {"map": {"name": "workloads", "map": "verdict", **rest}}:
                return self._take_elements(rest.get("elem", []))
            case {"rule": {"chain": str(chain), "expr": expression}}:
                return self._take_rule(chain, expression)
            case {"metainfo": _} | {"table": _}:
                return True
        return False

    def guard(self) -> Guard | None:
        """Return the whole, None when its parts do not fit together."""
        if self._entries != 1 or sorted(self._targets.values()) != sorted(self._chains):
            return None
        return {name: frozenset(self._chains[chain]) for name, chain in self._targets.items()}

    def _take_chain(self, chain: object) -> bool:
        match chain:
            case {"name": "output", "hook": "output", "prio": 0, "policy": "accept"}:
                return True
            case {"name": str(name)} if name != "output":
                self._chains[name] = set()
                return True
        return False

    def _take_elements(self, elements: object) -> bool:
        match elements:
            case [*pairs]:
                return all(map(self._take_element, pairs))
        return False

    def _take_element(self, pair: object) -> bool:
        match pair:
            case [str(interface), {"jump": {"target": str(chain)}}]:
                self._targets[interface] = chain
                return True
        return False

    def _take_rule(self, chain: str, expression: object) -> bool:
        match expression:
            case [{"vmap": _}] if chain == "output":
                self._entries += 1
                return True
            case [{"match": reply}, {"match": sender}, {"counter": _}, {"drop": None}]:
                return _is_reply(reply) and self._take_sender(self._chains[chain], sender)
        return False

    @staticmethod
    def _take_sender(addresses: set[IPv4Address], match_: object) -> bool:
        match match_:
            case {
                "op": "==",
                "left": {"payload": {"field": "saddr ip"}},
                "right": str(address),
            } if chain in self._chains:
                addresses.add(IPv4Address(address))
                return True
        return False


def _is_reply(match_: object) -> bool:
    match match_:
        case {"op": "==", "left": {"payload": {"field": "operation"}}, "right": "reply"}:
            return True
    return False
