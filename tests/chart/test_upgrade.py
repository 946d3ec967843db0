"""An upgrade from an older version: the kinds follow, the objects stay; with Helm 4 and Helm 3.

The older version is this chart without two fields, one of each kind that people write.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.conftest import Kubectl, runner

from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.docs.chart import CHART

pytestmark = pytest.mark.api

PATIENCE = 20.0
LATER = {"livemigrations": "ttlSecondsAfterFinished", "workloadendpoints": "awaitRole"}
"""The fields that the older version does not know."""

OBJECTS = """
apiVersion: handover.dev/v1alpha1
kind: WorkloadEndpoint
metadata: {name: kept, namespace: default}
spec: {node: node-a, workload: vm, ips: [10.65.0.9]}
---
apiVersion: handover.dev/v1alpha1
kind: LiveMigration
metadata: {name: kept, namespace: default}
spec: {source: {endpoint: {name: kept}}}
"""
KEPT = ("get", "lm/kept", "wep/kept", "--output=json")
TTL = ("patch", "lm/kept", "--type=merge", '--patch={"spec": {"ttlSecondsAfterFinished": 60}}')
STATUS = '{"status": {"state": "Base"}}'


@pytest.fixture(scope="module")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Have an API server on which nobody has installed our kinds."""
    plane = ControlPlane.start(tmp_path_factory.mktemp("control-plane"))
    yield plane
    plane.stop()


@dataclass(frozen=True)
class Release:
    """A release of the chart, in the hands of one Helm and in a namespace of its own."""

    helm: str
    kubeconfig: Path

    def do(self, verb: str, *arguments: str | Path) -> None:
        """Do something to it that succeeds."""
        done = self._run(verb, *arguments)
        assert done.returncode == 0, done.stderr

    def refused(self, verb: str, *arguments: str | Path) -> str:
        """Do something to it that fails; return what Helm says."""
        done = self._run(verb, *arguments)
        assert done.returncode != 0
        return done.stderr

    def _run(self, verb: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        where = ("--namespace", f"{self.helm}-system")
        return runner(self.helm)(verb, "handover", *arguments, *where, kubeconfig=self.kubeconfig)


@pytest.fixture(params=["helm", "helm3"])
def release(
    request: pytest.FixtureRequest, api_server: ControlPlane, kubectl: Kubectl
) -> Iterator[Release]:
    """Have a Helm for a cluster in which nothing of ours is left."""
    yield Release(request.param, api_server.kubeconfig)
    kubectl("delete", "crd", "--all")


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compose the older version of the chart."""
    chart = tmp_path_factory.mktemp("older") / "handover"
    shutil.copytree(CHART, chart)
    about = chart / "Chart.yaml"
    about.write_text(yaml.safe_dump(yaml.safe_load(about.read_text()) | {"version": "0.0.1"}))
    for plural, field in LATER.items():
        path = chart / "files" / "crds" / f"{plural}.yaml"
        kind = yaml.safe_load(path.read_text())
        (version,) = kind["spec"]["versions"]
        del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][field]
        # The template puts labels and annotations at the place where the file has its metadata.
        path.write_text(yaml.safe_dump(kind, sort_keys=False))
    return chart


def kept(kubectl: Kubectl) -> list[Any]:
    """Return the objects: by their uids that they are the same ones, and what they say."""
    items = json.loads(kubectl(*KEPT))["items"]
    return [
        {"uid": each["metadata"]["uid"], **each["spec"], **each.get("status", {})} for each in items
    ]


def until(is_so: Callable[[], bool], otherwise: str) -> None:
    """Wait until something is so: a new schema is in force a moment later."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)


def are_made(kubectl: Kubectl) -> bool:
    """Make the objects; whether both are there."""
    made = kubectl("apply", "--filename=-", given=OBJECTS)
    return made.count("created") + made.count("unchanged") == 2


def touch(kubectl: Kubectl, value: str) -> None:
    """Write the objects: what their kind does not know is dropped then."""
    said = kubectl("annotate", "--overwrite", "lm/kept", "wep/kept", f"touched={value}")
    assert said.count("annotated") == 2, said


def test_the_kinds_follow_the_chart_and_no_object_is_lost(
    release: Release, older: Path, kubectl: Kubectl
) -> None:
    release.do("install", older, "--create-namespace")
    until(lambda: are_made(kubectl), "the kinds are not served")
    kubectl("patch", "wep/kept", "--subresource=status", "--type=merge", f"--patch={STATUS}")
    refused = kubectl(*TTL)
    before = kept(kubectl)

    release.do("upgrade", CHART)

    assert 'unknown field "spec.ttlSecondsAfterFinished"' in refused
    migration, endpoint = before
    until(lambda: "unknown field" not in kubectl(*TTL), "the new field is not known")
    after = [migration | {"ttlSecondsAfterFinished": 60}, endpoint | {"awaitRole": False}]
    until(lambda: kept(kubectl) == after, "an object is lost, or not valid any more")

    # Policies are in force a moment after they were made.
    until(lambda: "never go back" in release.refused("rollback"), "a rollback lowers the kinds")
    touch(kubectl, "1")
    assert kept(kubectl) == after

    release.do("upgrade", older)
    touch(kubectl, "2")
    assert kept(kubectl) == after
    assert "ttlSecondsAfterFinished" in kubectl("get", "crd/livemigrations.handover.dev", "-oyaml")

    release.do("upgrade", CHART)
    touch(kubectl, "3")

    assert kept(kubectl) == after, "what the older version does not know was lost"

    lease = ("lease/handover-operator", f"--namespace={release.helm}-system")
    held = '{"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 15}}'
    assert "patched" in kubectl("patch", *lease, "--type=merge", f"--patch={held}")
    release.do("upgrade", CHART)
    assert "somebody" in kubectl("get", *lease, "--output=yaml")

    release.do("uninstall")

    # Whoever is installed next need not wait until it has expired.
    assert "NotFound" in kubectl("get", *lease)
    assert kept(kubectl) == after
    assert "ttlSecondsAfterFinished" in kubectl("get", "crd/livemigrations.handover.dev", "-oyaml")
    assert "NotFound" in kubectl("get", "clusterrole/handover-operator")

    release.do("install", CHART)

    assert kept(kubectl) == after
    release.do("uninstall")
