"""Which links are workloads', and what the kernel's settings there come to."""

from ipaddress import ip_address
from typing import Any

import pytest

from handover_nodeagent.commands.check import workloads
from handover_nodeagent.commands.check.traps import Workload
from handover_nodeagent.commands.check.workloads import Setting
from handover_nodeagent.kernel.netlink.rtmsg import Entry
from handover_nodeagent.network.model import Link, Route

MAC = "ee:ee:ee:ee:ee:ee"
TAP = Link(7, "tap0", MAC, up=True)
OWN, PEER, LINK_LOCAL = map(ip_address, ("192.0.2.1", "203.0.113.1", "fe80::7"))


def leading(oif: int, protocol: int = 4, *, prefix_length: int = 32, direct: bool = True) -> Entry:
    return Entry(Route(ip_address("10.65.0.2"), oif, 0, 254, protocol), prefix_length, None, direct)


def link(**fields: Any) -> Link:
    return Link(7, "tap0", MAC, up=True, **fields)


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ([], False),
        ([leading(7)], True),
        ([leading(8)], False),
        ([leading(7, prefix_length=24)], False),
        ([leading(7, direct=False)], False),
    ],
    ids=["no route", "host route", "of another link", "of a network", "by a gateway"],
)
def test_a_direct_host_route_leads_to_a_guest(entries: list[Entry], *, found: bool) -> None:
    assert workloads.leading_to_guests([TAP], entries, 88) == ((TAP,) if found else ())


@pytest.mark.parametrize(
    ("of", "is_workloads"),
    [
        (link(), True),
        (link(addresses=frozenset({LINK_LOCAL})), True),
        (link(addresses=frozenset({PEER}), hosts=frozenset({PEER})), True),
        (link(addresses=frozenset({OWN})), False),
        (link(default_route=True), False),
    ],
    ids=["bare", "link-local", "without a network", "an address of the node", "a default route"],
)
def test_where_the_node_itself_speaks_no_guest_is_meant(of: Link, *, is_workloads: bool) -> None:
    assert bool(workloads.leading_to_guests([of], [leading(7)], 88)) is is_workloads
    # But where a route of ours leads a guest is, whatever else the link has got meanwhile.
    assert workloads.leading_to_guests([of], [leading(7, 88)], 88) == (of,)


def values(**given: int | None) -> dict[Setting, int | None]:
    """Return all settings of tap0, 0 unless given; ``all_`` begins those of all interfaces."""
    found: dict[Setting, int | None] = dict.fromkeys(workloads.settings(TAP, has_ipv6=True), 0)
    for name, value in given.items():
        where, plain = ("all", name[4:]) if name.startswith("all_") else ("tap0", name)
        found[next(one for one in found if one[1:] == (where, plain))] = value
    return found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Workload("tap0", MAC, 0, proxy_arp=False)),
        ({"rp_filter": 1}, Workload("tap0", MAC, 1, proxy_arp=False)),
        ({"rp_filter": 1, "all_rp_filter": 2}, Workload("tap0", MAC, 2, proxy_arp=False)),
        ({"proxy_arp": 1}, Workload("tap0", MAC, 0, proxy_arp=True)),
        ({"all_proxy_arp": 1}, Workload("tap0", MAC, 0, proxy_arp=True)),
        ({"accept_ra": 1}, Workload("tap0", MAC, 0, proxy_arp=False, accepts_ra=True)),
        ({"accept_ra": 1, "forwarding": 1}, Workload("tap0", MAC, 0, proxy_arp=False)),
        (
            {"accept_ra": 2, "forwarding": 1},
            Workload("tap0", MAC, 0, proxy_arp=False, accepts_ra=True),
        ),
        (
            {"rp_filter": None, "all_rp_filter": 1, "accept_ra": None},
            Workload("tap0", MAC, 1, proxy_arp=False, unread=("rp_filter", "accept_ra")),
        ),
    ],
)
def test_settings_come_to_what_the_kernel_does(
    given: dict[str, int | None], expected: Workload
) -> None:
    assert workloads.workload(TAP, values(**given)) == expected


def test_a_node_without_ipv6_has_no_settings_of_it() -> None:
    found = workloads.settings(TAP, has_ipv6=False)
    assert {one.family for one in found} == {"ipv4"}
    assert workloads.workload(TAP, dict.fromkeys(found, 1)) == Workload(
        "tap0", MAC, 1, proxy_arp=True
    )
