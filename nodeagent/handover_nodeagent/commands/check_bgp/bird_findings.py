"""PURE: what is concluded from BIRD's answers, and which line of its configuration is missing.

Each function judges one thing that has to be so for the network to follow, in the order in which
a route passes them: kernel, import filter, preference, export filter, LOCAL_PREF.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from handover_api import wording
from handover_nodeagent.commands.check.findings import Finding, fail, ok, warn
from handover_nodeagent.commands.check_bgp import preferences
from handover_nodeagent.commands.check_bgp.bird_replies import BirdRoute, Channel, Protocol
from handover_nodeagent.commands.check_bgp.levels import Level

# What BIRD shows as the kind of a protocol.
_KERNEL: Final = "Kernel"
_BGP: Final = "BGP"

Exports = Mapping[str, BirdRoute | None]
"""What each session would be told of one route; None: nothing."""


@dataclass(frozen=True, slots=True)
class BirdProbe:
    """What BIRD says of one of the probe's routes.

    ``replaced``: as ``exports``, after the route was replaced by one on another interface.
    """

    learned: BirdRoute | None = None
    exports: Exports = field(default_factory=dict)
    replaced: Exports = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BirdSeen:
    """BIRD's protocols before the probe, with it, and after it was replaced; and the probe."""

    before: Mapping[str, Protocol]
    during: Mapping[str, Protocol]
    after: Mapping[str, Protocol]
    probes: Mapping[Level, BirdProbe]


def judge(seen: BirdSeen, levels: tuple[Level, Level], protocol: int) -> Iterator[Finding]:
    """Judge one family; *protocol* is the number of our routes."""
    family = levels[0].family
    check = f"BIRD {family}"
    kernel = next(_of_kind(seen.during, _KERNEL, family), None)
    if kernel is None:
        text = f"no kernel protocol has a channel {family}: BIRD reads no such route"
        remedy = (
            f"add `protocol kernel {{ learn; metric 768; {family} {{ import filter …; "
            "export filter …; }; }` (docs: BIRD)"
        )
        yield fail(check, text, remedy)
        return
    if problem := _learned(check, seen, levels, kernel, protocol):
        yield problem
        return
    found = [
        *_preference(check, seen, levels, kernel),
        *_sessions(check, seen, levels),
        *_withdrawal(check, seen, family, kernel),
        *_replaced(check, seen, levels),
    ]
    yield from found or [_well(check, seen, levels)]


def sessions(protocols: Mapping[str, Protocol], family: str) -> tuple[Protocol, ...]:
    """Return the BGP sessions that carry *family*, whatever their state."""
    return tuple(_of_kind(protocols, _BGP, family))


def table(protocols: Mapping[str, Protocol], family: str) -> str:
    """Return the table that the kernel's routes of *family* are learned into; "" where none is."""
    kernel = next(_of_kind(protocols, _KERNEL, family), None)
    return kernel.channels[family].table if kernel else ""


def metric(metrics: Collection[int], elevated: int, normal: int) -> Iterator[Finding]:
    """Judge the *metrics* of BIRD's routes: they belong between our own two."""
    check, remedy = "BIRD metric", "set `metric 768;` in BIRD's kernel protocol (docs: BIRD)"
    if not metrics:
        text = "no route of BIRD's is in the kernel so far: the metric of its routes does not show"
        yield warn(check, text, f"see that they get it right: {remedy}; left out it is 32")
    elif min(metrics) <= elevated:
        text = f"BIRD's routes have metric {min(metrics)}, which beats our elevated {elevated}"
        yield fail(check, text, remedy)
    elif max(metrics) >= normal:
        text = f"BIRD's routes have metric {max(metrics)}, behind our normal {normal}"
        yield warn(check, text, f"{remedy}: a source must follow when BGP does")
    else:
        yield ok(check, f"its routes have metric {min(metrics)}, between elevated and normal")


def _of_kind(protocols: Mapping[str, Protocol], kind: str, family: str) -> Iterator[Protocol]:
    return (one for one in protocols.values() if one.kind == kind and family in one.channels)


def _learned(
    check: str, seen: BirdSeen, levels: tuple[Level, Level], kernel: Protocol, protocol: int
) -> Finding | None:
    """Say why BIRD has not taken a route of ours; None: it has."""
    missing = [level for level in levels if seen.probes[level].learned is None]
    if not missing:
        return None
    family = levels[0].family
    now, then = kernel.channels[family], _channel(seen.before, kernel.name, family)
    # BIRD counts what it was shown before its filter, and nothing at all where it does not learn.
    if now.filtered - then.filtered >= len(missing):
        name = f"import filter {now.input_filter} of {kernel.name}"
        text = f"the {name} refuses a route of protocol {protocol}, {_shown(missing)}"
        remedy = f"accept it there: `if krt_source = {protocol} then accept;` (docs: BIRD)"
        return fail(check, text, remedy)
    text = f"{kernel.name} takes no route from the kernel, neither {_shown(missing)}"
    remedy = (
        f"set `learn;` in protocol kernel {kernel.name}; if it is there, `kernel table` must be "
        "that of our routes, or nothing"
    )
    return fail(check, text.replace("neither", "not even ours of"), remedy)


def _shown(levels: Iterable[Level]) -> str:
    return " and ".join(f"metric {level.metric}" for level in levels)


