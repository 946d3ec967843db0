"""Connections as bytes: what is asked for, and what cannot be read."""

from ipaddress import ip_address

import pytest

from handover_nodeagent.kernel.netlink import codec, ctmsg
from handover_nodeagent.kernel.netlink.ctmsg import Connection

GUEST, CLIENT = ip_address("10.65.0.2"), ip_address("203.0.113.9")
ADDRESSES = codec.attribute(1, CLIENT.packed) + codec.attribute(2, GUEST.packed)
PROTOCOL = codec.attribute(2, codec.attribute(1, b"\x06"))
ORIGINAL = codec.attribute(1, ADDRESSES) + PROTOCOL
ID = codec.attribute(12, b"\1\2\3\4")


def shown(*attributes: bytes) -> bytes:
    return codec.compose(ctmsg.NEW, 0, b"\2\0\0\0" + b"".join(attributes))


def status(number: int) -> bytes:
    return codec.attribute(3, number.to_bytes(4, "big"))


@pytest.mark.parametrize(("number", "is_translated"), [(0x0E, False), (0x1E, True), (0x2E, True)])
def test_a_connection_is_read_and_named_to_the_kernel(number: int, *, is_translated: bool) -> None:
    named = b"\2\0\0\0" + codec.attribute(1 | codec.NESTED, ORIGINAL) + ID
    found = ctmsg.decode(shown(codec.attribute(1, ORIGINAL), status(number), ID))
    assert found == Connection(CLIENT, GUEST, is_translated, named)
    delete = ctmsg.encode_delete(found)
    assert delete == codec.compose(ctmsg.DELETE, codec.ACK, named)


def test_one_of_a_zone_is_named_with_it() -> None:
    zone = codec.attribute(18, b"\0\7")
    found = ctmsg.decode(shown(codec.attribute(1, ORIGINAL), zone, status(0)))
    assert found.key.endswith(zone)


@pytest.mark.parametrize(
    "message",
    [
        shown(),
        shown(status(0)),
        shown(codec.attribute(1, ORIGINAL)),
        shown(codec.attribute(1, codec.attribute(1, b"\xff")), status(0)),
    ],
    ids=["nothing", "no addresses", "no status", "cut"],
)
def test_what_is_no_connection_is_none(message: bytes) -> None:
    with pytest.raises(codec.MalformedError):
        ctmsg.decode(message)


def test_ipv6_is_asked_for_as_a_whole() -> None:
    assert len(ctmsg.encode_dumps(GUEST)) == 2
    (asked,) = ctmsg.encode_dumps(ip_address("fd00:65::2"))
    assert asked == codec.compose(ctmsg.GET, codec.DUMP, b"\x0a\0\0\0")
