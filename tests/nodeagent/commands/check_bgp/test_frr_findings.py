"""What is concluded from FRR's answers; each finding that is not good says what to do."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from handover_api.configuration import Settings
from handover_nodeagent.commands.check.findings import Finding, Verdict
from handover_nodeagent.commands.check_bgp import frr_findings, levels
from handover_nodeagent.commands.check_bgp.frr_findings import FrrProbe, FrrSeen
from handover_nodeagent.commands.check_bgp.frr_replies import (
    BgpConfiguration,
    BgpRoute,
    Path,
    Summary,
)

OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL
SETTINGS = Settings(ipv4_elevated_route_priority=16)
ELEVATED, NORMAL = levels.in_family(levels.of(SETTINGS), "ipv4")
PAIR = (ELEVATED, NORMAL)
CONFIGURATION = BgpConfiguration(redistributed={"ipv4": "handover4"})


def summary(**states: str) -> Summary:
    """Return one with these peers of the same AS."""
    peers = {
        name: {"state": state, "remoteAs": 64512, "localAs": 64512}
        for name, state in states.items()
    }
    return Summary.model_validate({"ipv4Unicast": {"peers": peers}})


def probe(loc_prf: int | None, weight: int = 32768) -> FrrProbe:
    """Return a probe that bgpd has, and tells the router."""
    paths = (Path(loc_prf=loc_prf, weight=weight, sourced=True),)
    route = BgpRoute(paths=paths, advertised_to={"router": {}})
    return FrrProbe(in_zebra=True, route=route, replaced=route)


GOOD = {ELEVATED: probe(ELEVATED.local_pref), NORMAL: probe(NORMAL.local_pref)}
NOWHERE = FrrProbe(in_zebra=True)


def told(found: Iterable[Finding]) -> list[tuple[Verdict, str]]:
    """Return verdicts and messages; whatever is not good must say what to do."""
    shown = list(found)
    assert all(bool(one.remedy) is (one.verdict is not OK) for one in shown)
    return [(one.verdict, one.message) for one in shown]


def judged(
    probes: Mapping[levels.Level, FrrProbe] = GOOD,
    configuration: BgpConfiguration = CONFIGURATION,
    peers: Summary | None = None,
) -> list[tuple[Verdict, str]]:
    """Judge IPv4."""
    seen = FrrSeen(configuration, peers or summary(router="Established"), probes)
    return told(frr_findings.judge(seen, PAIR, 88))


def test_all_is_well() -> None:
    ((verdict, message),) = judged()
    assert verdict is OK
    assert "tells router: elevated 16 as LOCAL_PREF 2147483631, normal 1024 as" in message


@pytest.mark.parametrize(
    ("probes", "redistributed", "message"),
    [
        (
            {ELEVATED: FrrProbe(), NORMAL: NOWHERE},
            {"ipv4": "x"},
            "zebra does not show a route of protocol 88, metric 16",
        ),
        ({ELEVATED: NOWHERE, NORMAL: NOWHERE}, {"ipv6": "x"}, "bgpd takes no kernel route into"),
        (
            GOOD | {ELEVATED: NOWHERE},
            {"ipv4": "mine"},
            "route-map mine refuses our routes of metric 16",
        ),
    ],
)
def test_the_first_that_does_not_let_it_pass_is_named(
    probes: Mapping[levels.Level, FrrProbe], redistributed: Mapping[str, str], message: str
) -> None:
    ((verdict, found),) = judged(probes, BgpConfiguration(redistributed=redistributed))
    assert verdict is FAIL
    assert found.startswith(message)


@pytest.mark.parametrize(
    ("elevated", "normal", "verdicts"),
    [
        (probe(None), probe(None), [FAIL]),
        (probe(100), probe(100), [FAIL]),
        (probe(100), probe(NORMAL.local_pref), [FAIL]),
        (probe(7), probe(8), [FAIL]),
        (probe(9), probe(8), [WARN, WARN]),
    ],
)
def test_the_preference_is_judged(
    elevated: FrrProbe, normal: FrrProbe, verdicts: list[Verdict]
) -> None:
    found = judged({ELEVATED: elevated, NORMAL: normal})
    assert [verdict for verdict, _ in found] == verdicts


@pytest.mark.parametrize(
    ("weights", "sessions", "verdict"),
    [((0, 0), 2, WARN), ((32768, 0), 2, WARN), ((32768, 1), 2, OK), ((0, 0), 1, OK)],
)
def test_a_withdrawal_that_is_faster_than_the_target_is_warned_of(
    weights: tuple[int, int], sessions: int, verdict: Verdict
) -> None:
    """With one session nobody hears later than the speaker itself."""
    names = ["router", "other"][:sessions]
    probes = {}
    for level, weight in zip(PAIR, weights, strict=True):
        route = probe(level.local_pref, weight).route
        route = route.model_copy(update={"advertised_to": {name: {} for name in names}})
        probes[level] = FrrProbe(in_zebra=True, route=route, replaced=route)
    peers = summary(**dict.fromkeys(names, "Established"))

    ((found, message),) = judged(probes, peers=peers)

    assert found is verdict
    assert (verdict is WARN) == ("withdraws its own route from other, router" in message)


def test_a_route_map_that_is_not_there_is_asked_for() -> None:
    bare = BgpConfiguration(redistributed={"ipv4": ""})
    seen = FrrSeen(
        bare, summary(router="Established"), {ELEVATED: probe(None), NORMAL: probe(None)}
    )
    (found,) = frr_findings.judge(seen, PAIR, 88)
    assert found.verdict is FAIL
    assert "a route-map of `redistribute kernel`" in found.remedy


def test_sessions_are_judged() -> None:
    assert judged(peers=summary()) == [
        (FAIL, "no BGP session carries ipv4: nobody hears of our routes")
    ]
    assert judged(peers=summary(router="Active")) == [(FAIL, "not established: router (Active)")]
    assert judged(peers=summary(router="Established", away="Idle")) == [
        (WARN, "not established: away (Idle)")
    ]
    assert judged(peers=summary(router="Established", deaf="Established")) == [
        (FAIL, "bgpd has our routes, and does not tell deaf")
    ]


def test_another_as_is_told() -> None:
    peers = {"router": {"state": "Established", "remoteAs": 1, "localAs": 2}}
    outside = Summary.model_validate({"ipv4Unicast": {"peers": peers}})
    ((verdict, message),) = judged(peers=outside)
    assert verdict is WARN
    assert message.startswith("LOCAL_PREF does not cross router")


def test_a_replacement_that_is_withdrawn_fails() -> None:
    lost = replace(GOOD[NORMAL], replaced=BgpRoute())
    ((verdict, message),) = judged(GOOD | {NORMAL: lost})
    assert verdict is FAIL
    assert message.endswith("is withdrawn from router")


@pytest.mark.parametrize(("elevated", "verdict"), [(19, OK), (20, FAIL), (512, FAIL)])
def test_the_elevated_priority_must_go_before_zebras_metric(
    elevated: int, verdict: Verdict
) -> None:
    assert [found for found, _ in told(frr_findings.daemon(CONFIGURATION, elevated))] == [verdict]


def test_a_second_of_delay_is_told() -> None:
    slow = CONFIGURATION.model_copy(update={"suppresses_pending": True})
    found = told(frr_findings.daemon(slow, 16))
    assert found[-1] == (
        WARN,
        "`bgp suppress-fib-pending` is set: bgpd tells of each route a second later",
    )
