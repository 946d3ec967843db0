"""What BIRD and FRR make of a redirect: a route of the agent's that leads to another node."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from handover_lab.network import frr
from handover_lab.network.bird import Bird
from handover_lab.network.frr import Frr
from handover_lab.network.namespaces import Namespace
from handover_lab.testing import speaking
from handover_lab.testing.speaking import (
    ADDRESSES,
    BIRD,
    FRR,
    HERE,
    NORMAL,
    TUNNELED,
    VIA_A,
    VIA_B,
    Kind,
    Running,
    Segment,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.skipif(
        shutil.which("bird") is None or not frr.PROGRAMS.exists(),
        reason="needs BIRD and FRR: apt-get install bird2 frr",
    ),
]

NODE_A, NODE_B = VIA_A[0], VIA_B[0]
PRIVATE = 89
"""The agent's second protocol number, of routes that concern their own node alone."""
BEGIN, END = "203.0.113.77", "203.0.113.78"
# What the router is told by node b does not arrive for as long as this is there.
LATE = f"""
nft add table inet late
nft 'add chain inet late input {{ type filter hook input priority 0; }}'
nft add rule inet late input ip saddr {VIA_B[0]} meta l4proto tcp drop
nft add rule inet late input ip6 saddr {VIA_B[1]} meta l4proto tcp drop
"""


@dataclass
class Mesh:
    """A router and two nodes in a full mesh, with the VM's normal routes on node a."""

    segment: Segment
    kind: Kind
    speakers: list[Running]

    def heard(self) -> tuple[str, ...]:
        """Return how often the router's speaker has changed its mind, in both families."""
        speaker = self.speakers[0]
        if isinstance(speaker, Bird):
            answers = (speaker.ask("show", "protocols", "all", f"to_node_a_{n}") for n in (4, 6))
            return tuple(
                " ".join(line.split())
                for answer in answers
                for line in answer.splitlines()
                if line.strip().startswith(("Import updates", "Import withdraws"))
            )
        assert isinstance(speaker, Frr)
        # bgpd numbers the versions of its table: another UPDATE of the same content makes none.
        families = zip(("ipv4", "ipv6"), ADDRESSES, strict=True)
        answers = (speaker.ask(f"show bgp {name} unicast {ip}") for name, ip in families)
        return tuple(answer.splitlines()[0] for answer in answers)

    def has_heard_of_b(self) -> bool:
        """Tell whether node a's speaker has heard of node b's routes."""
        speaker = self.speakers[1]
        if isinstance(speaker, Bird):
            answers = (speaker.ask("show", "route", "primary", "for", ip) for ip in ADDRESSES)
            return all("to_node_b" in answer for answer in answers)
        assert isinstance(speaker, Frr)
        families = zip(("ipv4", "ipv6"), ADDRESSES, strict=True)
        answers = (speaker.ask(f"show bgp {name} unicast {ip}") for name, ip in families)
        # Whom it tells stands there, too.
        return all(f" from {via} " in answer for via, answer in zip(VIA_B, answers, strict=True))


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that FRR's own user can reach, with a name short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="handover-rd-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@pytest.fixture(params=[BIRD, FRR], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Who speaks."""
    found: Kind = request.param
    return found


@pytest.fixture
def scan_seconds() -> int:
    """How often BIRD looks at all routes: so rarely that it is none of the tests' business."""
    return 600


@pytest.fixture
async def mesh(kind: Kind, directory: Path, scan_seconds: int) -> AsyncIterator[Mesh]:
    """The mesh of the shipped files, established."""
    with ExitStack() as cleanup:
        segment = Segment.make(cleanup)
        speakers = []
        for place, member in zip(segment.places, segment.members, strict=True):
            text = kind.configuration(member, segment.members)
            text = text.replace("scan time 10;", f"scan time {scan_seconds};")
            speakers.append(kind.start(place, member, text, directory))
            cleanup.callback(speakers[-1].stop)
        speaking.route(segment.a, "add", NORMAL)
        await segment.becomes(segment.router, VIA_A)
        await segment.becomes(segment.b, VIA_A)
        yield Mesh(segment, kind, speakers)


@contextmanager
def changes(place: Namespace, log: Path) -> Iterator[list[str]]:
    """Yield a list that has, when the block is left, what became of the VM's routes in it."""
    lines: list[str] = []
    with log.open("wb") as file:
        monitor = subprocess.Popen(place.command("ip", "-oneline", "monitor", "route"), stdout=file)
    try:
        # Until it hears, nothing may happen; and what it has heard last is the mark of the end.
        _await_mark(place, log, BEGIN)
        yield lines
        _await_mark(place, log, END)
    finally:
        monitor.kill()
        monitor.wait()
    lines += [line for line in log.read_text().splitlines() if any(ip in line for ip in ADDRESSES)]


