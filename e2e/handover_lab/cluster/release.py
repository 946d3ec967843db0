"""A release of the chart without its pods: accounts, rights, policies, settings, one Lease.

The operator is then a process of ours (replica.py) that may do and is told just what it may do
and is told in a cluster.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from handover_lab.cluster import operator_process
from handover_lab.cluster.client import Client
from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.cluster.operator_process import Start
from handover_lab.cluster.replica import Replica
from handover_lab.cluster.rest import Api, ApiError
from handover_lab.docs.chart import CHART
from handover_lab.processes.waiting import PATIENCE

NAME: Final = "handover"
NAMESPACE: Final = "handover-system"
OPERATOR: Final = "handover-operator"
LEASE: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{OPERATOR}"
RIGHTS: Final = (
    *("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    "ConfigMap",
)
POLICIES: Final = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Release:
    """What was installed: the operator's credentials, and what its container would be told."""

    admin: Path
    kubeconfig: Path
    environment: Mapping[str, str]
    start: Start
    """How each process of the operator begins."""

    @classmethod
    async def install(
        cls,
        plane: ControlPlane,
        kinds: Sequence[str] = RIGHTS + POLICIES,
        start: Start = operator_process.start_program,
    ) -> "Release":
        """Install the objects of these *kinds*; what a pod would mount is kept with the plane.

        Raises ClientError.
        """
        directory = plane.shape.directory
        client = Client(plane.kubeconfig, directory)
        text = await client.run("helm", "template", NAME, str(CHART), f"--namespace={NAMESPACE}")
        manifests = [each for each in yaml.safe_load_all(text) if each]
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        wanted = [namespace, *(each for each in manifests if each["kind"] in kinds)]
        apply = ("apply", "--server-side", "--force-conflicts", "--filename=-")
        await client.run("kubectl", *apply, text=yaml.safe_dump_all(wanted))
        account = ("token", OPERATOR, f"--namespace={NAMESPACE}", "--duration=12h")
        token = (await client.run("kubectl", "create", *account)).strip()
        kubeconfig = directory / "operator.kubeconfig"
        # It will hold a token, so nobody else may read it from the first moment.
        kubeconfig.touch(0o600)
        kubeconfig.write_text(yaml.safe_dump(bearing(plane.kubeconfig, token)))
        return cls(plane.kubeconfig, kubeconfig, environment(manifests, directory), start)

    def replica(
        self, log: Path, variables: Mapping[str, str] | None = None, patience: float = PATIENCE
    ) -> Replica:
        """Make a replica, not started yet; *variables* go before those of the chart.

        By default all have the name and uid of one pod, whose container is started again: it
        still holds the Lease.
        """
        told = {**self.environment, "KUBECONFIG": str(self.kubeconfig), **(variables or {})}
        return Replica(log, told, patience, self.start)

    async def free_lease(self) -> None:
        """Remove the Lease of replicas that are no more, for which others would wait."""
        async with Api.connect(self.admin) as api:
            with contextlib.suppress(ApiError):
                await api.call("DELETE", LEASE)


def bearing(kubeconfig: Path, token: str) -> Manifest:
    """Compose a kubeconfig to the same place that shows a token."""
    found: Manifest = yaml.safe_load(kubeconfig.read_text())
    for user in found["users"]:
        user["user"] = {"token": token}
    return found


def environment(manifests: Sequence[Manifest], directory: Path) -> Mapping[str, str]:
    """Return the variables of the operator's container; its mounted file is in *directory*.

    Its port is that of a pod, which has an address of its own.
    """
    found = {(each["kind"], each["metadata"]["name"]): each for each in manifests}
    (container,) = found["Deployment", OPERATOR]["spec"]["template"]["spec"]["containers"]
    file = directory / "configuration.yaml"
    file.write_text(found["ConfigMap", f"{NAME}-configuration"]["data"][file.name])
    told = dict(variables(container["env"])) | {"HANDOVER_CONFIGURATION_FILE": str(file)}
    del told["HANDOVER_PORT"]
    return told


def variables(entries: Sequence[Manifest]) -> Iterator[tuple[str, str]]:
    """Yield names and values, those from the pod's fields, too."""
    pod = {"metadata.namespace": NAMESPACE, "metadata.name": OPERATOR, "metadata.uid": OPERATOR}
    for entry in entries:
        source = entry.get("valueFrom")
        yield (
            entry["name"],
            entry["value"] if source is None else pod[source["fieldRef"]["fieldPath"]],
        )
