"""What is concluded from BIRD's answers; each finding that is not good says what to do."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from handover_api.configuration import Settings
from handover_nodeagent.commands.check.findings import Finding, Verdict
from handover_nodeagent.commands.check_bgp import bird_findings, levels
from handover_nodeagent.commands.check_bgp.bird_findings import BirdProbe, BirdSeen
from handover_nodeagent.commands.check_bgp.bird_replies import BirdRoute, Channel, Protocol

OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL
ELEVATED, NORMAL = levels.in_family(levels.of(Settings()), "ipv4")
PAIR = (ELEVATED, NORMAL)

KERNEL = Protocol(
    "kernel4",
    "Kernel",
    is_up=True,
    channels={"ipv4": Channel("master4", 10, "in", "out", 5, 1)},
)
CHANNEL = Channel("heard4", 100, "from_mesh", "to_mesh")
SESSION = Protocol(*("router", "BGP", True, "Established", "64512", "64512"), {"ipv4": CHANNEL})
BOTH = {"kernel4": KERNEL, "router": SESSION}


def probe(preference: int, local_pref: int | None) -> BirdProbe:
    """Return a probe that BIRD has taken, and would tell the router."""
    told = {"router": BirdRoute("kernel4", preference, 1, local_pref)}
    return BirdProbe(BirdRoute("kernel4", preference, 1, None), told, told)


GOOD = {ELEVATED: probe(200, ELEVATED.local_pref), NORMAL: probe(150, NORMAL.local_pref)}


def seen(
    probes: Mapping[levels.Level, BirdProbe] = GOOD, protocols: Mapping[str, Protocol] = BOTH
) -> BirdSeen:
    """Return what BIRD said, where nothing changes but the probe."""
    return BirdSeen(protocols, protocols, protocols, probes)


def told(found: Iterable[Finding]) -> list[tuple[Verdict, str]]:
    """Return verdicts and messages; whatever is not good must say what to do."""
    shown = list(found)
    assert all(bool(one.remedy) is (one.verdict is not OK) for one in shown)
    return [(one.verdict, one.message) for one in shown]


def judged(what: BirdSeen) -> list[tuple[Verdict, str]]:
    """Judge IPv4."""
    return told(bird_findings.judge(what, PAIR, 88))


def test_all_is_well() -> None:
    ((verdict, message),) = judged(seen())
    assert verdict is OK
    assert "tells router: elevated 512 as LOCAL_PREF 2147483135 with preference 200" in message


def test_only_what_is_filtered_since_the_probe_came_was_the_probe() -> None:
    """What BIRD filtered before the probe came is no sign that it filters the probe."""
    gone = {ELEVATED: BirdProbe(), NORMAL: BirdProbe()}
    ((verdict, message),) = judged(seen(gone))
    assert verdict is FAIL
    assert message.startswith("kernel4 takes no route from the kernel")

    channel = replace(KERNEL.channels["ipv4"], filtered=3)
    now = BOTH | {"kernel4": replace(KERNEL, channels={"ipv4": channel})}
    ((_, message),) = told(bird_findings.judge(BirdSeen(BOTH, now, now, gone), PAIR, 88))
    assert message.startswith("the import filter in of kernel4 refuses a route of protocol 88")


def test_one_level_that_is_refused_is_named() -> None:
    channel = replace(KERNEL.channels["ipv4"], filtered=2)
    now = BOTH | {"kernel4": replace(KERNEL, channels={"ipv4": channel})}
    probes = GOOD | {ELEVATED: BirdProbe()}
    ((_, message),) = told(bird_findings.judge(BirdSeen(BOTH, now, now, probes), PAIR, 88))
    assert message.endswith("metric 512")


def test_a_kernel_protocol_that_came_meanwhile_has_counted_nothing_before() -> None:
    gone = {ELEVATED: BirdProbe(), NORMAL: BirdProbe()}
    channel = replace(KERNEL.channels["ipv4"], filtered=2)
    now = {"kernel4": replace(KERNEL, channels={"ipv4": channel})}
    ((_, message),) = told(bird_findings.judge(BirdSeen({}, now, now, gone), PAIR, 88))
    assert "refuses" in message


@pytest.mark.parametrize(
    ("protocols", "message"),
    [
        ({"router": SESSION}, "no kernel protocol has a channel ipv4: BIRD reads no such route"),
        ({"kernel4": KERNEL}, "no BGP session carries ipv4: nobody hears of our routes"),
        (
            BOTH | {"router": replace(SESSION, is_up=False, state="Active")},
            "not established: router (Active)",
        ),
    ],
)
def test_what_is_missing_fails(protocols: Mapping[str, Protocol], message: str) -> None:
    assert judged(seen(protocols=protocols)) == [(FAIL, message)]


def two_sessions(*tables: str) -> BirdSeen:
    """Return what BIRD said of two sessions, each of which tells of one of *tables*."""
    names = ("router", "other")
    probes = {}
    for level in PAIR:
        route = BirdRoute("kernel4", level.metric, 1, level.local_pref)
        told = dict.fromkeys(names, route)
        probes[level] = BirdProbe(replace(route, preference=200), told, told)
    made = {
        name: replace(SESSION, name=name, channels={"ipv4": replace(CHANNEL, table=table)})
        for name, table in zip(names, tables, strict=True)
    }
    return seen(probes, {"kernel4": KERNEL, **made})


def test_a_withdrawal_that_is_faster_than_the_target_is_warned_of() -> None:
    ((verdict, message),) = judged(two_sessions("master4", "master4"))
    assert verdict is WARN
    assert "withdraws its own route from other, router" in message


@pytest.mark.parametrize("tables", [("heard4", "heard4"), ("heard4", "master4")])
def test_a_table_of_its_own_keeps_a_route_told(tables: tuple[str, str]) -> None:
    ((verdict, _),) = judged(two_sessions(*tables))
    assert verdict is OK


def test_some_sessions_that_are_down_are_a_warning() -> None:
    away = replace(SESSION, name="away", is_up=False, state="Idle")
    found = judged(seen(protocols=BOTH | {"away": away}))
    assert found == [(WARN, "not established: away (Idle)")]


@pytest.mark.parametrize(
    ("elevated", "normal", "verdict", "part"),
    [
        (10, 10, FAIL, "learned with preference 10, BGP's have 100"),
        (100, 100, FAIL, "learned with preference 100"),
        (200, 100, WARN, "normal routes are learned with preference 100"),
    ],
)
def test_the_preference_is_compared_with_bgps(
    elevated: int, normal: int, verdict: Verdict, part: str
) -> None:
    probes = {
        ELEVATED: probe(elevated, ELEVATED.local_pref),
        NORMAL: probe(normal, NORMAL.local_pref),
    }
    ((found, message),) = judged(seen(probes))
    assert found is verdict
    assert part in message


def test_an_export_filter_is_named_once_for_all_sessions_that_share_it() -> None:
    twin = replace(SESSION, name="twin")
    nothing = {"router": None, "twin": None}
    probes = {level: replace(one, exports=nothing) for level, one in GOOD.items()}
    ((verdict, message),) = judged(seen(probes, BOTH | {"twin": twin}))
    assert verdict is FAIL
    assert message.endswith("our routes of metric 512 and metric 1024 from router, twin")


def test_a_preference_that_is_not_set_fails_and_another_one_warns() -> None:
    ((verdict, message),) = judged(seen({ELEVATED: probe(200, None), NORMAL: probe(150, None)}))
    assert (verdict, message.partition(":")[0]) == (
        FAIL,
        "export filter to_mesh sets no LOCAL_PREF",
    )
    found = judged(seen({ELEVATED: probe(200, 9), NORMAL: probe(150, 8)}))
    assert [verdict for verdict, _ in found] == [WARN, WARN]
    ((verdict, _),) = judged(seen({ELEVATED: probe(200, 8), NORMAL: probe(150, 8)}))
    assert verdict is FAIL


def test_local_preference_is_not_asked_of_a_session_to_another_as() -> None:
    external = replace(SESSION, neighbor_as="64513")
    probes = {ELEVATED: probe(200, None), NORMAL: probe(150, None)}
    found = judged(seen(probes, BOTH | {"router": external}))
    assert found == [(WARN, "LOCAL_PREF does not cross router, which lead to another AS")]


def test_a_replacement_that_is_withdrawn_fails() -> None:
    probes = {level: replace(one, replaced={"router": None}) for level, one in GOOD.items()}
    ((verdict, message),) = judged(seen(probes))
    assert verdict is FAIL
    assert message.endswith("is withdrawn from router")
    # It was told again at once: the counter knows.
    channel = replace(SESSION.channels["ipv4"], withdrawn=1)
    after = BOTH | {"router": replace(SESSION, channels={"ipv4": channel})}
    ((verdict, _),) = told(bird_findings.judge(BirdSeen(BOTH, BOTH, after, GOOD), PAIR, 88))
    assert verdict is FAIL


@pytest.mark.parametrize(
    ("metrics", "verdict"),
    [({768}, OK), (set(), WARN), ({32}, FAIL), ({512}, FAIL), ({1024}, WARN), ({768, 32}, FAIL)],
)
def test_the_metric_belongs_between_our_own(metrics: set[int], verdict: Verdict) -> None:
    assert [found for found, _ in told(bird_findings.metric(metrics, 512, 1024))] == [verdict]


def test_tables_and_sessions_are_those_of_the_family() -> None:
    assert bird_findings.table(BOTH, "ipv4") == "master4"
    assert bird_findings.table(BOTH, "ipv6") == ""
    assert bird_findings.sessions(BOTH, "ipv4") == (SESSION,)
    assert bird_findings.sessions(BOTH, "ipv6") == ()
