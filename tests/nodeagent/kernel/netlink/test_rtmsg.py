"""Route messages: each field where linux/rtnetlink.h has it, and what no kernel says not believed.

pyroute2 judges their form, too (``test_against_pyroute2``).
"""

import dataclasses
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.kernel.netlink import codec, rtmsg, ways
from handover_nodeagent.kernel.netlink.rtmsg import Entry
from handover_nodeagent.network.model import IPAddress, Nexthop, Route, Via

V4, V6 = ip_address("10.65.0.2"), ip_address("fd00:65::2")
ROUTES = st.builds(
    Route,
    st.ip_addresses(),
    st.integers(1, 2**31 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(1, 2**32 - 1),
    st.integers(0, 255),
)
SOURCE = codec.attribute(7, ip_address("10.65.0.1").packed)
METRICS = codec.attribute(8, codec.number(2, 1400))
REALMS = codec.number(11, 0x10002)
PREFERENCE = codec.attribute(20, b"\1")
ENCAPSULATION = codec.attribute(21, b"\1\0") + codec.attribute(22, b"\x08\0\1\0\0\1\x01\0")
EVERYTHING = SOURCE + METRICS + REALMS + PREFERENCE + ENCAPSULATION


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


def listed(table: int = 254, protocol: int = 88, kind: int = 1, flags: int = 0) -> bytes:
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
        (listed(), True),
        (listed(table=100), False),
        (listed(protocol=12), False),
        (listed(kind=6), False),
        (listed(flags=0x200), False),
        (listed(table=5254), False),
        (listed(table=252), False),
    ],
    ids=["ours", "table", "protocol", "blackhole", "cache entry", "wide table", "table 252"],
)
def test_what_a_kernel_shows_beside_what_was_asked_for_is_left_out(
    message: bytes, *, expected: bool
) -> None:
    assert rtmsg.is_asked_for(message, 254, 88) == expected


def test_a_table_of_more_than_8_bits_stands_in_its_attribute() -> None:
    assert rtmsg.is_asked_for(listed(table=5254), 5254, 0)
    assert not rtmsg.is_asked_for(listed(table=5255), 5254, 0)
    assert rtmsg.is_asked_for(listed(table=252), 252, 0)


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
        body = bytes([family, *bytes(6), 1, *bytes(4)]) + codec.number(ways.DEVICE, 7)
        entry = rtmsg.decode(codec.compose(codec.NEWROUTE, 0, body))
        assert (entry.route.address, entry.prefix_length) == (anywhere, 0)
        assert not entry.is_host


def shown(
    address: IPAddress = V4,
    *attributes: bytes,
    length: int | None = None,
    source_length: int = 0,
    tos: int = 0,
    table: int = 254,
    kind: int = 1,
    flags: int = 0,
) -> bytes:
    """Compose a message as the kernel would show a route of protocol 12."""
    body = rtmsg.BODY.pack(
        2 if address.version == 4 else 10,
        address.max_prefixlen if length is None else length,
        *(source_length, tos, table, 12, 0, kind, flags),
    )
    rest = attributes or (codec.attribute(1, address.packed), codec.number(4, 7))
    return codec.compose(codec.NEWROUTE, 0, body + b"".join(rest))


def leading(address: IPAddress = V4, *others: bytes) -> tuple[bytes, ...]:
    """Return the attributes of a direct host route, and *others*."""
    return (codec.attribute(1, address.packed), codec.number(4, 7), *others)


