"""The acceptance table of the announcements, row by row."""

import dataclasses
from ipaddress import ip_address

import pytest

from handover_api.workloadendpoint import Signal
from handover_nodeagent.sniff.frames import Frame, Kind
from handover_nodeagent.sniff.verdict import (
    Accepted,
    Expectation,
    NeedsConfirmation,
    Reason,
    Rejected,
    Verdict,
    judge,
)

MAC = bytes.fromhex("525400650002")
OTHER = bytes.fromhex("525400650003")
GROUP = bytes.fromhex("535400650002")
IP = bytes([10, 65, 0, 2])
IP6 = ip_address("fd00:65::2").packed
GATEWAY = ip_address("169.254.1.1").packed
GATEWAY6 = ip_address("fe80::1").packed

ARMED = Expectation.of(
    "52:54:00:65:00:02",
    [ip_address("10.65.0.2"), ip_address("fd00:65::2")],
    askers=[ip_address("169.254.1.1"), ip_address("fe80::1")],
)
UNARMED = dataclasses.replace(ARMED, armed=False)
NO_MAC = dataclasses.replace(ARMED, mac=None)
NO_MAC_UNARMED = dataclasses.replace(ARMED, mac=None, armed=False)
HINTED = dataclasses.replace(ARMED, mac=None, hint=MAC)
WITNESSED = dataclasses.replace(ARMED, hint=OTHER)
ADVERTISED = dataclasses.replace(ARMED, advertised=True)

RARP = Frame(Kind.RARP, MAC, MAC)
GARP = Frame(Kind.GRATUITOUS_ARP, MAC, MAC, IP)
NA = Frame(Kind.UNSOLICITED_NA, MAC, MAC, IP6)
ARP_ANSWER = Frame(Kind.ARP_ANSWER, MAC, MAC, IP, GATEWAY)
NA_ANSWER = Frame(Kind.SOLICITED_NA, MAC, MAC, IP6, GATEWAY6)

PROBE = Accepted(Signal.PROBE, MAC, is_answer=True)
CONFIRMED = Accepted(Signal.NEIGHBOR_ADVERTISEMENT, MAC, is_answer=True)
FORGED = Rejected(Reason.FORGED_SENDER)
OTHER_MAC = Rejected(Reason.OTHER_MAC)

TABLE: dict[str, tuple[Expectation, Frame, Verdict]] = {
    "RARP": (ARMED, RARP, Accepted(Signal.RARP, MAC)),
    "RARP, not armed": (UNARMED, RARP, Accepted(Signal.RARP, MAC)),
    "RARP teaches the MAC": (NO_MAC, RARP, Accepted(Signal.RARP, MAC)),
    "RARP teaches the MAC, not armed": (NO_MAC_UNARMED, RARP, Accepted(Signal.RARP, MAC)),
    "RARP of another": (ARMED, RARP._replace(source=OTHER, claimed=OTHER), OTHER_MAC),
    "RARP for another": (ARMED, RARP._replace(claimed=OTHER), FORGED),
    "RARP of a group": (NO_MAC, Frame(Kind.RARP, GROUP, GROUP), FORGED),
    "RARP of nobody": (NO_MAC, Frame(Kind.RARP, bytes(6), bytes(6)), FORGED),
    "GARP": (ARMED, GARP, Accepted(Signal.GRATUITOUS_ARP, MAC)),
    "GARP, not armed": (UNARMED, GARP, Rejected(Reason.NOT_ARMED)),
    "GARP, MAC unknown": (NO_MAC, GARP, Rejected(Reason.UNKNOWN_MAC)),
    "GARP of another": (ARMED, GARP._replace(source=OTHER, claimed=OTHER), OTHER_MAC),
    "GARP sent by another": (ARMED, GARP._replace(source=OTHER), FORGED),
    "GARP for another's MAC": (ARMED, GARP._replace(claimed=OTHER), FORGED),
    "GARP for another address": (
        ARMED,
        GARP._replace(address=GATEWAY),
        Rejected(Reason.OTHER_ADDRESS),
    ),
    "NA": (ARMED, NA, NeedsConfirmation(IP6)),
    "NA again": (ADVERTISED, NA, NeedsConfirmation(IP6)),
    "NA, not armed": (UNARMED, NA, Rejected(Reason.NOT_ARMED)),
    "NA, MAC unknown": (NO_MAC, NA, Rejected(Reason.UNKNOWN_MAC)),
    "NA of another": (ARMED, NA._replace(source=OTHER, claimed=OTHER), OTHER_MAC),
    "NA without its MAC": (ARMED, NA._replace(claimed=b""), FORGED),
    "NA for another address": (
        ARMED,
        NA._replace(address=GATEWAY6),
        Rejected(Reason.OTHER_ADDRESS),
    ),
    "answer": (ARMED, ARP_ANSWER, PROBE),
    "answer, not armed": (UNARMED, ARP_ANSWER, Rejected(Reason.NOT_ARMED)),
    "answer, MAC unknown": (NO_MAC, ARP_ANSWER, Rejected(Reason.UNKNOWN_MAC)),
    "answer of another": (ARMED, ARP_ANSWER._replace(source=OTHER, claimed=OTHER), OTHER_MAC),
    "answer sent by another": (ARMED, ARP_ANSWER._replace(source=OTHER), FORGED),
    "answer to another": (ARMED, ARP_ANSWER._replace(asker=IP), Rejected(Reason.NOT_OUR_PROBE)),
    "answer for another address": (
        ARMED,
        ARP_ANSWER._replace(address=GATEWAY),
        Rejected(Reason.OTHER_ADDRESS),
    ),
    "answer after an NA": (ADVERTISED, ARP_ANSWER, CONFIRMED),
    "IPv6 answer": (ARMED, NA_ANSWER, PROBE),
    "IPv6 answer, not armed": (UNARMED, NA_ANSWER, Rejected(Reason.NOT_ARMED)),
    "IPv6 answer without its MAC": (ARMED, NA_ANSWER._replace(claimed=b""), FORGED),
    "IPv6 answer to another": (
        ARMED,
        NA_ANSWER._replace(asker=IP6),
        Rejected(Reason.NOT_OUR_PROBE),
    ),
    "IPv6 answer after an NA": (ADVERTISED, NA_ANSWER, CONFIRMED),
    "RARP of another than the hint": (
        HINTED,
        RARP._replace(source=OTHER, claimed=OTHER),
        Accepted(Signal.RARP, OTHER),
    ),
    "GARP of the hint": (HINTED, GARP, Accepted(Signal.GRATUITOUS_ARP, MAC)),
    "GARP of another than the hint": (
        HINTED,
        GARP._replace(source=OTHER, claimed=OTHER),
        OTHER_MAC,
    ),
    "answer of the hint": (HINTED, ARP_ANSWER, PROBE),
    "answer of the guest beside a witness": (WITNESSED, ARP_ANSWER, PROBE),
    "answer of a witness": (
        WITNESSED,
        ARP_ANSWER._replace(source=OTHER, claimed=OTHER),
        PROBE._replace(source=OTHER),
    ),
    "IPv6 answer of a witness": (
        WITNESSED,
        NA_ANSWER._replace(source=OTHER, claimed=OTHER),
        PROBE._replace(source=OTHER),
    ),
    "RARP of a witness": (WITNESSED, RARP._replace(source=OTHER, claimed=OTHER), OTHER_MAC),
    "GARP of a witness": (WITNESSED, GARP._replace(source=OTHER, claimed=OTHER), OTHER_MAC),
    "NA of a witness": (WITNESSED, NA._replace(source=OTHER, claimed=OTHER), OTHER_MAC),
    "answer of a third beside a witness": (
        dataclasses.replace(WITNESSED, hint=b"\x02" + OTHER[1:]),
        ARP_ANSWER._replace(source=OTHER, claimed=OTHER),
        OTHER_MAC,
    ),
    "answer of another, not armed": (
        UNARMED,
        ARP_ANSWER._replace(source=OTHER, claimed=OTHER),
        OTHER_MAC,
    ),
    "answer of a witness, not armed": (
        dataclasses.replace(WITNESSED, armed=False),
        ARP_ANSWER._replace(source=OTHER, claimed=OTHER),
        Rejected(Reason.NOT_ARMED),
    ),
    "answer of the hint, not armed": (
        dataclasses.replace(HINTED, armed=False),
        ARP_ANSWER,
        Rejected(Reason.NOT_ARMED),
    ),
}


