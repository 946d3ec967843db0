"""What the examples say is what the API takes, and the observer sees what the API has."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from handover_lab import lab, observer, tools
from handover_lab.controlplane import ControlPlane
from handover_lab.observer import Observer, ObserverError
from handover_lab.story import Fact, Phase, Role

pytestmark = pytest.mark.api

CRDS = lab.ROOT / "crds"
EXAMPLES = sorted(lab.EXAMPLES.glob("*.yaml"))


class Client:
    """Kubectl for one API server, with a cache of its own."""

    def __init__(self, plane: ControlPlane, room: Path) -> None:
        self.plane = plane
        self._home = room

    def __call__(self, *arguments: str) -> str:
        """Run kubectl and return what it says."""
        argv = (str(tools.locate("kubectl")), f"--kubeconfig={self.plane.kubeconfig}", *arguments)
        environment = {**os.environ, "HOME": str(self._home)}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def kubectl(api_server: ControlPlane, tmp_path: Path) -> Iterator[Client]:
    """A client of an API server that knows our kinds and has no object of them."""
    client = Client(api_server, tmp_path)
    client("apply", "--filename", str(CRDS))
    client("wait", "--for=condition=Established", "--filename", str(CRDS))
    yield client
    client("delete", "livemigrations,workloadendpoints", "--all", "--all-namespaces")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_api_takes_an_example_as_it_is_written(kubectl: Client, path: Path) -> None:
    said = kubectl("apply", "--validate=strict", "--filename", str(path))

    assert said.count("created") == len(lab.read(path))


def test_migrations_name_endpoints_that_are_among_the_examples() -> None:
    endpoints = {thing["metadata"]["name"]: thing["spec"] for thing in lab.read(lab.ENDPOINTS)}
    there, back = (
        lab.read(lab.EXAMPLES / f"{name}.yaml")[0]["spec"]
        for name in ("livemigration", "livemigration-back")
    )

    assert {"node-a", "node-b"} == {spec["node"] for spec in endpoints.values()}
    assert there["source"] == back["target"]
    assert there["target"] == back["source"]
    waiting = there["target"]["endpoint"]["name"]
    assert [waiting] == [name for name, spec in endpoints.items() if spec.get("awaitRole")]


async def test_the_observer_tells_what_happens(kubectl: Client) -> None:
    told: list[Fact] = []
    plane = kubectl.plane
    migrations, endpoints = [
        await Observer.watch(tools.locate("kubectl"), plane.kubeconfig, kind, told.append)
        for kind in ("livemigrations", "workloadendpoints")
    ]
    kubectl("apply", "--filename", str(lab.ENDPOINTS))
    kubectl("apply", "--filename", str(lab.EXAMPLES / "livemigration.yaml"))
    await migrations.until(lambda seen: "vm-to-node-b" in seen, "a migration")
    await endpoints.until(lambda seen: "vm-on-node-b" in seen, "an endpoint")

    kubectl("annotate", "wep", "vm-on-node-b", "handover.dev/role=target")
    kubectl(
        *("patch", "lm", "vm-to-node-b", "--subresource=status", "--type=merge"),
        *("--patch", '{"status": {"phase": "Ready"}}'),
    )
    await migrations.until(
        lambda seen: observer.phase_of(seen["vm-to-node-b"]) == "Ready", "phase Ready"
    )
    await endpoints.until(
        lambda seen: observer.role_of(seen["vm-on-node-b"]) == "target", "role target"
    )
    with pytest.raises(ObserverError, match=r"^phase Live did not .* vm-to-node-b is Ready"):
        await migrations.until(lambda _: False, "phase Live", seconds=0.01)
    for watch in (migrations, endpoints):
        await watch.stop()

    assert {(Phase, "Ready"), (Role, "target")} == {
        (type(fact), fact.phase if isinstance(fact, Phase) else fact.role)
        for fact in told
        if isinstance(fact, Phase | Role)
    }
