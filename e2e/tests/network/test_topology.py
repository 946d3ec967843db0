"""Nodes on one segment, and each behind a link of its own; pods on them."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from handover_lab.network import bird, pod, topology
from handover_lab.network.bird import Speaker
from handover_lab.network.namespaces import Namespace
from handover_lab.network.pod import Pod, PodError
from handover_lab.network.topology import Topology

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]

NETWORKS = ("10.244.11.0/24", "fd00:244:11::/64")
# What a node has of its own: where host-local remembers which addresses it gave out.
OWN_STATE = "mkdir -p /var/lib/cni && mount -t tmpfs cni /var/lib/cni"


@pytest.fixture(params=["segment", "routed"])
def shape(request: pytest.FixtureRequest) -> Topology:
    """Each topology."""
    found: Topology = request.param
    return found


@pytest.fixture
def places() -> Iterator[list[Namespace]]:
    """A router and two nodes, not connected yet."""
    with ExitStack() as cleanup:
        made = []
        for name in ("router", "node-a", "node-b"):
            own = ("sh", "-c", OWN_STATE)
            made.append(Namespace.make(name, *own, kinds=("net", "mount")))
            cleanup.callback(made[-1].end)
        yield made


def pings(place: Namespace | Pod, address: str) -> bool:
    """Whether an answer comes."""
    argv = place.command("busybox", "ping", "-c1", "-W2", address)
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def connected(places: Sequence[Namespace], shape: Topology) -> list[Speaker]:
    """Connect the places."""
    router, *nodes = places
    return topology.connect(router, nodes, shape)


def test_everybody_reaches_everybody_at_the_address_of_the_mesh(
    places: list[Namespace], shape: Topology
) -> None:
    mesh = connected(places, shape)

    assert [member.name for member in mesh] == ["router", "node-a", "node-b"]
    for place in places:
        for member in mesh:
            assert pings(place, member.address4), (place.name, member)
            assert pings(place, member.address6), (place.name, member)


def test_only_on_one_segment_nodes_are_on_each_others_link(
    places: list[Namespace], shape: Topology
) -> None:
    mesh = connected(places, shape)

    ways = [places[1].run(f"ip route get {a}") for a in (mesh[2].address4, mesh[2].address6)]
    assert ["via" in way for way in ways] == [shape == "routed"] * 2


def test_bird_accepts_what_leads_it_to_next_hops(
    places: list[Namespace], shape: Topology, tmp_path: Path
) -> None:
    mesh = connected(places, shape)
    for speaker in mesh:
        text = bird.configuration(speaker, mesh) + topology.underlay(shape, speaker, mesh)
        file = tmp_path / f"{speaker.name}.conf"
        file.write_text(text)
        argv = ["bird", "-p", "-c", str(file)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert ("protocol static" in text) is (shape == "routed" and speaker != mesh[0])


@pytest.mark.parametrize("plug_in", ["ptp", "bridge"])
def test_a_pod_reaches_its_node_and_beyond(places: list[Namespace], plug_in: str) -> None:
    mesh = connected(places, "segment")
    _, node, other = places
    configuration = pod.ptp(NETWORKS) if plug_in == "ptp" else pod.bridge(NETWORKS, mtu=1450)
    for network, via in zip(NETWORKS, (mesh[1].address4, mesh[1].address6), strict=True):
        other.run(f"ip route add {network} via {via}")

    made = Pod.add(node, "client", configuration)
    try:
        assert made.address4.startswith("10.244.11.")
        assert made.address6.startswith("fd00:244:11::")
        for place in (node, other):
            assert pings(place, made.address4)
            assert pings(place, made.address6)
        assert pings(made, mesh[2].address4)
        assert pings(made, mesh[2].address6)
        assert ("1450" in made.namespace.run("ip link show eth0")) is (plug_in == "bridge")
    finally:
        made.end()


def test_a_plug_in_that_refuses_is_quoted(places: list[Namespace]) -> None:
    with pytest.raises(PodError, match="bridge gives client no network"):
        Pod.add(places[1], "client", pod.bridge(("10.244.11.0/33",)))
