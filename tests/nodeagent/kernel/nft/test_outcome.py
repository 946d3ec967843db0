"""What came of asking nftables, said to a person in a condition."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_api import wording
from handover_nodeagent.kernel.nft import outcome
from handover_nodeagent.kernel.nft.outcome import DONE, Answer, Outcome


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(b"{}"), DONE),
        (Answer(trouble="no such table"), Outcome("no such table")),
        (
            Answer(trouble="libnftables died", is_lost=True),
            Outcome("libnftables died; the ARP guard is off", is_lost=True),
        ),
    ],
)
def test_only_a_lost_library_turns_the_guard_off(answer: Answer, expected: Outcome) -> None:
    assert outcome.judge(answer, "the ARP guard") == expected


def test_of_many_refusals_a_few_are_named_each_once() -> None:
    assert outcome.join(["", ""]) == DONE
    assert outcome.join(["b", "", "a", "b"]) == Outcome("b; a")
    many = outcome.join(map(str, range(50))).trouble
    assert many == "; ".join(map(str, range(wording.FEW)))


def test_an_interface_that_nft_cannot_name_is_named_to_a_person() -> None:
    assert outcome.unnamed(["tap0", "veth.1"]) == DONE
    expected = """nftables cannot name interface 'a"b'"""
    assert outcome.unnamed(["tap0", 'a"b']) == Outcome(expected)


@pytest.mark.parametrize(
    ("buffer", "expected"),
    [
        (b"", "nftables gave no reason"),
        (b"<cmdline>:1:1-30: Error: No such file\nadd rule x\n^^^\n", "No such file"),
        (b"netlink: Error: cache initialization failed: x\n", "cache initialization failed: x"),
        (b"Error: a sentence: with a colon", "a sentence: with a colon"),
        (b"\xff", "\ufffd"),
    ],
)
def test_a_complaint_is_its_first_line_without_the_place(buffer: bytes, expected: str) -> None:
    assert outcome.complaint(buffer) == expected


@given(st.binary(max_size=2000))
def test_a_complaint_is_one_short_line_whatever_the_library_writes(buffer: bytes) -> None:
    assert len(outcome.complaint(buffer)) <= outcome.LAST_WORDS
    assert len(outcome.complaint(buffer).splitlines()) <= 1


@pytest.mark.parametrize(
    ("status", "words", "expected"),
    [
        (-signal.SIGSEGV, b"x", "libnftables died of SIGSEGV: a table that a newer nft made"),
        (-signal.SIGABRT, b"", "libnftables died of SIGABRT: a table that a newer nft made"),
        (-signal.SIGKILL, b"x", "libnftables was ended by SIGKILL"),
        (1, b"first\nno nf_tables\n", "libnftables ended itself: no nf_tables"),
        (3, b" \n", "libnftables ended itself: status 3"),
    ],
)
def test_a_process_is_said_to_have_ended_by_itself_or_by_others(
    status: int, words: bytes, expected: str
) -> None:
    assert outcome.describe_end(status, words).startswith(expected)
