"""What an endpoint's status says: each condition with its reason, and since when."""

import dataclasses
import datetime as dt
from ipaddress import ip_address
from typing import Any

import pytest

from handover_api import names
from handover_api.assignment import Assignment
from handover_api.conditions import EndpointReason
from handover_api.configuration import Settings
from handover_api.livemigration import Outcome
from handover_api.model import Condition
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role, State, WorkloadEndpoint, WorkloadEndpointStatus
from handover_nodeagent.fsm.events import Input
from handover_nodeagent.fsm.machine import Doubt, Machine
from handover_nodeagent.network.admission import Admission
from handover_nodeagent.network.model import Link, Route
from handover_nodeagent.network.placement import Unplaced
from handover_nodeagent.status import conditions
from handover_nodeagent.status.conditions import Facts

NOON = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
LATER = NOON + dt.timedelta(minutes=5)
V4, V6 = ip_address("10.65.0.2"), ip_address("fd00:65::2")
TAP = Link(7, "tap0", "ee:ee:ee:ee:ee:ee", up=True)
ENDPOINT = WorkloadEndpoint.model_validate(
    {
        "metadata": {
            "name": "vm",
            "namespace": "default",
            "uid": "u",
            "resourceVersion": "1",
            "generation": 3,
        },
        "spec": {"node": "n", "workload": "vm", "ips": [str(V4), str(V6)]},
    }
)
TARGET = Assignment(Role.TARGET, "m", "m1")
BASE = Facts(
    ENDPOINT,
    Machine(State.BASE, 1, NOON, Assignment()),
    TAP,
    Admission((V4, V6), {}),
    Settings(),
    routes=(Route(V6, 7, 1024, 254, 88), Route(V4, 7, 1024, 254, 88)),
)
LISTENING = dataclasses.replace(
    BASE, machine=Machine(State.TARGET, 1, NOON, TARGET, "m1"), routes=(), has_listener=True
)
DOUBTING = dataclasses.replace(BASE.machine, doubt=Doubt(Input.LEFT, NOON, dt.timedelta(seconds=1)))
UNASKED = dataclasses.replace(
    BASE.machine, doubt=Doubt(Input.LEFT, NOON, dt.timedelta(seconds=1), is_heard=False)
)
NOWHERE = Unplaced(EndpointReason.INTERFACE_NOT_FOUND, "no interface tap0")


def stated(of: Facts, before: tuple[Condition, ...] = ()) -> dict[str, Condition]:
    """Return what is said five minutes later."""
    return {one.type: one for one in conditions.status(of, before, LATER).conditions}


