"""The journal misses nothing and knows what stood when."""

import os
from collections.abc import Iterator

import pytest

from handover_lab.network.journal import Entry, Journal
from handover_lab.network.namespaces import Namespace

AT = "[2026-11-24T13:54:46.056424] "
AT_NS = 1795528486056424000
ADDRESSES = ("10.65.0.2", "fd00:65::2")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "Deleted 10.65.0.2 dev vm proto 88 scope link metric 512 ",
            Entry(AT_NS, "10.65.0.2", "vm", 512, "88", "254", present=False),
        ),
        (
            "fd00:65::2 via fd00:172:30::11 dev eth0 proto bird metric 768 pref medium",
            Entry(AT_NS, "fd00:65::2", "fd00:172:30::11", 768, "bird", "254", present=True),
        ),
        (
            "10.65.0.2 dev vm table 5254 scope link",
            Entry(AT_NS, "10.65.0.2", "vm", 0, "boot", "5254", present=True),
        ),
        ("172.30.0.0/24 dev eth0 proto kernel scope link", None),
        ("local 172.30.0.1 dev vm table local proto kernel scope host", None),
        ("", None),
    ],
)
def test_a_line_is_read_as(line: str, expected: Entry | None) -> None:
    assert expected == Entry.read(AT + line + "\n")


@pytest.fixture
def node() -> Iterator[Namespace]:
    """A namespace with an interface for a VM."""
    namespace = Namespace.make("node-a")
    namespace.run("ip link add vm up type veth peer name guest && ip link set guest up")
    yield namespace
    namespace.end()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")
@pytest.mark.parametrize("address", ADDRESSES)
async def test_every_moment_is_in_the_journal(node: Namespace, address: str) -> None:
    node.run(f"ip route add {address} dev vm metric 1024 proto 88")
    async with Journal.open(node) as journal:
        node.run(f"ip route add {address} dev vm metric 512 proto 88")
        node.run(f"ip route del {address} dev vm metric 1024")
        node.run(f"ip route del {address} dev vm metric 512")
        await journal.catch_up()

    metrics = [sorted(e.metric for e in standing) for _, standing in journal.moments(address)]
    assert metrics == [[1024], [512, 1024], [512], []]
    assert all(entry.is_ours for entry in journal.of(address))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")
async def test_an_entry_can_be_awaited(node: Namespace) -> None:
    async with Journal.open(node) as journal:
        node.run("ip route add 10.65.0.2 dev vm")

        assert (await journal.until(lambda entry: entry.address == "10.65.0.2")).way == "vm"
        with pytest.raises(TimeoutError):
            await journal.until(lambda entry: entry.address == "10.65.0.3", seconds=0.01)
