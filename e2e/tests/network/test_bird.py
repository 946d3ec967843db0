"""The speaker's configuration as BIRD reads it, and what it makes of the agent's routes."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from handover_lab.network import bird
from handover_lab.network.bird import Bird, BirdError, Speaker
from handover_lab.network.namespaces import Namespace, connect
from handover_lab.testing.speaking import ADDRESSES, comes_true, route, way

SECONDS = 10
"""What a route may take to come or go between two BIRDs: a millisecond on a node at rest."""
MESH = (
    Speaker("router", "172.30.0.1", "fd00:172:30::1", "bridge"),
    Speaker("node-a", "172.30.0.11", "fd00:172:30::11", "eth0"),
    Speaker("node-b.example", "172.30.0.12", "fd00:172:30::12", "eth*"),
)


@pytest.mark.skipif(shutil.which("bird") is None, reason="needs bird: apt-get install bird2")
@pytest.mark.parametrize("speaker", MESH, ids=lambda speaker: speaker.name)
def test_bird_accepts_the_configuration_of(speaker: Speaker, tmp_path: Path) -> None:
    file = tmp_path / "bird.conf"
    file.write_text(bird.configuration(speaker, MESH))

    done = subprocess.run(
        ["bird", "-p", "-c", str(file)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_every_other_member_is_a_peer_in_both_families() -> None:
    text = bird.configuration(MESH[0], MESH)

    assert text.count("protocol bgp ") == 4
    assert "to_node_b_example_6 from mesh6 { neighbor fd00:172:30::12 as 64512; }" in text


def test_session_states_are_read_from_birdc() -> None:
    answer = """BIRD 2.0.12 ready.
Access restricted
Name       Proto      Table      State  Since         Info
device1    Device     ---        up     12:54:21.048
to_node_a_4 BGP        ---        up     12:54:22.101  Established
to_node_a_6 BGP        ---        start  12:54:21.048  Connect
"""

    assert bird.sessions(answer) == {"to_node_a_4": "Established", "to_node_a_6": "Connect"}


@dataclass
class Mesh:
    """A router and two nodes that speak BGP, each with a veth in place of a tap."""

    router: Namespace
    a: Namespace
    b: Namespace
    birds: list[Bird]

    async def becomes(self, place: Namespace, expected: tuple[str, str]) -> None:
        """Wait until the kernel at *place* would send to the VM in the *expected* way."""
        await comes_true(lambda: expected == way(place), SECONDS)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """The mesh, established, with the VM's normal routes on node a."""
    with ExitStack() as cleanup:
        router, a, b = (Namespace.make(name) for name in ("router", "node-a", "node-b"))
        for namespace in (router, a, b):
            cleanup.callback(namespace.end)
        birds = []
        speakers = connect(router, [a, b])
        for place, speaker in zip((router, a, b), speakers, strict=True):
            birds.append(Bird.start(place, speaker, speakers, tmp_path))
            cleanup.callback(birds[-1].stop)
        for node in (a, b):
            node.run("ip link add vm up type veth peer name guest && ip link set guest up")
        await asyncio.gather(*(speaker.established() for speaker in birds))
        lab = Mesh(router, a, b, birds)
        route(a, "add", 1024)
        await lab.becomes(router, VIA_A)
        await lab.becomes(b, VIA_A)
        yield lab


VIA_A = ("172.30.0.11", "fd00:172:30::11")
VIA_B = ("172.30.0.12", "fd00:172:30::12")
HERE = ("vm", "vm")


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")


@needs_root
@pytest.mark.root
async def test_all_follow_the_elevated_route_at_once(mesh: Mesh) -> None:
    route(mesh.b, "add", 512)

    # The target believes its own kernel before anybody has spoken.
    assert way(mesh.b) == HERE
    await mesh.becomes(mesh.router, VIA_B)
    # The source forwards what still arrives, although it has its own route yet.
    await mesh.becomes(mesh.a, VIA_B)


@needs_root
@pytest.mark.root
async def test_a_target_needs_no_word_of_its_speaker_to_use_its_own_route(mesh: Mesh) -> None:
    mesh.birds[2].process.send_signal(signal.SIGSTOP)
    route(mesh.b, "add", 512)
    chosen = way(mesh.b)
    mesh.birds[2].process.send_signal(signal.SIGCONT)

    assert chosen == HERE


@needs_root
@pytest.mark.root
@pytest.mark.parametrize("metric", [512, 1024])
async def test_of_two_equals_none_is_silenced(mesh: Mesh, metric: int) -> None:
    for node in (mesh.a, mesh.b):
        route(node, "replace", metric)

    def heard_from_both() -> bool:
        answers = (mesh.birds[0].ask("show", "route", "for", ip, "all") for ip in ADDRESSES)
        return all(answer.count("unicast") == 2 for answer in answers)

    await comes_true(heard_from_both, SECONDS)
    assert (way(mesh.a), way(mesh.b)) == (HERE, HERE)


@needs_root
@pytest.mark.root
async def test_nothing_turns_back_when_the_source_goes_and_the_target_becomes_normal(
    mesh: Mesh,
) -> None:
    route(mesh.b, "add", 512)
    await mesh.becomes(mesh.router, VIA_B)
    route(mesh.a, "delete", 1024)
    await mesh.becomes(mesh.a, VIA_B)
    route(mesh.b, "add", 1024)
    route(mesh.b, "delete", 512)

    await mesh.becomes(mesh.router, VIA_B)
    assert way(mesh.b) == HERE


@needs_root
@pytest.mark.root
async def test_a_roll_back_brings_everybody_back(mesh: Mesh) -> None:
    route(mesh.b, "add", 512)
    await mesh.becomes(mesh.router, VIA_B)
    route(mesh.b, "delete", 512)

    await mesh.becomes(mesh.router, VIA_A)
    await mesh.becomes(mesh.b, VIA_A)
    assert way(mesh.a) == HERE


@needs_root
@pytest.mark.root
async def test_other_peoples_routes_are_not_spread(mesh: Mesh) -> None:
    mesh.b.run("ip route add 10.65.0.9 dev vm metric 512 proto 99")
    mesh.b.run("ip route add 10.65.0.10 dev vm metric 512 proto 88")
    await comes_true(lambda: "10.65.0.10" in mesh.router.run("ip route"), SECONDS)

    assert "10.65.0.9 " not in mesh.router.run("ip route")


@needs_root
@pytest.mark.root
async def test_a_speaker_without_peers_says_which(tmp_path: Path) -> None:
    with ExitStack() as cleanup:
        router = Namespace.make("router")
        cleanup.callback(router.end)
        connect(router, [])
        speaker = Bird.start(router, MESH[0], MESH, tmp_path)
        cleanup.callback(speaker.stop)

        with pytest.raises(BirdError, match="to_node_a_4"):
            await speaker.established(seconds=1)