@pytest.mark.parametrize(
    ("address", "family", "length"), [(V4, 2, 32), (V6, 10, 128)], ids=["IPv4", "IPv6"]
)
@pytest.mark.parametrize(
    ("encode", "kind", "flags"),
    [
        # NLM_F_REQUEST with CREATE and EXCL, CREATE and APPEND, CREATE and REPLACE.
        (rtmsg.encode_add, 24, 0x601),
        (rtmsg.encode_beside, 24, 0xC01),
        (rtmsg.encode_replace, 24, 0x501),
        (rtmsg.encode_remove, 25, 0x1),
    ],
    ids=["add", "beside", "replace", "remove"],
)
def test_a_request_names_all_that_tells_a_route_from_others(
    address: IPAddress,
    family: int,
    length: int,
    encode: Callable[[Route], bytes],
    kind: int,
    flags: int,
) -> None:
    """Scope link, type unicast; a table beyond a byte stands in its attribute."""
    request = encode(Route(address, 7, 512, 5254, 88, METRICS))
    attributes = [(1, address.packed), (4, 7), (6, 512), (15, 5254)]
    written = b"".join(
        struct.pack("=HH", 4 + len(value), number) + value
        for number, payload in attributes
        for value in [payload if isinstance(payload, bytes) else struct.pack("=I", payload)]
    )
    # What is carried may have changed since: a delete that named it would find nothing.
    written += METRICS if encode is not rtmsg.encode_remove else b""
    body = struct.pack("=BBBBBBBBI", family, length, 0, 0, 0, 88, 253, 1, 0)
    header = struct.pack("=IHHII", 16 + len(body + written), kind, flags, 0, 0)
    assert request == header + body + written


@pytest.mark.parametrize("encode", [rtmsg.encode_add, rtmsg.encode_beside, rtmsg.encode_replace])
def test_a_request_with_less_is_the_same_but_for_what_it_carries(
    encode: Callable[[Route], bytes],
) -> None:
    route = Route(V4, 7, 512, 254, 88, METRICS)
    plain = encode(Route(V4, 7, 512, 254, 88))
    assert rtmsg.without_carried(encode(route), route) == plain


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (shown(), Entry(Route(V4, 7, 0, 254, 12), 32, None, direct=True)),
        (shown(V6), Entry(Route(V6, 7, 0, 254, 12), 128, None, direct=True)),
        (
            shown(V4, *leading(V4, codec.number(6, 512), codec.number(15, 5254)), table=252),
            Entry(Route(V4, 7, 512, 5254, 12), 32, None, direct=True),
        ),
        (
            shown(V4, *leading(V4, codec.attribute(5, V4.packed))),
            Entry(Route(V4, 7, 0, 254, 12, way=Via(V4)), 32, V4, direct=False),
        ),
        (
            shown(V4, *leading(V4, codec.attribute(9, bytes(8)))),
            Entry(Route(V4, 7, 0, 254, 12), 32, None, direct=False),
        ),
        (
            shown(V4, *leading(V4, codec.attribute(18, b"\x0a\0" + V6.packed))),
            Entry(Route(V4, 7, 0, 254, 12, way=Via(V6)), 32, None, direct=False),
        ),
        (
            shown(V4, codec.attribute(1, V4.packed)),
            Entry(Route(V4, 0, 0, 254, 12), 32, None, direct=False),
        ),
        (
            shown(V4, codec.number(4, 7), length=0),
            Entry(Route(ip_address("0.0.0.0"), 7, 0, 254, 12), 0, None, direct=True),
        ),
        (
            shown(V6, codec.number(4, 7), length=0),
            Entry(Route(ip_address("::"), 7, 0, 254, 12), 0, None, direct=True),
        ),
    ],
    ids=[
        *("IPv4", "IPv6", "a wide table", "a gateway", "many ways", "by the other family"),
        *("no device", "IPv4's default", "IPv6's default"),
    ],
)
def test_a_route_is_read_as_the_kernel_shows_it(message: bytes, expected: Entry) -> None:
    assert rtmsg.decode(message) == expected


@pytest.mark.parametrize(
    ("address", "length", "is_host"), [(V4, 32, True), (V4, 31, False), (V6, 128, True)]
)
def test_a_host_route_leads_to_one_address(
    address: IPAddress, length: int, *, is_host: bool
) -> None:
    assert rtmsg.decode(shown(address, *leading(address), length=length)).is_host is is_host


@pytest.mark.parametrize(
    ("kind", "flags", "is_made"), [(1, 0, True), (1, 0x5, True), (6, 0, False)]
)
def test_only_unicast_routes_are_routes(kind: int, flags: int, *, is_made: bool) -> None:
    assert rtmsg.is_made(shown(kind=kind, flags=flags)) is is_made


def test_a_cache_entry_is_no_route() -> None:
    """RTM_F_CLONED: of one destination's way, which nobody made."""
    assert not rtmsg.is_made(shown(flags=0x200))
    assert not rtmsg.is_made(shown(flags=0x204))