def _await_mark(place: Namespace, log: Path, mark: str) -> None:
    """Make a route of nobody's come and go until the monitor shows it."""
    for _ in range(200):
        place.run(f"ip route add {mark} dev lo && ip route delete {mark} dev lo")
        if mark in log.read_text():
            return
    raise AssertionError(log.read_text())


async def test_a_redirect_in_place_changes_nothing_at_the_router(
    mesh: Mesh, tmp_path: Path
) -> None:
    segment, before = mesh.segment, mesh.heard()
    with changes(segment.router, tmp_path / "monitor") as seen:
        speaking.redirect(segment.a, NODE_B, NORMAL)
        # Longer than bgpd and zebra collect changes.
        await asyncio.sleep(1)
        redirected = speaking.way(segment.a)
        speaking.route(segment.a, "replace", NORMAL)
        await asyncio.sleep(1)

    assert redirected == TUNNELED
    assert speaking.way(segment.a) == HERE
    assert seen == []
    assert mesh.heard() == before
    assert speaking.way(segment.router) == VIA_A


async def test_a_speaker_shows_a_redirect_as_what_it_is_and_complains_of_nothing(
    mesh: Mesh, directory: Path
) -> None:
    speaking.redirect(mesh.segment.a, NODE_B, NORMAL)
    await asyncio.sleep(1)
    node = mesh.speakers[1]
    if isinstance(node, Frr):
        # A direct route over the tunnel's device, no next hop to be resolved.
        for command, address in zip(("ip", "ipv6"), ADDRESSES, strict=True):
            (route,) = json.loads(node.ask(f"show {command} route {address} json")).popitem()[1]
            (nexthop,) = route["nexthops"]
            assert (route["protocol"], route["selected"]) == ("kernel", True)
            assert (nexthop["interfaceName"], nexthop["active"]) == ("handover0", True)
    else:
        assert isinstance(node, Bird)
        # As it was before: BIRD has not heard.
        for address in ADDRESSES:
            assert "dev vm" in node.ask("show", "route", "for", address, "all")
    assert complaints(directory) == []


def complaints(directory: Path) -> list[str]:
    """Return the lines in which a speaker's log says that something of a route is wrong."""
    wrong = re.compile("error|warn|unresolved|invalid|fail", re.IGNORECASE)
    # Where two attempts to make a session meet, one of them fails as it should.
    concerned = re.compile("|".join((*ADDRESSES, "handover0", "ZEBRA", "KRT", "netlink")))
    lines = [line for log in directory.rglob("*.log") for line in log.read_text().splitlines()]
    return [line for line in lines if wrong.search(line) and concerned.search(line)]


async def test_a_redirect_by_a_gateway_takes_nothing_from_the_router(
    mesh: Mesh, tmp_path: Path
) -> None:
    segment = mesh.segment
    with changes(segment.router, tmp_path / "monitor") as seen:
        for address, gateway in zip(ADDRESSES, VIA_B, strict=True):
            segment.a.run(f"ip route replace {address} via {gateway} metric {NORMAL} proto 88")
        await asyncio.sleep(1)
        redirected = speaking.way(segment.a)
        speaking.route(segment.a, "replace", NORMAL)
        await asyncio.sleep(1)

    assert redirected == VIA_B
    # BIRD 3 may write the same route again; it is never gone.
    assert [line for line in seen if line.startswith("Deleted")] == []
    assert speaking.way(segment.router) == VIA_A


@pytest.mark.parametrize("kind", [BIRD], ids=["bird"])
async def test_nor_does_the_second_route_that_holds_back_what_bgp_brings(
    mesh: Mesh, tmp_path: Path
) -> None:
    """BIRD sees that one, too. With a number that it refuses it would hide the source's route."""
    segment, held = mesh.segment, mesh.kind.elevated + 1
    with changes(segment.router, tmp_path / "monitor") as seen:
        for address, gateway in zip(ADDRESSES, VIA_B, strict=True):
            way = f"{address} via {gateway}"
            segment.a.run(f"ip route replace {way} metric {NORMAL} proto 88")
            segment.a.run(f"ip route add {way} metric {held} proto 88")
        await asyncio.sleep(1)
    assert [line for line in seen if line.startswith("Deleted")] == []
    assert speaking.way(segment.router) == VIA_A

    # The target's wins all the same, and at the source the redirect as long as that one is there.
    speaking.route(segment.b, "add", mesh.kind.elevated)
    await segment.becomes(segment.router, VIA_B)
    for address, gateway in zip(ADDRESSES, VIA_B, strict=True):
        segment.a.run(f"ip route delete {address} via {gateway} metric {held} proto 88")
    await asyncio.sleep(1)
    assert speaking.way(segment.router) == VIA_B
    assert speaking.way(segment.a) == VIA_B


