"""What the node's network is to be, and how little of it one change touches."""

import dataclasses
import datetime as dt
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handover_api.configuration import Advertise, Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.network import desired
from handover_nodeagent.network.desired import Affected, DesiredNetwork, LocalEndpoint
from handover_nodeagent.network.model import (
    Encapsulated,
    Link,
    Neigh,
    Redirection,
    Route,
    Via,
    Way,
)

V4, V6, OTHER = ip_address("10.65.0.2"), ip_address("fd00:65::2"), ip_address("10.65.0.3")
TAP = Link(5, "tap5", "ee:ee:ee:ee:ee:ee", up=True)
VETH = Link(6, "veth6", "ee:ee:ee:ee:ee:ee", up=True)
MAC = "02:00:00:00:00:01"
SETTINGS = Settings(ipv6_normal_route_priority=2048, ipv6_elevated_route_priority=600)
T0 = dt.datetime(2026, 8, 1, 12, tzinfo=dt.UTC)
NONE, PRIVATE, NORMAL, ELEVATED = RouteLevel

LOCAL = LocalEndpoint(ObjectKey("ns", "a"), (V4, V6), NORMAL, State.BASE, TAP, MAC, T0)
LIVE = dataclasses.replace(LOCAL, level=ELEVATED, state=State.LIVE)
TARGET = dataclasses.replace(LOCAL, level=NONE, state=State.TARGET)
YOUNGER = dataclasses.replace(
    LOCAL, key=ObjectKey("ns", "b"), link=VETH, created_at=T0 + dt.timedelta(seconds=1)
)
ALL = (V4, V6, OTHER)


def network(*locals_: LocalEndpoint, settings: Settings = SETTINGS) -> DesiredNetwork:
    wanted = DesiredNetwork(settings)
    for local in locals_:
        wanted.put(local)
    return wanted


def route(address: object, oif: int, metric: int) -> Route:
    return Route(ip_address(str(address)), oif, metric, 254, 88)


def owner_of(wanted: DesiredNetwork, address: object = V4) -> list[int]:
    return [found.oif for found in wanted.routes([ip_address(str(address))])]


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        (LOCAL, {route(V4, 5, 1024), route(V6, 5, 2048)}),
        (LIVE, {route(V4, 5, 512), route(V6, 5, 600)}),
        (TARGET, set()),
        (dataclasses.replace(LOCAL, link=None), set()),
        (dataclasses.replace(LOCAL, is_owned=False), set()),
    ],
    ids=["normal", "elevated", "none", "no interface", "not ours"],
)
def test_every_address_has_a_route_of_the_endpoints_level(
    local: LocalEndpoint, expected: set[Route]
) -> None:
    assert expected == network(local).routes(ALL)


def test_the_cutover_can_be_prepared_before_it_is_wanted() -> None:
    prepared = desired.routes_at(TARGET, ELEVATED, SETTINGS)
    assert (route(V4, 5, 512), route(V6, 5, 600)) == prepared
    assert network(LIVE).routes(ALL) == set(prepared)
    nowhere = dataclasses.replace(TARGET, link=None)
    assert desired.routes_at(nowhere, ELEVATED, SETTINGS) == ()


def test_a_known_mac_is_seeded_with_the_route() -> None:
    wanted = network(LOCAL, dataclasses.replace(YOUNGER, level=NONE))
    routes = sorted(wanted.routes(ALL), key=lambda found: found.address.version)
    assert (Neigh(V4, 5, MAC), Neigh(V6, 5, MAC)) == wanted.neighs(routes)


def test_each_device_is_seeded_with_the_mac_of_its_own_guest() -> None:
    other = "02:00:00:00:00:02"
    wanted = network(LIVE, dataclasses.replace(YOUNGER, mac=other))
    routes = [route(V4, 5, 512), route(V4, 6, 1024), route(V4, 7, 1024), route(OTHER, 5, 512)]
    assert (Neigh(V4, 5, MAC), Neigh(V4, 6, other)) == wanted.neighs(routes)


def test_without_a_level_there_is_no_route_to_prepare() -> None:
    assert desired.routes_at(LOCAL, NONE, SETTINGS) == ()


def test_nothing_is_parked_for_a_silent_endpoint_whose_interface_is_refused() -> None:
    refused = dataclasses.replace(TARGET, link=None, is_refused=True)
    assert network(refused).addresses_to_park(ALL) == set()


