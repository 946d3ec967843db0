"""Wrong values: each is refused by a sentence that names it."""

import subprocess
from collections.abc import Callable

import pytest

from handover_lab.docs.chart import CHART

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("setting", "place", "problem"),
    [
        ("oprator.port=1", "at ''", "'oprator' not allowed"),
        ("operator.prot=1", "at '/operator'", "'prot' not allowed"),
        ("nodeagent.image.name=x", "at '/nodeagent/image'", "'name' not allowed"),
        ("configuration.probeIntervall=1s", "at '/configuration'", "'probeIntervall' not allowed"),
        ("configuration.mode=off", "at '/configuration/mode'", "'active', 'observe', 'paused'"),
        ("configuration.routeProtocol=300", "at '/configuration/routeProtocol'", "want 254"),
        ("configuration.probeInterval=5", "at '/configuration/probeInterval'", "want string"),
        ("operator.logLevel=loud", "at '/operator/logLevel'", "'debug'"),
        ("nodeagent.port=70000", "at '/nodeagent/port'", "want 65,535"),
        ("nodeagent.port=http", "at '/nodeagent/port'", "want integer"),
        ("nodeagent.env.PROBE=1s", "at '/nodeagent/env'", "'PROBE' not allowed"),
        ("nodeagent.maxUnavailable=0", "at '/nodeagent/maxUnavailable'", "want 1"),
        ("nodeagent.image.digest=abc", "at '/nodeagent/image/digest'", "does not match pattern"),
        ("operator.image.repository=", "at '/operator/image/repository'", "want 1"),
        ("nodeagent.tolerations[0].kee=x", "at '/nodeagent/tolerations/0'", "'kee' not allowed"),
        ("nodeagent.resources.limit.cpu=1", "at '/nodeagent/resources'", "'limit' not allowed"),
        ("operator.replicas=0", "at '/operator/replicas'", "want 1"),
        ("operator.topologySpreadConstraints[0].maxSkew=1", "'/operator/topology", "missing"),
        ("podMonitor.labels.x=1", "at '/podMonitor/labels/x'", "want string"),
        ("policies.node=true", "at '/policies'", "'node' not allowed"),
        ("policies.nodeEvents.failurePolicy=No", "'/policies/nodeEvents/failurePolicy'", "'Fail'"),
        (
            "policies.annotations.validationActions={Deny,Warn}",
            "at '/policies/annotations/validationActions'",
            "value must be 'Deny or Warn, not both; Audit beside either'",
        ),
        ("operator.resources.limits.cpu=lots", "'/operator/resources/limits/cpu'", "not match"),
        ("nodeagent.resources.requests.memory=1GB", "/resources/requests/memory'", "not match"),
        ("nameOverride=Foo_Bar", "at '/nameOverride'", "does not match pattern"),
        ("fullnameOverride=-x", "at '/fullnameOverride'", "does not match pattern"),
        ("networkPolicy.apiServerPorts[0]=0", "at '/networkPolicy/apiServerPorts/0'", "want 1"),
        ("crds.install=maybe", "at '/crds/install'", "want boolean"),
    ],
)
def test_a_wrong_value_is_named(helm: Run, setting: str, place: str, problem: str) -> None:
    done = helm("template", "handover", CHART, "--set", setting)

    assert done.returncode != 0
    (sentence,) = (line for line in done.stderr.splitlines() if place in line)
    assert problem in sentence


@pytest.mark.parametrize("setting", ["global.registry=x", "nodeagent.maxUnavailable=1"])
def test_a_right_value_is_taken(helm: Run, setting: str) -> None:
    assert helm("template", "handover", CHART, "--set", setting).returncode == 0


def test_an_old_cluster_is_refused(helm: Run) -> None:
    done = helm("template", "handover", CHART, "--kube-version", "1.31.9")

    assert done.returncode != 0
    assert "requires kubeVersion: >=1.32.0-0" in done.stderr


@pytest.mark.parametrize("version", ["1.32.0", "1.37.2", "1.33.4-gke.1"])
def test_a_new_cluster_is_taken(helm: Run, version: str) -> None:
    assert helm("template", "handover", CHART, "--kube-version", version).returncode == 0
