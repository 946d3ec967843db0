"""What is judged how, and that each judgment that is not good says what to do."""

from collections.abc import Collection, Iterable, Mapping

import pytest

from handover_api.configuration import Settings
from handover_nodeagent.commands.check import findings, traps
from handover_nodeagent.commands.check.findings import Finding, Verdict
from handover_nodeagent.commands.check.traps import Rule, Workload

OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL
ONE = "ee:ee:ee:ee:ee:ee"
TAP = Workload("tap0", ONE, 0, proxy_arp=False)
PROXY = Workload("tap1", ONE, 0, proxy_arp=True)
STRICT = Workload("tap2", ONE, 1, proxy_arp=False)
LOOSE = Workload("tap3", "02:00:00:00:00:03", 2, proxy_arp=False)


NOBODY = (OK, "not looked at: no workload's interface is here")


def told(found: Iterable[Finding]) -> list[tuple[Verdict, str]]:
    """Return verdicts and messages; whatever is not good must say what to do."""
    shown = list(found)
    assert all(bool(one.remedy) is (one.verdict is not OK) for one in shown)
    return [(one.verdict, one.message) for one in shown]


def test_each_missing_privilege_fails() -> None:
    assert [verdict for verdict, _ in told(traps.privileges(["a is missing", "b is missing"]))] == [
        FAIL,
        FAIL,
    ]
    assert told(traps.privileges([])) == [(OK, "CAP_NET_ADMIN and CAP_NET_RAW are there")]


def test_rp_filter_is_a_trap_in_both_of_its_kinds() -> None:
    assert told(traps.reverse_path([TAP, STRICT, LOOSE])) == [
        (WARN, "strict on tap2: the guest's packets are dropped until its route is in"),
        (WARN, "loose on tap3: the guest's packets are dropped until its route is in"),
    ]
    assert told(traps.reverse_path([TAP])) == [(OK, "off on the workloads' interfaces")]


def test_a_strict_filter_where_others_forward_fails() -> None:
    assert told(traps.forwarded({"eth1": False, "flannel.1": True})) == [
        (
            FAIL,
            "strict on flannel.1: guests that come here lose their clients outside of the cluster",
        )
    ]
    (one,) = traps.forwarded({"flannel.1": True})
    assert one.remedy == "sysctl net.ipv4.conf.flannel/1.rp_filter=2"
    expected = "no strict rp_filter where other nodes forward to guests here"
    assert told(traps.forwarded({"eth1": False})) == told(traps.forwarded({})) == [(OK, expected)]


def test_a_strict_filter_where_answers_to_the_tunnel_come_is_told_of() -> None:
    (one,) = traps.tunneled({"eth0": False, "bond0.7": True})
    assert (one.verdict, one.remedy) == (WARN, "sysctl net.ipv4.conf.bond0/7.rp_filter=2")
    assert one.message.startswith("strict on bond0.7: ")


def test_proxy_arp_needs_a_guard() -> None:
    assert told(traps.proxy_arp([TAP, PROXY], ())) == [(WARN, "on without an ARP guard on tap1")]
    assert [verdict for verdict, _ in told(traps.proxy_arp([PROXY], {"tap1"}))] == [OK]


@pytest.mark.parametrize(
    ("names", "foreign", "verdict", "message"),
    [
        ({}, (), OK, "number 88 is nobody else's"),
        ({88: "handover"}, (), OK, "number 88 is nobody else's"),
        ({88: "else"}, (), WARN, "rt_protos gives number 88 to else"),
        ({88: "else"}, ("b", "a"), FAIL, "routes that are not ours carry number 88: a; b"),
    ],
)
def test_the_protocol_number_is_ours_alone(
    names: Mapping[int, str], foreign: Collection[str], verdict: Verdict, message: str
) -> None:
    assert told(traps.protocol(88, names, foreign)) == [(verdict, message)]


LOCAL, MAIN = Rule(2, 0, "", 255), Rule(2, 32766, "", 254)
FROM, TO_MAIN = Rule(2, 100, "from 10.0.0.0/8", 100), Rule(2, 50, "to 10.65.0.2/32", 254)
ALL_ELSEWHERE, BLACKHOLE = Rule(2, 7, "", 100), Rule(10, 7, "iif tap0", 0, "blackhole")
IPV6 = Rule(10, 32766, "", 254)