def test_several_others_are_named_in_one_order() -> None:
    third = dataclasses.replace(LOCAL, key=ObjectKey("ns", "c"), addresses=(V4,))
    wanted = network(third, YOUNGER, LOCAL)
    assert {V4: (YOUNGER.key, third.key), V6: (YOUNGER.key,)} == wanted.shared_addresses(LOCAL.key)


def test_of_what_nobody_has_nothing_is_wanted() -> None:
    wanted = network(LOCAL)
    assert wanted.routes([OTHER]) == frozenset()
    assert wanted.guard(["eth9"]) == {"eth9": frozenset()}
    assert wanted.addresses_to_park([OTHER]) == frozenset()
    assert not wanted.has_address(OTHER)


def test_an_unknown_mac_is_not_seeded() -> None:
    wanted = network(dataclasses.replace(LOCAL, mac=None))
    assert wanted.neighs(wanted.routes(ALL)) == ()


class TestOwnership:
    """A key of the kernel has one owner on the node."""

    def test_the_newest_endpoint_has_the_address(self) -> None:
        assert [VETH.index] == owner_of(network(LOCAL, YOUNGER))
        assert [VETH.index] == owner_of(network(YOUNGER, LOCAL))

    def test_live_goes_before_timewait(self) -> None:
        waiting = dataclasses.replace(YOUNGER, level=ELEVATED, state=State.TIME_WAIT)
        assert [TAP.index] == owner_of(network(waiting, LIVE))
        assert [TAP.index] == owner_of(network(LIVE, waiting))

    def test_priorities_do_not_compete(self) -> None:
        both = network(LIVE, YOUNGER).routes([V4])
        assert {route(V4, 5, 512), route(V4, 6, 1024)} == both

    def test_an_endpoint_that_wants_no_route_takes_none(self) -> None:
        silent = dataclasses.replace(YOUNGER, level=NONE, state=State.TARGET)
        assert [TAP.index] == owner_of(network(LOCAL, silent))

    def test_an_unknown_age_is_the_oldest_and_the_name_decides_at_last(self) -> None:
        ageless = dataclasses.replace(YOUNGER, created_at=None)
        same_age = dataclasses.replace(YOUNGER, created_at=T0)
        assert [TAP.index] == owner_of(network(ageless, LOCAL))
        assert [VETH.index] == owner_of(network(same_age, LOCAL))

    def test_the_next_owner_follows_when_the_first_goes(self) -> None:
        wanted = network(LOCAL, YOUNGER)
        wanted.drop(YOUNGER.key)
        assert [TAP.index] == owner_of(wanted)

    def test_both_endpoints_are_named_to_each_other(self) -> None:
        wanted = network(LOCAL, dataclasses.replace(YOUNGER, addresses=(V4, OTHER)))
        assert {V4: (YOUNGER.key,)} == wanted.shared_addresses(LOCAL.key)
        assert {V4: (LOCAL.key,)} == wanted.shared_addresses(YOUNGER.key)


class TestTouched:
    """A change touches its endpoint's addresses and interfaces, old and new, and no other."""

    def test_a_new_endpoint(self) -> None:
        expected = Affected(frozenset({V4, V6}), frozenset({"tap5"}))
        assert expected == network(YOUNGER).put(LOCAL)

    def test_a_changed_endpoint(self) -> None:
        moved = dataclasses.replace(LOCAL, addresses=(V4, OTHER), link=VETH)
        expected = Affected(frozenset(ALL), frozenset({"tap5", "veth6"}))
        assert expected == network(LOCAL).put(moved)

    def test_a_dropped_endpoint(self) -> None:
        wanted = network(LOCAL)
        assert Affected(frozenset({V4, V6}), frozenset({"tap5"})) == wanted.drop(LOCAL.key)
        assert Affected() == wanted.everything()

    def test_an_endpoint_without_interface(self) -> None:
        nowhere = dataclasses.replace(LOCAL, link=None)
        assert Affected(frozenset({V4, V6})) == network().put(nowhere)

    def test_an_unknown_endpoint(self) -> None:
        assert Affected() == network(LOCAL).drop(YOUNGER.key)

    def test_everything(self) -> None:
        wanted = network(LOCAL)
        wanted.put_orphan(route(OTHER, 9, 512))
        assert Affected(frozenset(ALL), frozenset({"tap5"})) == wanted.everything()


