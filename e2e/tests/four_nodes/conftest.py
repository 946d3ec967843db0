"""Labs of four nodes, one after the other: `four_nodes`, parametrized with the name of one."""

from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from handover_lab.four_nodes.cni import Cni, Flannel, Kindnet
from handover_lab.four_nodes.lab import FourNodeLab
from handover_lab.network.topology import Topology
from handover_lab.toolchain import requirements
from handover_lab.toolchain.requirements import NoSandboxError

LABS: Mapping[str, tuple[Topology, Cni]] = {
    "segment": ("segment", Kindnet()),
    "routed": ("routed", Kindnet()),
    "host-gw": ("segment", Flannel("host-gw")),
    "vxlan": ("routed", Flannel("vxlan")),
}
"""By name: the topology, and the CNI."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring together all tests of one lab: pytest groups by a parameter's place in its own list."""
    order = list(LABS)
    places = [place for place, item in enumerate(items) if lab_of(item)]
    for place, item in zip(
        places,
        sorted((items[place] for place in places), key=lambda item: order.index(lab_of(item))),
        strict=True,
    ):
        items[place] = item


def lab_of(item: pytest.Item) -> str:
    """Name the lab that a test asks for; empty: none."""
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("four_nodes", "")) if callspec else ""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def four_nodes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[FourNodeLab]:
    """The lab of this name with a VM that is served; one for all tests that name it."""
    try:
        requirements.check()
    except NoSandboxError as error:
        pytest.skip(str(error))
    shape, cni = LABS[request.param]
    async with FourNodeLab.started(tmp_path_factory.mktemp("four-nodes"), shape, cni=cni) as lab:
        yield lab
