"""Route messages as bytes; pyroute2 judges their form (``test_against_pyroute2``)."""

import dataclasses
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.kernel.netlink import codec, rtmsg
from handover_nodeagent.network.model import Route

V4, V6 = ip_address("10.65.0.2"), ip_address("fd00:65::2")
ROUTES = st.builds(
    Route,
    st.ip_addresses(),
    st.integers(1, 2**31 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(1, 2**32 - 1),
    st.integers(0, 255),
)


@given(ROUTES)
def test_a_request_reads_as_the_route_that_it_is_made_for(route: Route) -> None:
    for encode in (rtmsg.encode_add, rtmsg.encode_beside, rtmsg.encode_replace):
        entry = rtmsg.decode(encode(route))
        assert entry == rtmsg.Entry(route, route.address.max_prefixlen, None, direct=True)
        assert entry.is_host
        assert rtmsg.is_made(encode(route))


def test_a_removal_names_nothing_of_what_a_route_carries() -> None:
    carrying = Route(V4, 7, 512, 254, 88, codec.attribute(rtmsg.SOURCE, V4.packed))
    assert rtmsg.source_of(carrying) == V4
    plain = dataclasses.replace(carrying, carried=b"")
    assert rtmsg.source_of(plain) is None
    assert rtmsg.encode_remove(carrying) == rtmsg.encode_remove(plain)
    assert rtmsg.encode_add(carrying) != rtmsg.encode_add(plain)


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


def shown(table: int = 254, protocol: int = 88, kind: int = 1, flags: int = 0) -> bytes:
    """Return a host route as the kernel shows it: a number that does not fit stands in its place.

    As ``rtm_table`` has it: RT_TABLE_COMPAT for what has more than 8 bits.
    """
    short = table if table < 256 else 252
    body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, short, protocol, 253, kind, flags)
    attributes = codec.attribute(1, V4.packed) + codec.number(15, table)
    return codec.compose(codec.NEWROUTE, 0, body + attributes)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (shown(), True),
        (shown(table=100), False),
        (shown(protocol=12), False),
        (shown(kind=6), False),
        (shown(flags=0x200), False),
        (shown(table=5254), False),
        (shown(table=252), False),
    ],
    ids=["ours", "table", "protocol", "blackhole", "cache entry", "wide table", "table 252"],
)
def test_what_a_kernel_shows_beside_what_was_asked_for_is_left_out(
    message: bytes, *, expected: bool
) -> None:
    assert rtmsg.is_asked_for(message, 254, 88) == expected


def test_a_table_of_more_than_8_bits_stands_in_its_attribute() -> None:
    assert rtmsg.is_asked_for(shown(table=5254), 5254, 0)
    assert not rtmsg.is_asked_for(shown(table=5255), 5254, 0)
    assert rtmsg.is_asked_for(shown(table=252), 252, 0)


def nexthop(index: int, attributes: bytes = b"") -> bytes:
    """Return one of several ways, with what it has by itself."""
    padding = bytes(-len(attributes) % 4)
    return struct.pack("=HBBi", 8 + len(attributes), 0, 0, index) + attributes + padding


def spread(*parts: bytes) -> bytes:
    """Return a default route over several ways."""
    body = bytes([2, *bytes(6), 1, *bytes(4)])
    return codec.compose(codec.NEWROUTE, 0, body + codec.attribute(9, b"".join(parts)))


def test_the_devices_of_a_route_are_those_of_all_its_ways() -> None:
    gateway = codec.attribute(5, V4.packed)
    odd = codec.attribute(1, b"x")[:5]
    assert rtmsg.devices(spread(nexthop(3, gateway), nexthop(4, odd), nexthop(5))) == (0, 3, 4, 5)
    assert rtmsg.devices(rtmsg.encode_add(Route(V6, 7, 512, 254, 88))) == (7,)


@pytest.mark.parametrize(
    "ways",
    [nexthop(3)[:7], struct.pack("=HBBi", 0, 0, 0, 3), struct.pack("=HBBi", 12, 0, 0, 3)],
    ids=["cut", "no length", "too long"],
)
def test_ways_whose_length_lies_are_none(ways: bytes) -> None:
    with pytest.raises(codec.MalformedError):
        rtmsg.devices(spread(nexthop(4), ways))


def test_a_default_route_leads_anywhere() -> None:
    for family, anywhere in ((codec.INET, IPv4Address(0)), (codec.INET6, IPv6Address(0))):
        body = bytes([family, *bytes(6), 1, *bytes(4)]) + codec.number(rtmsg.DEVICE, 7)
        entry = rtmsg.decode(codec.compose(codec.NEWROUTE, 0, body))
        assert (entry.route.address, entry.prefix_length) == (anywhere, 0)
        assert not entry.is_host