class TestGuard:
    """This host never answers ARP for a guest's address on the guest's own interface."""

    @pytest.mark.parametrize(
        "local", [LOCAL, LIVE, TARGET, dataclasses.replace(LOCAL, is_owned=False)]
    )
    def test_every_endpoint_with_ipv4_is_guarded_in_any_state(self, local: LocalEndpoint) -> None:
        assert {"tap5": {V4}} == network(local).guard(["tap5"])

    def test_what_is_gone_is_guarded_no_more(self) -> None:
        wanted = network(LOCAL)
        wanted.drop(LOCAL.key)
        assert {"tap5": frozenset()} == wanted.guard(["tap5"])

    def test_two_endpoints_of_one_interface_are_guarded_together(self) -> None:
        beside = dataclasses.replace(YOUNGER, link=TAP, addresses=(OTHER,))
        assert {"tap5": {V4, OTHER}} == network(LOCAL, beside).guard(["tap5"])


def test_foreign_routes_are_parked_where_we_program_or_suppress() -> None:
    nowhere = dataclasses.replace(TARGET, link=None)
    assert {V4, V6} == network(nowhere).addresses_to_park(ALL)
    assert {V4, V6} == network(LOCAL).addresses_to_park(ALL)
    assert network(dataclasses.replace(LOCAL, is_owned=False)).addresses_to_park(ALL) == set()


def test_a_foreign_route_may_serve_a_guest_whose_interface_nobody_can_name() -> None:
    assert network(dataclasses.replace(LOCAL, link=None)).addresses_to_park(ALL) == set()


def test_disowned_is_what_endpoints_have_and_none_of_them_serves() -> None:
    foreign = dataclasses.replace(LOCAL, is_owned=False)
    assert network(foreign).is_not_owned(V4)
    assert not network(foreign).is_not_owned(OTHER)
    assert not network(foreign, YOUNGER).is_not_owned(V4)


def test_stranded_is_what_an_endpoint_serves_on_an_interface_that_nobody_can_name() -> None:
    nowhere = dataclasses.replace(LOCAL, link=None)
    assert network(nowhere).is_unplaced(V4)
    assert network(nowhere, YOUNGER).is_unplaced(V4)
    assert not network(nowhere).is_unplaced(OTHER)
    assert not network(LOCAL).is_unplaced(V4)
    for change in ({"is_owned": False}, {"level": NONE, "state": State.TARGET}):
        assert not network(dataclasses.replace(nowhere, **change)).is_unplaced(V4)


def test_the_holders_of_addresses_are_found() -> None:
    assert {LOCAL.key, YOUNGER.key} == network(LOCAL, YOUNGER).endpoints_with([V4, OTHER])
    assert network(LOCAL).endpoints_with([OTHER]) == set()
    assert network(LOCAL).endpoints_with([]) == set()


class TestOrphans:
    """A guest that answers keeps its routes, also when its endpoint is deleted."""

    def test_the_routes_stay(self) -> None:
        wanted = network(LIVE)
        before = wanted.routes(ALL)
        wanted.drop(LIVE.key, orphan=True)
        assert before == wanted.routes(ALL)
        assert before == wanted.orphans()

    def test_an_endpoint_that_names_the_address_takes_it_over(self) -> None:
        wanted = network(LIVE)
        wanted.drop(LIVE.key, orphan=True)
        wanted.put(dataclasses.replace(YOUNGER, addresses=(V4,), level=NONE))
        assert {route(V6, 5, 600)} == wanted.orphans()
        assert {route(V6, 5, 600)} == wanted.routes(ALL)

    def test_an_address_that_another_endpoint_names_leaves_no_orphan(self) -> None:
        wanted = network(LIVE, YOUNGER)
        wanted.drop(LIVE.key, orphan=True)
        assert wanted.orphans() == frozenset()

    def test_they_go_with_their_interface(self) -> None:
        wanted = network(LIVE)
        wanted.drop(LIVE.key, orphan=True)
        assert Affected() == wanted.drop_link(99)
        assert Affected(frozenset({V4, V6})) == wanted.drop_link(TAP.index)
        assert wanted.routes(ALL) == frozenset()

    def test_those_of_another_owner_were_never_ours(self) -> None:
        wanted = network(dataclasses.replace(LIVE, is_owned=False))
        wanted.drop(LIVE.key, orphan=True)
        assert wanted.orphans() == frozenset()

    def test_addresses_of_endpoints_and_orphans_are_known(self) -> None:
        wanted = network(LOCAL)
        wanted.put_orphan(route(OTHER, 9, 512))
        assert [wanted.has_address(address) for address in ALL] == [True] * 3
        wanted.drop_link(9)
        assert [wanted.has_address(address) for address in ALL] == [True, True, False]

    def test_an_orphan_of_a_former_run_is_taken_in_unless_claimed(self) -> None:
        wanted = network(LOCAL)
        assert Affected(frozenset({OTHER})) == wanted.put_orphan(route(OTHER, 9, 512))
        assert Affected() == wanted.put_orphan(route(V4, 9, 512))
        assert {route(OTHER, 9, 512)} == wanted.orphans()

    def test_an_orphan_that_is_disowned_goes_unless_it_was_claimed(self) -> None:
        wanted = network(LOCAL)
        wanted.put_orphan(route(OTHER, 9, 512))
        assert Affected() == wanted.drop_orphans([route(V4, 9, 512), route(OTHER, 8, 512)])
        assert {route(OTHER, 9, 512)} == wanted.orphans()
        assert Affected(frozenset({OTHER})) == wanted.drop_orphans([route(OTHER, 9, 512)])
        assert wanted.orphans() == frozenset()


