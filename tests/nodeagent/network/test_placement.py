"""Which interface an endpoint has, or the sentence that says why nobody can tell."""

import dataclasses
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_api.conditions import EndpointReason
from handover_api.model import Metadata
from handover_api.workloadendpoint import WorkloadEndpoint, WorkloadEndpointSpec
from handover_nodeagent.network.model import IPAddress, Link
from handover_nodeagent.network.placement import (
    NodeLinks,
    Unplaced,
    calico_name,
    objection_to_current,
    place,
)

V4 = IPv4Address("10.65.0.2")
V6 = IPv6Address("fd00:65::2")
LINK_LOCAL = frozenset({ip_address("fe80::ecee:eeff:feee:eeee"), ip_address("169.254.1.1")})

TAP = Link(7, "tap0", "ee:ee:ee:ee:ee:ee", up=True, addresses=LINK_LOCAL)
OTHER = dataclasses.replace(TAP, index=8, name="tap1")
CALI = dataclasses.replace(TAP, index=9, name="cali29091ccbd61")
OWN = Link(2, "eth0", "02:00:00:00:00:01", up=True, addresses=frozenset({ip_address("192.0.2.1")}))
UPLINK = dataclasses.replace(TAP, index=3, name="eth1", default_route=True)
LINKS = (TAP, OTHER, OWN, UPLINK)


def endpoint(interface: str | None = None, ips: Iterable[IPAddress] = (V4, V6)) -> WorkloadEndpoint:
    """Make an endpoint of pod shop.virt-launcher-vm1-x7p."""
    spec = WorkloadEndpointSpec(
        node="a", workload="virt-launcher-vm1-x7p", interface=interface, ips=tuple(ips)
    )
    return WorkloadEndpoint(metadata=Metadata(namespace="shop", name="vm1"), spec=spec)


def around(
    links: Iterable[Link] = LINKS,
    routed: Mapping[IPAddress, frozenset[int]] | None = None,
    taken: Iterable[int] = (),
) -> NodeLinks:
    """Make what the node knows."""
    links = tuple(links)
    by_index = {link.index: link for link in links}
    by_name = {link.name: link for link in links}
    return NodeLinks(by_index, by_name, routed or {}, frozenset(taken))


def on(*links: Link) -> frozenset[int]:
    """Return the indexes of *links*."""
    return frozenset(link.index for link in links)


@dataclasses.dataclass(frozen=True)
class Case:
    """A situation and what comes of it."""

    expected: Link | Unplaced
    interface: str | None = None
    around: NodeLinks = dataclasses.field(default_factory=around)


