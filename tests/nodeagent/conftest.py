"""A node of its own for each test; and a control plane, where the agent runs as a process."""

import dataclasses
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from aiohttp.test_utils import RawTestServer
from tests.nodeagent import agents_net, namespaces
from tests.nodeagent.agents_net import AgentsNet
from tests.nodeagent.fake_api import FakeApi
from tests.nodeagent.fault import Fault
from tests.nodeagent.node import MAIN, OURS, Node
from tests.nodeagent.process import COLLECTIONS, EVENTS, MAC, Admin, Agent, Proxy, Site, enter
from tests.nodeagent.world import World

from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.network.namespaces import Namespace
from handover_lab.toolchain import tools
from handover_nodeagent.api.access import Access
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress, Route, Way
from handover_nodeagent.reconcile import observe

GROUP: Final = 7


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Make the namespaces, and start the control plane in the node's: one for all agents."""
    namespaces.needs_root()
    try:
        tools.locate("kube-apiserver")
    except tools.ToolsError as error:
        pytest.skip(str(error))
    node, guest = Namespace.make("node"), Namespace.make("guest")
    node.run(
        f"ip link add tap0 address ee:ee:ee:ee:ee:ee type veth peer name eth netns "
        f"{guest.holder.pid}; ip link set tap0 up"
    )
    guest.run(f"ip link set eth address {MAC} up")
    # One thread, which lives as long as the processes that it starts.
    worker = ThreadPoolExecutor(1, initializer=enter, initargs=(node,))
    directory = tmp_path_factory.mktemp("plane")
    plane = worker.submit(lambda: ControlPlane.start(directory)).result()
    proxy = Proxy(node, plane.shape.port)
    admin = Admin(plane.kubeconfig)
    it = Site(node, guest, plane, admin, proxy, worker)
    it.install()
    yield it
    proxy.end()
    admin.close()
    worker.submit(plane.stop).result()
    worker.shutdown()
    node.end()
    guest.end()


@pytest.fixture
def agent(site: Site, tmp_path: Path) -> Iterator[Agent]:
    """Prepare an agent for an endpoint that nothing is left of afterwards."""
    site.guest.run("ip link set eth arp off; ip address flush dev eth")
    it = Agent(site, tmp_path)
    yield it
    it.stop()
    for collection in (*COLLECTIONS.values(), EVENTS):
        site.call("DELETE", collection)
    site.node.run("ip route flush proto 88; nft flush ruleset")


@pytest.fixture
def node() -> Iterator[Node]:
    """Enter a namespace with tap0 and tap1; both go with it."""
    namespaces.needs_root()
    with namespaces.restored():
        namespaces.enter_new()
        guest = namespaces.open_own()
        namespaces.enter_new()
        it = Node(guest)
        tap1 = ("link add tap1 type veth peer name far1", "link set far1 up", "link set tap1 up")
        it.make_tap0("link set lo up", *tap1)
        it.await_shown("ip link show tap1", "qdisc noqueue state UP")
        it.await_shown("ip link show tap0", "qdisc noqueue state UP")
        yield it
        # A namespace dies in the background: its links, at once. As a group, since the kernel waits
        # for all readers of a link before it lets it go, and waits for the group's only once.
        there = {"tap0", "tap1"} & {name for _, name in socket.if_nameindex()}
        if there:
            grouped = (f"link set {name} group {GROUP}" for name in there)
            it.run_batch([*grouped, f"link delete group {GROUP}"])
        os.close(guest)


@pytest.fixture
def channel(node: Node) -> Iterator[Channel]:  # noqa: ARG001 - made in its namespace
    """Give a channel of the node."""
    with Channel() as it:
        yield it


@pytest.fixture
def route(node: Node) -> Callable[..., Route]:
    """Make our route to an address by tap0, elevated, unless told otherwise."""

    def make(address: IPAddress, **changes: int | Way) -> Route:
        plain = Route(address, node.tap0, 512, MAIN, OURS)
        return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
async def world(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """Start an agent's loop on the node of this test; its looks at everything follow at once."""
    monkeypatch.setattr(observe, "REST", 0.01)
    it = await World(node, tmp_path).start()
    yield it
    await it.kill()


@pytest.fixture
def fault() -> Fault:
    """Make a fault that is not mended so far."""
    return Fault()


@pytest.fixture
def mute(node: Node) -> None:
    """Let the guest's kernel answer nothing: no guest is there."""
    node.guest_runs("ip link set eth arp off")


@pytest.fixture
def alive(node: Node) -> None:
    """Let the guest's kernel answer for the VM's address."""
    node.guest_runs("ip address add 10.65.0.2/32 dev eth")


@pytest.fixture
async def fake_api() -> AsyncIterator[FakeApi]:
    """Start a stand-in."""
    fake = FakeApi()
    server = RawTestServer(fake.handle)
    await server.start_server()
    fake.url = str(server.make_url("")).rstrip("/")
    yield fake
    await server.close()


@pytest.fixture
async def fake_client(fake_api: FakeApi) -> AsyncIterator[ApiServer]:
    """Make a client of the stand-in."""
    async with ApiServer(Access(fake_api.url, token="t")) as client:
        yield client


@pytest.fixture
async def impatient_client(fake_api: FakeApi) -> AsyncIterator[ApiServer]:
    """Make a client of the stand-in that soon gives up."""
    async with ApiServer(Access(fake_api.url), timeout=0.2) as client:
        yield client


@pytest.fixture(scope="module")
def all_moves(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentsNet]:
    """Start agents and operator."""
    with agents_net.made(site, tmp_path_factory.mktemp("agents")) as it:
        yield it


@pytest.fixture
def net(all_moves: AgentsNet) -> Iterator[AgentsNet]:
    """Let the guest be at a, and all be prepared for its move to b; nothing is left afterwards."""
    with agents_net.prepared(all_moves):
        yield all_moves
