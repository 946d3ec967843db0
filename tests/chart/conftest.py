"""Helm as the tests use it: what the chart becomes, and what it says to wrong values."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from handover_lab import tools
from handover_lab.chart import CHART

Manifest = dict[str, Any]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def helm() -> Run:
    """Run Helm with these arguments."""
    try:
        program = tools.locate("helm")
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
        done = helm("template", "handover", CHART, "--namespace", "handover-system", *values)
        assert done.stderr == ""
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    return template


@pytest.fixture(scope="session")
def release(render: Callable[..., list[Manifest]]) -> dict[str, Manifest]:
    """Return the objects that the default values give, by kind and name."""
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in render()}
