"""What zebra and bgpd say is read from recordings of real ones."""

import json
from pathlib import Path

import pytest

from handover_nodeagent.commands.check_bgp import frr_replies
from handover_nodeagent.commands.check_bgp.frr_replies import BgpRoute, Summary

RECORDED = Path(__file__).with_name("recorded")
each_version = pytest.mark.parametrize("version", ["8.4.4", "10.3"])


def recorded(version: str, what: str) -> dict[str, object]:
    """Return the object that an FRR of this version answered."""
    answer = json.loads((RECORDED / f"frr-{version}-{what}.json").read_text())
    assert isinstance(answer, dict)
    return answer


@each_version
def test_zebras_route_is_there_or_not(version: str) -> None:
    assert frr_replies.has_route(recorded(version, "zebra-route"))
    assert not frr_replies.has_route({})


@each_version
def test_bgpds_route_is_read(version: str) -> None:
    route = BgpRoute.model_validate(recorded(version, "bgp-route"))

    assert route.own is not None
    assert (route.own.weight, route.own.loc_prf) == (0, 2147483631)
    assert "fd00:172:30::1" in route.advertised_to


def test_what_others_have_brought_is_not_ours() -> None:
    assert BgpRoute.model_validate({"paths": [{"locPrf": 100}]}).own is None
    assert BgpRoute.model_validate({}).own is None


@each_version
@pytest.mark.parametrize(("family", "router"), [("ipv4", "172.30.0.1"), ("ipv6", "fd00:172:30::1")])
def test_the_summary_is_read(version: str, family: str, router: str) -> None:
    peers = Summary.model_validate(recorded(version, "summary")).peers(family)

    assert (peers[router].is_up, peers[router].is_internal) == (True, True)


def test_a_family_that_no_session_carries_is_empty() -> None:
    assert Summary.model_validate({}).peers("ipv6") == {}


@each_version
def test_the_configuration_is_read(version: str) -> None:
    text = (RECORDED / f"frr-{version}-configuration.txt").read_text()
    found = frr_replies.configuration(text)

    assert found.redistributed == {"ipv4": "handover4", "ipv6": "handover6"}
    assert not found.suppresses_pending


def test_of_several_routers_the_default_one_counts() -> None:
    found = frr_replies.configuration(
        "bgp suppress-fib-pending\n"
        "router bgp 64512 vrf blue\n"
        " address-family ipv6 unicast\n"
        "  redistribute kernel\n"
        " exit-address-family\n"
        "exit\n"
        "router bgp 64512\n"
        " address-family ipv4 vpn\n"
        "  redistribute kernel\n"
        " exit-address-family\n"
        " address-family ipv4 unicast\n"
        "  redistribute connected\n"
        "  redistribute kernel metric 5 route-map mine\n"
        " exit-address-family\n"
        " address-family ipv6 unicast\n"
        "  redistribute kernel\n"
        " exit-address-family\n"
        "exit\n"
        "redistribute kernel route-map none\n"
    )

    assert found.redistributed == {"ipv4": "mine", "ipv6": ""}
    assert found.suppresses_pending
    assert not frr_replies.configuration("no bgp suppress-fib-pending\n").suppresses_pending
