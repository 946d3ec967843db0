"""What notifications say; pyroute2 judges how they are read (``test_against_pyroute2``)."""

import struct
from ipaddress import ip_address

import pytest

from handover_nodeagent.kernel.netlink import changes, codec, ways
from handover_nodeagent.kernel.netlink.changes import RouteChanged
from handover_nodeagent.network.model import Route

MAIN, PARKED = 254, 5254
V4 = ip_address("10.65.0.2")


def told(kind: int, table: int, more: bytes = b"", flags: int = 0) -> bytes:
    """Return what is told of a host route; *more* are attributes."""
    body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 0, 5, 253, 1, 0)
    body += codec.attribute(1, V4.packed) + codec.number(4, 7) + codec.number(15, table)
    return codec.compose(kind, flags, body + more)


@pytest.mark.parametrize("is_followed", [True, False])
def test_a_parked_copy_that_goes_is_told_whichever_table_is_followed(*, is_followed: bool) -> None:
    message = told(codec.DELROUTE, PARKED)
    expected = RouteChanged(Route(V4, 7, 0, PARKED, 5), False, True, message)  # noqa: FBT003
    assert changes.decode(message, PARKED if is_followed else MAIN) == expected


def test_a_parked_copy_that_comes_is_ours_and_not_told() -> None:
    assert changes.decode(told(codec.NEWROUTE, PARKED), MAIN) is None


def test_a_gateways_route_that_took_a_place_is_told_as_not_direct() -> None:
    gateway = codec.attribute(ways.GATEWAY, ip_address("192.0.2.9").packed)
    message = told(codec.NEWROUTE, MAIN, gateway, codec.REPLACE)
    change = changes.decode(message, MAIN)
    assert isinstance(change, RouteChanged)
    assert (change.present, change.direct, change.replaced) == (True, False, True)


def test_what_is_removed_has_replaced_nothing() -> None:
    """In a removal the same bit means something else."""
    change = changes.decode(told(codec.DELROUTE, MAIN, flags=codec.REPLACE), MAIN)
    assert isinstance(change, RouteChanged)
    assert not change.replaced


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (codec.NEWLINK, b"\7" + bytes(15) + codec.attribute(3, b"br0\0")),
        (codec.DELLINK, b"\7" + bytes(15) + codec.attribute(3, b"br0\0")),
        (codec.NEWROUTE, b"\x80\x20\0\0\xfe\x11\0\1\0\0\0\0"),
        (codec.NEWROUTE, b"\2\x20\0\0\xfe\x11\0\6\0\0\0\0" + codec.attribute(1, bytes(4))),
        (codec.NEWROUTE, b"\2\x20\0\0\xfe\x11\0\1\0\2\0\0" + codec.attribute(1, bytes(4))),
        (codec.NEWNEIGH, bytes(12)),
    ],
    ids=["port", "port left", "multicast route", "blackhole", "cache entry", "neighbor"],
)
def test_what_is_of_another_family_or_type_is_told_to_nobody(kind: int, body: bytes) -> None:
    assert changes.decode(codec.compose(kind, 0, body), MAIN) is None
