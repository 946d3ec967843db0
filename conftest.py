"""What the tests of all parts share: one real API server for a whole run."""

from collections.abc import Iterator

import hypothesis
import pytest

from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.toolchain.tools import ToolsError

pytest_plugins = ["pytester", "handover_lab.testing.second_try"]

# A property holds or does not; how long it takes to see that is the machine's affair. A test that
# wants more or fewer examples than others asks for a multiple of the profile's.
_PATIENT = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("handover", max_examples=100, **_PATIENT)
# With --hypothesis-profile, for who waits for the tests while working: the rarest cases are left
# to the other profile.
hypothesis.settings.register_profile("fast", max_examples=20, **_PATIENT)
hypothesis.settings.load_profile("handover")


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start an API server of our own; `kubeconfig` leads to it as cluster admin."""
    try:
        plane = ControlPlane.start(tmp_path_factory.mktemp("control-plane"))
    except ToolsError as error:
        pytest.fail(str(error), pytrace=False)
    yield plane
    plane.stop()
