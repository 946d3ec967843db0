"""The addresses of this node, as its Node has them."""

from ipaddress import ip_address
from typing import Any, Final

import pytest

from handover_api.names import ObjectKey
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.reconcile.own_node import OwnNodeSink

V4, V6 = "192.0.2.1", "2001:db8::1"
KEY: Final = ObjectKey("", "a")


def raw(*addresses: str, name: str = "a", kind: str = "InternalIP") -> dict[str, Any]:
    shown = [{"type": kind, "address": address} for address in addresses]
    return {"metadata": {"name": name}, "status": {"addresses": shown}}


@pytest.mark.parametrize(
    ("told", "followed"),
    [
        (raw(V4, V6), [(V4, V6)]),
        (raw(V6, V4), [(V6, V4)]),
        # Of each family the first, as status.hostIPs has them.
        (raw(V4, "192.0.2.9", V6, "2001:db8::9"), [(V4, V6)]),
        # A kubelet that starts anew.
        (raw(), []),
        (raw(V4, kind="Hostname"), []),
        (raw(V4, name="b"), []),
        ({}, []),
    ],
)
def test_what_a_node_says_is_followed(told: Any, followed: list[tuple[str, ...]]) -> None:
    moved: list[tuple[IPAddress, ...]] = []
    sink = OwnNodeSink("a", moved.append)
    sink.put(told)
    # Whatever is not known says nothing of where the node is.
    sink.drop(KEY, "uid")
    sink.outage("Timeout", is_absent=False)
    sink.synced()
    assert moved == [tuple(map(ip_address, one)) for one in followed]
