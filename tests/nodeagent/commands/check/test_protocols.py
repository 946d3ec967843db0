"""Whose routes there are is read off their protocol numbers."""

import dataclasses
from ipaddress import ip_address

from handover_nodeagent.commands.check import protocols
from handover_nodeagent.kernel.netlink.rtmsg import Entry
from handover_nodeagent.network.model import Encapsulated, Route, Via


def entry(protocol: int, metric: int = 512, *, prefix_length: int = 32, gateway: str = "") -> Entry:
    route = Route(ip_address("10.65.0.2"), 7, metric, 254, protocol)
    return Entry(route, prefix_length, ip_address(gateway) if gateway else None, not gateway)


def test_with_our_number_only_direct_host_routes_are_an_agents() -> None:
    others = (entry(88, prefix_length=24), entry(88, gateway="192.0.2.9"))
    assert protocols.foreign([entry(88), *others, entry(12, prefix_length=24)], 88) == others


def test_a_route_into_our_tunnel_is_an_agents() -> None:
    tunnel, gateway = (
        dataclasses.replace(entry(88, gateway="192.0.2.9").route, way=way)
        for way in (Encapsulated(ip_address("192.0.2.9")), Via(ip_address("192.0.2.9")))
    )
    ours, other = (Entry(route, 32, None, direct=False) for route in (tunnel, gateway))
    assert protocols.foreign([ours, other], 88) == (other,)


def test_each_daemons_metrics_are_those_of_its_routes() -> None:
    entries = [entry(88), entry(12, 32), entry(12, 0), entry(12, 32)]
    assert protocols.metrics(entries) == {88: {512}, 12: {0, 32}}
    assert protocols.metrics([]) == {}


def test_the_names_of_numbers_are_read_as_iproute2_does() -> None:
    text = "# a comment\n88 else # mine\n\nnonsense\n0x10 hex\n12\tbird\n"
    assert protocols.read_names(text) == {88: "else", 12: "bird"}
