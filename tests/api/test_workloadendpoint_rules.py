"""What the API server says to a WorkloadEndpoint."""

from typing import Any, Final

import pytest

from handover_api.names import WORKLOAD_ENDPOINTS
from handover_api.workloadendpoint import WorkloadEndpoint

pytestmark = pytest.mark.api

Change = dict[str, Any]

SPEC: Final[Change] = {"node": "node-a", "workload": "vm", "ips": ["10.65.0.2"]}

NO_NAME: Final = "spec.node must be the name of a node: lower case letters, digits, '-' and '.'"
NO_INTERFACE: Final = (
    "spec.interface must be a name that Linux allows: ASCII without spaces, '/' and ':', not '.'"
    " or '..'"
)
NO_MAC: Final = "spec.mac must be six pairs of hex digits, such as 02:00:00:00:00:01"
NO_IP: Final = (
    "spec.ips must hold IPv4 or IPv6 addresses without prefix length, such as 10.0.0.7 or fd00::7"
)
NO_GATEWAY: Final = (
    "spec.gateways must hold IPv4 or IPv6 addresses without prefix length, such as 169.254.1.1 or"
    " fe80::1"
)

NO_GUEST: Final = (
    "spec.ips must hold addresses of a guest: no loopback, link-local, multicast, broadcast or"
    " unspecified one"
)
NO_ROUTER: Final = (
    "spec.gateways must hold addresses of gateways: no loopback, multicast, broadcast or"
    " unspecified one"
)
NOT_ONE: Final = (
    "spec.mac must be the address of one guest: not zero, and no multicast address (whose first"
    " pair is odd)"
)
ONCE: Final = "spec.ips must hold each address once"

REFUSED: Final[dict[str, tuple[Change, str, str]]] = {
    "no node": ({"node": None}, "spec.node", "Required value"),
    "an empty node": ({"node": ""}, "spec.node", NO_NAME),
    "a long node": ({"node": "n" * 254}, "spec.node", "may not be more than 253 bytes"),
    "a node in capitals": ({"node": "Node-A"}, "spec.node", NO_NAME),
    "a node with an underscore": ({"node": "node_a"}, "spec.node", NO_NAME),
    "a node that ends in a dash": ({"node": "node-"}, "spec.node", NO_NAME),
    "no workload": ({"workload": None}, "spec.workload", "Required value"),
    "an empty workload": ({"workload": ""}, "spec.workload", "should be at least 1 chars long"),
    "no addresses": ({"ips": None}, "spec.ips", "Required value"),
    "zero addresses": ({"ips": []}, "spec.ips", "should have at least 1 items"),
    "seventeen addresses": (
        {"ips": [f"10.65.0.{n}" for n in range(17)]},
        "spec.ips",
        "must have at most 16 items",
    ),
    "a prefix length": ({"ips": ["10.65.0.2/32"]}, "spec.ips[0]", NO_IP),
    "a wrong second address": ({"ips": ["10.65.0.2", "fd00::g"]}, "spec.ips[1]", NO_IP),
    "a zone": ({"ips": ["fe80::1%eth0"]}, "spec.ips[0]", NO_IP),
    "an IPv4 address in IPv6": ({"ips": ["::ffff:10.0.0.1"]}, "spec.ips[0]", NO_IP),
    "a name for an address": ({"ips": ["vm.example"]}, "spec.ips[0]", NO_IP),
    "an empty address": ({"ips": [""]}, "spec.ips[0]", NO_IP),
    "five gateways": (
        {"gateways": [f"10.65.1.{n}" for n in range(5)]},
        "spec.gateways",
        "must have at most 4 items",
    ),
    "a gateway's prefix length": ({"gateways": ["fe80::1/64"]}, "spec.gateways[0]", NO_GATEWAY),
    "a short MAC": ({"mac": "02:00:00:00:00"}, "spec.mac", NO_MAC),
    "a long MAC": (
        {"mac": "02:00:00:00:00:01:02"},
        "spec.mac",
        "may not be more than 17 bytes",
    ),
    "a MAC with dashes": ({"mac": "02-00-00-00-00-01"}, "spec.mac", NO_MAC),
    "a MAC that is no hex": ({"mac": "02:00:00:00:00:0g"}, "spec.mac", NO_MAC),
    "an empty MAC": ({"mac": ""}, "spec.mac", NO_MAC),
    "an interface of 16 characters": (
        {"interface": "cali0123456789ab"},
        "spec.interface",
        "may not be more than 15 bytes",
    ),
    "an empty interface": (
        {"interface": ""},
        "spec.interface",
        "should be at least 1 chars long",
    ),
    "a path for an interface": ({"interface": "../eth0"}, "spec.interface", NO_INTERFACE),
    "an alias for an interface": ({"interface": "eth0:1"}, "spec.interface", NO_INTERFACE),
    "an interface with a space": ({"interface": "eth 0"}, "spec.interface", NO_INTERFACE),
    "an interface outside of ASCII": ({"interface": "ethø"}, "spec.interface", NO_INTERFACE),
    "the interface '.'": ({"interface": "."}, "spec.interface", NO_INTERFACE),
    "the interface '..'": ({"interface": ".."}, "spec.interface", NO_INTERFACE),
    "an address twice": ({"ips": ["10.65.0.2", "10.65.0.2"]}, "spec.ips", ONCE),
    "an address in two spellings": ({"ips": ["fd00::2", "fd00:0::0:2"]}, "spec.ips", ONCE),
    **{
        f"the address {address}": ({"ips": [address]}, "spec.ips[0]", NO_GUEST)
        for address in (
            *("127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.1.1", "255.255.255.255"),
            *("::1", "::", "ff02::1", "fe80::1"),
        )
    },
    **{
        f"the gateway {address}": ({"gateways": [address]}, "spec.gateways[0]", NO_ROUTER)
        for address in ("127.0.0.1", "0.0.0.0", "239.1.1.1", "ff02::2", "::")
    },
    **{
        f"the MAC {mac}": ({"mac": mac}, "spec.mac", NOT_ONE)
        for mac in ("00:00:00:00:00:00", "01:00:5e:00:00:01", "33:33:00:00:00:01", "ff:" * 5 + "ff")
    },
    "awaitRole as a word": (
        {"awaitRole": "yes"},
        "spec.awaitRole",
        'must be of type boolean: "string"',
    ),
}

