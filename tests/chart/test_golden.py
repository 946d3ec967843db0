"""What common settings make of the chart, as text to read: the files in ``golden``.

With HANDOVER_GOLDEN=write the files are made anew; the change is then seen in the diff.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from handover_lab.docs.chart import CHART

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = {
    "default": "{}",
    "monitored": """
podMonitor: {enabled: true}
prometheusRule: {enabled: true, labels: {release: prometheus}}
networkPolicy: {enabled: true}
""",
    "private-registry": """
imagePullSecrets: [{name: pull}]
commonLabels: {team: net}
commonAnnotations: {owner: net@example.com}
operator:
  image: {repository: registry.example/handover-operator, tag: v1}
  podSecurityContext: {runAsUser: null, runAsGroup: null}
  nodeSelector: {node-role.kubernetes.io/control-plane: ""}
  tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}]
nodeagent:
  image: {repository: registry.example/handover-nodeagent, tag: v1}
  securityContext: {seLinuxOptions: {type: spc_t}}
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
          - matchExpressions: [{key: kubevirt.io/schedulable, operator: In, values: ["true"]}]
""",
    "one-node": """
operator: {replicas: 1, topologySpreadConstraints: [], podDisruptionBudget: {enabled: false}}
policies:
  nodeStatus: {enabled: false}
  nodeEvents: {enabled: false}
  networkStatus: {enabled: false}
  annotations: {enabled: false}
  migrations: {enabled: false}
  addresses: {enabled: false}
rbac: {aggregate: false}
configuration: {mode: observe, probeInterval: 100ms}
""",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_manifests_are_the_known_ones(
    name: str, helm: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    values, golden = tmp_path / "values.yaml", GOLDEN / f"{name}.yaml"
    values.write_text(SETTINGS[name])
    options = ("--namespace", "handover-system", "--set", "crds.install=false", "--values", values)

    made = helm("template", "handover", CHART, *options)

    assert made.stderr == ""
    if os.environ.get("HANDOVER_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(made.stdout)
    assert made.stdout.splitlines() == golden.read_text().splitlines()
