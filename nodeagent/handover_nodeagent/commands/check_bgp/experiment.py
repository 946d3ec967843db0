"""Asks the running speakers about the probe: before it is there, while it is, once it is replaced.

All of them are asked about one and the same probe, which stays no longer than they need.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from handover_nodeagent.commands.check_bgp import bird_findings, bird_replies, frr_replies, levels
from handover_nodeagent.commands.check_bgp.bird_findings import BirdProbe, BirdSeen, Exports
from handover_nodeagent.commands.check_bgp.bird_replies import Protocol
from handover_nodeagent.commands.check_bgp.bird_socket import BirdSocket
from handover_nodeagent.commands.check_bgp.frr_findings import FrrProbe, FrrSeen
from handover_nodeagent.commands.check_bgp.frr_replies import BgpRoute, Summary
from handover_nodeagent.commands.check_bgp.levels import FAMILIES, Level
from handover_nodeagent.commands.check_bgp.probe import Probe
from handover_nodeagent.commands.check_bgp.vty_socket import VtySocket

# BIRD hears in a millisecond, zebra and bgpd collect for 60; suppress-fib-pending adds a second.
_PATIENCE: Final = 4.0
_STEP: Final = 0.1
# Longer than bgpd and zebra collect changes: what is still there then has stayed.
_SETTLED: Final = 0.5


@dataclass(frozen=True, slots=True)
class Seen:
    """What the speakers said of the probe's routes; ``removed``: those that somebody took out."""

    placed: tuple[Level, ...]
    removed: tuple[Level, ...]
    bird: BirdSeen | None = None
    frr: FrrSeen | None = None


def run(probe: Probe, wanted: Sequence[Level], bird: BirdSocket | None, frr: "Frr | None") -> Seen:
    """Place the routes, ask, replace them, ask again. Raises OSError: a speaker is gone."""
    before = _protocols(bird) if bird else {}
    placed = probe.add(wanted)
    bird_probes = _heard_by_bird(bird, placed) if bird else {}
    during = _protocols(bird) if bird else {}
    frr_probes = frr.hear(placed) if frr else {}
    probe.replace(placed)
    time.sleep(_SETTLED)
    seen_bird = seen_frr = None
    if bird:
        after = _protocols(bird)
        probes = {
            level: replace(one, replaced=_exports(bird, level, during))
            for level, one in bird_probes.items()
        }
        seen_bird = BirdSeen(before, during, after, probes)
    if frr:
        seen_frr = frr.conclude(frr_probes)
    remaining = probe.remaining(placed)
    removed = tuple(level for level in placed if level not in remaining)
    return Seen(placed, removed, seen_bird, seen_frr)


def _until(is_so: Callable[[], bool]) -> None:
    """Ask again until it is so, or until nobody would call it following."""
    deadline = time.monotonic() + _PATIENCE
    while not is_so() and time.monotonic() < deadline:
        time.sleep(_STEP)


def _protocols(bird: BirdSocket) -> Mapping[str, Protocol]:
    return bird_replies.protocols(bird.ask("show protocols all").text)


def _heard_by_bird(bird: BirdSocket, placed: Iterable[Level]) -> Mapping[Level, BirdProbe]:
    protocols = _protocols(bird)
    tables = {family: bird_findings.table(protocols, family) for family in FAMILIES}
    asked = [level for level in placed if tables[level.family]]
    probes: dict[Level, BirdProbe] = {}

    def learned() -> bool:
        for level in asked:
            question = f"show route {level.prefix} table {tables[level.family]} all"
            probes[level] = BirdProbe(bird_replies.route(bird.ask(question)))
        return all(one.learned for one in probes.values())

    _until(learned)
    return {
        level: replace(one, exports=_exports(bird, level, protocols) if one.learned else {})
        for level, one in probes.items()
    }


def _exports(bird: BirdSocket, level: Level, protocols: Mapping[str, Protocol]) -> Exports:
    """Ask what each session that is up would be told of the route."""
    return {
        one.name: bird_replies.route(
            bird.ask(
                f"show route {level.prefix} table {one.channels[level.family].table} all "
                f"export {one.name}"
            )
        )
        for one in bird_findings.sessions(protocols, level.family)
        if one.is_up
    }


class Frr:
    """zebra and bgpd of one FRR."""

    def __init__(self, zebra: VtySocket, bgpd: VtySocket) -> None:
        self._zebra = zebra
        self._bgpd = bgpd

    @classmethod
    @contextlib.contextmanager
    def open(cls, directory: Path) -> Iterator["Frr"]:
        """Connect to both. Raises OSError."""
        with VtySocket(directory / "zebra.vty") as zebra, VtySocket(directory / "bgpd.vty") as bgpd:
            yield cls(zebra, bgpd)

    def hear(self, placed: Iterable[Level]) -> Mapping[Level, FrrProbe]:
        """Ask for the routes until bgpd has them, and has told those that it tells at all."""
        probes: dict[Level, FrrProbe] = {}

        def heard() -> bool:
            for level in placed:
                probes[level] = FrrProbe(self._in_zebra(level), self._route(level))
            return all(one.route.advertised_to for one in probes.values())

        _until(heard)
        return probes

    def conclude(self, probes: Mapping[Level, FrrProbe]) -> FrrSeen:
        """Ask what is left after the replacement, and what else there is to be known."""
        return FrrSeen(
            frr_replies.configuration(self._bgpd.ask("show running-config")),
            Summary.model_validate(self._bgpd.ask_json("show bgp summary")),
            {level: replace(one, replaced=self._route(level)) for level, one in probes.items()},
        )

    def _in_zebra(self, level: Level) -> bool:
        command = "ip" if level.family == levels.IPV4 else "ipv6"
        answer = self._zebra.ask_json(f"show {command} route {level.prefix}")
        return frr_replies.has_route(answer)

    def _route(self, level: Level) -> BgpRoute:
        answer = self._bgpd.ask_json(f"show bgp {level.family} unicast {level.prefix}")
        return BgpRoute.model_validate(answer)
