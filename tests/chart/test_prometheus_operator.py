"""PodMonitor and PrometheusRule as the Prometheus operator's own kinds have them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chart.conftest import Kubectl, Manifest, Render
from tests.chart.test_monitoring import only

from handover_lab.toolchain import gobuild

pytestmark = pytest.mark.api

MODULE = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
CHECKSUM = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
KINDS = ("podmonitors", "prometheusrules")
VALUES = {"PodMonitor": "podMonitor.enabled=true", "PrometheusRule": "prometheusRule.enabled=true"}


@pytest.fixture(scope="module")
def served(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have both kinds served."""
    try:
        sources = gobuild.fetch(MODULE, CHECKSUM, tmp_path_factory.mktemp("nowhere"))
    except gobuild.BuildError as error:
        pytest.skip(str(error))
    names = [f"{kind}.monitoring.coreos.com" for kind in KINDS]
    for kind in KINDS:
        definition = sources / "example" / "prometheus-operator-crd"
        kubectl("create", "--filename", str(definition / f"monitoring.coreos.com_{kind}.yaml"))
    said = kubectl("wait", "crd", *names, "--for=condition=Established", "--timeout=20s")
    assert said.count("condition met") == len(KINDS), said
    yield
    kubectl("delete", "crd", *names)


def judged(kubectl: Kubectl, manifest: Manifest) -> str:
    """Return what the API server says to it, without keeping it."""
    placed = manifest | {"metadata": manifest["metadata"] | {"namespace": "default"}}
    return kubectl("create", "--dry-run=server", "--filename", "-", given=json.dumps(placed))


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("kind", VALUES)
def test_the_prometheus_operators_kinds_take_what_the_chart_makes(
    kubectl: Kubectl, render: Render, kind: str
) -> None:
    made = only(kind, render(VALUES[kind]))

    assert "created (server dry run)" in judged(kubectl, made)


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("kind", VALUES)
def test_they_refuse_a_field_that_they_do_not_have(
    kubectl: Kubectl, render: Render, kind: str
) -> None:
    """Guards the test above: a server that takes all would prove nothing."""
    made = only(kind, render(VALUES[kind]))

    said = judged(kubectl, made | {"spec": made["spec"] | {"endpoint": []}})

    assert 'unknown field "spec.endpoint"' in said


@pytest.mark.usefixtures("served")
def test_kinds_that_somebody_has_changed_are_not_used(tmp_path: Path) -> None:
    with pytest.raises(gobuild.BuildError, match="h1:other was expected"):
        gobuild.fetch(MODULE, "h1:other", tmp_path)


def test_kinds_that_cannot_be_had_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY", "off")
    with pytest.raises(gobuild.BuildError, match=r"Go is missing|GOPROXY"):
        gobuild.fetch("example.test/absent@v1.0.0", CHECKSUM, tmp_path)
