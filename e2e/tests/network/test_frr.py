"""FRR's configuration, and what FRR makes of the agent's routes."""

import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from handover_lab.network import frr
from handover_lab.network.frr import Frr
from handover_lab.network.namespaces import Namespace, connect
from handover_lab.testing.speaking import ADDRESSES, comes_true, route, way

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.skipif(
        not frr.PROGRAMS.exists() or shutil.which("vtysh") is None,
        reason="needs FRR: apt-get install frr",
    ),
]

ELEVATED, NORMAL = 16, 1024
VIA_A = ("172.30.0.11", "fd00:172:30::11")
VIA_B = ("172.30.0.12", "fd00:172:30::12")
HERE = ("vm", "vm")


@dataclass
class Mesh:
    """A router and two nodes that speak BGP, each with a veth in place of a tap."""

    router: Namespace
    a: Namespace
    b: Namespace
    speakers: list[Frr]

    async def becomes(self, place: Namespace, expected: tuple[str, str]) -> None:
        """Wait until the kernel at *place* would send to the VM in the *expected* way."""
        await comes_true(lambda: expected == way(place))


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that FRR's own user can reach, with a name short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="handover-frr-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@pytest.fixture
async def mesh(directory: Path) -> AsyncIterator[Mesh]:
    """The mesh, established, with the VM's normal routes on node a."""
    with ExitStack() as cleanup:
        router, a, b = (Namespace.make(name) for name in ("router", "node-a", "node-b"))
        for namespace in (router, a, b):
            cleanup.callback(namespace.end)
        speakers = []
        members = connect(router, [a, b])
        for place, member in zip((router, a, b), members, strict=True):
            speakers.append(Frr.start(place, member, members, directory))
            cleanup.callback(speakers[-1].stop)
        for node in (a, b):
            node.run("ip link add vm up type veth peer name guest && ip link set guest up")
        lab = Mesh(router, a, b, speakers)
        route(a, "add", NORMAL)
        await lab.becomes(router, VIA_A)
        await lab.becomes(b, VIA_A)
        yield lab


async def test_a_migration_is_followed_from_the_first_frame_to_the_normal_priority(
    mesh: Mesh,
) -> None:
    route(mesh.b, "add", ELEVATED)

    # The target believes its own kernel before anybody has spoken.
    assert way(mesh.b) == HERE
    await mesh.becomes(mesh.router, VIA_B)
    # The source goes on telling of itself, and nobody goes by that.
    await comes_true(lambda: has_preference(mesh, "2147483631"))

    # The source gives way, the target becomes normal: nobody turns back.
    route(mesh.a, "delete", NORMAL)
    await mesh.becomes(mesh.a, VIA_B)
    route(mesh.b, "add", NORMAL)
    route(mesh.b, "delete", ELEVATED)
    await comes_true(lambda: has_preference(mesh, "2147482623"))
    assert (way(mesh.router), way(mesh.b)) == (VIA_B, HERE)


def has_preference(mesh: Mesh, preference: str) -> bool:
    """Whether the best of the VM's IPv4 routes that the router's bgpd has has this LOCAL_PREF."""
    answer = mesh.speakers[0].ask(f"show bgp ipv4 unicast {ADDRESSES[0]}/32")
    return re.search(rf"localpref {preference}, .*\bbest\b", answer) is not None


async def test_a_roll_back_brings_everybody_back(mesh: Mesh) -> None:
    route(mesh.b, "add", ELEVATED)
    await mesh.becomes(mesh.router, VIA_B)
    route(mesh.b, "delete", ELEVATED)

    await mesh.becomes(mesh.router, VIA_A)
    await mesh.becomes(mesh.b, VIA_A)
    assert way(mesh.a) == HERE


async def test_a_source_does_not_follow_by_itself(mesh: Mesh) -> None:
    """What the guide warns of: zebra takes a kernel route's metric for no distance at all."""
    route(mesh.b, "add", ELEVATED)
    await mesh.becomes(mesh.router, VIA_B)

    assert way(mesh.a) == HERE


@pytest.mark.parametrize(("metric", "expected"), [(ELEVATED, HERE), (512, VIA_A)])
async def test_only_below_20_a_target_needs_no_word_of_zebra(
    mesh: Mesh, metric: int, expected: tuple[str, str]
) -> None:
    """What BGP brought has metric 20: zebra takes it out, but packets come before zebra does."""
    for daemon in mesh.speakers[2].daemons:
        daemon.send_signal(signal.SIGSTOP)
    route(mesh.b, "add", metric)
    chosen = way(mesh.b)
    for daemon in mesh.speakers[2].daemons:
        daemon.send_signal(signal.SIGCONT)

    assert chosen == expected
    await mesh.becomes(mesh.b, HERE)
