"""What follows from an endpoint's object, its machine and what is known of its guest."""

import dataclasses
import datetime as dt
from ipaddress import ip_address
from typing import Any

import pytest

from handover_api.assignment import Assignment
from handover_api.conditions import EndpointReason
from handover_api.configuration import Settings
from handover_api.workloadendpoint import Role, State, WorkloadEndpoint
from handover_nodeagent.fsm.events import Input
from handover_nodeagent.fsm.machine import Asking, Machine, RouteLevel
from handover_nodeagent.memory.record import Record
from handover_nodeagent.network.admission import Admission
from handover_nodeagent.network.model import Link, Route
from handover_nodeagent.network.placement import Unplaced
from handover_nodeagent.reconcile.endpoint import Endpoint, Prepared

NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
MAC, LEARNED, NEIGH = "52:54:00:65:00:02", "52:54:00:65:00:03", "52:54:00:65:00:04"
IP = ip_address("10.65.0.2")
LINK = Link(7, "tap0", "ee:ee:ee:ee:ee:ee", up=True)
REFUSED = Unplaced(EndpointReason.INTERFACE_REFUSED, "it is the node's own")
UNKNOWN = Unplaced(EndpointReason.INTERFACE_NOT_FOUND, "there is none")
CALICO = "cali7a557fa712c"
"""As Calico names the device of pod ``default/vm``: by the SHA-1 of ``default.vm``."""
TARGET = Assignment(Role.TARGET, "m", "uid-1")
MACHINE = Machine(State.TARGET, 7, NOW, TARGET, uid="uid-1")
LIVE = dataclasses.replace(MACHINE, state=State.LIVE)


def build(machine: Machine = MACHINE, name: str = "vm", **known: Any) -> Endpoint:
    """Return an endpoint on tap0; what is *known* may be its spec's or its own."""
    spec = {"node": "n", "workload": "vm", "ips": ["10.65.0.2"]}
    spec |= {field: known.pop(field) for field in ("mac", "interface") if field in known}
    metadata = {"name": name, "namespace": "default", "uid": "u", "resourceVersion": "1"}
    obj = WorkloadEndpoint.model_validate({"metadata": metadata, "spec": spec})
    admission = Admission((IP,), {})
    return Endpoint(obj, machine, known.pop("placement", LINK), admission, **known)


def asking(cause: Input, before: Machine) -> Machine:
    return dataclasses.replace(before, state=State.ASKING, asking=Asking(cause, before))


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (build(interface="tap0"), ("tap0",)),
        (build(), (CALICO,)),
        (build(name="vm.net1"), ()),
    ],
    ids=["named", "as Calico does", "of a further network"],
)
def test_an_endpoint_knows_the_names_of_its_interface(
    of: Endpoint, expected: tuple[str, ...]
) -> None:
    assert of.interface_names == expected


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (build(), None),
        (build(neigh_mac=NEIGH), None),
        (build(learned_mac=LEARNED, neigh_mac=NEIGH), LEARNED),
        (build(mac=MAC, learned_mac=LEARNED), MAC),
    ],
)
def test_its_object_knows_the_guests_mac_best_and_the_kernel_not_at_all(
    of: Endpoint, expected: str | None
) -> None:
    assert of.mac == expected


def test_the_network_is_told_what_decides_the_routes() -> None:
    local = build(asking(Input.ABORTED, LIVE), mac=MAC).local(Settings())
    assert (local.state, local.level, local.link) == (State.LIVE, RouteLevel.ELEVATED, LINK)
    assert (local.addresses, local.mac, local.is_owned) == ((IP,), MAC, True)


@pytest.mark.parametrize(("placement", "expected"), [(LINK, 0), (REFUSED, 1), (UNKNOWN, 0)])
def test_an_interface_that_is_refused_is_more_than_one_that_is_unknown(
    placement: Link | Unplaced, expected: int
) -> None:
    assert build(placement=placement).local(Settings()).is_refused is bool(expected)


@pytest.mark.parametrize(
    "of", [build(LIVE), build(placement=UNKNOWN)], ids=["state", "no interface"]
)
def test_where_nothing_is_to_be_heard_nobody_listens(of: Endpoint) -> None:
    assert of.listen_spec(Settings()) is None


def test_a_target_that_is_not_armed_is_not_asked_and_believes_a_rarp_alone() -> None:
    unarmed = dataclasses.replace(MACHINE, assignment=dataclasses.replace(TARGET, armed=False))
    for machine, is_armed in ((MACHINE, True), (unarmed, False)):
        spec = build(machine, mac=MAC).listen_spec(Settings())
        assert spec
        assert (spec.armed, spec.interval > 0) == (is_armed, is_armed)
        assert (spec.episode, spec.state, spec.mac) == (7, State.TARGET, MAC)


@pytest.mark.parametrize(("mode", "is_mute"), [("active", False), ("observe", True)])
def test_nobody_is_asked_unless_the_agent_is_active(mode: str, *, is_mute: bool) -> None:
    spec = build(mac=MAC).listen_spec(Settings.model_validate({"mode": mode}))
    assert spec
    assert spec.is_mute is is_mute


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (build(neigh_mac=NEIGH), NEIGH),
        (build(mac=MAC, neigh_mac=NEIGH), None),
        (build(asking(Input.ABORTED, LIVE), mac=MAC, neigh_mac=NEIGH), NEIGH),
        (build(asking(Input.ABORTED, MACHINE), mac=MAC, neigh_mac=NEIGH), None),
        (build(asking(Input.TARGET, LIVE), mac=MAC, neigh_mac=NEIGH), None),
    ],
    ids=["mac unknown", "mac known", "routes at stake", "no routes", "decides for a target"],
)
def test_whom_the_kernel_knows_is_asked_where_that_can_only_keep_routes(
    of: Endpoint, expected: str | None
) -> None:
    spec = of.listen_spec(Settings())
    assert spec
    assert spec.hint == expected


def test_a_restart_finds_where_it_stood_and_which_interface_it_had() -> None:
    kept = build(LIVE, learned_mac=LEARNED).record()
    assert isinstance(kept, Record)
    assert kept.remembered
    assert (kept.remembered.state, kept.remembered.uid) == (State.LIVE, "uid-1")
    assert (kept.interface, kept.learned_mac) == ("tap0", LEARNED)
    assert build(placement=UNKNOWN).record().interface is None


def test_what_is_prepared_has_routes_and_neighbors() -> None:
    route = Route(IP, 7, 512, 254, 88)
    assert Prepared((b"neighbor", b"route"), (None, route)).routes == (route,)
