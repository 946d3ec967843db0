"""The probe has a route for each priority, in prefixes that nobody uses."""

from ipaddress import ip_network

from handover_api.configuration import Settings
from handover_nodeagent.commands.check_bgp import levels

DOCUMENTATION = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))


def test_each_priority_has_a_host_route_of_its_own_in_a_documentation_prefix() -> None:
    settings = Settings(ipv4_elevated_route_priority=16, ipv6_normal_route_priority=2000)
    found = levels.of(settings)

    assert [(one.family, one.name, one.metric) for one in found] == [
        ("ipv4", "elevated", 16),
        ("ipv4", "normal", 1024),
        ("ipv6", "elevated", 512),
        ("ipv6", "normal", 2000),
    ]
    networks = [ip_network(one.prefix) for one in found]
    assert len(set(networks)) == 4
    for network in networks:
        assert network.num_addresses == 1
        assert any(
            network.version == known.version and network.network_address in known
            for known in DOCUMENTATION
        )
    assert found[0].address == "192.0.2.88"


def test_the_lower_metric_is_the_higher_preference() -> None:
    elevated, normal = levels.in_family(levels.of(Settings()), "ipv6")
    assert (elevated.local_pref, normal.local_pref) == (2147483135, 2147482623)