NOBODY_KNOWS = Unplaced(
    EndpointReason.INTERFACE_NOT_FOUND,
    f"no spec.interface, no interface {CALI.name}, no direct route to any of its addresses",
)
CASES = {
    "named": Case(TAP, "tap0"),
    "named, although a route says otherwise": Case(TAP, "tap0", around(routed={V4: on(OTHER)})),
    "named, although another endpoint names it too": Case(TAP, "tap0", around(taken=[7])),
    "named but absent": Case(
        Unplaced(EndpointReason.INTERFACE_NOT_FOUND, "there is no interface tap9"),
        "tap9",
        around(routed={V4: on(TAP)}),
    ),
    "named but the node's own": Case(
        Unplaced(
            EndpointReason.INTERFACE_REFUSED, "interface eth0 has the node's address 192.0.2.1"
        ),
        "eth0",
    ),
    "named but the way out": Case(
        Unplaced(EndpointReason.INTERFACE_REFUSED, "interface eth1 has the node's default route"),
        "eth1",
    ),
    "Calico's name": Case(CALI, around=around([*LINKS, CALI], {V4: on(TAP)})),
    "Calico's name but the node's own": Case(
        Unplaced(
            EndpointReason.INTERFACE_REFUSED,
            f"interface {CALI.name} has the node's default route",
        ),
        around=around([dataclasses.replace(CALI, default_route=True)]),
    ),
    "a route to one address": Case(TAP, around=around(routed={V6: on(TAP)})),
    "routes to both addresses": Case(TAP, around=around(routed={V4: on(TAP), V6: on(TAP)})),
    "no route": Case(NOBODY_KNOWS),
    "a route to another address only": Case(
        NOBODY_KNOWS, around=around(routed={IPv4Address("10.65.0.3"): on(TAP)})
    ),
    "a route by a link that is gone": Case(
        NOBODY_KNOWS, around=around(routed={V4: frozenset({99})})
    ),
    "a route by another endpoint's link": Case(
        Unplaced(
            EndpointReason.INTERFACE_REFUSED,
            "direct routes to its addresses leave by tap0: another endpoint's, or the node's own",
        ),
        around=around(routed={V4: on(TAP)}, taken=[7]),
    ),
    "a route by the node's own links": Case(
        Unplaced(
            EndpointReason.INTERFACE_REFUSED,
            "direct routes to its addresses leave by eth0, eth1: another endpoint's, or the"
            " node's own",
        ),
        around=around(routed={V4: on(OWN), V6: on(UPLINK)}),
    ),
    "the former pod's link beside its own": Case(
        OTHER, around=around(routed={V4: on(TAP, OTHER)}, taken=[7])
    ),
    "the node's own link beside its own": Case(TAP, around=around(routed={V4: on(OWN, TAP)})),
    "two links that could be it": Case(
        Unplaced(
            EndpointReason.INTERFACE_AMBIGUOUS,
            "direct routes to its addresses leave by tap0, tap1: name one in spec.interface",
        ),
        around=around(routed={V4: on(OTHER), V6: on(TAP)}),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_interface_is_found_or_the_reason_said(case: Case) -> None:
    assert case.expected == place(endpoint(case.interface), case.around)


def test_calico_derives_the_name_from_namespace_and_pod() -> None:
    """The same as: echo -n shop.virt-launcher-vm1-x7p | sha1sum | cut -c1-11."""
    assert calico_name(endpoint()) == CALI.name
    assert len(CALI.name) == 15


LINK = st.builds(
    Link,
    index=st.integers(1, 6),
    name=st.sampled_from(["tap0", "tap1", "eth0", CALI.name]),
    mac=st.just("02:00:00:00:00:01"),
    up=st.booleans(),
    addresses=st.frozensets(
        st.sampled_from([*LINK_LOCAL, ip_address("192.0.2.1"), ip_address("fd00::1")])
    ),
    default_route=st.booleans(),
    hosts=st.frozensets(st.just(ip_address("192.0.2.1"))),
)


@given(
    links=st.lists(LINK, unique_by=(lambda link: link.index, lambda link: link.name)),
    routed=st.dictionaries(st.sampled_from([V4, V6]), st.frozensets(st.integers(1, 7))),
    taken=st.frozensets(st.integers(1, 7)),
    interface=st.none() | st.sampled_from(["tap0", "eth0", "gone"]),
)
def test_a_device_of_the_nodes_own_is_never_the_answer(
    links: list[Link],
    routed: dict[IPAddress, frozenset[int]],
    taken: frozenset[int],
    interface: str | None,
) -> None:
    found = place(endpoint(interface), around(links, routed, taken))
    if isinstance(found, Unplaced):
        assert found.message
    else:
        assert found in links
        assert not found.default_route
        is_led = any(found.index in routed.get(address, ()) for address in (V4, V6))
        assert found.addresses <= LINK_LOCAL | (found.hosts if is_led else frozenset())
        assert interface in {None, found.name}
        assert interface or found.name == CALI.name or found.index not in taken


BECAME_UPLINK = dataclasses.replace(TAP, default_route=True)
HELD = {
    "a default route": (BECAME_UPLINK, "tap0", {}),
    "a default route, told by a route": (BECAME_UPLINK, None, {V4: on(TAP)}),
    "an address": (
        dataclasses.replace(TAP, addresses=frozenset({ip_address("192.0.2.7")})),
        "tap0",
        {},
    ),
    "another name that is refused": (TAP, "eth0", {}),
    "a name that is not there any more": (TAP, "tap9", {}),
}


@pytest.mark.parametrize(("link", "interface", "routed"), HELD.values(), ids=HELD.keys())
def test_a_link_that_the_endpoint_has_is_doubted_but_stays(
    link: Link, interface: str | None, routed: Mapping[IPAddress, frozenset[int]]
) -> None:
    node = around([link, OTHER, OWN], routed)
    assert isinstance(place(endpoint(interface), node), Unplaced)
    held = dataclasses.replace(node, current=link.index)
    assert place(endpoint(interface), held) == link
    assert link.name in objection_to_current(endpoint(interface), link)


def test_a_link_that_became_an_uplink_does_not_yield_to_another_ones_route() -> None:
    node = around([BECAME_UPLINK, OTHER], {V4: on(TAP), V6: on(TAP)})
    assert place(endpoint(), dataclasses.replace(node, current=7)) == BECAME_UPLINK


@pytest.mark.parametrize("routed", [{}, {V4: on(TAP), V6: on(OTHER)}])
def test_a_link_that_the_endpoint_has_stays_where_nothing_tells_a_better_one(
    routed: Mapping[IPAddress, frozenset[int]],
) -> None:
    """A link that was down has lost the route that told it; a second route makes it no other."""
    node = around(routed=routed)
    assert isinstance(place(endpoint(), node), Unplaced)
    assert place(endpoint(), dataclasses.replace(node, current=7)) == TAP


def test_a_link_that_became_an_uplink_does_not_yield_to_another_one_that_is_free() -> None:
    """One address is led there, the other one elsewhere: nobody knows which is the guest's."""
    node = around([BECAME_UPLINK, OTHER], {V4: on(TAP), V6: on(OTHER)})
    assert place(endpoint(), node) == OTHER
    assert place(endpoint(), dataclasses.replace(node, current=7)) == BECAME_UPLINK


def test_an_endpoint_without_a_link_is_given_none_for_want_of_a_better() -> None:
    """The first link of a node, above all: every node has lo."""
    links = [dataclasses.replace(TAP, index=index, name=f"tap{index}") for index in (1, 2, 3)]
    assert place(endpoint(), around(links)) == NOBODY_KNOWS


def test_only_the_links_that_could_be_it_are_named() -> None:
    """A person is to choose among them: none that would be refused."""
    by_v4, by_v6 = on(OTHER, OWN, UPLINK, CALI), on(TAP, CALI)
    further = endpoint()
    metadata = further.metadata.model_copy(update={"name": "virt-launcher-vm1-x7p.pod123"})
    node = around([*LINKS, CALI], {V4: by_v4, V6: by_v6}, taken=on(CALI))
    found = place(further.model_copy(update={"metadata": metadata}), node)
    assert found == CASES["two links that could be it"].expected


def test_a_link_without_fault_is_not_doubted() -> None:
    assert [objection_to_current(endpoint(name), TAP) for name in ("tap0", None)] == ["", ""]


GATEWAY = ip_address("10.65.0.1")
PTP = dataclasses.replace(TAP, addresses=frozenset({GATEWAY}), hosts=frozenset({GATEWAY}))


def test_the_gateways_own_address_on_the_guests_device_is_no_node_address() -> None:
    """As ptp, kindnet and others put it there, with a route to the guest."""
    assert place(endpoint("tap0"), around([PTP], {V4: on(PTP)})) == PTP
    assert objection_to_current(endpoint("tap0"), PTP) == ""
    named = endpoint("tap0")
    spec = with_spec(named, gateways=(GATEWAY,))
    assert place(spec, around([PTP])) == PTP


def test_an_address_without_a_network_elsewhere_is_the_nodes() -> None:
    assert isinstance(place(endpoint("tap0"), around([PTP])), Unplaced)
    widened = dataclasses.replace(PTP, hosts=frozenset())
    assert isinstance(place(endpoint("tap0"), around([widened], {V4: on(PTP)})), Unplaced)


def with_spec(one: WorkloadEndpoint, **fields: object) -> WorkloadEndpoint:
    """Return the endpoint with other fields in its spec."""
    return one.model_copy(update={"spec": one.spec.model_copy(update=fields)})


def test_calicos_name_is_not_that_of_a_pods_further_network() -> None:
    """The endpoint of a further network is called after the pod and its device there."""
    primary = endpoint()
    metadata = primary.metadata.model_copy(update={"name": "virt-launcher-vm1-x7p.pod123"})
    further = primary.model_copy(update={"metadata": metadata})
    assert place(primary, around([CALI])) == CALI
    found = place(further, around([CALI]))
    assert isinstance(found, Unplaced)
    assert found.message == "no spec.interface, no direct route to any of its addresses"
    assert place(further, around([CALI, TAP], {V4: on(TAP)})) == TAP


@pytest.mark.parametrize("mac", ["", "c0:00:02:01", "00:" * 19 + "00"])
def test_a_device_without_a_mac_is_never_a_guests(mac: str) -> None:
    """What tun and wireguard, ipip and sit, and InfiniBand have instead."""
    strange = dataclasses.replace(TAP, mac=mac)
    found = place(endpoint("tap0"), around([strange]))
    assert isinstance(found, Unplaced)
    assert found.reason is EndpointReason.INTERFACE_REFUSED
    assert (
        found.message == "interface tap0 has no MAC address: no guest can be heard or asked there"
    )
