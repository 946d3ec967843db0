"""What the kernel answers, as bytes: a dump is whole, or it is said why it is not."""

import contextlib
import errno
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.kernel.netlink import answers, codec

ROUTES = codec.compose(codec.GETROUTE, codec.DUMP, b"\2" + bytes(11))
SHOWN = codec.compose(codec.NEWROUTE, 0x2, b"\2" + bytes(11))
IPV6 = codec.compose(codec.NEWROUTE, 0x2, b"\x0a" + bytes(11))
LINK = codec.compose(codec.NEWLINK, 0x2, b"\2" + bytes(15))
END = codec.compose(codec.DONE, 0x2, bytes(4))
INTERRUPTED = codec.compose(codec.NEWROUTE, 0x2 | codec.DUMP_INTERRUPTED, b"\2" + bytes(11))
NO_SUCH_TABLE = codec.compose(codec.DONE, 0, b"\xfe\xff\xff\xff")


def taken(*datagrams: bytes, asked: bytes = ROUTES) -> answers.Dump:
    """Let a dump take these; the last one alone is its end."""
    dump = answers.Dump(asked)
    ends = [dump.take(datagram) for datagram in datagrams]
    assert ends == [False] * (len(datagrams) - 1) + [True]
    return dump


@pytest.mark.parametrize("datagrams", [(SHOWN, SHOWN, END), (SHOWN + SHOWN + END,)], ids=len)
def test_a_dump_is_all_that_came_before_its_end(datagrams: tuple[bytes, ...]) -> None:
    dump = taken(*datagrams)
    assert (dump.messages, dump.is_consistent) == ([SHOWN, SHOWN], True)


def test_what_follows_the_end_in_its_datagram_is_left_out() -> None:
    assert taken(SHOWN + END + SHOWN + b"\xff").messages == [SHOWN]


@pytest.mark.parametrize(
    "interrupted", [INTERRUPTED, codec.compose(codec.DONE, codec.DUMP_INTERRUPTED, bytes(4))]
)
def test_a_dump_says_itself_that_it_was_interrupted(interrupted: bytes) -> None:
    assert not taken(SHOWN + interrupted + END).is_consistent


def test_what_is_of_another_type_or_family_is_left_out() -> None:
    assert taken(LINK + IPV6 + SHOWN + END).messages == [SHOWN]


def test_a_question_for_all_families_takes_any() -> None:
    asked = codec.compose(codec.GETROUTE, codec.DUMP, bytes(12))
    assert taken(SHOWN + IPV6 + END, asked=asked).messages == [SHOWN, IPV6]


def test_what_answers_an_earlier_question_is_left_out() -> None:
    """Also its end, and that a change interrupted it."""
    first = b"".join(answers.numbered(one, 1) for one in (SHOWN, INTERRUPTED, END))
    second = answers.numbered(SHOWN, 2) + answers.numbered(END, 2)
    dump = taken(first, second, asked=answers.numbered(ROUTES, 2))
    assert dump.messages == [answers.numbered(SHOWN, 2)]
    assert dump.is_consistent


def test_a_table_that_nobody_has_used_so_far_is_empty() -> None:
    assert taken(NO_SUCH_TABLE).messages == []


BROKEN_ENDS = {
    "an acknowledgment": ([codec.compose(codec.ERROR, 0, bytes(20))], "only says"),
    "a refusal": (
        [codec.compose(codec.ERROR, 0, b"\xea\xff\xff\xff" + bytes(16))],
        "Invalid",
    ),
    "a table that is missing after all": ([SHOWN, NO_SUCH_TABLE], "No such file"),
    "a rest that is no message": ([SHOWN + b"\x09\0\0\0"], "too short"),
    "a length that lies": ([b"\xff" + SHOWN[1:]], "255 bytes where 28 are left"),
    "an end that breaks off": ([codec.compose(codec.DONE, 0, b"")], "too short"),
}


@pytest.mark.parametrize("case", BROKEN_ENDS)
def test_a_dump_that_does_not_end_as_it_should_is_none(case: str) -> None:
    """Guards: what is missing from an answer would be taken for gone."""
    sent, expected = BROKEN_ENDS[case]
    with pytest.raises(codec.ObservationError, match=expected):
        taken(*sent, END)


@given(st.lists(st.binary(max_size=80), max_size=4))
def test_no_datagram_raises_anything_but_that_it_cannot_be_read(datagrams: list[bytes]) -> None:
    dump = answers.Dump(ROUTES)
    for datagram in datagrams:
        with contextlib.suppress(codec.ObservationError):
            dump.take(datagram)


@given(
    st.binary(max_size=60).map(lambda body: codec.compose(24, 0, body)), st.integers(0, 2**32 - 1)
)
def test_a_request_that_is_numbered_is_the_same_but_for_its_number(
    request: bytes, sequence: int
) -> None:
    numbered = answers.numbered(request, sequence)
    assert codec.HEADER.unpack_from(numbered)[3] == sequence
    assert answers.numbered(numbered, 0) == request


def refusal(number: int, flags: int = 0, more: bytes = b"", kind: int = codec.ERROR) -> bytes:
    """Return what refuses a request, without a copy of it."""
    repeated = codec.compose(codec.NEWROUTE, 0, b"") if kind == codec.ERROR else b""
    return codec.compose(
        kind, flags, (-number).to_bytes(4, sys.byteorder, signed=True) + repeated + more
    )


REASON = codec.attribute(1, b"Nexthop has invalid gateway\0")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refusal(errno.EEXIST), "File exists"),
        (refusal(errno.EPERM), "Operation not permitted: CAP_NET_ADMIN is missing"),
        (refusal(4711), "errno 4711"),
        (refusal(errno.EINVAL, 0x200, REASON), "Invalid argument (Nexthop has invalid gateway)"),
        (
            refusal(errno.EINVAL, 0x200, REASON, codec.DONE),
            "Invalid argument (Nexthop has invalid gateway)",
        ),
        # Without the flag there are no attributes, whatever the bytes say.
        (refusal(errno.EINVAL, 0, REASON), "Invalid argument"),
        (refusal(errno.EINVAL, 0x200, codec.attribute(3, b"x")), "Invalid argument"),
        (refusal(errno.EINVAL, 0x200, REASON[:-8]), "Invalid argument"),
    ],
)
def test_a_refusal_is_said_in_the_kernels_words(answer: bytes, expected: str) -> None:
    assert answers.sentence(answer) == expected


def test_each_errno_has_a_sentence() -> None:
    others = errno.errorcode.keys() - {errno.EPERM}
    assert {n: answers.describe(n) for n in others} == {n: os.strerror(n) for n in others}