ACCEPTED: Final[dict[str, Change]] = {
    "the least": {},
    "a node with dots": {"node": "node-1.example.org"},
    "a node of one letter": {"node": "a"},
    "the longest node": {"node": "n" * 253},
    "both families": {"ips": ["10.65.0.2", "fd00::2"]},
    "sixteen addresses": {"ips": [f"10.65.0.{n}" for n in range(16)]},
    "four gateways": {"gateways": ["169.254.1.1", "fe80::1", "10.65.0.1", "fd00::1"]},
    "no gateways": {"gateways": []},
    "a MAC": {"mac": "02:00:00:00:00:01"},
    "a MAC in capitals": {"mac": "02:00:00:AB:CD:EF"},
    "an interface of 15 characters": {"interface": "cali0123456789a"},
    "an unusual interface": {"interface": "veth-a.1_2@x"},
    "the interface '...'": {"interface": "..."},
    "awaitRole": {"awaitRole": True},
}


def changed(change: Change) -> Change:
    """Return the spec with a change; None removes."""
    return {field: value for field, value in {**SPEC, **change}.items() if value is not None}


@pytest.mark.parametrize(("change", "field", "sentence"), REFUSED.values(), ids=REFUSED)
async def test_a_wrong_endpoint_is_refused(
    api: Any, change: Change, field: str, sentence: str
) -> None:
    with pytest.raises(api.refused) as raised:
        await api.create(WORKLOAD_ENDPOINTS, changed(change))
    assert list(raised.value.causes) == [field]
    assert raised.value.causes[field].endswith(sentence)


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED)
async def test_the_nearest_right_endpoint_is_accepted(api: Any, change: Change) -> None:
    stored = await api.create(WORKLOAD_ENDPOINTS, changed(change))
    assert stored["spec"] == {"awaitRole": False} | changed(change)
    assert WorkloadEndpoint.model_validate(stored).spec.node == stored["spec"]["node"]


async def test_there_is_no_endpoint_without_a_spec(api: Any) -> None:
    with pytest.raises(api.refused) as raised:
        await api.create(WORKLOAD_ENDPOINTS, None)
    assert raised.value.causes == {"spec": "Required value"}


async def test_a_field_that_does_not_exist_is_refused(api: Any) -> None:
    with pytest.raises(api.refused, match=r'unknown field "spec\.ip"'):
        await api.create(WORKLOAD_ENDPOINTS, SPEC | {"ip": "10.65.0.2"})


async def test_the_node_stays_and_the_rest_may_change(api: Any) -> None:
    await api.create(WORKLOAD_ENDPOINTS, SPEC, dry=False)
    try:
        with pytest.raises(api.refused) as raised:
            await api.change(WORKLOAD_ENDPOINTS, {"spec": {"node": "node-b"}})
        assert raised.value.causes["spec.node"].endswith(
            "spec.node is immutable; make a new WorkloadEndpoint instead"
        )
        with pytest.raises(api.refused) as raised:
            await api.change(WORKLOAD_ENDPOINTS, {"spec": {"node": None}})
        assert raised.value.causes == {"spec.node": "Required value"}
        other = {
            "workload": "vm2",
            "ips": ["fd00::3"],
            "mac": "02:00:00:00:00:02",
            "interface": "tap7",
            "gateways": ["fe80::1"],
            "awaitRole": True,
        }
        after = await api.change(WORKLOAD_ENDPOINTS, {"spec": other})
        assert after["spec"] == {"node": "node-a"} | other
    finally:
        await api.delete(WORKLOAD_ENDPOINTS)