@pytest.mark.parametrize(
    ("of", "changes", "kind", "expected"),
    [
        (BASE, {}, "Programmed", ("True", "Programmed", "")),
        (BASE, {}, "Listening", ("False", "NotNeeded", "")),
        (BASE, {}, "Configured", ("True", "Accepted", "")),
        (LISTENING, {}, "Programmed", ("True", "Suppressed", "no route before the guest")),
        (LISTENING, {}, "Listening", ("True", "Listening", "")),
        (
            LISTENING,
            {"has_listener": False, "cannot_listen": "CAP_NET_RAW is missing"},
            "Listening",
            ("False", "CannotListen", "CAP_NET_RAW is missing"),
        ),
        (
            LISTENING,
            {"has_listener": False, "placement": NOWHERE},
            "Listening",
            ("False", "InterfaceNotFound", "no interface tap0"),
        ),
        (BASE, {"placement": NOWHERE}, "Programmed", ("False", "InterfaceNotFound", "no interf")),
        (BASE, {"refusals": ("a: busy", "b: full")}, "Programmed", ("False", "Refused", "a: bus")),
        (BASE, {"shadowed_by": "x wins"}, "Programmed", ("False", "Shadowed", "x wins")),
        (BASE, {"is_owned": False}, "Programmed", ("False", "NotOwned", "routeOwnership is migr")),
        (
            BASE,
            {"settings": Settings.model_validate({"mode": "paused"})},
            "Programmed",
            ("False", "NotActive", "the agent's mode is paused"),
        ),
        (
            dataclasses.replace(LISTENING, has_listener=False),
            {"settings": Settings.model_validate({"mode": "paused"})},
            "Listening",
            ("False", "NotActive", "the agent's mode is paused"),
        ),
        *(
            (
                dataclasses.replace(LISTENING, has_listener=False),
                {"is_paused": True},
                kind,
                ("False", "NotActive", "namespace default is paused, by its annotation handover"),
            )
            for kind in ("Programmed", "Listening")
        ),
        (
            BASE,
            {"is_handed_back": True},
            "Programmed",
            ("False", "HandedBack", "an uninstall asked for the node; our route to "),
        ),
        (
            dataclasses.replace(BASE, routes=()),
            {"is_handed_back": True},
            "Programmed",
            ("False", "HandedBack", "an uninstall asked for the node"),
        ),
        (
            BASE,
            {"internal_error": "follow: ValueError: no"},
            "Programmed",
            ("False", "InternalError", "follow: ValueError: no"),
        ),
        (
            BASE,
            {"misconfigured": "environment: no"},
            "Configured",
            ("False", "Invalid", "environment: no"),
        ),
        (
            BASE,
            {"machine": DOUBTING},
            "StillAlive",
            ("True", "GuestAnswers", "the migration says that the guest is gone, but it answers"),
        ),
        (
            BASE,
            {"machine": UNASKED},
            "StillAlive",
            ("Unknown", "CannotAsk", "the migration says that the guest is gone, but it cannot be"),
        ),
        (
            BASE,
            {"admission": Admission((V4,), {V6: "fd00:65::2 is the node's own"})},
            "AddressNotAllowed",
            ("True", "NotAllowed", "fd00:65::2 is the node's own"),
        ),
        (
            BASE,
            {"sharers": {V4: (ObjectKey("a", "b"), ObjectKey("c", "d"))}},
            "AddressShared",
            ("True", "Shared", "10.65.0.2 is also named by a/b, c/d"),
        ),
        (
            BASE,
            {"routes": BASE.routes[:1]},
            "Programmed",
            ("False", "Pending", "the route to 10.65.0.2 is not in"),
        ),
        (
            BASE,
            {"routes": BASE.routes[:1], "sharers": {V4: (ObjectKey("a", "b"),)}},
            "Programmed",
            ("False", "Shared", "the route to 10.65.0.2 is another endpoint's"),
        ),
        (
            BASE,
            {"admission": Admission((), {V4: "no", V6: "no"}), "routes": ()},
            "Programmed",
            ("False", "NotAllowed", "none of its addresses is allowed"),
        ),
        (
            LISTENING,
            {"routes": BASE.routes[1:]},
            "Programmed",
            ("False", "Pending", "a route to 10.65.0.2 is still in"),
        ),
        (
            BASE,
            {"placement": dataclasses.replace(TAP, carrier=False)},
            "Programmed",
            ("False", "LinkDown", "interface tap0 has no carrier: nobody is at its other end"),
        ),
        (
            LISTENING,
            {"placement": dataclasses.replace(TAP, carrier=False)},
            "Programmed",
            ("True", "Suppressed", "no route before the guest"),
        ),
        (
            BASE,
            {"unguarded": (EndpointReason.GUARD_CONTESTED, "somebody")},
            "Unguarded",
            ("True", "GuardContested", "somebody"),
        ),
        *(
            (BASE, {fact: (holds, reason, "so")}, kind, (str(holds), reason.value, "so"))
            for fact, kind in (("redirectable", "Redirectable"), ("holding", "Holding"))
            for holds, reason in ((True, EndpointReason.READY), (False, EndpointReason.OFF))
        ),
        (BASE, {"interface_doubt": "odd"}, "InterfaceDoubted", ("True", "WouldBeRefused", "odd")),
        (LISTENING, {"is_overdue": True}, "TargetTimeout", ("True", "NotAnnounced", "no announce")),
        (BASE, {"is_advertised": True}, "Advertised", ("True", "Advertised", "")),
        (
            BASE,
            {"is_advertised": True, "strict_devices": frozenset({"flannel.1"})},
            "Advertised",
            ("False", "StrictReversePath", "rp_filter is strict on flannel.1, by which other"),
        ),
        (
            BASE,
            {"is_advertised": True, "unreachable": ("c",)},
            "Advertised",
            ("False", "NoNextHop", "no next hop leads to node c"),
        ),
    ],
)  # fmt: skip
def test_what_is_so_is_said_with_its_reason(
    of: Facts, changes: dict[str, Any], kind: str, expected: tuple[str, str, str]
) -> None:
    found = stated(dataclasses.replace(of, **changes))[kind]
    assert (found.status, found.reason) == expected[:2]
    assert found.message.startswith(expected[2])
    assert bool(found.message) == bool(expected[2])
    assert found.observed_generation == 3


def test_what_is_wrong_only_now_and_then_is_not_said_while_it_is_not() -> None:
    assert list(stated(BASE)) == ["Programmed", "Listening", "Configured"]


