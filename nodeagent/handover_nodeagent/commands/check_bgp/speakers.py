"""Which speakers run here, the way to their sockets, and all that is found out about them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from handover_api.configuration import Advertise, Settings
from handover_nodeagent.commands.check import observation, protocols, traps
from handover_nodeagent.commands.check.findings import Finding, fail, ok, warn
from handover_nodeagent.commands.check_bgp import (
    bird_findings,
    bird_replies,
    control_sockets,
    experiment,
    frr_findings,
    levels,
    probe,
)
from handover_nodeagent.commands.check_bgp.bird_socket import BirdSocket
from handover_nodeagent.commands.check_bgp.control_sockets import ControlSockets
from handover_nodeagent.commands.check_bgp.experiment import Frr, Seen
from handover_nodeagent.commands.check_bgp.probe import ProbeError
from handover_nodeagent.kernel.netlink.codec import ObservationError

_UNIX: Final = Path("/proc/net/unix")
# As /proc/<pid>/comm has them.
_PROGRAMS: Final = frozenset({"bird", "bgpd"})
# BIRD 1.6 runs once for each family, has no channels, and answers otherwise.
_OLDEST: Final = 2
# A running agent that observes everything anew removes routes of its number that no endpoint has,
# as it should. It does so seldom: three times in a row is somebody else.
_ATTEMPTS: Final = 3


def discover() -> ControlSockets:
    """Find the speakers of this network namespace."""
    return control_sockets.find(_UNIX.read_text(encoding="utf-8", errors="replace"))


def check(sockets: ControlSockets, settings: Settings, interface: str) -> Iterator[Finding]:
    """Ask each speaker whether it would follow."""
    if not sockets:
        yield nobody(settings.advertise)
        return
    if settings.advertise is not Advertise.BGP:
        text = f"advertise is {settings.advertise}: what the speaker does counts once it is bgp"
        yield ok("advertise", text)
    with contextlib.ExitStack() as opened:
        bird = frr = None
        try:
            if sockets.bird:
                bird = opened.enter_context(BirdSocket(_reach(sockets.bird[0])))
            if sockets.frr:
                frr = opened.enter_context(Frr.open(_reach(sockets.frr[0])))
        except OSError as error:
            yield _unreachable(sockets, error)
            return
        if bird and (refusal := _too_old(bird.greeting.text)):
            yield refusal
            return
        yield from _probe(bird, frr, settings, interface)


def nobody(advertise: Advertise) -> Finding:
    """Say what it means that no speaker is to be seen."""
    check, text = "BGP", "no BIRD and no FRR is to be seen in this network namespace"
    agents = "with `advertise: agents` the agents tell each other, and no speaker is needed"
    if advertise is Advertise.AGENTS:
        return ok(check, f"{text}, and none is needed: {agents}")
    remedy = f"run one with the files of the documentation, or set it so: {agents}"
    if advertise is Advertise.BGP:
        return fail(check, f"{text}, and advertise is bgp: no other node follows", remedy)
    return warn(check, f"{text}, and advertise is none: who tells the other nodes?", remedy)


def _reach(path: PurePosixPath) -> Path:
    """Return where *path* is to be seen from here: it is that of the speaker's own container."""
    there = [Path(f"/proc/{pid}/root") for pid in _processes()]
    places = [Path("/") / path, *(root / path.relative_to("/") for root in there)]
    return next((place for place in places if place.exists()), places[0])


def _processes() -> Iterator[int]:
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and Path(entry, "comm").read_text().strip() in _PROGRAMS:
                yield int(entry.name)


def _unreachable(sockets: ControlSockets, error: OSError) -> Finding:
    """Say which file has to be reached, and how."""
    where = ", ".join(map(str, (*sockets.bird, *sockets.frr)))
    text = f"a speaker runs here, but cannot be asked at {where}: {error.strerror or error}"
    remedy = "run it as root on the node, or in a pod that has this path as a hostPath"
    return fail("BGP", text, remedy)


def _too_old(greeting: str) -> Finding | None:
    number, version = bird_replies.release(greeting)
    if number >= _OLDEST:
        return None
    text = f"BIRD {version} cannot be asked: 2.0 or newer is needed"
    return fail("BIRD", text, "see the documentation for what Calico's BIRD 1.6 does")


def _probe(
    bird: BirdSocket | None, frr: Frr | None, settings: Settings, interface: str
) -> Iterator[Finding]:
    try:
        seen = _look(bird, frr, settings, interface)
    except ProbeError as error:
        yield fail("probe", str(error), "CAP_NET_ADMIN is needed, and a free interface name")
        return
    except OSError as error:
        text = f"the speaker stopped answering: {error.strerror or error}"
        yield fail("BGP", text, "see its log; the probe is removed")
        return
    if seen.removed:
        gone = ", ".join(level.prefix for level in seen.removed)
        text = f"somebody removed the probe's routes while the speaker was asked: {gone}"
        remedy = "find out who: an agent does so where it observes all anew, but not each time"
        yield fail("probe", text, remedy)
        return
    yield from judge(seen, settings)


def _look(bird: BirdSocket | None, frr: Frr | None, settings: Settings, interface: str) -> Seen:
    """Place the probe, again where somebody removes it meanwhile."""
    attempt = 1
    while True:
        with probe.placed(interface, settings.route_protocol, settings.route_table) as placed:
            seen = experiment.run(placed, levels.of(settings), bird, frr)
        if not seen.removed or attempt == _ATTEMPTS:
            return seen
        attempt += 1


def judge(seen: Seen, settings: Settings) -> Iterator[Finding]:
    """Conclude from what was seen, family by family, then what concerns both."""
    number = settings.route_protocol
    for family in levels.FAMILIES:
        of_family = tuple(level for level in seen.placed if level.family == family)
        if not of_family:
            text = f"the node has no {family}: not looked at"
            yield warn(f"BGP {family}", text, "guests with such an address reach nobody anyway")
            continue
        pair = levels.in_family(seen.placed, family)
        if seen.bird:
            yield from bird_findings.judge(seen.bird, pair, number)
        if seen.frr:
            yield from frr_findings.judge(seen.frr, pair, number)
    elevated = max(settings.ipv4_elevated_route_priority, settings.ipv6_elevated_route_priority)
    normal = min(settings.ipv4_normal_route_priority, settings.ipv6_normal_route_priority)
    if seen.bird:
        yield from bird_findings.metric(_bird_metrics(settings.route_table), elevated, normal)
    if seen.frr:
        yield from frr_findings.daemon(seen.frr.configuration, elevated)


def _bird_metrics(table: int) -> frozenset[int]:
    """Return the metrics of BIRD's routes in the kernel: its configuration shows nowhere else."""
    try:
        entries = observation.observe(table).entries
    except ObservationError:
        return frozenset()
    return frozenset(protocols.metrics(entries).get(traps.BIRD, frozenset()))
