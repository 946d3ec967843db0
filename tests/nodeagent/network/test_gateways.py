"""Which gateways a guest has, and when they are only assumed."""

import dataclasses
from collections.abc import Iterable
from ipaddress import ip_address

import pytest

from handover_api.configuration import Settings
from handover_api.workloadendpoint import WorkloadEndpointSpec
from handover_nodeagent.network import gateways
from handover_nodeagent.network.model import Link

VM = ("10.65.0.2", "fd00:65::2")
TAP = Link(7, "tap0", "02:00:00:00:00:07", up=True)
PTP = dataclasses.replace(
    TAP,
    addresses=frozenset(map(ip_address, ["10.65.0.1", "192.0.2.7", "fe80::1"])),
    hosts=frozenset(map(ip_address, ["10.65.0.1", "fe80::1"])),
)
OF_SUBNETS = ("10.1.0.1", "10.65.0.1", "10.65.128.1", "fd00:1::1", "fd00:65::1")


def spec(ips: Iterable[str] = VM, named: Iterable[str] = ()) -> WorkloadEndpointSpec:
    """Make an endpoint's spec."""
    return WorkloadEndpointSpec.model_validate(
        {"node": "a", "workload": "vm", "ips": list(ips), "gateways": list(named)}
    )


@pytest.mark.parametrize(
    ("found", "link", "configured", "expected"),
    [
        (spec(), TAP, (), []),
        (spec(named=["10.65.0.9"]), PTP, OF_SUBNETS, ["10.65.0.9", "fd00:65::1"]),
        (spec(), PTP, OF_SUBNETS, ["10.65.0.1", "fd00:65::1"]),
        (spec(["10.65.200.2"]), TAP, OF_SUBNETS, ["10.65.128.1"]),
        (spec(["10.65.0.2", "10.1.0.2"]), TAP, OF_SUBNETS, ["10.65.0.1", "10.1.0.1"]),
        (spec(["10.65.0.2", "10.65.0.3"]), TAP, OF_SUBNETS, ["10.65.0.1"]),
        (spec(), PTP, (), ["10.65.0.1"]),
        (spec(["fd00:65::2"]), PTP, (), []),
    ],
)
def test_the_surest_source_names_the_gateways_of_each_family(
    found: WorkloadEndpointSpec, link: Link, configured: tuple[str, ...], expected: list[str]
) -> None:
    settings = Settings.model_validate({"gateways": list(configured)})
    assert [str(one) for one in gateways.of(found, link, settings)] == expected


def test_a_family_without_a_known_gateway_is_assumed_unless_all_nodes_have_one_mac() -> None:
    known = [ip_address("10.65.0.1")]
    assert gateways.is_assumed(spec(), TAP, [])
    assert gateways.is_assumed(spec(), TAP, known)
    assert not gateways.is_assumed(spec(["10.65.0.2"]), TAP, known)
    calico = dataclasses.replace(TAP, mac="ee:ee:ee:ee:ee:ee")
    assert not gateways.is_assumed(spec(), calico, [])
