"""Another owner's route as a value, and the requests that are made of how the kernel showed it."""

import struct
import sys
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.kernel import foreign_route
from handover_nodeagent.kernel.foreign_route import PARKING_TABLE, Foreign
from handover_nodeagent.kernel.netlink import codec, rtmsg, ways
from handover_nodeagent.network.model import IPAddress, Route

V4, V6 = ip_address("10.65.0.2"), ip_address("fd00:65::2")
MAIN, OURS, CNI = 254, 88, 5
BOTH = pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])
# RTA_CACHEINFO, RTA_EXPIRES and RTA_NH_ID of linux/rtnetlink.h.
CACHE, EXPIRES, NEXTHOP = 12, 23, 30


def shown(address: IPAddress, protocol: int = CNI, metric: int = 0, more: bytes = b"") -> bytes:
    """Return a direct host route as the kernel shows it; *more* are attributes."""
    return rtmsg.encode_beside(Route(address, 7, metric, MAIN, protocol, more))


def foreign(address: IPAddress, more: bytes = b"") -> Foreign:
    message = shown(address, more=more)
    return Foreign(rtmsg.decode(message).route, message)


def attributes(message: bytes) -> dict[int, bytes]:
    return dict(codec.attributes(message, rtmsg.ATTRIBUTES_AT))


@BOTH
def test_a_copy_is_the_same_route_in_another_table(address: IPAddress) -> None:
    one = foreign(address)
    copy = foreign_route.encode_beside(one, PARKING_TABLE)
    assert rtmsg.decode(copy).route == foreign_route.moved(one, PARKING_TABLE).route
    assert codec.kind_of(copy) == codec.NEWROUTE
    # The copy of what was moved leads back.
    parked = foreign_route.moved(one, PARKING_TABLE)
    assert rtmsg.decode(foreign_route.encode_replace(parked, MAIN)).route == one.route


@BOTH
def test_a_removal_names_the_table_in_which_the_route_stands(address: IPAddress) -> None:
    one = foreign(address)
    for each in (one, foreign_route.moved(one, PARKING_TABLE)):
        removal = foreign_route.encode_remove(each)
        assert codec.kind_of(removal) == codec.DELROUTE
        assert rtmsg.decode(removal).route == each.route


@given(
    st.lists(st.tuples(st.integers(40, 60), st.binary(max_size=9)), unique_by=lambda one: one[0])
)
def test_what_nobody_here_knows_is_kept(unknown: list[tuple[int, bytes]]) -> None:
    more = b"".join(codec.attribute(kind, payload) for kind, payload in unknown)
    copy = attributes(foreign_route.encode_beside(foreign(V4, more), PARKING_TABLE))
    assert dict(unknown).items() <= copy.items()


@pytest.mark.parametrize(
    ("ticks", "expected"), [(4200, 42), (150, 1), (0, None), (-1, None)], ids=str
)
def test_an_expiry_that_is_shown_in_ticks_is_set_in_seconds(
    ticks: int, expected: int | None
) -> None:
    cache = codec.attribute(
        CACHE, bytes(8) + ticks.to_bytes(4, sys.byteorder, signed=True) + bytes(20)
    )
    copy = attributes(foreign_route.encode_beside(foreign(V6, cache), PARKING_TABLE))
    assert CACHE not in copy
    assert (codec.to_number(copy[EXPIRES]) if EXPIRES in copy else None) == expected


def test_a_nexthop_object_has_the_device_already() -> None:
    copy = attributes(foreign_route.encode_beside(foreign(V4, codec.number(NEXTHOP, 7)), MAIN))
    assert ways.DEVICE not in copy
    assert codec.to_number(copy[NEXTHOP]) == 7


@BOTH
def test_the_oldest_copy_is_named_by_device_and_metric_alone(address: IPAddress) -> None:
    more = codec.attribute(rtmsg.SOURCE, (address + 1).packed)
    removal = foreign_route.encode_remove_oldest_copy(foreign(address, more))
    assert attributes(removal).keys() == {
        rtmsg.DESTINATION,
        ways.DEVICE,
        rtmsg.PRIORITY,
        rtmsg.TABLE,
    }
    # Protocol 0 and RT_SCOPE_NOWHERE stand for any.
    fields = rtmsg.BODY.unpack_from(removal, rtmsg.BODY_AT)
    assert fields[4:7] == (0, 0, 255)
    assert rtmsg.decode(removal).route == Route(address, 7, 0, PARKING_TABLE, 0)


def test_others_are_told_apart_by_protocol_and_gateway() -> None:
    via = codec.attribute(ways.GATEWAY, ip_address("192.0.2.9").packed)
    spread = codec.attribute(ways.MULTIPATH, struct.pack("=HBBi", 8, 0, 0, 7))
    messages = [
        shown(V4),
        shown(V4, OURS, 512),
        shown(V4, 12, 20, via),
        shown(V4, OURS, 30, spread),
        # A guest that has moved is reached by a gateway: ours, and in nobody's way.
        shown(V4, OURS, 40, via),
        shown(V4 + 1),
        shown(V6),
    ]
    found = foreign_route.find_others(messages, {V4.packed, V6.packed}, {OURS})
    assert found.direct == (foreign(V4), foreign(V6))
    assert found.gateways == {(V4, 20, MAIN), (V4, 30, MAIN)}
    assert tuple(foreign_route.find_direct(messages[2:])) == (foreign(V4 + 1), foreign(V6))


def test_a_route_that_cannot_be_read_ends_the_reading() -> None:
    broken = shown(V4) + b"\xff\0\x0f\0"
    with pytest.raises(codec.MalformedError):
        foreign_route.find_others([broken], {V4.packed}, {OURS})
