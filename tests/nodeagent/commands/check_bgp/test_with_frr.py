"""A real FRR, misconfigured in one way each time: the finding names the line that is missing."""

import asyncio
import shutil
from string import Template

import pytest
import yaml
from tests.nodeagent.commands.check_bgp.conftest import Edit, Pair, replaced

from handover_api.configuration import Settings
from handover_lab.network import frr
from handover_lab.network.frr import TEMPLATE
from handover_lab.testing import speaking
from handover_lab.testing.speaking import FRR
from handover_nodeagent.commands.check.findings import Verdict

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not frr.PROGRAMS.exists() or shutil.which("vtysh") is None,
        reason="needs FRR: apt-get install frr",
    ),
]

SETTINGS = Settings(ipv4_elevated_route_priority=16, ipv6_elevated_route_priority=16)
WARN, FAIL = Verdict.WARN, Verdict.FAIL
QUIET = "route-map quiet deny 10\n!\nrouter bgp 64512\n"


def same(text: str) -> str:
    """Edit nothing."""
    return text


def is_kept_from_its_neighbor(text: str) -> str:
    """Let an outbound route-map refuse everything."""
    text = text.replace("router bgp 64512\n", QUIET)
    for address in ("172.30.0.1", "fd00:172:30::1"):
        line = f"  neighbor {address} activate\n"
        text = text.replace(f"\n{line}", f"\n{line}  neighbor {address} route-map quiet out\n")
    return text


def speaks(pair: Pair, edit: Edit) -> None:
    """Let both speak, until a route of the router's has come."""
    pair.start(FRR, edit, same)
    speaking.route(pair.router, "add", speaking.NORMAL)
    for family in ("-4", "-6"):
        asyncio.run(
            speaking.comes_true(lambda: pair.node.run(f"ip {family} route show proto bgp") != "")  # noqa: B023
        )


def test_the_shipped_file_is_followed(pair: Pair) -> None:
    speaks(pair, same)
    assert pair.check(SETTINGS) == []


@pytest.mark.parametrize(
    ("edit", "verdict", "message", "line"),
    [
        pytest.param(
            lambda text: text.replace("  redistribute kernel route-map handover4\n", "").replace(
                "  redistribute kernel route-map handover6\n", ""
            ),
            FAIL,
            "bgpd takes no kernel route into ipv",
            "`redistribute kernel route-map …` in `address-family ipv",
            id="not-redistributed",
        ),
        pytest.param(
            replaced(" match metric 16\n", " match metric 17\n"),
            FAIL,
            " refuses our routes of metric 16",
            "`match metric 16`, `set local-preference 2147483631`",
            id="another-metric",
        ),
        pytest.param(
            lambda text: text.replace(" set local-preference 2147483631\n", "").replace(
                " set local-preference 2147482623\n", ""
            ),
            FAIL,
            " sets no LOCAL_PREF",
            "`set local-preference 2147483631` where `match metric 16`",
            id="no-local-preference",
        ),
        pytest.param(
            replaced("set local-preference 2147483631", "set local-preference 200"),
            FAIL,
            "gives elevated routes 200 and normal ones 2147482623",
            "`set local-preference 2147483631`",
            id="local-preference-upside-down",
        ),
        pytest.param(
            replaced(" match metric ", " match interface handover-probe\n match metric "),
            FAIL,
            "replaced in place by one on another interface is withdrawn",
            "`match interface`",
            id="by-interface",
        ),
        pytest.param(
            is_kept_from_its_neighbor, FAIL, "does not tell ", "outbound filter", id="not-told"
        ),
        pytest.param(
            replaced(" timers bgp 3 9\n", " timers bgp 3 9\n bgp suppress-fib-pending\n"),
            WARN,
            "`bgp suppress-fib-pending` is set",
            "`no bgp suppress-fib-pending`",
            id="suppress-fib-pending",
        ),
    ],
)
def test_the_line_that_is_missing_is_named(
    pair: Pair, edit: Edit, verdict: Verdict, message: str, line: str
) -> None:
    speaks(pair, edit)

    found = pair.check(SETTINGS)

    assert found
    assert all(message in one.message for one in found)
    assert all(line in one.remedy for one in found)
    assert {one.verdict for one in found} == {verdict}


def test_an_elevated_priority_that_zebra_shadows_is_told(pair: Pair) -> None:
    speaks(
        pair,
        lambda text: text.replace("metric 16\n", "metric 512\n").replace(
            "2147483631", "2147483135"
        ),
    )

    (found,) = pair.check(Settings())

    assert (found.check, found.verdict) == ("FRR metric", FAIL)
    assert "19 or lower" in found.remedy


# What frr-k8s renders of one router with two neighbors and nothing to be told them.
OF_FRR_K8S = """
log stdout informational
hostname node
ip nht resolve-via-default
ipv6 nht resolve-via-default
ip prefix-list 172.30.0.1-pl-ipv4 seq 1 deny any
ipv6 prefix-list fd00:172:30::1-pl-ipv6 seq 1 deny any
route-map 172.30.0.1-out permit 1
 match ip address prefix-list 172.30.0.1-pl-ipv4
route-map fd00:172:30::1-out permit 1
 match ipv6 address prefix-list fd00:172:30::1-pl-ipv6
route-map 172.30.0.1-in permit 1
route-map fd00:172:30::1-in permit 1
router bgp 64512
 no bgp ebgp-requires-policy
 no bgp network import-check
 no bgp default ipv4-unicast
 neighbor 172.30.0.1 remote-as 64512
 neighbor fd00:172:30::1 remote-as 64512
 address-family ipv4 unicast
  neighbor 172.30.0.1 activate
  neighbor 172.30.0.1 route-map 172.30.0.1-in in
  neighbor 172.30.0.1 route-map 172.30.0.1-out out
 exit-address-family
 address-family ipv6 unicast
  neighbor fd00:172:30::1 activate
  neighbor fd00:172:30::1 route-map fd00:172:30::1-in in
  neighbor fd00:172:30::1 route-map fd00:172:30::1-out out
 exit-address-family
"""


def raw_lines() -> str:
    """Return the lines that the documentation gives to frr-k8s."""
    text = Template(TEMPLATE.with_name("frr-k8s.yaml.in").read_text()).substitute(
        namespace="frr-k8s-system", router4="172.30.0.1", router6="fd00:172:30::1"
    )
    found: str = yaml.safe_load(text)["spec"]["raw"]["rawConfig"]
    return found


def test_frr_k8s_tells_nobody_without_the_lines_of_the_documentation(pair: Pair) -> None:
    speaks(pair, lambda _: OF_FRR_K8S)

    assert {one.verdict for one in pair.check(SETTINGS)} == {FAIL}


def test_frr_k8s_follows_with_the_lines_of_the_documentation(pair: Pair) -> None:
    speaks(pair, lambda _: OF_FRR_K8S + raw_lines())

    assert pair.check(SETTINGS) == []
