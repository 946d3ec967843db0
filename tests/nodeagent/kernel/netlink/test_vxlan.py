"""The tunnel's link messages, judged by pyroute2; and whose a device is that the kernel shows."""

import sys
from ipaddress import ip_address
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from handover_nodeagent.kernel import tunnel
from handover_nodeagent.kernel.netlink import codec, vxlan
from handover_nodeagent.kernel.netlink.vxlan import Device
from handover_nodeagent.network.model import IPAddress

REQUEST, CREATE, EXCLUSIVE, REPLACE = 0x1, 0x400, 0x200, 0x100


def read(kind: type, request: bytes) -> tuple[int, int, dict[str, Any], dict[str, Any]]:
    """Return type, flags, fields and attributes as pyroute2 reads them."""
    message = kind(request)
    message.decode()
    fields = {name: message[name] for name, _ in kind.fields}  # type: ignore[attr-defined]
    header = message["header"]
    return header["type"], header["flags"], fields, dict(message["attrs"])


def names(nested: Any) -> dict[str, Any]:
    return dict(nested["attrs"])


def test_a_device_is_made_with_all_that_it_needs() -> None:
    kind, flags, fields, found = read(ifinfmsg, vxlan.encode_create("handover0", 7472))
    assert (kind, flags) == (16, REQUEST | CREATE | EXCLUSIVE)
    assert any(fields.values()) is False
    assert (found["IFLA_IFNAME"], found["IFLA_MTU"]) == ("handover0", 9000)
    device = names(found["IFLA_LINKINFO"])
    assert device["IFLA_INFO_KIND"] == "vxlan"
    parameters = names(device["IFLA_INFO_DATA"])
    # A flag of IFLA_VXLAN_GPE's kind says all by being there; pyroute2 shows nothing for it.
    assert parameters.pop("IFLA_VXLAN_GPE", "absent") != "absent"
    assert parameters == {
        "IFLA_VXLAN_PORT": 7472,
        "IFLA_VXLAN_COLLECT_METADATA": 1,
        "IFLA_VXLAN_LEARNING": 0,
        "IFLA_VXLAN_UDP_ZERO_CSUM6_RX": 1,
    }


def test_a_device_is_named_ours_and_set_up_as_proc_sys_would() -> None:
    kind, flags, fields, found = read(ifinfmsg, vxlan.encode_configure(7))
    assert (kind, flags, fields["index"], fields["change"]) == (16, REQUEST, 7, 0)
    assert found["IFLA_IFALIAS"] == "handover"
    request = vxlan.encode_configure(7)
    # IPV4_DEVCONF_FORWARDING, RP_FILTER and SEND_REDIRECTS, within IFLA_INET_CONF within AF_INET:
    # of what is set so pyroute2 reads only what the kernel shows, which is an array.
    conf = codec.number(1, 1) + codec.number(8, 2) + codec.number(6, 0)
    inet = codec.attribute(2 | 0x8000, codec.attribute(1 | 0x8000, conf))
    assert request.endswith(codec.attribute(26 | 0x8000, inet))


def test_a_device_gets_no_address_of_the_kernels_own() -> None:
    kind, flags, fields, found = read(ifinfmsg, vxlan.encode_generate_no_address(7))
    assert (kind, flags, fields["index"]) == (16, REQUEST, 7)
    assert names(names(found["IFLA_AF_SPEC"])["AF_INET6"]) == {"IFLA_INET6_ADDR_GEN_MODE": 1}


def test_a_device_goes_up_and_is_removed() -> None:
    kind, flags, fields, found = read(ifinfmsg, vxlan.encode_up(7))
    assert (kind, flags, found) == (16, REQUEST, {})
    assert (fields["index"], fields["flags"], fields["change"]) == (7, 1, 1)
    kind, flags, fields, found = read(ifinfmsg, vxlan.encode_remove(7))
    assert (kind, flags, fields["index"], found) == (17, REQUEST, 7, {})


@pytest.mark.parametrize(
    ("address", "fields"),
    [
        (vxlan.ADDRESS, {"family": 2, "prefixlen": 32, "flags": 0, "scope": 254}),
        (tunnel.inner_address(vxlan.ADDRESS), {"family": 10, "prefixlen": 128, "flags": 2}),
    ],
    ids=["IPv4", "IPv6"],
)
def test_an_address_stands_alone_and_is_nobodys_source_elsewhere(
    address: IPAddress, fields: dict[str, int]
) -> None:
    kind, flags, shown, found = read(ifaddrmsg, vxlan.encode_address(7, address))
    assert (kind, flags) == (20, REQUEST | CREATE | REPLACE)
    assert shown == {"scope": 253, "index": 7} | fields
    assert found == {"IFA_LOCAL": str(address), "IFA_ADDRESS": str(address)}
    # And goes as it came.
    kind, flags, *rest = read(ifaddrmsg, vxlan.encode_remove_address(7, address))
    assert (kind, flags, rest) == (21, REQUEST, [shown, found])


