"""The redirect table as its task keeps it: there when a tunnel is, repaired, and gone after it."""

import asyncio
import contextlib
import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from typing import Final

import pytest
from tests.nodeagent.node import V4, V6, Node

from handover_api.configuration import Advertise, Mode, Settings, SourceRedirect
from handover_nodeagent.kernel.netlink.codec import MalformedError
from handover_nodeagent.kernel.nft.writer import Writer
from handover_nodeagent.kernel.redirect_table import rules
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.reconcile import redirect_table
from handover_nodeagent.reconcile.redirect_table import RedirectTableReconciler

pytestmark = pytest.mark.root

SETTINGS = Settings(
    source_redirect=SourceRedirect.AUTO,
    advertise=Advertise.AGENTS,
    ipv4_normal_route_priority=1024,
    ipv6_normal_route_priority=1024,
)
PEER = ip_address("192.0.2.2")
PEERS: Final = frozenset({PEER})
NOBODY: Final[frozenset[IPAddress]] = frozenset()


class Table:
    """A reconciler that works, and the ports that the node has."""

    def __init__(self, node: Node) -> None:
        """Begin; nothing is wanted so far."""
        self.node = node
        self.ports = {"tap0"}
        self.reports = 0
        self.writer = Writer()
        self.open: set[str] = set()
        self.it = RedirectTableReconciler(
            SETTINGS, self.writer, lambda: self.ports, self.open.__contains__, self._report
        )
        self.it.replace()
        self.task = asyncio.create_task(self.it.run())

    def listed(self) -> str:
        return self.node.run("nft list ruleset inet")

    async def until(self, is_so: Callable[[str], object]) -> None:
        """Wait until something holds of what nft lists."""
        deadline = asyncio.get_running_loop().time() + 10
        while not is_so(shown := self.listed()):
            assert asyncio.get_running_loop().time() < deadline, shown
            await asyncio.sleep(0.01)

    def _report(self) -> None:
        self.reports += 1


@pytest.fixture
async def table(node: Node) -> AsyncIterator[Table]:
    """Let it work on the node of this test."""
    it = Table(node)
    yield it
    it.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await it.task
    it.writer.close()


async def test_what_the_last_agent_left_stays_until_it_is_known_what_is_wanted(
    table: Table,
) -> None:
    table.node.run("nft add table inet handover")
    table.it.touch()
    await asyncio.sleep(0.1)
    assert "handover" in table.listed()
    table.it.want(NOBODY, NOBODY, has_tunnel=False)
    await table.until(lambda text: text == "")


