"""PURE: what may keep packets from a guest that has moved: no tunnel, conntrack, policies."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from handover_api import wording
from handover_api.conditions import EndpointReason
from handover_nodeagent.commands.check.findings import Finding, ok, warn

_REMEDIES: Final[Mapping[EndpointReason, str]] = {
    EndpointReason.PORT_TAKEN: "set redirectPort to a UDP port that is free on every node",
    EndpointReason.DEVICE_TAKEN: "rename or remove it: the agent needs this name",
}
_WITHOUT: Final = "migrations work, but lose what still arrives at the source after the switch"
_STATES: Final = frozenset({"established", "related"})
_ChainKey = tuple[str, str, str]
"""Family, table and name."""


@dataclass(slots=True)
class _Chain:
    """A chain of somebody's, with what its rules do; ``hook`` and ``policy`` of a base chain."""

    hook: str = ""
    policy: str = ""
    rules: list[Sequence[Any]] = field(default_factory=list)


def tunnel(reason: EndpointReason | None, message: str) -> Iterator[Finding]:
    """Judge whether a source can send on what still arrives; *reason* is why not."""
    if reason is None:
        yield ok("tunnel", message)
        return
    remedy = _REMEDIES.get(reason, "modprobe vxlan, and CAP_NET_ADMIN, are needed")
    yield warn("tunnel", f"{message}: {_WITHOUT}", remedy)


def conntrack(tcp_loose: int | None) -> Iterator[Finding]:
    """Judge nf_conntrack_tcp_loose; None where there is no conntrack."""
    if tcp_loose == 0:
        text = "tcp_loose is off: connections of a guest that comes here are invalid, and may stop"
        yield warn("conntrack", text, "sysctl net.netfilter.nf_conntrack_tcp_loose=1")
    else:
        yield ok("conntrack", "connections of a guest that comes here are taken up")


def policies(listing: str) -> Iterator[Finding]:
    """Judge others' forward chains by nft's JSON *listing* of all tables.

    A guest that comes brings connections that this node has never seen begin: where nothing is
    accepted but what is established, they end here.
    """
    try:
        found = _chains(json.loads(listing)["nftables"])
    except (ValueError, KeyError, TypeError):
        text = "nftables could not be listed; nothing is said about what others drop"
        yield warn("forward policy", text, "run it in the agent's pod, as root")
        return
    closed = [
        " ".join(key)
        for key, chain in sorted(found.items())
        if (chain.hook, chain.policy) == ("forward", "drop") and _accepts_known_only(found, key)
    ]
    if closed:
        names = wording.name_few(closed)
        text = f"{names} accepts only what is established: a guest's connections end when it comes"
        yield warn("forward policy", text, "accept what is for the VMs, whatever its state")
    else:
        yield ok("forward policy", "no chain accepts established connections alone")


def _chains(items: Sequence[Any]) -> dict[_ChainKey, _Chain]:
    found: dict[_ChainKey, _Chain] = {}
    for item in items:
        match item:
            case {"chain": {"family": family, "table": table, "name": name, **rest}}:
                chain = found.setdefault((family, table, name), _Chain())
                chain.hook, chain.policy = str(rest.get("hook")), str(rest.get("policy"))
            case {"rule": {"family": family, "table": table, "chain": name, "expr": [*expr]}}:
                found.setdefault((family, table, name), _Chain()).rules.append(expr)
    return found


def _accepts_known_only(found: Mapping[_ChainKey, _Chain], start: _ChainKey) -> bool:
    """Tell whether a base chain accepts by connection state, and by nothing else."""
    family, table, _ = start
    accepts: list[bool] = []
    waiting, seen = [start], {start}
    while waiting:
        for rule in found.get(waiting.pop(), _Chain()).rules:
            is_by_state = any(map(_is_state, rule))
            for statement in rule:
                target = _target(statement)
                if target and (family, table, target) not in seen:
                    seen.add((family, table, target))
                    waiting.append((family, table, target))
                # What cannot be read may accept whatever comes: nothing is said then.
                if _may_accept(statement):
                    accepts.append(is_by_state)
    return bool(accepts) and all(accepts)


def _target(statement: object) -> str:
    match statement:
        case {"jump": {"target": str(target)}} | {"goto": {"target": str(target)}}:
            return target
    return ""


def _may_accept(statement: object) -> bool:
    match statement:
        case {"accept": _} | {"vmap": _} | {"queue": _}:
            return True
        # A target of iptables that nft has no words for.
        case {"xt": {"type": "target"}}:
            return True
    return False


def _is_state(statement: object) -> bool:
    match statement:
        case {"match": {"left": {"ct": {"key": "state"}}, "right": right}}:
            states = right.get("set", right) if isinstance(right, dict) else right
            named = {states} if isinstance(states, str) else set(states)
            return named <= _STATES
        case {"vmap": {"key": {"ct": {"key": "state"}}}}:
            return True
        # As iptables-nft writes -m conntrack.
        case {"xt": {"type": "match", "name": "conntrack" | "state"}}:
            return True
    return False
