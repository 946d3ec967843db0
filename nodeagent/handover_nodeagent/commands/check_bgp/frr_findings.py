"""PURE: what is concluded from zebra's and bgpd's answers, and which line is missing.

In the order in which a route passes: zebra, ``redistribute``, the route-map, LOCAL_PREF, weight.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from handover_api import wording
from handover_nodeagent.commands.check.findings import Finding, fail, ok, warn
from handover_nodeagent.commands.check_bgp import preferences
from handover_nodeagent.commands.check_bgp.frr_replies import (
    BgpConfiguration,
    BgpRoute,
    Peer,
    Summary,
)
from handover_nodeagent.commands.check_bgp.levels import Level

# zebra's NL_DEFAULT_ROUTE_METRIC: all its kernel routes have it.
_ZEBRA_METRIC: Final = 20
# bgpd's BGP_DEFAULT_LOCAL_PREF, which it does not show.
_DEFAULT_LOCAL_PREF: Final = 100
_NOTHING: Final = BgpRoute()


@dataclass(frozen=True, slots=True)
class FrrProbe:
    """What FRR says of one of the probe's routes; ``replaced``: on another interface, in place."""

    in_zebra: bool = False
    route: BgpRoute = _NOTHING
    replaced: BgpRoute = _NOTHING


@dataclass(frozen=True, slots=True)
class FrrSeen:
    """What bgpd is told, by whom it is heard, and what became of the probe."""

    configuration: BgpConfiguration
    summary: Summary
    probes: Mapping[Level, FrrProbe]


def judge(seen: FrrSeen, levels: tuple[Level, Level], protocol: int) -> Iterator[Finding]:
    """Judge one family; *protocol* is the number of our routes."""
    family = levels[0].family
    check = f"FRR {family}"
    if problem := _taken(check, seen, levels, protocol):
        yield problem
        return
    route_map = seen.configuration.redistributed.get(family, "")
    found = [
        *_local_preference(check, seen, levels, route_map),
        *_sessions(check, seen, levels),
        *_weight(check, seen, levels, route_map),
        *_replaced(check, seen, levels),
    ]
    yield from found or [_well(check, seen, levels)]


def daemon(configuration: BgpConfiguration, elevated: int) -> Iterator[Finding]:
    """Judge what concerns both families."""
    if elevated >= _ZEBRA_METRIC:
        text = (
            f"zebra sets its routes with metric {_ZEBRA_METRIC}, which beat our elevated "
            f"{elevated}: a target's route is shadowed until zebra gives way"
        )
        remedy = "set ipv4ElevatedRoutePriority and ipv6ElevatedRoutePriority to 19 or lower"
        yield fail("FRR metric", text, remedy)
    else:
        yield ok("FRR metric", f"our elevated {elevated} goes before zebra's {_ZEBRA_METRIC}")
    if configuration.suppresses_pending:
        text = "`bgp suppress-fib-pending` is set: bgpd tells of each route a second later"
        yield warn("FRR delay", text, "take the line out: `no bgp suppress-fib-pending`")


def _taken(check: str, seen: FrrSeen, levels: tuple[Level, Level], protocol: int) -> Finding | None:
    """Say why bgpd has not got a route of ours; None: it has both."""
    family = levels[0].family
    unseen = [level for level in levels if not seen.probes[level].in_zebra]
    if unseen:
        text = f"zebra does not show a route of protocol {protocol}, {_shown(unseen)}"
        remedy = (
            "it has to run in this network namespace, in the default VRF; and FRR takes routes "
            "with numbers 11 and 186 to 197 for its own"
        )
        return fail(check, text, remedy)
    refused = [level for level in levels if seen.probes[level].route.own is None]
    if not refused:
        return None
    redistributed = seen.configuration.redistributed
    if family not in redistributed:
        text = f"bgpd takes no kernel route into {family} unicast"
        remedy = f"`redistribute kernel route-map …` in `address-family {family} unicast`"
        return fail(check, text, f"{remedy} (docs: FRR)")
    text = f"route-map {redistributed[family]} refuses our routes of {_shown(refused)}"
    remedy = " ".join(
        f"`match metric {level.metric}`, `set local-preference {level.local_pref}`;"
        for level in refused
    )
    return fail(check, text, f"permit them in it: {remedy.removesuffix(';')}")


def _shown(levels: Iterable[Level]) -> str:
    return " and ".join(f"metric {level.metric}" for level in levels)


def _weight(
    check: str, seen: FrrSeen, levels: tuple[Level, Level], route_map: str
) -> Iterator[Finding]:
    """Judge whether a source goes on telling of itself when it has heard of the target."""
    own = [path for level in levels if (path := seen.probes[level].route.own)]
    up = _up(seen.summary.peers(levels[0].family))
    if any(path.weight == 0 for path in own):
        remedy = f"take `set weight 0` out of {_named(route_map)}"
        yield from preferences.withdrawal(check, up, remedy)


def _named(route_map: str) -> str:
    return f"route-map {route_map}" if route_map else "a route-map of `redistribute kernel`"


def _local_preference(
    check: str, seen: FrrSeen, levels: tuple[Level, Level], route_map: str
) -> Iterator[Finding]:
    paths = [(level, seen.probes[level].route.own) for level in levels]
    told = [
        (level, None if path.loc_prf == _DEFAULT_LOCAL_PREF else path.loc_prf)
        for level, path in paths
        if path
    ]
    lines = ", ".join(
        f"`set local-preference {level.local_pref}` where `match metric {level.metric}`"
        for level in levels
    )
    named = _named(route_map)
    yield from preferences.local_preference(check, named, told, f"{lines} in {named}")


def _sessions(check: str, seen: FrrSeen, levels: tuple[Level, Level]) -> Iterator[Finding]:
    """Judge whom bgpd would tell."""
    family = levels[0].family
    peers = seen.summary.peers(family)
    up = _up(peers)
    down = {name: peer.state for name, peer in peers.items() if not peer.is_up}
    yield from preferences.sessions(check, family, up, down)
    untold = {
        name
        for name in up
        for level in levels
        if name not in seen.probes[level].route.advertised_to
    }
    if untold:
        text = f"bgpd has our routes, and does not tell {wording.name_few(untold)}"
        remedy = "see the outbound filter, prefix-list and route-map of these neighbors"
        yield fail(check, text, remedy)
    yield from preferences.external(check, [name for name in up if not peers[name].is_internal])


def _up(peers: Mapping[str, Peer]) -> list[str]:
    return [name for name, peer in peers.items() if peer.is_up]


def _replaced(check: str, seen: FrrSeen, levels: tuple[Level, Level]) -> Iterator[Finding]:
    """Judge a replacement in place, as a redirect is one: nobody may lose the route by it."""
    lost = {
        name
        for level in levels
        for name in seen.probes[level].route.advertised_to
        if name not in seen.probes[level].replaced.advertised_to
    }
    if lost:
        text = (
            "a route of ours that is replaced in place by one on another interface is withdrawn "
            f"from {wording.name_few(lost)}"
        )
        remedy = "let no route-map `match interface`: a redirect leads over another one"
        yield fail(check, text, remedy)


def _well(check: str, seen: FrrSeen, levels: tuple[Level, Level]) -> Finding:
    told = wording.name_few(_up(seen.summary.peers(levels[0].family)))
    values = ", ".join(
        f"{level.name} {level.metric} as LOCAL_PREF {level.local_pref}" for level in levels
    )
    return ok(check, f"tells {told}: {values}; a replacement in place withdraws nothing")