@pytest.mark.parametrize(
    ("rules", "verdict", "message"),
    [
        ((LOCAL, MAIN), OK, "every packet is looked up in table 254"),
        ((MAIN, Rule(2, 32767, "", 253)), OK, "every packet is looked up in table 254"),
        ((TO_MAIN, MAIN), OK, "every packet is looked up in table 254"),
        ((MAIN, FROM), WARN, "some go before table 254: 100: from 10.0.0.0/8 lookup 100"),
        ((MAIN, ALL_ELSEWHERE), WARN, "some go before table 254: 7: all lookup 100"),
        ((MAIN, IPV6, BLACKHOLE), WARN, "some go before table 254: 7: iif tap0 blackhole"),
        ((FROM, TO_MAIN), FAIL, "no rule looks every packet up in table 254: "),
        ((MAIN, BLACKHOLE), FAIL, "no rule looks every packet up in table 254: "),
    ],
    ids=str,
)
def test_what_goes_before_our_table_may_take_a_guests_packets(
    rules: Collection[Rule], verdict: Verdict, message: str
) -> None:
    ((judged, said),) = told(traps.rules(rules, 254))
    assert judged is verdict
    assert said.startswith(message)


def test_the_gateway_has_one_mac() -> None:
    assert told(traps.gateway_mac([])) == [NOBODY]
    same = told(traps.gateway_mac([TAP, PROXY]))
    assert same == [(OK, f"{ONE} on all here; each other node must show the same")]
    assert told(traps.gateway_mac([TAP, LOOSE])) == [
        (WARN, f"the workloads' interfaces have 2 MACs here: 02:00:00:00:00:03, {ONE}")
    ]


@pytest.mark.parametrize(
    ("programs", "links", "blind", "verdict", "word"),
    [
        ({}, ("eth0",), "", OK, "no program is attached"),
        ({}, ("eth0",), "tcx programs", OK, "cannot be asked"),
        ({"eth0": ("cil_from_netdev",)}, ("eth0",), "", FAIL, "Cilium"),
        ({}, ("eth0", "cilium_host"), "", FAIL, "Cilium"),
        ({"cali1": ("calico_from_wor",)}, (), "", FAIL, "Calico"),
        ({}, ("bpfin.cali",), "", FAIL, "Calico"),
        ({"eth0": ("shaper",)}, ("eth0",), "", WARN, "eth0: shaper"),
    ],
)
def test_programs_may_route_past_the_kernel(
    programs: Mapping[str, Collection[str]],
    links: Iterable[str],
    blind: str,
    verdict: Verdict,
    word: str,
) -> None:
    ((found, message),) = told(traps.host_routing(programs, links, blind))
    assert found is verdict
    assert word in message


@pytest.mark.parametrize(
    ("metrics", "processes", "verdict", "word"),
    [
        ({}, (), OK, "no BIRD or FRR"),
        ({}, ("bird", "sh"), WARN, "bird runs here"),
        ({12: {32}}, ("bird",), FAIL, "metric 32"),
        ({12: {768}}, ("bird",), OK, "between elevated and normal"),
        ({12: {2048}}, (), WARN, "behind our normal"),
        ({186: {20}}, ("bgpd",), FAIL, "metric 20, which beat our 512"),
    ],
)
def test_a_bgp_speaker_has_its_traps(
    metrics: Mapping[int, Collection[int]],
    processes: Collection[str],
    verdict: Verdict,
    word: str,
) -> None:
    ((found, message),) = told(traps.speakers(metrics, processes, Settings()))
    assert found is verdict
    assert word in message


def test_frr_is_well_below_its_own_metric() -> None:
    low = Settings(ipv4_elevated_route_priority=19, ipv6_elevated_route_priority=10)
    ((found, _),) = told(traps.speakers({186: {20}}, (), low))
    assert found is OK


def test_each_right_that_is_missing_fails() -> None:
    assert told(traps.rights({"list pods": True, "watch pods": True})) == [
        (OK, "may list pods, watch pods")
    ]
    assert told(traps.rights({"list pods": True, "watch pods": False})) == [
        (FAIL, "may not watch pods")
    ]


def test_lines_say_what_to_do_below() -> None:
    found = [
        findings.ok("a", "fine"),
        findings.warn("b", "hm", "look"),
        findings.fail("c", "x", "y"),
    ]
    assert findings.render(found).splitlines() == [
        "ok    a: fine",
        "warn  b: hm",
        "      -> look",
        "fail  c: x",
        "      -> y",
    ]
    assert findings.has_failed(found)
    assert not findings.has_failed(found[:2])


def test_many_names_are_told_by_the_first_few() -> None:
    crowd = [traps.Workload(f"tap{n}", "", 0, proxy_arp=True, accepts_ra=True) for n in range(9)]
    (found,) = traps.router_advertisements(crowd)
    assert found.message.startswith("on for tap0, tap1, tap2, tap3, tap4 and 4 more: ")
    (found,) = traps.proxy_arp(crowd, ())
    assert found.message.endswith("tap4 and 4 more")


def test_without_a_workload_nothing_is_called_well() -> None:
    for found in (
        traps.reverse_path([]),
        traps.proxy_arp([], ()),
        traps.router_advertisements([]),
        traps.gateway_mac([]),
    ):
        assert told(found) == [NOBODY]
