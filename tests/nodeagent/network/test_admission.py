"""Which addresses a node may program, and whose."""

from ipaddress import ip_address, ip_network

import pytest

from handover_api.assignment import Assignment
from handover_api.configuration import RouteOwnership, Settings
from handover_api.workloadendpoint import Role
from handover_nodeagent.network import admission

NODE = frozenset({ip_address("172.30.0.11"), ip_address("fd00:172:30::11")})


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("172.30.0.11", "an address of this node"),
        ("fd00:172:30::11", "an address of this node"),
        ("127.0.0.2", "a loopback address"),
        ("::1", "a loopback address"),
        ("169.254.1.1", "a link-local address"),
        ("fe80::1", "a link-local address"),
        ("224.0.0.1", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("0.0.0.0", "the unspecified address"),
        ("::", "the unspecified address"),
        ("255.255.255.255", "the broadcast address"),
    ],
)
def test_some_addresses_are_refused_whatever_is_configured(address: str, reason: str) -> None:
    refused = ip_address(address)
    expected = admission.Admission((), {refused: f"{address} is {reason}"})
    assert expected == admission.admit([refused], Settings(), NODE)


def test_no_guest_has_the_address_of_the_api_server() -> None:
    refused = ip_address("10.96.0.1")
    expected = admission.Admission((), {refused: "10.96.0.1 is an address of the API server"})
    found = admission.admit([refused], Settings(), NODE, api_servers=frozenset({refused}))
    assert expected == found


def test_an_address_that_is_served_stays_with_a_word() -> None:
    settings = Settings(allowed_cidrs=(ip_network("192.0.2.0/24"),))
    served, new = ip_address("10.65.0.2"), ip_address("10.65.0.3")
    found = admission.admit([served, new], settings, NODE, frozenset({served}))
    assert found.allowed == (served,)
    assert found.refused == {
        served: ("10.65.0.2 is outside of allowedCIDRs; its route stays, as there is no other"),
        new: "10.65.0.3 is outside of allowedCIDRs",
    }


def test_allowed_cidrs_bound_what_an_endpoint_may_name() -> None:
    settings = Settings(allowed_cidrs=(ip_network("10.65.0.0/16"), ip_network("fd00:65::/64")))
    inside = (ip_address("10.65.0.2"), ip_address("fd00:65::2"))
    outside = ip_address("10.66.0.2")
    expected = admission.Admission(inside, {outside: "10.66.0.2 is outside of allowedCIDRs"})
    assert expected == admission.admit((*inside, outside), settings, NODE)


def test_an_address_named_twice_counts_once() -> None:
    twice = ip_address("10.65.0.2")
    assert admission.Admission((twice,), {}) == admission.admit([twice, twice], Settings(), NODE)


@pytest.mark.parametrize(
    ("assignment", "by_migrations"),
    [
        (Assignment(), False),
        (Assignment(Role.SOURCE), True),
        (Assignment(Role.TARGET, "m", "uid"), True),
        (Assignment(None, "m", "uid"), True),
    ],
)
def test_a_role_makes_an_endpoint_ours_until_its_uid_goes(
    assignment: Assignment, *, by_migrations: bool
) -> None:
    assert admission.is_owned(assignment, RouteOwnership.ALL)
    assert by_migrations == admission.is_owned(assignment, RouteOwnership.MIGRATIONS)
