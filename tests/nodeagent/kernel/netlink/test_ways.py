"""How a route leads on: written so that it reads the same, and of others' only what is meant."""

import dataclasses
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.kernel.netlink import codec, rtmsg
from handover_nodeagent.network.model import Encapsulated, IPAddress, Nexthop, Route, Via, Way

V4, V6 = ip_address("10.65.0.2"), ip_address("fd00:65::2")
REMOTE, REMOTE_6 = ip_address("192.0.2.9"), ip_address("fd00:66::9")
OURS = Route(V4, 7, 512, 254, 88)
OWN = ip_address("192.0.2.8")
TUNNEL = Encapsulated(REMOTE)
# Of zeros it is none.
OWN_4, OWN_6 = (
    st.none() | found.filter(lambda one: not one.is_unspecified)
    for found in (st.ip_addresses(v=4), st.ip_addresses(v=6))
)
WAYS = st.one_of(
    st.none(),
    st.builds(Encapsulated, st.ip_addresses(v=4), OWN_4),
    st.builds(Encapsulated, st.ip_addresses(v=6), OWN_6),
    st.builds(Via, st.ip_addresses()),
    st.builds(Nexthop, st.integers(1, 2**32 - 1)),
)


# A guest's address is never link-local: a route to one of those is the tunnel's own.
@given(st.ip_addresses().filter(lambda address: not address.is_link_local), WAYS)
def test_a_way_reads_as_it_was_written(address: IPAddress, way: Way | None) -> None:
    route = dataclasses.replace(OURS, address=address, way=way)
    entry = rtmsg.decode(rtmsg.encode_add(route))
    assert entry.route == route if not isinstance(way, Nexthop) else entry.as_ours()
    # A way into another device, or by somebody, is nobody's on the link.
    assert entry.direct is (way is None)
    assert entry.as_ours() == (dataclasses.replace(route, oif=0) if entry.route.oif == 0 else route)


def encapsulated(kind: int, *attributes: bytes) -> rtmsg.Entry:
    tunnel = codec.attribute(21, kind.to_bytes(2, "little"))
    tunnel += codec.attribute(22 | 0x8000, b"".join(attributes))
    message = rtmsg.encode_add(OURS)
    return rtmsg.decode(message + tunnel)


ID = codec.attribute(1, bytes([*bytes(7), 88]))
TO = codec.attribute(2, REMOTE.packed)


@pytest.mark.parametrize(
    ("entry", "way"),
    [
        (encapsulated(2, ID, TO), TUNNEL),
        (encapsulated(2, TO, codec.attribute(4, b"\x40"), ID), TUNNEL),
        (encapsulated(4, ID, codec.attribute(2, REMOTE_6.packed)), Encapsulated(REMOTE_6)),
        (encapsulated(2, ID, codec.attribute(3, bytes(4)), TO), TUNNEL),
        (encapsulated(2, ID, codec.attribute(3, OWN.packed), TO), Encapsulated(REMOTE, OWN)),
        (encapsulated(2, codec.attribute(1, bytes([*bytes(7), 89])), TO), None),
        (encapsulated(2, TO), None),
        (encapsulated(2, ID), None),
        (encapsulated(1, ID, TO), None),
    ],
    ids=[
        *("ours", "with a TTL", "IPv6", "from any", "from one"),
        *("another id", "no id", "no remote", "MPLS"),
    ],
)
def test_a_tunnel_is_ours_by_its_id(entry: rtmsg.Entry, way: Way | None) -> None:
    """And what is not stays what its owner's route has beside its device."""
    assert entry.route.way == way
    assert entry.direct is (way is None)
    assert bool(entry.route.carried) is (way is None)
    assert entry.as_ours() == dataclasses.replace(OURS, way=way)


@pytest.mark.parametrize(
    "attributes",
    [
        codec.attribute(18, b"\x0a\0" + bytes(3)),
        codec.attribute(30, b"\1"),
        codec.attribute(5, b"\1"),
        codec.attribute(22, ID),
        codec.attribute(21, b"\2\0") + codec.attribute(22, b"\xff\0\1\0"),
        codec.attribute(21, b"\2\0") + codec.attribute(22, ID + codec.attribute(2, b"\1")),
        codec.attribute(21, b"\2\0") + codec.attribute(22, ID + TO + codec.attribute(3, b"\1")),
    ],
    ids=["via", "object", "gateway", "no type", "length", "remote", "source"],
)
def test_a_way_that_contradicts_itself_is_none(attributes: bytes) -> None:
    with pytest.raises(codec.MalformedError):
        rtmsg.decode(rtmsg.encode_add(OURS) + attributes)


def test_a_route_by_a_nexthop_object_is_ours_without_the_device_that_the_kernel_shows() -> None:
    """The object moves to another device, and the route is the same one."""
    shown = dataclasses.replace(OURS, way=Nexthop(5))
    entry = rtmsg.Entry(shown, 32, REMOTE, direct=False)
    assert entry.as_ours() == dataclasses.replace(shown, oif=0)


def test_what_no_agent_writes_is_not_ours() -> None:
    assert rtmsg.Entry(OURS, 24, None, direct=True).as_ours() is None
    # Over several ways.
    assert rtmsg.Entry(OURS, 32, None, direct=False).as_ours() is None