def test_a_problem_of_the_mode_goes_before_one_of_the_kernel() -> None:
    """What a person would have to change first."""
    both = dataclasses.replace(
        BASE,
        refusals=("busy",),
        placement=NOWHERE,
        settings=Settings.model_validate({"mode": "observe"}),
    )
    assert stated(both)["Programmed"].reason == "NotActive"


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    before = conditions.status(BASE, (), NOON).conditions
    refused = dataclasses.replace(BASE, refusals=("busy",))
    assert stated(BASE, before)["Programmed"].last_transition_time == NOON
    assert stated(refused, before)["Programmed"].last_transition_time == LATER
    was_refused = conditions.status(refused, (), NOON).conditions
    shadowed = dataclasses.replace(BASE, shadowed_by="x")
    again = stated(shadowed, was_refused)["Programmed"]
    assert (again.last_transition_time, again.reason) == (NOON, "Shadowed")


def test_routes_are_told_in_one_order_however_they_came() -> None:
    status = conditions.status(BASE, (), NOON)
    assert [route.address for route in status.routes] == [V4, V6]
    assert status == conditions.status(
        dataclasses.replace(BASE, routes=BASE.routes[::-1]), (), NOON
    )


def test_the_deadline_of_a_time_wait_is_told_and_no_other_timers() -> None:
    ended = Assignment(None, "m", "m1", outcome=Outcome.SUCCEEDED, ended_role=Role.TARGET)
    waiting = dataclasses.replace(BASE, machine=Machine(State.TIME_WAIT, 1, NOON, ended, "m1"))
    assert conditions.status(waiting, (), LATER).deadline == NOON + dt.timedelta(seconds=30)
    doubting = dataclasses.replace(BASE, machine=DOUBTING)
    assert conditions.status(doubting, (), NOON).deadline is None


def test_a_time_wait_in_doubt_has_no_deadline() -> None:
    ended = Assignment(None, "m", "m1", outcome=Outcome.ABORTED, ended_role=Role.TARGET)
    doubt = Doubt(Input.ABORTED, NOON, dt.timedelta(seconds=1))
    waiting = Machine(State.TIME_WAIT, 1, NOON, ended, "m1", doubt=doubt)
    status = conditions.status(dataclasses.replace(BASE, machine=waiting), (), LATER)
    assert status.deadline is None
    assert [(c.status, c.reason) for c in status.conditions if c.type == "StillAlive"] == [
        ("True", "GuestAnswers")
    ]


def test_a_status_says_what_was_acted_upon() -> None:
    status = conditions.status(LISTENING, (), NOON)
    expected = WorkloadEndpointStatus(
        state=State.TARGET,
        since=NOON,
        role=Role.TARGET,
        migration_uid="m1",
        interface="tap0",
        conditions=status.conditions,
    )
    assert status == expected
    unplaced = dataclasses.replace(LISTENING, placement=NOWHERE)
    assert conditions.status(unplaced, (), NOON).interface is None


def test_a_message_stays_short_whatever_many_endpoints_share() -> None:
    """Else the API server refuses the whole status, for ever (32 KiB of one message)."""
    crowd = tuple(ObjectKey("n" * 60, f"{number}" * 60) for number in range(300))
    many = {ip_address(f"10.65.0.{number}"): crowd for number in range(16)}
    said = stated(dataclasses.replace(BASE, sharers=many, refusals=("x" * 9000,)))
    assert " and 295 more" in said["AddressShared"].message
    assert max(len(one.message) for one in said.values()) <= 2048


def test_what_the_operator_sees_of_another_node_is_a_condition() -> None:
    text = "10.0.0.1 is also served by default/b on node-b"
    metadata = BASE.endpoint.metadata
    noted = metadata.model_copy(
        update={"annotations": {**metadata.annotations, names.ADDRESS_SHARED: text}}
    )
    endpoint = BASE.endpoint.model_copy(update={"metadata": noted})
    said = stated(dataclasses.replace(BASE, endpoint=endpoint))["AddressShared"]
    assert (said.status, said.reason, said.message) == ("True", "ServedElsewhere", text)


def test_a_status_tells_whether_others_are_told() -> None:
    for is_advertised in (True, False, None):
        facts = dataclasses.replace(BASE, is_advertised=is_advertised)
        assert conditions.status(facts, (), NOON).advertised is is_advertised
    # Who is not advertised has no condition of it, whatever the node is like.
    facts = dataclasses.replace(BASE, is_advertised=False, strict_devices=frozenset({"x"}))
    assert "Advertised" not in {one.type for one in conditions.status(facts, (), NOON).conditions}


def test_a_device_is_named_as_sysctl_writes_it() -> None:
    strict = frozenset({"flannel.1", "eth1"})
    facts = dataclasses.replace(BASE, is_advertised=True, strict_devices=strict)
    told = [
        one for one in conditions.status(facts, (), NOON).conditions if one.type == "Advertised"
    ]
    assert told[0].message.endswith(
        "set net.ipv4.conf.eth1.rp_filter, net.ipv4.conf.flannel/1.rp_filter to 2"
    )
