"""A frame as a line: what it says and would prove, and nothing that could break the command."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.nodeagent.sniff.conftest import GARP, NA, RARP

from handover_nodeagent.commands import frame_lines
from handover_nodeagent.sniff.verdict import Expectation, Reason

GUEST = "52:54:00:65:00:02"
EXPECTED = Expectation.of(GUEST, [ip_address("10.65.0.2"), ip_address("fd00:65::2")])
LINES = {
    "RARP": (RARP, f"RARP reverse request from 0.0.0.0 at {GUEST} to 0.0.0.0 at {GUEST}"),
    "gratuitous ARP": (GARP, f"ARP request from 10.65.0.2 at {GUEST} to 10.65.0.2 at "),
    "ARP reply": (GARP[:21] + b"\x02" + GARP[22:], "ARP reply from 10.65.0.2"),
    "strange operation": (GARP[:21] + b"\x09" + GARP[22:], "ARP operation 9 from 10.65.0.2"),
    "strange lengths": (GARP[:18] + b"\x08" + GARP[19:], "ARP of another kind [0001080008"),
    "NA": (NA, "neighbor advertisement (override) for fd00:65::2"),
    "priority tag": (
        GARP[:12] + b"\x81\x00\x00\x00" + GARP[12:],
        "EtherType 0x8100 [0000080600010800060400015254006500020a410002",
    ),
    "cut short": (GARP[:30], "EtherType 0x0806 [00010800060400015254006500020a41], 30 bytes"),
    "hardly anything": (b"\x01\x02", "[0102], 2 bytes"),
}


@pytest.mark.parametrize(("octets", "expected"), LINES.values(), ids=LINES.keys())
def test_each_frame_is_a_line(octets: bytes, expected: str) -> None:
    assert expected in frame_lines.describe(octets)


def test_a_line_says_who_sends_to_whom_and_how_long_it_is() -> None:
    line = frame_lines.describe(GARP)
    assert line.startswith(f"{GUEST} > ff:ff:ff:ff:ff:ff ARP ")
    assert line.endswith(f", {len(GARP)} bytes")


@given(st.sampled_from([GARP, NA, RARP, b""]), st.integers(0, 90), st.binary(max_size=120))
def test_no_bytes_raise_and_no_line_is_long(base: bytes, length: int, rest: bytes) -> None:
    line = frame_lines.describe(base[:length] + rest)
    assert "\n" not in line
    assert len(line) < 300


def test_the_longest_frame_is_one_short_line() -> None:
    assert len(frame_lines.describe(bytes(9000))) < 300


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (RARP, "YES: RARP of 52:54:00:65:00:02"),
        (GARP, "YES: GratuitousARP of 52:54:00:65:00:02"),
        (NA, "maybe: it counts once the guest answers a probe"),
        (GARP[:28] + bytes(14), "no: it is no announcement, or broken"),
        (GARP[:31] + b"\x09" + GARP[32:41] + b"\x09", "no: its address is none of the endpoint's"),
        (b"", "no: it is no announcement, or broken"),
    ],
)
def test_each_frame_is_explained(octets: bytes, expected: str) -> None:
    assert frame_lines.explain(EXPECTED, octets) == expected


@given(st.binary(max_size=100))
def test_no_octets_whatever_are_left_unexplained(octets: bytes) -> None:
    assert frame_lines.explain(EXPECTED, octets).startswith(("YES: ", "maybe: ", "no: "))


def test_each_reason_has_a_sentence() -> None:
    assert set(frame_lines.SENTENCES) == set(Reason)
