"""A witness and the floor on two nodes of bare namespaces, with frames of no real guest."""

import os
import shutil
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from handover_lab.bench.agent.guests import Guest
from handover_lab.bench.agent.node import compile_program
from handover_lab.bench.agent.route_observer import enter
from handover_lab.bench.outage import floor, moments
from handover_lab.bench.outage.floor import Side
from handover_lab.bench.outage.moments import Seen
from handover_lab.bench.outage.witness import Witness
from handover_lab.network import namespaces
from handover_lab.network.flow import REQUEST_PORTS
from handover_lab.network.namespaces import Namespace

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces"),
]

PORT: Final = 7473
VM: Final = "10.244.11.200"
RARP: Final = Guest(2).rarp
OWN: Final = bytes(12) + b"\x08\x00" + bytes(46)
"""What a guest sends that is awake."""
NAMES: Final = ("a", "b")


def send_at(device: str, *frames: bytes) -> None:
    """Send *frames* from *device*."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        for frame in frames:
            sock.sendto(frame, (device, 0))


def segment(family: int, ports: tuple[int, int]) -> bytes:
    """Compose a TCP segment that carries four bytes."""
    tcp = struct.pack("!HH8xB7x4x", *ports, 5 << 4)
    if family == 4:
        head = struct.pack("!2xH5xB10x", 20 + len(tcp), socket.IPPROTO_TCP)
        return bytes(12) + b"\x08\x00" + head + tcp
    head = struct.pack("!4xHB33x", len(tcp), socket.IPPROTO_TCP)
    return bytes(12) + b"\x86\xdd" + head + tcp


class Nodes:
    """Two nodes on a bridge, each with a witness, and a guest's link at the second."""

    def __init__(self, directory: Path, ends: ExitStack) -> None:
        router = Namespace.make("router")
        ends.callback(router.end)
        self.nodes = [Namespace.make(name) for name in NAMES]
        for node in self.nodes:
            ends.callback(node.end)
        self.mesh = namespaces.connect(router, self.nodes)
        for node in self.nodes:
            node.run("ip link add tap0 type veth peer name guest; ip link set tap0 up")
            # Only what a test sends comes from there: no MLD, no solicitation.
            node.run("echo 1 > /proc/sys/net/ipv6/conf/guest/disable_ipv6; ip link set guest up")
        self.witnesses = {}
        for node in self.nodes:
            path = directory / node.name
            self.witnesses[node.name] = Witness.start(node, PORT, path, ["tap0"])
            ends.callback(self.witnesses[node.name].stop)

    def announce(self) -> None:
        """Let the guest of the second node announce itself."""
        self.send(RARP)

    def send(self, *frames: bytes) -> None:
        """Let the guest of the second node send *frames*."""
        # A socket stays where it was made; only the thread went there.
        arguments = (self.nodes[1].holder.pid,)
        with ThreadPoolExecutor(1, initializer=enter, initargs=arguments) as thread:
            thread.submit(send_at, "guest", *frames).result()

    def seen(self) -> dict[str, Seen]:
        return {
            name: moments.read(witness.seen(), 0, time.time_ns())
            for name, witness in self.witnesses.items()
        }


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with ExitStack() as ends:
        yield Nodes(tmp_path, ends)


def test_a_witness_sees_routes_messages_and_announcements(nodes: Nodes) -> None:
    before = time.time_ns()
    nodes.announce()
    a, b = nodes.nodes
    a.run(f"ip route add {VM} via 172.30.0.12 metric 512 proto 88")
    send = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    send += f"s.sendto(bytes([1, 3]) + bytes(60), ('172.30.0.11', {PORT}))"
    b.run(f'python3 -c "{send}"')
    deadline = time.monotonic() + 10
    while not (
        (seen := nodes.seen())["a"].messages
        and seen["b"].messages
        and seen["a"].routes
        and seen["b"].rarps_ns
    ):
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)
    after = time.time_ns()
    (change,) = [each for each in seen["a"].routes if each.address == VM]
    assert change.leads_on
    assert [(kind, is_out) for _, kind, is_out in seen["a"].messages] == [(3, False)]
    assert [(kind, is_out) for _, kind, is_out in seen["b"].messages] == [(3, True)]
    told = moments.of_switchover(seen, "a", "b", VM)
    assert told is not None
    assert told.redirected_ns == change.at_ns
    assert told.said_ns is not None
    assert before < told.announced_ns < change.at_ns < told.said_ns < after


def test_a_guests_own_frames_are_seen_once_it_was_quiet_and_no_others(nodes: Nodes) -> None:
    time.sleep(0.1)
    before = time.time_ns()
    nodes.announce()
    nodes.nodes[1].run("ping -c 1 -W 1 -I tap0 192.0.2.1 || true")
    for _ in range(2):
        nodes.send(*[OWN] * 50)
        time.sleep(0.1)
    seen = nodes.seen()
    # On a busy machine some of a burst come late enough to be a beginning of their own.
    assert 2 <= len([at_ns for at_ns in seen["b"].frames_ns if at_ns > before]) < 20
    assert not [at_ns for at_ns in seen["a"].frames_ns if at_ns > before]


@pytest.mark.parametrize("family", [4, 6])
def test_requests_and_answers_are_seen_on_their_way(nodes: Nodes, family: int) -> None:
    node, port = nodes.nodes[1], REQUEST_PORTS.start
    before = time.time_ns()
    client = (node.holder.pid,)
    with ThreadPoolExecutor(1, initializer=enter, initargs=client) as thread:
        to_guest = [segment(family, (each, 7)) for each in (port, port - 1, REQUEST_PORTS.stop)]
        thread.submit(send_at, "tap0", *to_guest).result()
        from_guest = [segment(family, (7, each)) for each in (port - 1, REQUEST_PORTS[-1])]
        thread.submit(send_at, "guest", *from_guest).result()
    time.sleep(0.1)
    found = [each for each in nodes.seen()["b"].requests if each[0] > before]
    assert [rest for _, *rest in found] == [[port, False], [REQUEST_PORTS[-1], True]]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_floor_replaces_a_route_at_the_source(nodes: Nodes, tmp_path: Path) -> None:
    program = tmp_path / "bench"
    compile_program(program)
    first, second = (
        Side(node.command, speaker.address4, "tap0")
        for node, speaker in zip(nodes.nodes, nodes.mesh[1:], strict=True)
    )
    with floor.running(program, (first, second)):
        times = []
        for _ in range(20):
            before = time.time_ns()
            nodes.announce()
            time.sleep(0.05)
            seen = {
                name: moments.read(witness.seen(), before, time.time_ns())
                for name, witness in nodes.witnesses.items()
            }
            told = moments.of_switchover(seen, "a", "b", VM)
            assert told is not None
            times.append(told.after_announcement_us(told.floor_ns))
    known = sorted(each for each in times if each is not None)
    assert len(known) > 15
    assert 0 < known[len(known) // 2] < 20_000
