"""What the tests of the lab share."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from handover_lab.cluster.cluster import Cluster
from handover_lab.guest import cpu_share
from handover_lab.images import build
from handover_lab.lab import Lab
from handover_lab.network.ping_record import PingRecord
from handover_lab.testing.scenario import CONVERGENCE_VALUE, ROUTES_ALONE_VALUES, Scenario
from handover_lab.toolchain import requirements
from handover_lab.toolchain.requirements import NoSandboxError, RequirementError
from handover_lab.toolchain.tools import ToolsError


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes with nothing on them; one cluster for all tests of the session."""
    try:
        requirements.check()
        cluster = Cluster.start(tmp_path_factory.mktemp("cluster"))
    except NoSandboxError as error:
        pytest.skip(str(error))
    except (RequirementError, ToolsError) as error:
        pytest.fail(str(error), pytrace=False)
    yield cluster
    cluster.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def lab(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    """Handover on the cluster and a VM that runs; one lab for all tests of the session."""
    if missing := [archive for archive in build.archives() if not archive.exists()]:
        pytest.fail(f"{missing[0].name} is not there: make images builds it", pytrace=False)
    cluster.load(*build.archives())
    directory = tmp_path_factory.mktemp("lab")
    async with Lab.open(cluster, directory, lambda _: None) as lab:
        await lab.install(CONVERGENCE_VALUE, *ROUTES_ALONE_VALUES)
        await lab.vm.boot(next(iter(cluster.nodes)))
        yield lab
    cluster.helm("uninstall", "handover", "--namespace", "handover-system", "--wait")


@pytest.fixture(scope="module")
def with_cpu_share(lab: Lab) -> Iterator[Lab]:
    """The lab with a VM that pods which start beside it take no processor from."""
    with cpu_share.reserved(lab.vm):
        yield lab


@pytest.fixture(scope="module")
def ping_record(lab: Lab) -> Iterator[PingRecord]:
    """Who tells the network's losses from the guest's own."""
    with PingRecord.kept(lab.cluster.nodes, lab.vm.nic.tap) as called:
        yield called


@pytest_asyncio.fixture(loop_scope="session")
async def scenario(lab: Lab) -> AsyncIterator[Scenario]:
    """The lab in order, with traffic to its VM, for one test."""
    async with Scenario.open(lab) as opened:
        yield opened
