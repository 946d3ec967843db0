"""Nodes that know each other by a route reflector alone: BIRD's and FRR's, in every mixture."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from handover_lab.network import bird, frr
from handover_lab.network.bird import Bird, Speaker
from handover_lab.network.frr import Frr
from handover_lab.testing import speaking
from handover_lab.testing.speaking import (
    ADDRESSES,
    BIRD,
    FRR,
    HERE,
    NORMAL,
    VIA_A,
    VIA_B,
    Kind,
    Running,
    Segment,
)

LOWEST = 2147483647

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.skipif(
        shutil.which("bird") is None or not frr.PROGRAMS.exists(),
        reason="needs BIRD and FRR: apt-get install bird2 frr",
    ),
]


def test_bird_accepts_a_reflector_of_as_many_as_there_are(tmp_path: Path) -> None:
    mesh = [Speaker(f"n{i}", f"172.30.0.{i}", f"fd00:172:30::{i}", "eth0") for i in range(1, 5)]
    file = tmp_path / "bird.conf"
    file.write_text(bird.reflector(mesh[0], mesh))

    done = subprocess.run(
        ["bird", "-p", "-c", str(file)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert file.read_text().count("protocol bgp ") == 6


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that FRR's own user can reach, with a name short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="handover-rr-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@dataclass
class Reflected:
    """A reflector that is the router too, and two nodes that have a session with it alone."""

    segment: Segment
    kind: Kind
    reflector: Running
    nodes: list[Running]


@pytest.fixture(
    params=[(BIRD, BIRD), (FRR, BIRD), (BIRD, FRR), (FRR, FRR)],
    ids=lambda kinds: f"{kinds[0].name}-reflects-{kinds[1].name}",
)
async def reflected(request: pytest.FixtureRequest, directory: Path) -> AsyncIterator[Reflected]:
    """Who reflects and who is reflected, established, with the VM's normal routes on node a."""
    reflects, speaks = request.param
    with ExitStack() as cleanup:
        segment = Segment.make(cleanup)
        router, *nodes = segment.members
        text = reflects.reflector(router, segment.members)
        reflector = reflects.start(segment.router, router, text, directory)
        cleanup.callback(reflector.stop)
        running = []
        for place, node in zip(segment.places[1:], nodes, strict=True):
            text = speaks.configuration(node, [router, node])
            running.append(speaks.start(place, node, text, directory))
            cleanup.callback(running[-1].stop)
        speaking.route(segment.a, "add", NORMAL)
        await segment.becomes(segment.router, VIA_A)
        await segment.becomes(segment.b, VIA_A)
        yield Reflected(segment, speaks, reflector, running)


def preferences(speaker: Running) -> list[list[int]]:
    """Return the LOCAL_PREFs that *speaker* knows of the VM, per family."""
    if isinstance(speaker, Bird):
        answers = [speaker.ask("show", "route", "for", ip, "all") for ip in ADDRESSES]
        # As BIRD 2 has it, and BIRD 3.
        marks = {"BGP.local_pref:", "bgp_local_pref:"}
    else:
        assert isinstance(speaker, Frr)
        families = zip(("ipv4", "ipv6"), ADDRESSES, strict=True)
        answers = [speaker.ask(f"show bgp {name} unicast {ip}") for name, ip in families]
        marks = {"localpref"}
    return [
        [
            int(after.strip(","))
            for word, after in zip(answer.split(), answer.split()[1:], strict=False)
            if word in marks
        ]
        for answer in answers
    ]


async def test_the_preference_of_a_route_survives_the_reflector(reflected: Reflected) -> None:
    normal, elevated = LOWEST - NORMAL, LOWEST - reflected.kind.elevated
    _, b = reflected.nodes

    # What the reflector heard, and what it told the other client.
    assert preferences(reflected.reflector) == [[normal], [normal]]
    assert preferences(b) == [[normal], [normal]]

    speaking.route(reflected.segment.b, "add", reflected.kind.elevated)

    hearing = (reflected.reflector, reflected.nodes[0])
    await speaking.comes_true(
        lambda: all(elevated in found for one in hearing for found in preferences(one))
    )


async def test_a_migration_is_followed_through_the_reflector(reflected: Reflected) -> None:
    segment, elevated = reflected.segment, reflected.kind.elevated
    speaking.route(segment.b, "add", elevated)

    assert speaking.way(segment.b) == HERE
    await segment.becomes(segment.router, VIA_B)

    # The next hop is the node's own address: the reflector is not on the way.
    speaking.route(segment.a, "delete", NORMAL)
    await segment.becomes(segment.a, VIA_B)
    speaking.route(segment.b, "add", NORMAL)
    speaking.route(segment.b, "delete", elevated)
    await speaking.comes_true(lambda: preferences(reflected.reflector) == [[LOWEST - NORMAL]] * 2)
    await asyncio.sleep(0.5)
    assert (speaking.way(segment.router), speaking.way(segment.b)) == (VIA_B, HERE)
