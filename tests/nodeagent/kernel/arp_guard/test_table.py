"""The guard in a real kernel: written, changed, read back, and watched for others' edits."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

import pytest
from tests.nodeagent.node import V4, Node
from tests.nodeagent.privileges import without_privileges

from handover_nodeagent.kernel.arp_guard.table import GuardTable
from handover_nodeagent.kernel.nft import drift
from handover_nodeagent.kernel.nft.outcome import DONE, Outcome
from handover_nodeagent.kernel.nft.writer import Writer
from handover_nodeagent.network.model import ArpGuard

pytestmark = pytest.mark.root

MAC = bytes.fromhex("525400650002")
ARP = struct.Struct("!6s6sHHHBBH6s4s6s4s")
"""Destination, source, 0x0806, Ethernet, IPv4, 6, 4, operation, sender, target."""
TAP0: ArpGuard = {"tap0": frozenset({V4})}
BOTH: ArpGuard = {"tap0": frozenset({V4, V4 + 1}), "tap1": frozenset({V4 + 2})}
LISTED = """\
table arp handover {
	map workloads {
		typeof oifname : verdict
		elements = { "tap0" : jump to-tap0 }
	}

	chain output {
		type filter hook output priority filter; policy accept;
		oifname vmap @workloads
	}

	chain to-tap0 {
		arp operation reply arp saddr ip 10.65.0.2 counter packets 0 bytes 0 drop
	}
}
"""


@pytest.fixture
async def writer(node: Node) -> AsyncIterator[Writer]:  # noqa: ARG001 - made in its namespace
    """Give who writes the node's tables."""
    it = Writer()
    yield it
    it.close()


@pytest.fixture
def table(writer: Writer) -> GuardTable:
    """Give the guard of the node."""
    return GuardTable(writer)


class Watch:
    """Counts what a drift watch tells."""

    def __init__(self, author: str, receive_buffer: int = 1 << 20) -> None:
        """Listen from now on."""
        self.drifts = 0
        self.overflows = 0
        self._told = asyncio.Event()
        self._watch = drift.DriftWatch(
            self._drifted, self._overflow, author=author, receive_buffer=receive_buffer
        )

    async def told(self) -> None:
        """Return once something was told."""
        async with asyncio.timeout(5):
            await self._told.wait()
        self._told.clear()

    def close(self) -> None:
        """Stop."""
        self._watch.close()

    def _drifted(self) -> None:
        self.drifts += 1
        self._told.set()

    def _overflow(self) -> None:
        self.overflows += 1
        self._told.set()


@pytest.fixture
async def watch(writer: Writer) -> AsyncIterator[Watch]:
    """Listen to everybody but the table's own thread."""
    it = Watch(writer.author)
    yield it
    it.close()


async def test_the_table_is_what_the_design_says(node: Node, table: GuardTable) -> None:
    assert await table.replace(TAP0) == DONE
    assert node.run("nft list ruleset") == LISTED
    assert await table.observe() == TAP0


async def test_a_replace_leaves_nothing_of_before(node: Node, table: GuardTable) -> None:
    await table.replace(BOTH)
    assert await table.observe() == BOTH
    node.run("nft add rule arp handover output accept")
    assert await table.replace(TAP0) == DONE
    assert node.run("nft list ruleset") == LISTED


async def test_one_interface_changes_and_the_others_stay(table: GuardTable) -> None:
    await table.replace(BOTH)
    assert await table.change({"tap0": frozenset({V4 + 7})}) == DONE
    assert {**BOTH, "tap0": frozenset({V4 + 7})} == await table.observe()


async def test_an_interface_that_goes_leaves_nothing_behind(node: Node, table: GuardTable) -> None:
    await table.replace(BOTH)
    gone: ArpGuard = {"tap1": frozenset(), "never-there": frozenset()}
    assert await table.change({**gone, **TAP0}) == DONE
    assert node.run("nft list ruleset") == LISTED


async def test_the_table_is_removed_once_and_again(node: Node, table: GuardTable) -> None:
    await table.replace(BOTH)
    assert [await table.remove() for _ in range(2)] == [DONE, DONE]
    assert node.run("nft list ruleset") == ""
    assert await table.observe() is None


async def test_a_change_without_the_table_says_so(table: GuardTable) -> None:
    assert "No such file or directory" in (await table.change(TAP0)).trouble


async def test_a_strange_interface_name_costs_only_its_own_guard(table: GuardTable) -> None:
    strange: ArpGuard = {'a"; flush': frozenset({V4}), "a@b": frozenset({V4})}
    complaint = Outcome("""nftables cannot name interface 'a"; flush'""")
    assert complaint == await table.replace(strange)
    assert await table.observe() == {"a@b": frozenset({V4})}
    assert complaint == await table.change({**strange, **TAP0})
    assert await table.observe() == {"a@b": frozenset({V4}), **TAP0}


