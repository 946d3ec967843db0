"""Route changes are read as the kernel tells them."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from handover_lab.facts import Route
from handover_lab.network import route_watch
from handover_lab.network.namespaces import Namespace
from handover_lab.network.route_watch import Change, Known

AT = "[2026-11-24T13:54:46.056424] "
AT_NS = 1795528486056424000


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "10.65.0.2 dev vm proto 88 scope link metric 1024 ",
            Change(AT_NS, "10.65.0.2", "vm", "", "1024", present=True),
        ),
        (
            "Deleted 10.65.0.2 dev vm proto 88 scope link metric 1024 ",
            Change(AT_NS, "10.65.0.2", "vm", "", "1024", present=False),
        ),
        (
            "fd00:65::2 via fd00:172:30::11 dev eth0 proto bird metric 768 pref medium",
            Change(AT_NS, "fd00:65::2", "eth0", "fd00:172:30::11", "768", present=True),
        ),
        ("10.65.0.2 dev vm scope link ", Change(AT_NS, "10.65.0.2", "vm", "", "0", present=True)),
        ("local 172.30.0.1 dev vm table local proto kernel scope host", None),
        ("10.65.0.2 dev vm table 5254 proto 88 metric 5", None),
        ("Deleted default via 172.30.0.1 dev eth0", None),
        ("", None),
    ],
)
def test_a_line_is_read_as(line: str, expected: Change | None) -> None:
    assert expected == Change.read(AT + line + "\n")


def test_a_replaced_route_goes_before_its_successor_comes() -> None:
    known = Known("router")
    first = Change(1, "10.65.0.2", "eth0", "172.30.0.11", "768", present=True)
    second = Change(2, "10.65.0.2", "eth0", "172.30.0.12", "768", present=True)

    assert [
        Route(1, "router", "via 172.30.0.11 metric 768", present=True),
        Route(2, "router", "via 172.30.0.11 metric 768", present=False),
        Route(2, "router", "via 172.30.0.12 metric 768", present=True),
    ] == [*known.add(first), *known.add(second)]


@pytest.fixture
def node() -> Iterator[Namespace]:
    """A namespace with an interface for a VM."""
    namespace = Namespace.make("node-a")
    namespace.run("ip link add vm up type veth peer name guest && ip link set guest up")
    yield namespace
    namespace.end()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")
async def test_the_kernel_tells(node: Namespace) -> None:
    watching = route_watch.watch(node, "node-a", "10.65.0.2")
    first = asyncio.ensure_future(anext(watching))
    # ip says nothing when it has begun to listen: so knock until it hears.
    while not first.done():
        node.run("ip route add 10.65.0.2 dev vm metric 512 && ip route delete 10.65.0.2")
        await asyncio.wait({first}, timeout=0.1)

    node.run("ip route add 10.65.0.2 dev vm metric 768")
    told = [await first]
    while told[-1].how != "dev vm metric 768":
        told.append(await anext(watching))
    await watching.aclose()

    assert {route.how for route in told} == {"dev vm metric 512", "dev vm metric 768"}
    assert told[-1].present
