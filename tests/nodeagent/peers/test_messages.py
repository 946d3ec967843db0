"""The layouts, byte for byte, and that nothing else is ever read as a message."""

import struct

import hypothesis
import pytest
from hypothesis import strategies as st
from tests.nodeagent.peers import speakers

from handover_api.names import ObjectKey
from handover_nodeagent.peers import messages
from handover_nodeagent.peers.messages import (
    BystanderAck,
    Header,
    Hello,
    Kind,
    Malformed,
    Signed,
    Statement,
    Times,
    Way,
)

HEADER = Header(Kind.HAVE, b"k" * 8, 0x0102, 0x0304, b"s" * 16, b"n" * 16)
SIGNATURE = bytes(64)


def whole(kind: Kind) -> bytes:
    """Return an example of *kind*."""
    if kind is Kind.BYSTANDER_ACK:
        return messages.compose_bystander_ack(b"n" * 16, Times(1, 2))
    header = HEADER._replace(kind=kind)
    return messages.compose(header, speakers.BODIES[kind]) + SIGNATURE


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (Kind.HELLO, 163),
        (Kind.HELLO_ANSWER, 179),
        (Kind.HAVE, 122),
        (Kind.RELEASED, 122),
        (Kind.ACK, 154),
        (Kind.BYSTANDER_ACK, 34),
    ],
)
def test_a_kind_has_one_size_and_all_are_below_the_most(kind: Kind, size: int) -> None:
    assert size == len(whole(kind)) <= messages.MOST


def test_have_is_laid_out_as_documented() -> None:
    expected = bytes([1, 3]) + b"k" * 8 + struct.pack("!QQ", 0x0102, 0x0304) + b"s" * 16 + b"n" * 16
    assert expected == messages.compose(HEADER, Statement())


def test_the_bodies_follow_the_header() -> None:
    promise = b"p" * 32
    hello = messages.compose(HEADER._replace(kind=Kind.HELLO), Hello(Way.TUNNEL, 5, promise))
    assert bytes([2]) + struct.pack("!Q", 5) + promise == hello[58:]
    answer = messages.compose(
        HEADER._replace(kind=Kind.HELLO_ANSWER), messages.HelloAnswer(Way.PLAIN, 5, 6, 7, promise)
    )
    assert bytes([1]) + struct.pack("!QQQ", 5, 6, 7) + promise == answer[58:]
    ack = messages.compose(HEADER._replace(kind=Kind.ACK), Times(1, 2, 3, 4))
    assert struct.pack("!QQQQ", 1, 2, 3, 4) == ack[58:]
    unsigned = messages.compose_bystander_ack(b"n" * 16, Times(1, 2))
    assert bytes([1, 6]) + b"n" * 16 + struct.pack("!QQ", 1, 2) == unsigned


@pytest.mark.parametrize("kind", list(speakers.BODIES))
def test_what_is_composed_is_read(kind: Kind) -> None:
    octets = whole(kind)
    expected = Signed(HEADER._replace(kind=kind), speakers.BODIES[kind], octets[:-64], SIGNATURE)
    assert expected == messages.read(octets)


def test_a_bystanders_ack_is_read() -> None:
    assert BystanderAck(b"n" * 16, Times(1, 2)) == messages.read(whole(Kind.BYSTANDER_ACK))


@pytest.mark.parametrize("kind", list(Kind))
def test_a_message_cut_short_or_longer_by_a_byte_is_none(kind: Kind) -> None:
    octets = whole(kind)
    assert messages.read(octets[:-1]) is Malformed.SIZE
    assert messages.read(octets + b"\0") is Malformed.SIZE


@pytest.mark.parametrize("version", [0, 2, 255])
@pytest.mark.parametrize("kind", list(Kind))
def test_another_version_is_not_read_whatever_else_it_has(kind: Kind, version: int) -> None:
    assert messages.read(bytes([version]) + whole(kind)[1:]) is Malformed.VERSION


@pytest.mark.parametrize("kind", [0, 7, 255])
def test_another_kind_is_not_read(kind: int) -> None:
    assert messages.read(bytes([1, kind]) + whole(Kind.HAVE)[2:]) is Malformed.KIND


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.HELLO_ANSWER])
def test_another_way_is_not_read(kind: Kind) -> None:
    octets = bytearray(whole(kind))
    octets[58] = 3
    assert messages.read(bytes(octets)) is Malformed.WAY


@pytest.mark.parametrize("size", [0, 1, 33, 201, 65_507])
def test_other_sizes_are_none(size: int) -> None:
    assert messages.read(b"\1" * size) is Malformed.SIZE


numbers = st.integers(0, 2**64 - 1)


@hypothesis.given(
    st.sampled_from(list(speakers.BODIES)),
    st.binary(min_size=8, max_size=8),
    st.tuples(numbers, numbers),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=64, max_size=64),
)
def test_any_header_comes_back(
    kind: Kind, key_id: bytes, order: tuple[int, int], sixteen: bytes, signature: bytes
) -> None:
    header = Header(kind, key_id, *order, sixteen, sixteen[::-1])
    read = messages.read(messages.compose(header, speakers.BODIES[kind]) + signature)
    assert isinstance(read, Signed)
    assert (header, speakers.BODIES[kind], signature) == (read.header, read.body, read.signature)


@hypothesis.given(st.binary(max_size=220))
def test_no_bytes_raise(octets: bytes) -> None:
    messages.read(octets)


def test_subjects_differ_by_endpoint_namespace_and_uid() -> None:
    subjects = {
        messages.subject(ObjectKey(namespace, name), uid)
        for namespace in ("a", "b")
        for name in ("c", "d")
        for uid in ("", "u", "v")
    }
    assert len(subjects) == 12
    assert {16} == {len(each) for each in subjects}