def _channel(protocols: Mapping[str, Protocol], name: str, family: str) -> Channel:
    known = protocols.get(name)
    return known.channels.get(family, Channel()) if known else Channel()


def _preference(
    check: str, seen: BirdSeen, levels: tuple[Level, Level], kernel: Protocol
) -> Iterator[Finding]:
    """Judge who wins inside of BIRD: ours against what BGP brings from the old node."""
    family = levels[0].family
    theirs = max(
        (one.channels[family].preference for one in sessions(seen.during, family)), default=0
    )
    elevated, normal = levels
    filtering = f"filter {kernel.channels[family].input_filter}"
    low = [level for level in levels if _learned_preference(seen, level) <= theirs]
    if elevated in low:
        text = (
            f"our routes are learned with preference {_learned_preference(seen, elevated)}, BGP's "
            f"have {theirs}: a target believes the old node more than its own kernel"
        )
        remedy = f"set `preference = 200;` for elevated, 150 for normal routes in {filtering}"
        yield fail(check, text, remedy)
    elif normal in low:
        text = (
            f"normal routes are learned with preference {_learned_preference(seen, normal)}, "
            f"BGP's have {theirs}: of two nodes with the same route one falls silent"
        )
        yield warn(check, text, f"set `preference = 150;` for them in {filtering}")


def _learned_preference(seen: BirdSeen, level: Level) -> int:
    learned = seen.probes[level].learned
    return learned.preference if learned else 0


def _sessions(check: str, seen: BirdSeen, levels: tuple[Level, Level]) -> Iterator[Finding]:
    """Judge whom BIRD would tell, and what."""
    family = levels[0].family
    known = sessions(seen.during, family)
    up = [one for one in known if one.is_up]
    yield from preferences.sessions(
        check, family, [one.name for one in up], {o.name: o.state for o in known if not o.is_up}
    )
    yield from _exports(check, seen, levels, up)
    internal = [one for one in up if one.is_internal]
    for name, protocols in _by_filter(internal, family).items():
        remedy = f"set `bgp_local_pref = 2147483647 - krt_metric;` in filter {name}"
        told = [
            (level, route.local_pref)
            for level in levels
            for one in protocols[:1]
            if (route := seen.probes[level].exports.get(one.name))
        ]
        yield from preferences.local_preference(check, f"export filter {name}", told, remedy)
    yield from preferences.external(check, [one.name for one in up if not one.is_internal])


def _withdrawal(check: str, seen: BirdSeen, family: str, kernel: Protocol) -> Iterator[Finding]:
    """Judge whether a source goes on telling of itself when it has heard of the target."""
    # Of one table a session tells what is best in it.
    table = kernel.channels[family].table
    up = [one for one in sessions(seen.during, family) if one.is_up]
    hasty = [one.name for one in up if one.channels[family].table == table]
    remedy = f"give them a table of their own, beside {table} (docs: BIRD)"
    yield from preferences.withdrawal(check, hasty, remedy)


def _by_filter(protocols: Iterable[Protocol], family: str) -> Mapping[str, list[Protocol]]:
    """Group sessions by what they have in common: one line of a configuration serves them all."""
    grouped: dict[str, list[Protocol]] = {}
    for one in protocols:
        grouped.setdefault(one.channels[family].output_filter, []).append(one)
    return grouped


def _exports(
    check: str, seen: BirdSeen, levels: tuple[Level, Level], up: Iterable[Protocol]
) -> Iterator[Finding]:
    for name, protocols in _by_filter(up, levels[0].family).items():
        refused = [
            level
            for level in levels
            if any(seen.probes[level].exports.get(one.name) is None for one in protocols)
        ]
        if refused:
            to = wording.name_few([one.name for one in protocols])
            text = f"the export filter {name} keeps our routes of {_shown(refused)} from {to}"
            remedy = f"let them out: `if source = RTS_INHERIT then accept;` in {name}"
            yield fail(check, text, remedy)


def _replaced(check: str, seen: BirdSeen, levels: tuple[Level, Level]) -> Iterator[Finding]:
    """Judge a replacement in place, as a redirect is one: nobody may lose the route by it."""
    family = levels[0].family
    lost = {
        one.name
        for one in sessions(seen.during, family)
        if one.is_up
        and any(
            seen.probes[level].exports.get(one.name) is not None
            and (
                seen.probes[level].replaced.get(one.name) is None
                or _channel(seen.after, one.name, family).withdrawn
                > _channel(seen.during, one.name, family).withdrawn
            )
            for level in levels
        )
    }
    if lost:
        text = (
            "a route of ours that is replaced in place by one on another interface is withdrawn "
            f"from {wording.name_few(lost)}"
        )
        remedy = "let the filters go by `krt_source`, not by `ifname`: a redirect has another one"
        yield fail(check, text, remedy)


def _well(check: str, seen: BirdSeen, levels: tuple[Level, Level]) -> Finding:
    told = wording.name_few([o.name for o in sessions(seen.during, levels[0].family) if o.is_up])
    values = ", ".join(
        f"{level.name} {level.metric} as LOCAL_PREF {level.local_pref} with preference "
        f"{_learned_preference(seen, level)}"
        for level in levels
    )
    return ok(check, f"tells {told}: {values}; a replacement in place stays unheard")
