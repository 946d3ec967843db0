"""What the examples say is what the API takes, and the observer sees what the API has."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from handover_lab import paths
from handover_lab.cluster import manifests, observer
from handover_lab.cluster.client import Client, ClientError
from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.cluster.observer import Observer, ObserverError
from handover_lab.facts import Fact, Phase, Role
from handover_lab.kubevirt import objects

pytestmark = pytest.mark.api

CRDS = (paths.ROOT / "crds", objects.CRDS)
EXAMPLES = sorted(paths.EXAMPLES.glob("*.yaml"))


Kubectl = Callable[..., Awaitable[str]]


@pytest.fixture
def client(api_server: ControlPlane, tmp_path: Path) -> Client:
    """A client of the API server."""
    return Client(api_server.kubeconfig, tmp_path)


@pytest.fixture
async def kubectl(client: Client) -> AsyncIterator[Kubectl]:
    """Kubectl for an API server that knows our kinds and has no object of them."""
    kubectl = functools.partial(client.run, "kubectl")
    files = [f"--filename={path}" for path in CRDS]
    await kubectl("apply", *files)
    await kubectl("wait", "--for=condition=Established", *files)
    yield kubectl
    await kubectl("delete", "resourcequotas", "--all")
    await kubectl("delete", "livemigrations,workloadendpoints,vmims", "--all", "--all-namespaces")
    await kubectl("delete", "handoverconfigurations", "--all")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
async def test_the_api_takes_an_example_as_it_is_written(kubectl: Kubectl, path: Path) -> None:
    # A quota is nobody's kind of ours: another test may have left it in the namespace.
    await kubectl("delete", "resourcequotas", "--all")
    said = await kubectl("apply", "--validate=strict", "--filename", str(path))

    assert said.count("created") == len(manifests.read(path))


def test_migrations_name_endpoints_that_are_among_the_examples() -> None:
    found = manifests.read(manifests.ENDPOINTS)
    endpoints = {each["metadata"]["name"]: each["spec"] for each in found}
    there, back = (
        manifests.read(paths.EXAMPLES / f"{name}.yaml")[0]["spec"]
        for name in ("livemigration", "livemigration-back")
    )

    assert {"node-a", "node-b"} == {spec["node"] for spec in endpoints.values()}
    assert there["source"] == back["target"]
    assert there["target"] == back["source"]
    waiting = there["target"]["endpoint"]["name"]
    assert [waiting] == [name for name, spec in endpoints.items() if spec.get("awaitRole")]


def test_a_vm_moves_there_and_back_by_vmims_of_two_names() -> None:
    """The LiveMigration of a VMIM has its name, and outlives it until it is collected."""
    vmims = [manifests.read(paths.EXAMPLES / f"{name}.yaml")[0] for name in ("vmim", "vmim-back")]

    assert len({vmim["metadata"]["name"] for vmim in vmims}) == 2
    (endpoint, _) = manifests.read(manifests.ENDPOINTS)
    assert {vmim["spec"]["vmiName"] for vmim in vmims} == {endpoint["spec"]["workload"]}


async def test_the_observer_tells_what_happens(client: Client, kubectl: Kubectl) -> None:
    told: list[Fact] = []
    migrations, endpoints = [
        await Observer.watch(client, kind, told.append)
        for kind in ("livemigrations", "workloadendpoints")
    ]
    await kubectl("apply", "--filename", str(manifests.ENDPOINTS))
    await kubectl("apply", "--filename", str(paths.EXAMPLES / "livemigration.yaml"))
    await migrations.until(lambda seen: "vm-to-node-b" in seen, "a migration")
    await endpoints.until(lambda seen: "vm-on-node-b" in seen, "an endpoint")

    await kubectl("annotate", "wep", "vm-on-node-b", "handover.dev/role=target")
    await kubectl(
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


async def test_a_command_that_fails_says_why(client: Client) -> None:
    with pytest.raises(ClientError, match=r"^kubectl get nothing: .*server doesn't have"):
        await client.run("kubectl", "get", "nothing")