async def test_five_hundred_workloads_are_one_table(
    node: Node, table: GuardTable, watch: Watch
) -> None:
    guard = {f"cali{number:011x}": frozenset({V4 + number}) for number in range(500)}
    assert await table.replace(guard) == DONE
    assert guard == await table.observe()
    assert await table.replace(guard) == DONE
    assert await table.change({"cali00000000007": frozenset({V4})}) == DONE
    node.run("nft delete table arp handover")
    await watch.told()
    assert (watch.drifts, watch.overflows) == (1, 0)


def test_without_the_privilege_the_answer_is_a_value(node: Node) -> None:
    async def attempt() -> str:
        writer = Writer()
        try:
            return (await GuardTable(writer).replace(TAP0)).trouble
        finally:
            writer.close()

    complaint = without_privileges(lambda: asyncio.run(attempt()))
    assert "Operation not permitted" in complaint
    assert node.run("nft list ruleset") == ""


@pytest.mark.usefixtures("node")
async def test_without_the_library_the_answer_says_what_to_install() -> None:
    writer = Writer("libnftables.so.0")
    table = GuardTable(writer)
    expected = Outcome(
        "libnftables.so.0 cannot be loaded: install libnftables1 (Debian) or nftables (Fedora);"
        " the ARP guard is off",
        is_lost=True,
    )
    assert expected == await table.replace(TAP0)
    assert expected == await table.change(TAP0)
    assert expected == await table.remove()
    assert await table.observe() is None
    writer.close()


@pytest.mark.parametrize(
    "edit",
    [
        "nft flush ruleset",
        "nft delete table arp handover",
        "nft flush chain arp handover output",
        "nft insert rule arp handover output accept",
        "nft flush map arp handover workloads",
    ],
)
async def test_somebody_elses_edit_is_heard_and_repaired(
    node: Node, table: GuardTable, watch: Watch, edit: str
) -> None:
    await table.replace(TAP0)
    node.run(edit)
    await watch.told()
    assert await table.observe() != TAP0
    await table.replace(TAP0)
    assert await table.observe() == TAP0
    node.run("nft add table ip last")
    node.run("nft add rule arp handover output accept")
    await watch.told()
    assert (watch.drifts, watch.overflows) == (2, 0)


async def test_other_tables_and_our_own_changes_are_no_drift(
    node: Node, table: GuardTable, watch: Watch
) -> None:
    await table.replace(TAP0)
    await table.change(BOTH)
    node.run("nft add table arp other")
    node.run("nft add table ip handover")
    node.run("nft add chain ip handover x")
    await table.remove()
    await table.replace(TAP0)
    assert (watch.drifts, watch.overflows) == (0, 0)
    node.run("nft delete table arp handover")
    await watch.told()
    assert (watch.drifts, watch.overflows) == (1, 0)


async def test_what_could_not_be_heard_is_an_overflow(
    node: Node, table: GuardTable, writer: Writer
) -> None:
    await table.replace(TAP0)
    watch = Watch(writer.author, receive_buffer=1)
    rules = "; ".join(f"add chain ip x c{number}" for number in range(1000))
    node.run("nft add table ip x")
    node.run(f"nft {rules}")  # while the loop stands still
    await watch.told()
    assert watch.overflows >= 1
    assert await table.observe() == TAP0
    watch.close()


async def test_the_host_answers_for_the_gateway_but_never_for_the_guest(
    node: Node, table: GuardTable
) -> None:
    """The state of a target before its cutover: the best route leaves by another device."""
    for setting in ("proxy_arp", "forwarding"):
        node.run(f"sysctl -qw net.ipv4.conf.tap0.{setting}=1")
    node.run("sysctl -qw net.ipv4.conf.all.forwarding=1")
    node.run("sysctl -qw net.ipv4.neigh.tap0.proxy_delay=0")
    node.run("ip address add 192.0.2.1/24 dev tap1")
    node.run("ip route add default via 192.0.2.9")
    gateway = IPv4Address("169.254.1.1")
    with node.guest_socket() as guest:
        assert [V4, gateway] == answers(guest, V4, gateway)
        await table.replace(TAP0)
        assert [gateway] == answers(guest, V4, gateway)
        (rule,) = [line for line in node.lines("nft list ruleset") if "saddr" in line]
        assert "counter packets 1 " in rule
        await table.remove()
        assert [V4, gateway] == answers(guest, V4, gateway)


def answers(guest: socket.socket, *targets: IPv4Address) -> list[IPv4Address]:
    """Let the VM ask for *targets*; return those that were answered, up to the last one."""
    seen = []
    for target in targets:
        guest.send(question(target))
    while targets[-1] not in seen:
        frame = guest.recv(100)
        if frame[12:14] == b"\x08\x06" and ARP.unpack_from(frame)[7] == 2:
            seen.append(IPv4Address(ARP.unpack_from(frame)[9]))
    return seen


def question(target: IPv4Address) -> bytes:
    """Return the VM's ARP request for *target*."""
    head = (b"\xff" * 6, MAC, 0x0806, 1, 0x0800, 6, 4, 1)
    return ARP.pack(*head, MAC, V4.packed, bytes(6), target.packed)