def test_other_settings_give_the_same_endpoints_other_metrics() -> None:
    wanted = network(LOCAL)
    wanted.put_orphan(route(OTHER, 9, 512))
    other = wanted.under(Settings(ipv4_normal_route_priority=900, route_protocol=99))
    assert {
        Route(V4, 5, 900, 254, 99),
        Route(V6, 5, 1024, 254, 99),
        route(OTHER, 9, 512),
    } == other.routes(ALL)


LEVELS = {
    State.BASE: NORMAL,
    State.TARGET: NONE,
    State.LIVE: ELEVATED,
    State.TIME_WAIT: ELEVATED,
    State.WITHDRAWN: NONE,
}


@st.composite
def locals_(draw: st.DrawFn) -> LocalEndpoint:
    """Return one of four endpoints in any state; they quarrel over three addresses."""
    state = draw(st.sampled_from(list(LEVELS)))
    return LocalEndpoint(
        key=ObjectKey("ns", draw(st.sampled_from("abcd"))),
        addresses=tuple(draw(st.sets(st.sampled_from(ALL), min_size=1))),
        level=LEVELS[state],
        state=state,
        link=draw(st.sampled_from([None, TAP, VETH])),
        created_at=draw(st.sampled_from([None, T0, T0 + dt.timedelta(seconds=1)])),
        is_owned=draw(st.booleans()),
        is_exported=draw(st.booleans()),
    )


CHANGES = st.lists(locals_() | st.sampled_from([ObjectKey("ns", name) for name in "abcd"]))


