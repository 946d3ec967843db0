"""What is left of an endpoint is kept, asked about and remembered as a value."""

from ipaddress import ip_address

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_nodeagent.network.model import Link, Route
from handover_nodeagent.reconcile.orphan import Orphan

MAC, HINT = "52:54:00:65:00:02", "52:54:00:65:00:09"
GATEWAYS = (ip_address("169.254.1.1"),)
LINK = Link(7, "tap0", "ee:ee:ee:ee:ee:ee", up=True)
V4 = Route(ip_address("10.65.0.2"), 7, 512, 254, 88)
V4_NORMAL = Route(ip_address("10.65.0.2"), 7, 1024, 254, 88)
V6 = Route(ip_address("fd00:65::2"), 7, 512, 254, 88)
ORPHAN = Orphan(ObjectKey("default", "vm"), (V4, V4_NORMAL, V6), MAC, GATEWAYS)


def test_what_somebody_has_claimed_is_held_no_more() -> None:
    assert ORPHAN.held({V6, V4}) == (V4, V6)
    assert ORPHAN.held(set()) == ()


def test_what_an_endpoint_did_not_claim_goes_on_route_by_route() -> None:
    assert list(ORPHAN.parts([V4, V6])) == [
        Orphan(ObjectKey("", "10.65.0.2"), (V4,), MAC, GATEWAYS),
        Orphan(ObjectKey("", "fd00:65::2"), (V6,), MAC, GATEWAYS),
    ]


def test_a_route_that_nobody_knows_has_a_key_that_no_endpoint_has() -> None:
    assert Orphan.unclaimed(V4) == Orphan(ObjectKey("", "10.65.0.2"), (V4,))


def test_a_restart_finds_routes_and_how_their_guest_is_asked() -> None:
    kept = ORPHAN.record()
    assert (kept.routes, kept.learned_mac, kept.gateways) == (ORPHAN.routes, MAC, GATEWAYS)


def test_the_guest_is_asked_for_each_address_once_and_when_told_to() -> None:
    spec = ORPHAN.listen_spec(ORPHAN.routes, LINK, 3, HINT)
    assert spec.addresses == (V4.address, V6.address)
    assert (spec.mac, spec.hint, spec.gateways) == (MAC, HINT, GATEWAYS)
    assert (spec.state, spec.episode, spec.interval) == (State.ASKING, 3, 0.0)
    assert spec.armed
    assert not spec.is_mute
