"""A node, a guest and a control plane for the tests that run the agent as a process."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.nodeagent import namespaces
from tests.nodeagent.process import MAC, Agent, Site, enter

from handover_lab import tools
from handover_lab.controlplane import ControlPlane
from handover_lab.namespaces import Namespace


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Make the namespaces, and start the control plane in the node's."""
    namespaces.needs_root()
    try:
        kubectl = tools.locate("kubectl")
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
    it = Site(node, guest, plane, kubectl, worker)
    it.install()
    yield it
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
    site.run("delete", "--ignore-not-found", "wep,handoverconfigurations", "--all")
    site.node.run("ip route flush proto 88; nft flush ruleset")