@pytest.mark.parametrize(("expected", "frame", "verdict"), TABLE.values(), ids=TABLE.keys())
def test_every_row_of_the_acceptance_table(
    expected: Expectation, frame: Frame, verdict: Verdict
) -> None:
    assert judge(expected, frame) == verdict


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("unarmed", [UNARMED, NO_MAC_UNARMED])
def test_nothing_but_a_rarp_counts_while_not_armed(kind: Kind, unarmed: Expectation) -> None:
    frame = Frame(kind, MAC, MAC, IP, GATEWAY)
    assert (kind is Kind.RARP) == isinstance(judge(unarmed, frame), Accepted)


def test_a_taught_mac_is_expected_afterwards() -> None:
    taught = judge(NO_MAC, RARP)
    assert isinstance(taught, Accepted)
    assert taught.mac == "52:54:00:65:00:02"
    assert NO_MAC.knowing(taught.source) == ARMED
    other = dataclasses.replace(HINTED, hint=OTHER)
    assert other.knowing(taught.source) == ARMED


def test_a_hint_is_who_may_answer_where_nobody_told_the_mac() -> None:
    assert Expectation.of(None, [], hint="52:54:00:65:00:02").known == MAC
    assert Expectation.of("52:54:00:65:00:03", [], hint="52:54:00:65:00:02").known == OTHER
    assert Expectation.of(None, []).known is None


def test_a_witness_is_another_than_the_guest_whose_mac_was_told() -> None:
    assert WITNESSED.witness == OTHER
    assert dataclasses.replace(ARMED, hint=MAC).witness is None
    assert HINTED.witness is None
    assert ARMED.witness is None


def test_an_expectation_without_a_mac_can_be_made() -> None:
    assert Expectation.of(None, []) == Expectation(None, frozenset())


@pytest.mark.parametrize("armed", [True, False])
def test_an_expectation_has_all_that_it_was_made_of(armed: bool) -> None:  # noqa: FBT001
    made = Expectation.of(None, [], askers=[ip_address("fe80::1")], armed=armed)
    assert made == Expectation(None, frozenset(), frozenset({GATEWAY6}), armed)


def test_a_rarp_answers_nothing() -> None:
    assert judge(ARMED, RARP) == Accepted(Signal.RARP, MAC, is_answer=False)