async def test_nobody_hears_of_routes_with_the_private_protocol(mesh: Mesh, tmp_path: Path) -> None:
    segment, before = mesh.segment, mesh.heard()
    elevated = mesh.kind.elevated
    with changes(segment.router, tmp_path / "monitor") as seen:
        # As a bystander keeps them, by a nexthop object, and a source whose migration has ended.
        for number, (address, gateway) in enumerate(zip(ADDRESSES, VIA_A, strict=True), 1212416001):
            segment.b.run(
                f"ip nexthop add id {number} via {gateway} dev eth0; "
                f"ip route add {address} nhid {number} metric {elevated + 1} proto {PRIVATE}"
            )
        speaking.redirect(segment.b, NODE_A, NORMAL + 2, PRIVATE, "add")
        speaking.route(segment.b, "add", NORMAL + 3, PRIVATE)
        await asyncio.sleep(1)

    assert speaking.way(segment.b) == VIA_A
    assert seen == []
    assert mesh.heard() == before


@pytest.mark.parametrize("kind", [BIRD], ids=["bird"])
async def test_a_guest_is_told_of_when_its_route_has_the_exported_number(
    mesh: Mesh, tmp_path: Path
) -> None:
    """Until the source sends on, its node serves it by the same route with the other number.

    FRR would look at the metric alone; by its priorities no route is withheld there.
    """
    segment, before, elevated = mesh.segment, mesh.heard(), mesh.kind.elevated
    with changes(segment.router, tmp_path / "monitor") as seen:
        speaking.route(segment.b, "add", elevated, PRIVATE)
        await segment.becomes(segment.b, HERE)
        await asyncio.sleep(1)
        withheld = mesh.heard()
    assert (seen, withheld) == ([], before)

    speaking.route(segment.b, "replace", elevated)
    await segment.becomes(segment.router, VIA_B)
    assert speaking.way(segment.b) == HERE


async def test_a_source_that_is_redirected_leads_to_the_target_whoever_wins(
    mesh: Mesh, tmp_path: Path
) -> None:
    segment = mesh.segment
    speaking.route(segment.b, "add", mesh.kind.elevated)
    speaking.redirect(segment.a, NODE_B, NORMAL)
    await segment.becomes(segment.router, VIA_B)

    # BIRD's route has metric 768 and goes before the redirect, zebra's is never set: either
    # leads to the target's node, and none of the two ever gives way to the other again.
    settled = VIA_B if mesh.kind is BIRD else TUNNELED
    await segment.becomes(segment.a, settled)
    await asyncio.sleep(1)
    with (
        changes(segment.router, tmp_path / "router") as at_router,
        changes(segment.a, tmp_path / "a") as at_a,
    ):
        await asyncio.sleep(3)

    assert (at_router, at_a) == ([], [])
    assert speaking.way(segment.b) == HERE


async def test_a_source_tells_of_its_route_until_every_router_knows_the_target(
    mesh: Mesh, tmp_path: Path
) -> None:
    """Who hears of the target before a router does must not withdraw what that one goes by."""
    segment, elevated = mesh.segment, mesh.kind.elevated
    with changes(segment.router, tmp_path / "monitor") as seen:
        segment.router.run(LATE)
        speaking.redirect(segment.a, NODE_B, NORMAL)
        speaking.route(segment.b, "add", elevated)
        await speaking.comes_true(mesh.has_heard_of_b)
        # Longer than bgpd and zebra collect changes.
        await asyncio.sleep(1)
        assert speaking.way(segment.router) == VIA_A
        segment.router.run("nft delete table inet late")
        await segment.becomes(segment.router, VIA_B)

    if mesh.kind is BIRD:
        # zebra itself replaces an IPv6 route by deleting it first.
        assert [line for line in seen if line.startswith("Deleted")] == []


async def test_the_redirect_of_a_source_that_left_is_nobodys_business(mesh: Mesh) -> None:
    """The same way under a metric and a number that nobody exports, then the exported one goes."""
    segment = mesh.segment
    speaking.route(segment.b, "add", mesh.kind.elevated)
    speaking.redirect(segment.a, NODE_B, NORMAL)
    await segment.becomes(segment.router, VIA_B)

    speaking.redirect(segment.a, NODE_B, NORMAL + 2, PRIVATE, "add")
    speaking.remove_redirect(segment.a, NORMAL)
    speaking.route(segment.b, "add", NORMAL)
    speaking.route(segment.b, "delete", mesh.kind.elevated)
    await asyncio.sleep(1)

    assert speaking.way(segment.a) in {VIA_B, TUNNELED}
    assert speaking.way(segment.b) == HERE
    await segment.becomes(segment.router, VIA_B)