def test_the_question_for_a_device_names_it_alone() -> None:
    kind, flags, fields, found = read(ifinfmsg, vxlan.encode_question("handover0"))
    assert (kind, flags, any(fields.values())) == (18, REQUEST, False)
    assert found == {"IFLA_IFNAME": "handover0", "IFLA_EXT_MASK": 8}


RIGHT = {"port": 7472, "is_tunnel": True}


@pytest.mark.parametrize(
    ("device", "is_ours", "is_right"),
    [
        (Device(7, "vxlan", "handover", **RIGHT), True, True),  # type: ignore[arg-type]
        (Device(7, "vxlan", "", **RIGHT), True, True),  # type: ignore[arg-type]
        (Device(7, "vxlan", "", 7474, is_tunnel=True), True, False),
        (Device(7, "vxlan", "handover", 7474, is_tunnel=True), True, False),
        (Device(7, "vxlan", "handover", 7472), True, False),
        (Device(7, "vxlan", "", 7472), False, False),
        (Device(7, "vxlan", "theirs", **RIGHT), False, False),  # type: ignore[arg-type]
        (Device(7, "veth", "handover"), False, False),
    ],
)
def test_a_device_is_known_by_kind_port_and_alias(
    device: Device, *, is_ours: bool, is_right: bool
) -> None:
    assert (device.is_ours, device.is_right(7472)) == (is_ours, is_right)


def test_inner_addresses_are_each_nodes_own() -> None:
    outer = [ip_address("192.0.2.1"), ip_address("192.0.2.2"), ip_address("fd00:66::1")]
    inner = [tunnel.inner_address(one) for one in outer]
    assert len(set(inner)) == 3
    assert all(one.is_link_local for one in inner)
    # By it agents of two versions find each other: it must never change.
    assert str(inner[0]) == "fe80::4b8f:eb93:6451:2928"


def shown(*attributes: bytes) -> bytes:
    body = codec.HEADER.pack(0, 16, 0, 0, 0) + vxlan._LINK_BODY.pack(0, 0, 7, 0, 0)
    return body + b"".join(attributes)


@pytest.mark.parametrize(
    "message",
    [
        shown()[:20],
        shown(b"\xff\0\1\0"),
        shown(codec.attribute(18, codec.attribute(1, b"vxlan\0"))),
        shown(codec.attribute(18, codec.attribute(1, b"vxlan\0") + codec.attribute(2, b"\xff\0"))),
    ],
    ids=["short", "length", "no port", "cut"],
)
def test_a_device_that_cannot_be_read_is_none(message: bytes) -> None:
    with pytest.raises(codec.MalformedError):
        vxlan.decode(message)


def device(alias: bytes, up: int, *families: bytes) -> bytes:
    """Return a right tunnel as the kernel shows it."""
    parameters = codec.attribute(15, b"\x1d\x30") + codec.attribute(25, b"\1")
    parameters += (
        codec.attribute(27, b"") + codec.attribute(15 + 5, b"\1") + codec.attribute(7, b"\0")
    )
    kind = codec.attribute(1, b"vxlan\0") + codec.attribute(2, parameters)
    body = codec.HEADER.pack(0, 16, 0, 0, 0) + vxlan._LINK_BODY.pack(0, 0, 7, up, 0)
    named = codec.attribute(20, alias + b"\0") if alias else b""
    return body + named + codec.attribute(18, kind) + codec.attribute(26, b"".join(families))


def inet(forwarding: int, send_redirects: int, rp_filter: int) -> bytes:
    numbers = {1: forwarding, 6: send_redirects, 8: rp_filter}
    array = b"".join(numbers.get(number, 7).to_bytes(4, "little") for number in range(1, 30))
    return codec.attribute(2, codec.attribute(1, array))


INET6 = codec.attribute(10, codec.attribute(8, b"\1"))
EUI64 = codec.attribute(10, codec.attribute(8, b"\0"))


@pytest.mark.skipif(sys.byteorder == "big", reason="the array is in the machine's order")
@pytest.mark.parametrize(
    ("message", "is_configured"),
    [
        (device(b"handover", 1, inet(1, 0, 2), INET6), True),
        (device(b"handover", 1, inet(1, 0, 2)), True),
        (device(b"handover", 0, inet(1, 0, 2), INET6), False),
        (device(b"", 1, inet(1, 0, 2), INET6), False),
        (device(b"handover", 1, inet(0, 0, 2), INET6), False),
        (device(b"handover", 1, inet(1, 1, 2), INET6), False),
        (device(b"handover", 1, inet(1, 0, 1), INET6), False),
        (device(b"handover", 1, inet(1, 0, 2), EUI64), False),
        (device(b"handover", 1, INET6), False),
    ],
    ids=[
        *("right", "no IPv6", "down", "no alias", "forwarding off"),
        *("redirects", "strict", "address", "not shown"),
    ],
)
def test_a_device_that_somebody_has_set_otherwise_is_not_configured(
    message: bytes, *, is_configured: bool
) -> None:
    found = vxlan.decode(message)
    assert found.is_right(7472)
    assert found.is_configured == is_configured


def test_a_device_without_a_type_is_a_hardware_one() -> None:
    assert vxlan.decode(shown()) == Device(7, "", "")
