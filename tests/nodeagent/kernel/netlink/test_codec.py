"""The bytes of a message: what is written is read again, and nothing else is believed."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handover_nodeagent.kernel.netlink import changes, codec, ifinfomsg, rtmsg


@given(st.binary(max_size=200))
@example(bytes(20))
def test_no_bytes_make_a_reader_hang_or_raise_what_is_not_ours(garbage: bytes) -> None:
    codec.find(garbage, 0, 1)
    with contextlib.suppress(codec.MalformedError):
        for message in codec.split(garbage):
            codec.attributes(message, codec.HEADER.size)
    with contextlib.suppress(codec.MalformedError):
        codec.attributes(garbage, 0)
    for decode in (rtmsg.decode, ifinfomsg.decode_link, ifinfomsg.decode_address):
        with contextlib.suppress(codec.MalformedError):
            decode(garbage)
    with contextlib.suppress(codec.MalformedError):
        changes.decode(garbage, 254)


@given(st.lists(st.tuples(st.integers(1, 60), st.binary(max_size=9)), max_size=6))
def test_attributes_are_read_as_they_were_written(pairs: list[tuple[int, bytes]]) -> None:
    body = b"".join(codec.attribute(kind, payload) for kind, payload in pairs)
    message = codec.compose(24, 0, body)
    assert dict(pairs) == codec.attributes(message, codec.HEADER.size)
    first = dict(reversed(pairs))
    for kind in range(1, 61):
        assert first.get(kind, b"") == codec.find(message, codec.HEADER.size, kind)


@given(st.lists(st.binary(max_size=9).map(lambda body: codec.compose(24, 0, body))))
def test_datagram_is_split_into_its_messages(found: list[bytes]) -> None:
    datagram = b"".join(message + bytes(-len(message) % 4) for message in found)
    assert found == list(codec.split(datagram))
    if datagram:
        with pytest.raises(codec.MalformedError):
            list(codec.split(datagram[:-4]))