@settings(max_examples=settings().max_examples * 3 // 5)
@given(CHANGES)
def test_a_change_affects_all_that_it_changes(changes: list[LocalEndpoint | ObjectKey]) -> None:
    wanted = DesiredNetwork(SETTINGS)
    final: dict[ObjectKey, LocalEndpoint] = {}
    for change in changes:
        before = {address: wanted.routes([address]) for address in ALL}
        guard = wanted.guard(["tap5", "veth6"])
        if isinstance(change, LocalEndpoint):
            affected = wanted.put(change)
            final[change.key] = change
        else:
            affected = wanted.drop(change)
            final.pop(change, None)
        after = {address: wanted.routes([address]) for address in ALL}
        assert {a for a in ALL if before[a] != after[a]} <= affected.addresses
        changed = {n for n, them in wanted.guard(["tap5", "veth6"]).items() if them != guard[n]}
        assert changed <= affected.interfaces
    anew = network(*reversed(final.values()))
    routes = anew.routes(ALL)
    assert routes == wanted.routes(ALL)
    assert len({(found.address, found.metric) for found in routes}) == len(routes)
    assert anew.everything() == wanted.everything()


def test_affected_is_joined_at_once_as_one_by_one() -> None:
    parts = [Affected(frozenset({V4}), frozenset({"a"})), Affected(frozenset({V6, V4}))]
    assert Affected.union(parts) == parts[0] | parts[1]
    assert Affected.union([]) == Affected()


def test_what_was_wanted_for_one_that_is_paused_stays_wanted() -> None:
    wanted = network(LIVE)
    before = wanted.routes(ALL), wanted.guard(["tap5", "veth6"])
    wanted.put(dataclasses.replace(TARGET, link=VETH, addresses=(OTHER,), is_paused=True))
    assert (wanted.routes(ALL), wanted.guard(["tap5", "veth6"])) == before
    assert [wanted.is_paused(one) for one in ALL] == [True, True, False]
    assert wanted.has_paused()
    wanted.put(YOUNGER)
    assert wanted.has_paused()
    wanted.drop(YOUNGER.key)
    wanted.put(dataclasses.replace(LOCAL, link=VETH))
    assert not wanted.has_paused()
    assert set(owner_of(wanted)) == {VETH.index}


def test_one_that_is_paused_when_it_is_first_seen_gets_no_guard() -> None:
    wanted = network(dataclasses.replace(LOCAL, is_paused=True, is_guarded=False))
    assert wanted.guard(["tap5"]) == {"tap5": frozenset()}
    wanted.put(LOCAL)
    assert wanted.guard(["tap5"]) == {"tap5": frozenset({V4})}


PEER = Encapsulated(ip_address("192.0.2.2"))
THROUGH = Redirection(9, PEER, PEER)
REDIRECTED = dataclasses.replace(LOCAL, state=State.REDIRECTED, redirection=THROUGH)


def sent_on(address: object, metric: int, protocol: int = 88, way: Way = PEER) -> Route:
    return Route(ip_address(str(address)), 9, metric, 254, protocol, way=way)


class TestRedirected:
    """The same key as before, so that each route is replaced in place; only the way is another."""

    @pytest.mark.parametrize(
        ("level", "expected"),
        [
            (NORMAL, {sent_on(V4, 1024), sent_on(V6, 2048)}),
            (ELEVATED, {sent_on(V4, 512), sent_on(V6, 600)}),
            (PRIVATE, {sent_on(V4, 1026, 89), sent_on(V6, 2050, 89)}),
        ],
    )
    def test_its_routes_lead_to_the_peers_node(
        self, level: RouteLevel, expected: set[Route]
    ) -> None:
        wanted = network(dataclasses.replace(REDIRECTED, level=level))
        assert expected == wanted.routes(ALL)
        # A neighbor's entry is for a guest on the wire.
        assert wanted.neighs(expected) == ()

    def test_they_need_no_interface(self) -> None:
        gone = dataclasses.replace(REDIRECTED, link=None)
        wanted = network(gone)
        assert {sent_on(V4, 1024), sent_on(V6, 2048)} == wanted.routes(ALL)
        assert not wanted.is_unplaced(V4)
        assert wanted.addresses_to_park(ALL) == {V4, V6}

    def test_a_family_without_a_way_has_what_it_had_unless_nobody_is_to_come(self) -> None:
        one_family = dataclasses.replace(REDIRECTED, redirection=Redirection(9, PEER))
        assert {sent_on(V4, 1024), route(V6, 5, 2048)} == network(one_family).routes(ALL)
        private = dataclasses.replace(one_family, level=PRIVATE)
        assert {sent_on(V4, 1026, 89)} == network(private).routes(ALL)

    def test_without_any_way_known_the_routes_are_those_of_before(self) -> None:
        unknown = dataclasses.replace(REDIRECTED, redirection=None)
        assert network(LOCAL).routes(ALL) == network(unknown).routes(ALL)

    def test_one_that_has_its_guest_here_goes_before_it_however_old(self) -> None:
        """The VM is back on a node that has its former pod still."""
        newer = dataclasses.replace(REDIRECTED, key=YOUNGER.key, created_at=YOUNGER.created_at)
        assert owner_of(network(LOCAL, newer)) == [5]
        assert owner_of(network(newer, LOCAL)) == [5]


@pytest.mark.parametrize(
    ("advertise", "elevated", "numbers"),
    [
        (Advertise.BGP, 512, [89, 89]),
        (Advertise.AGENTS, 512, [88, 88]),
        # Of that family the routes are for zebra, which is never before a redirect.
        (Advertise.BGP, 16, [88, 89]),
    ],
)
def test_what_no_speaker_is_to_hear_of_is_the_same_route_by_another_number(
    advertise: Advertise, elevated: int, numbers: list[int]
) -> None:
    settings = Settings(advertise=advertise, ipv4_elevated_route_priority=elevated)
    exported = desired.routes_at(LIVE, ELEVATED, settings)
    withheld = dataclasses.replace(LIVE, is_exported=False)
    found = desired.routes_at(withheld, ELEVATED, settings)
    assert [one.protocol for one in found] == numbers
    assert [dataclasses.replace(one, protocol=88) for one in found] == list(exported)


def test_a_redirect_is_what_speakers_know_whether_they_have_heard_of_the_guest_or_not() -> None:
    settings = Settings(advertise=Advertise.BGP)
    redirected = desired.routes_at(REDIRECTED, ELEVATED, settings)
    early = dataclasses.replace(REDIRECTED, is_exported=False)
    assert redirected == desired.routes_at(early, ELEVATED, settings)


class TestHold:
    """What BGP brings loses to a redirect for a moment."""

    BGP = Settings(advertise=Advertise.BGP)
    HOLDING = dataclasses.replace(REDIRECTED, is_holding=True)

    def held(self, endpoint: LocalEndpoint, settings: Settings) -> list[Route]:
        plain = dataclasses.replace(endpoint, is_holding=False)
        shown = desired.routes_at(plain, endpoint.level, settings)
        found = desired.routes_at(endpoint, endpoint.level, settings)
        return [route for route in found if route not in shown]

    def test_it_leads_where_the_redirect_does(self) -> None:
        held = self.held(self.HOLDING, self.BGP)
        shown = desired.routes_at(REDIRECTED, REDIRECTED.level, self.BGP)
        assert [(one.address, one.oif, one.way) for one in held] == [
            (one.address, one.oif, one.way) for one in shown
        ]
        assert {(one.metric, one.protocol) for one in held} == {(513, 89)}

    def test_one_that_a_speaker_sees_is_exported(self) -> None:
        """Else BIRD would refuse it, and take no other one of that address."""
        link = Redirection(9, Via(ip_address("192.0.2.2")), Via(ip_address("fd00:192::2")))
        held = self.held(dataclasses.replace(self.HOLDING, redirection=link), self.BGP)
        assert [(one.metric, one.protocol, one.way) for one in held] == [
            (513, 88, link.ipv4),
            (513, 88, link.ipv6),
        ]

    def test_it_is_one_of_a_redirect_alone(self) -> None:
        assert self.held(dataclasses.replace(LOCAL, is_holding=True), self.BGP) == []

    @pytest.mark.parametrize(
        ("level", "fields"),
        [
            (NORMAL, {"advertise": Advertise.AGENTS}),
            (ELEVATED, {}),
            (PRIVATE, {}),
            # With such priorities it is zebra that takes the routes, which would see this one, too.
            (NORMAL, {"ipv4_elevated_route_priority": 19, "ipv6_elevated_route_priority": 19}),
            # No room between the two.
            (NORMAL, {"ipv4_normal_route_priority": 513, "ipv6_normal_route_priority": 513}),
        ],
    )
    def test_there_is_none_without_need(self, level: RouteLevel, fields: dict[str, Any]) -> None:
        settings = self.BGP.model_copy(update=fields)
        assert self.held(dataclasses.replace(self.HOLDING, level=level), settings) == []


class TestRemaining:
    """What is left of a redirect loses to all that is better known."""

    REMAINING = desired.redirects_at((V4, V6), THROUGH, SETTINGS)

    def test_it_is_private(self) -> None:
        assert (sent_on(V4, 1026, 89), sent_on(V6, 2050, 89)) == self.REMAINING
        assert desired.redirects_at((V4, V6), Redirection(9, None, PEER), SETTINGS) == (
            sent_on(V6, 2050, 89),
        )

    def test_it_stands_beside_whoever_has_the_address(self) -> None:
        wanted = network(LIVE)
        assert wanted.put_remaining(self.REMAINING) == Affected(frozenset({V4, V6}))
        assert network(LIVE).routes(ALL) | set(self.REMAINING) == wanted.routes(ALL)

    def test_but_for_one_that_redirects_it_to_another_node(self) -> None:
        other = Encapsulated(ip_address("192.0.2.3"))
        newer = dataclasses.replace(
            REDIRECTED, level=PRIVATE, redirection=Redirection(9, other, other)
        )
        wanted = network(newer)
        wanted.put_remaining(self.REMAINING)
        assert {sent_on(V4, 1026, 89, other), sent_on(V6, 2050, 89, other)} == wanted.routes(ALL)

    def test_it_is_there_until_it_is_dropped(self) -> None:
        wanted = network()
        wanted.put_remaining(self.REMAINING)
        assert wanted.has_address(V4)
        assert wanted.everything().addresses == {V4, V6}
        assert set(self.REMAINING) == wanted.under(SETTINGS).routes(ALL)
        newer = desired.redirects_at((V4,), Redirection(8, PEER), SETTINGS)
        wanted.put_remaining(newer)
        # Of what has another one in its place nothing is left to drop.
        assert wanted.drop_remaining(self.REMAINING) == Affected(frozenset({V6}))
        assert set(newer) == wanted.routes(ALL)
        wanted.drop_remaining(newer)
        assert not wanted.has_address(V4)