@pytest.mark.parametrize("error", [None, OSError(22, "no conntrack"), MalformedError("cut")])
async def test_connections_that_go_untracked_are_forgotten_once(
    table: Table, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    forgotten: list[tuple[object, ...]] = []

    def forget(*what: object) -> None:
        # The table is there before: nothing is tracked anew meanwhile.
        assert "@away4 notrack" in table.listed()
        forgotten.append(what)
        if error:
            raise error

    monkeypatch.setattr("handover_nodeagent.kernel.conntrack.forget", forget)
    table.it.want(NOBODY, NOBODY, has_tunnel=False)
    table.it.want_forwarded(frozenset({V4}), frozenset({"eth0"}))
    await table.until(lambda _: forgotten == [({V4}, {"eth0"}, NOBODY)])
    table.it.want_forwarded(frozenset({V4, V6}), frozenset({"eth0"}))
    await table.until(lambda _: forgotten[1:] == [({V6}, {"eth0"}, NOBODY)])
    table.it.want_forwarded(frozenset({V4}), frozenset({"eth0"}))
    await table.until(lambda text: str(V6) not in text)
    assert len(forgotten) == 2
    assert table.it.trouble == ""


async def test_what_a_home_forwards_is_untracked_for_as_long_as_agents_carry_the_routes(
    table: Table,
) -> None:
    table.it.want_forwarded(frozenset({V4, V6}), frozenset({"eth0"}))
    table.it.want(NOBODY, NOBODY, has_tunnel=False)
    await table.until(lambda text: "iifname @uplinks ip daddr @away4 notrack" in text)
    assert f"elements = {{ {V6} }}" in table.listed()
    table.it.want_forwarded(frozenset({V6}), frozenset({"eth0"}))
    await table.until(lambda text: str(V4) not in text)
    table.it.configure(SETTINGS.model_copy(update={"advertise": Advertise.BGP}))
    await table.until(lambda text: text == "")


async def test_a_tunnel_is_bounded_from_its_making_to_its_end(table: Table) -> None:
    table.it.want(PEERS, NOBODY)
    await table.until(lambda text: "192.0.2.2" in text)
    assert '"tap0"' in table.listed()
    table.it.want(PEERS, frozenset({V4, V6}))
    await table.until(lambda text: "fd00:65::2" in text)
    assert "elements = { 10.65.0.2 counter packets 0 bytes 0 }" in table.listed()
    table.ports.add("tap1")
    table.it.touch()
    await table.until(lambda text: '"tap1"' in text)
    table.it.want(NOBODY, NOBODY)
    await table.until(lambda text: "192.0.2.2" not in text)
    assert "udp dport 7472" in table.listed()
    table.it.want(NOBODY, NOBODY, has_tunnel=False)
    await table.until(lambda text: text == "")
    assert (table.it.trouble, table.reports) == ("", 0)


async def test_rules_stay_as_long_as_their_device_does(table: Table) -> None:
    """An agent that starts anew knows no peer so far, and a tunnel that is switched off stays."""
    table.open |= {rules.REDIRECT, rules.DISTRIBUTION}
    table.it.want(NOBODY, NOBODY, has_tunnel=False)
    await table.until(lambda text: "7474" in text)
    assert 'iifname "handover0" oifname != @ports' in table.listed()
    assert "7472" in table.listed()
    off = {"source_redirect": SourceRedirect.OFF, "advertise": Advertise.BGP}
    table.it.configure(SETTINGS.model_copy(update=off))
    table.it.touch()
    table.ports.add("tap1")
    await table.until(lambda text: '"tap1"' in text)
    assert {"7472", "7474"} <= set(table.listed().split())
    table.open.clear()
    table.it.want_nodes(NOBODY)
    await table.until(lambda text: text == "")


async def test_whoever_waits_for_rules_is_told_when_they_are_in(table: Table) -> None:
    told: list[tuple[bool, bool]] = []

    def note() -> None:
        told.append((table.it.encloses(rules.REDIRECT), table.it.encloses(rules.DISTRIBUTION)))

    table.it.enclosed = note
    table.it.want(PEERS, NOBODY)
    await table.until(lambda _: told == [(True, False)])
    assert "7472" in table.listed()
    table.it.want_nodes(PEERS)
    await table.until(lambda _: told[1:] == [(True, True)])
    assert "7474" in table.listed()
    table.it.want_nodes(NOBODY)
    await table.until(lambda text: "7474" not in text)
    assert table.it.encloses(rules.REDIRECT)
    assert not table.it.encloses(rules.DISTRIBUTION)
    assert len(told) == 2


async def test_without_a_tunnel_its_port_is_anybodys_and_redirects_are_untracked(
    table: Table,
) -> None:
    """Over one link a plain next hop leads on: conntrack sees half of it all the same."""
    table.it.configure(SETTINGS.model_copy(update={"source_redirect": SourceRedirect.LINK}))
    table.it.want(PEERS, frozenset({V4}))
    await table.until(lambda text: "10.65.0.2" in text)
    assert "notrack" in table.listed()
    assert "7472" not in table.listed()
    assert "handover0" not in table.listed()


def send(table: Table, count: int) -> None:
    """Let packets for the guest come in by a device that is no VM's."""
    (shown,) = json.loads(table.node.run("ip -json link show tap1"))
    mac = bytes.fromhex(shown["address"].replace(":", ""))
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 1, 0, 64, 17, 0, PEER.packed, V4.packed)
    total = sum(struct.unpack("!10H", header))
    checksum = ~(total + (total >> 16)) & 0xFFFF
    header = header[:10] + struct.pack("!H", checksum) + header[12:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("far1", 0))
        for _ in range(count):
            sock.send(mac + bytes(6) + b"\x08\0" + header + struct.pack("!HHHH", 9, 7, 8, 0))


