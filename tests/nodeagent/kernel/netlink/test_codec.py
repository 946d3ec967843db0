"""The bytes of a message: what is written is read again, and nothing else is believed."""

import contextlib
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handover_nodeagent.kernel import links
from handover_nodeagent.kernel.netlink import codec, notifications, rtmsg


@given(st.binary(max_size=200))
@example(bytes(20))
def test_no_bytes_make_a_reader_hang_or_raise_what_is_not_ours(garbage: bytes) -> None:
    codec.find(garbage, 0, 1)
    with contextlib.suppress(codec.MalformedError):
        for message in codec.split(garbage):
            codec.attributes(message, codec.HEADER.size)
    with contextlib.suppress(codec.MalformedError):
        codec.attributes(garbage, 0)
    for decode in (rtmsg.decode, links.decode, links.decode_address):
        with contextlib.suppress(codec.MalformedError):
            decode(garbage)
    with contextlib.suppress(codec.MalformedError):
        notifications.decode(garbage, 254)


ROUTE = b"\2\x20\0\0\xfe\x58\xfd\1\0\0\0\0"


@pytest.mark.parametrize(
    "body",
    [
        ROUTE + codec.attribute(1, bytes(16)),
        ROUTE + codec.attribute(1, bytes(3)),
        ROUTE,
        b"\x0c" + ROUTE[1:] + codec.attribute(1, bytes(4)),
        b"\2\x21" + ROUTE[2:] + codec.attribute(1, bytes(4)),
        ROUTE + codec.attribute(1, bytes(4)) + codec.attribute(6, bytes(3)),
        ROUTE + codec.attribute(1, bytes(4))[:-1],
    ],
    ids=["other family", "no address", "no destination", "no family", "bits", "number", "cut"],
)
def test_a_route_that_contradicts_itself_is_none(body: bytes) -> None:
    with pytest.raises(codec.MalformedError):
        rtmsg.decode(codec.compose(codec.NEWROUTE, 0, body))


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


@pytest.mark.parametrize(
    ("index", "name"), [(0, b"tap0"), (-7, b"tap0"), (2, b""), (2, b"ta\0p0")], ids=repr
)
def test_what_no_kernel_would_say_of_a_link_is_not_believed(index: int, name: bytes) -> None:
    body = struct.pack("=BxHiII", 0, 1, index, 1, 0) + codec.attribute(3, name + b"\0")
    with pytest.raises(codec.MalformedError, match=rf"link {index} has the name"):
        links.decode(codec.compose(codec.NEWLINK, 0, body))
