"""Helm and kubectl as the tests use them, and the chart as it is installed on a real API server."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.docs.chart import CHART
from handover_lab.toolchain import tools

NAMESPACE = "handover-system"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:handover-operator"
AGENT = f"system:serviceaccount:{NAMESPACE}:handover-nodeagent"
GROUPS = ("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}")
INSTALL = ("install", "handover", CHART, "--namespace", NAMESPACE, "--create-namespace")
# Other tests may have installed the kinds on the same server.
TAKE = ("--take-ownership", "--force-conflicts")

Manifest = dict[str, Any]
Run = Callable[..., subprocess.CompletedProcess[str]]
Kubectl = Callable[..., str]
Render = Callable[..., list[Manifest]]


@pytest.fixture(scope="session")
def helm() -> Run:
    """Run Helm with these arguments."""
    return runner("helm")


@pytest.fixture(scope="session")
def helm3() -> Run:
    """Run the older Helm, which many have."""
    return runner("helm3")


def runner(name: str) -> Run:
    """Return a function that runs a Helm, and keeps what it says."""
    try:
        program = tools.locate(name)
    except tools.ToolsError as error:
        pytest.skip(str(error))

    def run(*arguments: str | Path, kubeconfig: Path | None = None) -> Any:
        environment = {"HOME": "/nonexistent", "KUBECONFIG": str(kubeconfig or "/nonexistent")}
        argv = [str(program), *map(str, arguments)]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def render(helm: Run) -> Callable[..., list[Manifest]]:
    """Return the objects of a release called handover, with these values set."""

    def template(*settings: str) -> list[Manifest]:
        values = [part for setting in settings for part in ("--set", setting)]
        where = ("--namespace", NAMESPACE, "--no-hooks")
        done = helm("template", "handover", CHART, *where, *values)
        assert done.stderr == ""
        # libyaml's reader is ten times as fast, and there are a hundred renderings.
        return [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]

    return template


@pytest.fixture(scope="session")
def release(render: Callable[..., list[Manifest]]) -> dict[str, Manifest]:
    """Return the objects that the default values give, by kind and name."""
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in render()}


@pytest.fixture(scope="module")
def kubectl(api_server: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """Run kubectl as cluster admin, or as *user*; a failure's sentence is the output."""
    program = tools.locate("kubectl")
    # Else each run would ask for all that is served, which is half of what it costs. A kind that
    # it does not find there it asks for anew.
    cache = tmp_path_factory.mktemp("discovery")

    def run(*arguments: str, given: str = "", user: str = "") -> str:
        done = subprocess.run(
            [program, f"--cache-dir={cache}", *arguments, *(("--as", user) if user else ())],
            env={"HOME": "/nonexistent", "KUBECONFIG": str(api_server.kubeconfig)},
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def installed(helm: Run, api_server: ControlPlane) -> Iterator[None]:
    """Have the chart installed."""
    settings = ("--set", "configuration.probeInterval=50ms")
    done = helm(*INSTALL, *TAKE, *settings, kubeconfig=api_server.kubeconfig)
    assert done.returncode == 0, done.stderr
    yield
    release = ("uninstall", "handover", "--namespace", NAMESPACE)
    assert helm(*release, kubeconfig=api_server.kubeconfig).returncode == 0
