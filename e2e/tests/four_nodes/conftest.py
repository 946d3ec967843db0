"""A lab of four nodes for each topology, one after the other."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from handover_lab.four_nodes.lab import FourNodeLab
from handover_lab.network.topology import Topology
from handover_lab.toolchain import requirements
from handover_lab.toolchain.requirements import NoSandboxError

TOPOLOGIES: tuple[Topology, ...] = ("segment", "routed")


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=TOPOLOGIES)
async def four_nodes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[FourNodeLab]:
    """The lab with a VM that is served; one for all tests of a topology."""
    try:
        requirements.check()
    except NoSandboxError as error:
        pytest.skip(str(error))
    directory = tmp_path_factory.mktemp("four-nodes")
    # FRR's daemons have a user of their own, who must get there.
    for path in (directory, *list(directory.parents)[:2]):
        path.chmod(0o755)
    async with FourNodeLab.started(directory, request.param) as lab:
        yield lab