def test_what_is_carried_is_kept_in_one_order_and_its_owners_matters_are_not() -> None:
    """The expiry (RTA_CACHEINFO, RTA_EXPIRES) and the nexthop object are its owner's to end."""
    others = [codec.attribute(number, bytes(4)) for number in (12, 23, 30)]
    parts = [PREFERENCE, *others, ENCAPSULATION, REALMS, METRICS, SOURCE]
    entry = rtmsg.decode(shown(V4, *leading(V4, *parts)))
    assert entry.route.carried == EVERYTHING
    assert (entry.direct, entry.route.way) == (True, Nexthop(0))


def test_a_preference_that_every_route_has_is_not_carried() -> None:
    medium = codec.attribute(20, b"\0")
    assert rtmsg.decode(shown(V6, *leading(V6, medium))).route.carried == b""
    # Of any other kind 0 says something.
    nothing = codec.number(11, 0)
    assert rtmsg.decode(shown(V6, *leading(V6, nothing))).route.carried == nothing


@pytest.mark.parametrize("narrowed", [{"tos": 4}, {"source_length": 64}])
def test_a_route_for_some_packets_only_has_nothing_to_carry(narrowed: dict[str, int]) -> None:
    message = shown(V6, *leading(V6, METRICS), **narrowed)
    assert rtmsg.decode(message).route.carried == b""
    assert rtmsg.decode(shown(V6, *leading(V6, METRICS))).route.carried == METRICS


def test_a_source_that_is_no_address_is_not_believed() -> None:
    with pytest.raises(codec.MalformedError):
        rtmsg.decode(shown(V4, *leading(V4, codec.attribute(7, bytes(3)))))


def test_the_address_that_the_node_speaks_from_is_told() -> None:
    route = Route(V4, 7, 512, 254, 88, EVERYTHING)
    assert rtmsg.source_of(route) == ip_address("10.65.0.1")
    assert rtmsg.source_of(Route(V4, 7, 512, 254, 88, METRICS)) is None


@pytest.mark.parametrize(
    ("address", "family", "length"), [(V4, 2, 32), (V6, 10, 128)], ids=["IPv4", "IPv6"]
)
@pytest.mark.parametrize("oif", [0, 7])
def test_the_question_which_route_wins_names_the_address_alone(
    address: IPAddress, family: int, length: int, oif: int
) -> None:
    """RTM_F_FIB_MATCH, to be shown the route itself; 0 stands for any device."""
    body = struct.pack("=BBBBBBBBI", family, length, 0, 0, 0, 0, 0, 0, 0x2000)
    body += codec.attribute(1, address.packed) + (codec.number(4, oif) if oif else b"")
    header = struct.pack("=IHHII", 16 + len(body), 26, 0x1, 0, 0)
    assert rtmsg.encode_match(address, oif=oif) == header + body


@pytest.mark.parametrize("oif", [0, 7])
@pytest.mark.parametrize("protocol", [0, 88])
def test_the_question_for_a_tables_routes_asks_for_unicast_ones(oif: int, protocol: int) -> None:
    body = struct.pack("=BBBBBBBBI", 10, 0, 0, 0, 0, protocol, 0, 1, 0)
    body += codec.number(15, 5254) + (codec.number(4, oif) if oif else b"")
    header = struct.pack("=IHHII", 16 + len(body), 26, 0x301, 0, 0)
    assert rtmsg.encode_dump(10, 5254, protocol=protocol, oif=oif) == header + body


def test_a_question_is_for_any_device_and_any_protocol_unless_told_otherwise() -> None:
    assert rtmsg.encode_match(V4) == rtmsg.encode_match(V4, oif=0)
    assert rtmsg.encode_dump(2, 254) == rtmsg.encode_dump(2, 254, protocol=0, oif=0)


def test_a_host_route_is_told_by_one_byte_of_its_message() -> None:
    assert shown()[rtmsg.PREFIX_LENGTH_AT] == rtmsg.HOST[2] == 32
    assert shown(V6)[rtmsg.PREFIX_LENGTH_AT] == rtmsg.HOST[10] == 128
    assert rtmsg.HOST.keys() == {2, 10}
