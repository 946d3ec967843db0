"""The fewest changes bring the kernel to what is wanted, and no object goes that a route uses."""

from ipaddress import ip_address

from tests.nodeagent.distribution.cluster import GUEST4, GUEST6, A, B

from handover_nodeagent.distribution.known import Change, Known, ViaNextHop
from handover_nodeagent.kernel.netlink import nhmsg, rtmsg
from handover_nodeagent.kernel.netlink.nhmsg import NextHop
from handover_nodeagent.network.model import Nexthop, Route

FIRST, SECOND = nhmsg.FIRST_ID, nhmsg.FIRST_ID + 1
TO_A, TO_B = NextHop(4, 2, A.addresses[0]), NextHop(4, 2, B.addresses[0])


def via(number: int = FIRST, metric: int = 513) -> ViaNextHop:
    return ViaNextHop(GUEST4, metric, number)


def test_what_is_there_needs_no_change() -> None:
    known = Known()
    assert known.change(via()) == Change(via(), replaces=False)
    known.put(via())
    assert known.change(via()) is None
    assert known.change(via(SECOND)) == Change(via(SECOND), replaces=True)
    assert known.change(via(SECOND, 1025)) == Change(via(SECOND, 1025), replaces=False)


def test_a_change_is_encoded_as_the_kernels_route() -> None:
    route = Route(GUEST4, 0, 513, 254, 89, way=Nexthop(FIRST))
    assert Change(via(), replaces=False).encode(254, 89) == rtmsg.encode_add(route)
    assert Change(via(), replaces=True).encode(254, 89) == rtmsg.encode_replace(route)
    assert ViaNextHop.of(route) == via()


def test_all_but_the_wanted_one_is_superfluous() -> None:
    known = Known()
    known.put(via())
    known.put(via(SECOND, 1025))
    assert known.routes_to(GUEST4) == (via(), via(SECOND, 1025))
    assert known.superfluous(GUEST4, via()) == [via(SECOND, 1025)]
    assert known.superfluous(GUEST4, None) == [via(), via(SECOND, 1025)]
    assert known.superfluous(GUEST6, None) == []
    known.drop(via())
    known.drop(via())
    assert list(known.routes()) == [via(SECOND, 1025)]
    known.drop(via(SECOND, 1025))
    assert known.addresses() == frozenset()


def test_each_route_is_told_with_the_node_that_it_leads_to() -> None:
    known = Known()
    known.numbers[("b", 4)] = FIRST
    known.nexthops[FIRST] = TO_B
    known.put(via())
    # Its node is gone from the list, and somebody took the object.
    known.put(via(SECOND, 1025))
    assert list(known.led()) == [(GUEST4, 513, "b", TO_B), (GUEST4, 1025, "", None)]


def test_a_strangers_route_of_our_protocol_is_replaced_and_never_removed() -> None:
    known = Known()
    known.put(ViaNextHop.of(Route(GUEST4, 2, 513, 254, 89)))
    known.put(ViaNextHop.of(Route(GUEST4, 0, 1025, 254, 89, way=Nexthop(7))))
    assert known.superfluous(GUEST4, None) == []
    assert known.change(via()) == Change(via(), replaces=True)


def test_a_node_keeps_its_number() -> None:
    known = Known()
    assert known.number(("a", 4), TO_A) == FIRST
    known.nexthops[FIRST] = TO_A
    assert known.number(("b", 4), TO_B) == SECOND
    assert known.number(("a", 4), TO_B) == FIRST


def test_after_a_restart_a_node_has_the_object_that_leads_there() -> None:
    known = Known()
    known.load({SECOND: TO_B, FIRST: None}, [via(SECOND)])
    assert known.number(("b", 4), TO_B) == SECOND
    # Two nodes never share one: they would move together.
    assert known.number(("x", 4), TO_B) == FIRST + 2
    assert known.unused() == [FIRST]


def test_an_object_that_a_route_uses_stays() -> None:
    known = Known()
    number = known.number(("b", 4), TO_B)
    known.nexthops[number] = TO_B
    known.put(via(number))
    known.forget([("b", 4), ("nobody", 6)])
    assert known.unused() == []
    assert known.uses(number) == 1
    known.put(via(SECOND))
    assert known.unused() == [number]


def test_numbers_are_used_again_late_and_never_twice() -> None:
    known = Known()
    known._next = nhmsg.LAST_ID
    assert known.number(("a", 4), TO_A) == nhmsg.LAST_ID
    assert known.number(("b", 4), TO_B) == FIRST


def test_what_was_observed_tells_where_something_else_was_known() -> None:
    known = Known()
    assert known.load({}, [via()]) == {GUEST4}
    assert known.load({}, [via()]) == frozenset()
    assert known.load({}, [via(SECOND)]) == {GUEST4}
    assert known.load({}, []) == {GUEST4}
    assert known.uses(SECOND) == 0
    assert ip_address("10.0.0.1") not in known.addresses()