async def test_what_agents_distribute_hides_nothing_from_a_speaker(mesh: Mesh) -> None:
    """Of several routes to one address BIRD looks at the lowest metric alone, whoever made it."""
    segment, elevated = mesh.segment, mesh.kind.elevated
    speaking.route(segment.b, "add", elevated)
    speaking.redirect(segment.a, NODE_B, NORMAL)
    await segment.becomes(segment.router, VIA_B)
    speaking.distribute(segment.a, VIA_B, elevated + 1)
    speaking.redirect(segment.a, NODE_B, NORMAL + 2, PRIVATE, "add")
    speaking.remove_redirect(segment.a, NORMAL)
    await asyncio.sleep(1)
    speaking.route(segment.b, "add", NORMAL)
    speaking.route(segment.b, "delete", elevated)
    speaking.distribute(segment.a, VIA_B, NORMAL + 1)
    speaking.distribute(segment.a, VIA_B, elevated + 1, "delete")
    for _ in range(40):
        await asyncio.sleep(0.05)
        assert speaking.way(segment.router) == VIA_B
    assert speaking.way(segment.a) == VIA_B
    assert speaking.way(segment.b) == HERE


async def test_a_roll_back_by_redirect_brings_everybody_back(mesh: Mesh) -> None:
    segment, elevated = mesh.segment, mesh.kind.elevated
    speaking.route(segment.b, "add", elevated)
    await segment.becomes(segment.router, VIA_B)

    # The guest runs at the source after all: the target's route leads there, and goes later.
    speaking.redirect(segment.b, NODE_A, elevated)
    await asyncio.sleep(1)
    meanwhile = speaking.way(segment.router), speaking.way(segment.b)
    speaking.remove_redirect(segment.b, elevated)

    assert meanwhile == (VIA_B, TUNNELED)
    await segment.becomes(segment.router, VIA_A)
    await segment.becomes(segment.b, VIA_A)
    await segment.becomes(segment.a, HERE)


@pytest.mark.parametrize("kind", [BIRD], ids=["bird"])
async def test_bird_hears_of_no_redirect_that_is_removed_as_it_is(mesh: Mesh) -> None:
    """Why a plain route takes its place first; else the next scan would find out."""
    segment = mesh.segment
    speaking.redirect(segment.a, NODE_B, NORMAL)
    speaking.redirect(segment.a, NODE_B, NORMAL, verb="delete")
    await asyncio.sleep(2)
    believed = speaking.way(segment.router)
    speaking.route(segment.a, "add", NORMAL)
    speaking.route(segment.a, "delete", NORMAL)

    assert believed == VIA_A
    await segment.becomes(segment.b, ("172.30.0.1", "fd00:172:30::1"))


@pytest.mark.parametrize(("kind", "scan_seconds"), [(BIRD, 1)], ids=["bird"])
class TestScan:
    """BIRD skips routes with an encapsulation: only its scan misses what was redirected."""

    async def test_takes_the_route_back_where_nobody_else_has_one(self, mesh: Mesh) -> None:
        speaking.redirect(mesh.segment.a, NODE_B, NORMAL)

        await mesh.segment.becomes(mesh.segment.b, ("172.30.0.1", "fd00:172:30::1"))
        speaking.route(mesh.segment.a, "replace", NORMAL)
        await mesh.segment.becomes(mesh.segment.router, VIA_A)

    async def test_does_no_harm_once_the_target_has_spoken(
        self, mesh: Mesh, tmp_path: Path
    ) -> None:
        segment = mesh.segment
        speaking.route(segment.b, "add", mesh.kind.elevated)
        await segment.becomes(segment.router, VIA_B)
        with changes(segment.router, tmp_path / "monitor") as seen:
            speaking.redirect(segment.a, NODE_B, NORMAL)
            await asyncio.sleep(3)

        assert seen == []
        assert (speaking.way(segment.router), speaking.way(segment.a)) == (VIA_B, VIA_B)

    async def test_sees_no_redirect_that_nobody_exports(self, mesh: Mesh) -> None:
        """A route of lower metric that BIRD cannot read hides none of ours from it."""
        before = mesh.heard()
        speaking.redirect(mesh.segment.a, NODE_B, NORMAL - 1, PRIVATE, "add")
        await asyncio.sleep(3)

        assert mesh.heard() == before
