"""What is listened for, what the guest is asked, and when another socket is needed."""

import dataclasses
from ipaddress import ip_address
from typing import Any

import pytest

from handover_api.workloadendpoint import State
from handover_nodeagent.network.model import Link
from handover_nodeagent.sniff import arp_nd_questions
from handover_nodeagent.sniff.arp_nd_questions import Parties, Questions
from handover_nodeagent.sniff.listen_spec import ListenSpec

MAC, OTHER = "52:54:00:65:00:02", "52:54:00:65:00:99"
IP, IP6 = ip_address("10.65.0.2"), ip_address("fd00:65::2")
LINK_LOCAL = ip_address("fe80::7")
LINK = Link(7, "tap0", "ee:ee:ee:ee:ee:ee", up=True)
SPEC = ListenSpec(LINK, (IP, IP6), (), MAC, True, State.TARGET, 3, 0.2)  # noqa: FBT003


def asked(mac: str | None, own: Any = None, witness: str | None = None) -> Questions:
    """Compose what is asked by hand."""
    return arp_nd_questions.compose(Parties(mac, LINK.mac, own, witness), (IP, IP6), ())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, asked(MAC)),
        ({"mac": None}, asked(None)),
        ({"mac": None, "hint": OTHER}, asked(OTHER)),
        ({"hint": OTHER}, asked(MAC, witness=OTHER)),
        ({"hint": MAC}, asked(MAC)),
        ({"is_mute": True}, Questions()),
    ],
    ids=["told", "unknown", "by the kernel's word", "beside the object's", "the same", "mute"],
)
def test_the_guest_is_asked_by_the_mac_that_is_known(
    changes: dict[str, Any], expected: Questions
) -> None:
    assert dataclasses.replace(SPEC, **changes).compose() == expected


def test_a_link_local_address_of_the_link_asks_in_ipv6() -> None:
    addresses = frozenset({ip_address("192.0.2.1"), ip_address("fd00::7"), LINK_LOCAL})
    link = dataclasses.replace(LINK, addresses=addresses)
    assert dataclasses.replace(SPEC, link=link).compose() == asked(MAC, LINK_LOCAL)


def test_an_announcement_is_judged_by_the_same_guest_and_who_asked_it() -> None:
    spec = dataclasses.replace(SPEC, armed=False, mac=None, hint=OTHER)
    expected = spec.expectation(spec.compose())
    assert (expected.mac, expected.armed) == (None, False)
    assert expected == dataclasses.replace(SPEC, armed=False, mac=None, hint=OTHER).expectation(
        asked(OTHER)
    )


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (LINK, LINK, False),
        (LINK, dataclasses.replace(LINK, index=8), True),
        (LINK, dataclasses.replace(LINK, mac="ee:ee:ee:ee:ee:00"), False),
        (dataclasses.replace(LINK, up=False), LINK, True),
        (LINK, dataclasses.replace(LINK, up=False), False),
    ],
    ids=["same", "another", "another MAC", "came up", "went down"],
)
def test_another_link_or_one_that_comes_up_needs_another_socket(
    before: Link, now: Link, *, expected: bool
) -> None:
    spec = dataclasses.replace(SPEC, link=now, episode=4)
    assert spec.needs_new_socket(dataclasses.replace(SPEC, link=before)) is expected


@pytest.mark.parametrize(
    ("changes", "is_other"),
    [
        ({"episode": 4, "armed": False, "state": State.ASKING, "interval": 0.0}, False),
        ({"mac": OTHER}, True),
        ({"hint": OTHER}, True),
        ({"addresses": (IP,)}, True),
        ({"gateways": (LINK_LOCAL,)}, True),
        ({"is_mute": True}, True),
    ],
)
def test_questions_are_made_anew_when_their_parties_are_others(
    changes: dict[str, Any], *, is_other: bool
) -> None:
    assert (dataclasses.replace(SPEC, **changes).parties != SPEC.parties) is is_other
