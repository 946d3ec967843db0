"""The chart with Helm 3: it makes the same of it, and says the same of what is wrong."""

from pathlib import Path

import pytest
from tests.chart.conftest import NAMESPACE, Run
from tests.chart.test_golden import GOLDEN, SETTINGS

from handover_lab.docs.chart import CHART


def test_helm_3_finds_no_fault(helm3: Run) -> None:
    done = helm3("lint", "--strict", CHART)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SETTINGS)
def test_the_manifests_are_those_of_helm_4(name: str, helm3: Run, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(SETTINGS[name])
    options = ("--namespace", NAMESPACE, "--set", "crds.install=false", "--values", values)

    made = helm3("template", "handover", CHART, *options)

    assert made.stderr == ""
    assert written(made.stdout) == written((GOLDEN / f"{name}.yaml").read_text())


def written(text: str) -> list[str]:
    """Return the lines that have something in them."""
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("nodeagent.port=70000", "/nodeagent/port"),
        ("oprator.port=1", "oprator"),
        ("configuration.mode=off", "/configuration/mode"),
    ],
)
def test_a_wrong_value_is_named(helm3: Run, setting: str, named: str) -> None:
    done = helm3("template", "handover", CHART, "--set", setting)

    assert done.returncode != 0
    assert named in done.stderr


def test_an_old_cluster_is_refused(helm3: Run) -> None:
    done = helm3("template", "handover", CHART, "--kube-version", "1.31.9")

    assert done.returncode != 0
    assert "requires kubeVersion: >=1.32.0-0" in done.stderr
