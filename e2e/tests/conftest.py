"""What the tests of the lab share."""

from collections.abc import Iterator

import pytest

from handover_lab import requirements
from handover_lab.cluster import Cluster
from handover_lab.requirements import NoSandboxError, RequirementError
from handover_lab.tools import ToolsError


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