async def test_what_is_sent_on_is_counted_now_and_then_and_before_it_goes(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redirect_table, "COUNT_FIRST", 0.02)
    monkeypatch.setattr(redirect_table, "COUNT_LAST", 0.02)
    told: Counter[IPAddress] = Counter()
    table.it.counted = told.update
    table.it.want(PEERS, frozenset({V4, V6}))
    await table.until(lambda text: "fd00:65::2" in text)
    send(table, 7)
    await table.until(lambda _: told == {V4: 7, V6: 0})
    # From now on only what happens to the table has it counted.
    monkeypatch.setattr(redirect_table, "COUNT_LAST", 60.0)
    table.it._until_count = 60.0
    await asyncio.sleep(0.1)
    send(table, 2)
    table.it.replace()
    await table.until(lambda _: told[V4] == 9)
    await table.until(lambda text: "10.65.0.2 counter packets 0" in text)
    send(table, 1)
    table.it.want(PEERS, frozenset({V6}))
    await table.until(lambda _: told[V4] == 10)
    await table.until(lambda text: "10.65.0.2" not in text)
    # It begins anew, and is no less than before.
    table.it.want(PEERS, frozenset({V4}))
    await table.until(lambda text: "10.65.0.2" in text)
    send(table, 1)
    table.it.want(PEERS, NOBODY)
    await table.until(lambda _: told[V4] == 11)
    assert told[V6] == 0


@pytest.mark.parametrize(("before", "now", "grown"), [(0, 3, 3), (3, 3, 0), (5, 2, 2)])
def test_a_counter_that_somebody_made_anew_counts_from_zero(
    before: int, now: int, grown: int
) -> None:
    assert redirect_table._grown(before, now) == grown


async def test_a_second_tunnel_has_its_nodes(table: Table) -> None:
    table.it.want(NOBODY, NOBODY, has_tunnel=False)
    table.it.want_nodes(PEERS)
    await table.until(lambda text: "udp dport 7474" in text)
    assert "7472" not in table.listed()
    table.it.want_nodes(NOBODY)
    await table.until(lambda text: text == "")


async def test_what_somebody_changes_is_repaired_and_a_fight_is_told(table: Table) -> None:
    table.it.want(PEERS, NOBODY)
    await table.until(lambda text: "192.0.2.2" in text)
    for _ in range(12):
        table.node.run("nft flush set inet handover peers4")
        if table.it.contested:
            break
        await table.until(lambda text: "192.0.2.2" in text or table.it.contested)
    assert table.it.contested == ("somebody changes table inet handover as often as it is repaired")
    await table.until(lambda text: "192.0.2.2" in text)


async def test_in_another_mode_nothing_is_written(table: Table) -> None:
    table.it.configure(SETTINGS.model_copy(update={"mode": Mode.OBSERVE}))
    table.it.want(PEERS, NOBODY)
    await asyncio.sleep(0.1)
    assert table.listed() == ""
    table.it.configure(SETTINGS)
    await table.until(lambda text: "192.0.2.2" in text)


async def test_what_fails_is_told_and_tried_again(table: Table) -> None:
    library, table.writer._process._library = table.writer._process._library, "libnone.so"
    table.it.want(PEERS, NOBODY)
    await table.until(lambda _: table.it.trouble)
    assert table.it.trouble.endswith("; the redirect is off")
    assert table.reports == 1
    table.writer._process._library = library
    await table.until(lambda text: "192.0.2.2" in text)
    await table.until(lambda _: not table.it.trouble)
    assert table.reports == 2


async def test_an_error_of_our_own_ends_nothing(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(table.it, "_wanted", lambda: 1 / 0)
        table.it.want(PEERS, NOBODY)
        await table.until(lambda _: table.it.trouble)
    await table.until(lambda text: "192.0.2.2" in text)


async def test_it_is_removed_with_the_agent(table: Table) -> None:
    table.it.want(PEERS, NOBODY)
    await table.until(lambda text: "192.0.2.2" in text)
    table.task.cancel()
    assert (await table.it.remove()).trouble == ""
    assert table.listed() == ""
