"""PURE: judgments that are the same of every speaker: its sessions, and what it tells them."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from handover_api import wording
from handover_nodeagent.commands.check.findings import Finding, fail, warn
from handover_nodeagent.commands.check_bgp.levels import Level


def sessions(
    check: str, family: str, up: Collection[str], down: Mapping[str, str]
) -> Iterator[Finding]:
    """Judge whether anybody hears: *down* are those that are not established, with their state."""
    if not up and not down:
        text = f"no BGP session carries {family}: nobody hears of our routes"
        yield fail(check, text, f"add a session with {family} to the routers, or to a reflector")
        return
    if down:
        shown = wording.name_few([f"{name} ({state})" for name, state in down.items()])
        text = f"not established: {shown}"
        remedy = "whoever is behind them does not follow; see the speaker's log"
        yield warn(check, text, remedy) if up else fail(check, text, remedy)


def local_preference(
    check: str, where: str, told: Sequence[tuple[Level, int | None]], remedy: str
) -> Iterator[Finding]:
    """Judge the LOCAL_PREF that *where* gives to each level, the elevated one first."""
    if any(value is None for _, value in told):
        text = (
            f"{where} sets no LOCAL_PREF: an elevated route goes before a normal one nowhere but "
            "on its own node"
        )
        yield fail(check, text, remedy)
        return
    values = [value for _, value in told if value is not None]
    if len(values) > 1 and values[0] <= values[-1]:
        text = f"{where} gives elevated routes {values[0]} and normal ones {values[-1]}"
        yield fail(check, f"{text}: the higher LOCAL_PREF must be the elevated one's", remedy)
        return
    for level, value in told:
        if value != level.local_pref:
            text = f"{where} gives metric {level.metric} LOCAL_PREF {value}, not {level.local_pref}"
            yield warn(check, text, f"all nodes must give the same: {remedy}")


def withdrawal(check: str, hasty: Collection[str], remedy: str) -> Iterator[Finding]:
    """Warn where several sessions are told of a withdrawal as soon as one brings the target."""
    if len(hasty) > 1:
        text = (
            "as soon as this speaker hears of a target, it withdraws its own route from "
            f"{wording.name_few(hasty)}: who hears of the target later has none meanwhile"
        )
        yield warn(check, text, remedy)


def external(check: str, names: Collection[str]) -> Iterator[Finding]:
    """Warn of sessions that lead to another AS."""
    if names:
        text = f"LOCAL_PREF does not cross {wording.name_few(names)}, which lead to another AS"
        remedy = "mark elevated routes with a community there, which the neighbor maps back"
        yield warn(check, text, remedy)
