"""The chart on a real cluster: installed, tested, changed, moved and uninstalled with Helm."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from handover_lab.cluster import client
from handover_lab.cluster.cluster import Cluster, ClusterError
from handover_lab.docs.chart import CHART
from handover_lab.images import build
from handover_lab.toolchain import tools

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SPACE = ("--namespace", "handover-system")
WAIT = ("--wait", "--timeout", "2m")
HAND_BACK = ("--set", "configuration.onUninstall=handBack")
HOLDER = "jsonpath={.spec.holderIdentity}"
ENDPOINT = """
apiVersion: handover.dev/v1alpha1
kind: WorkloadEndpoint
metadata: {name: tap, namespace: default}
spec: {node: node-a, workload: vm, interface: tap9, ips: [10.65.9.2]}
"""


def until(is_so: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Iterator[Cluster]:
    """Have the chart installed, and a VM's interface on the first node; no test leaves it."""
    if missing := [archive for archive in build.archives() if not archive.exists()]:
        pytest.fail(f"{missing[0].name} is not there: make images builds it", pytrace=False)
    cluster.load(*build.archives())
    cluster.nodes["node-a"].run(
        "ip link add tap9 type veth peer name far9; ip link set far9 up; ip link set tap9 up"
    )
    cluster.helm("install", "handover", str(CHART), *SPACE, "--create-namespace", *WAIT, *HAND_BACK)
    yield cluster
    cluster.kubectl("delete", "wep", "--all")
    cluster.nodes["node-a"].run("ip link delete tap9")


def helm(cluster: Cluster, verb: str, *arguments: str, program: str = "helm") -> str:
    """Do something with the release, and return all that is said."""
    done = subprocess.run(
        [tools.locate(program), verb, "handover", *arguments, *SPACE],
        env=client.environment(cluster.kubeconfig, cluster.directory),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def pods(cluster: Cluster, component: str) -> dict[str, str]:
    """Return the node of each pod of a component."""
    label = f"app.kubernetes.io/component={component}"
    found = json.loads(cluster.kubectl("get", "pods", *SPACE, "-l", label, "-o", "json"))
    return {each["metadata"]["name"]: each["spec"]["nodeName"] for each in found["items"]}


def holder(cluster: Cluster) -> str:
    """Return who leads."""
    return cluster.kubectl("get", "lease", "handover-operator", *SPACE, "-o", HOLDER)


def test_both_operators_run_on_nodes_of_their_own_and_one_leads(installed: Cluster) -> None:
    found = pods(installed, "operator")

    assert set(found.values()) == {"node-a", "node-b"}
    # A release that was there before may have left its Lease, which runs out.
    until(lambda: holder(installed).rpartition("_")[0] in found)


def test_helm_test_finds_the_cluster_ready_and_leaves_nothing(installed: Cluster) -> None:
    said = helm(installed, "test")

    assert "ok  node agents: 2 of 2 nodes have one that is ready" in said
    assert "ok  rights of handover-operator" in said
    assert "ok  rights of handover-nodeagent" in said
    assert "NOT READY" not in said
    assert "handover-test" not in installed.kubectl("get", "clusterrole,clusterrolebinding")


def test_an_agent_writes_by_the_token_of_its_pod(installed: Cluster) -> None:
    """The policy lets real agents do their work."""
    installed.kubectl("apply", "-f-", input=ENDPOINT)
    routed = ("--for=jsonpath={.status.routes[0].address}=10.65.9.2", "--timeout=30s")
    installed.kubectl("wait", *routed, "wep/tap")

    assert "10.65.9.2" in installed.nodes["node-a"].run("ip route show proto 88")


def test_only_the_operator_gives_roles(installed: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"only the operator writes handover\.dev/role"):
        installed.kubectl("annotate", "wep", "tap", "handover.dev/role=target")


@pytest.mark.parametrize("component", ["operator", "nodeagent"])
def test_a_pod_holds_no_more_memory_than_it_asks_for(installed: Cluster, component: str) -> None:
    asked = chart_values()[component]["resources"]["requests"]["memory"]
    (mebibytes,) = re.findall(r"^(\d+)Mi$", asked)

    # An agent has a child, in which libnftables may crash.
    held = [
        sum(resident_kib(pid) for pid in installed.nodes[node].pids(pod, SPACE[1]))
        for pod, node in pods(installed, component).items()
    ]

    assert len(held) == 2
    assert max(held) < int(mebibytes) * 1024


def chart_values() -> Any:
    """Return the default values."""
    return yaml.safe_load((CHART / "values.yaml").read_text())


def resident_kib(pid: int) -> int:
    """Return the memory that a process holds."""
    (found,) = re.findall(
        r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
    )
    return int(found)


@pytest.mark.parametrize(
    ("role", "resource", "may"),
    [
        ("view", "livemigrations", {"get"}),
        ("view", "workloadendpoints", {"get"}),
        ("edit", "livemigrations", {"get", "create", "patch", "delete"}),
        # Who writes one may move an IP address.
        ("edit", "workloadendpoints", {"get"}),
        ("admin", "workloadendpoints", {"get"}),
    ],
)
def test_the_clusters_own_roles_have_our_parts(
    installed: Cluster, role: str, resource: str, may: set[str]
) -> None:
    who = f"{role}-{resource}"
    bound = (f"--clusterrole={role}", f"--user={who}")
    installed.kubectl("create", "rolebinding", who, *bound)

    said = installed.kubectl("auth", "can-i", "--list", "--as", who, "--no-headers")

    rules = [each for each in said.splitlines() if each.startswith(f"{resource}.handover.dev ")]
    given = {verb for each in rules for verb in re.findall(r"\w+", each.rpartition("[")[2])}
    assert given & {"get", "create", "patch", "delete"} == may


def test_the_other_operator_goes_on_when_the_leader_goes(installed: Cluster) -> None:
    before = holder(installed)
    installed.kubectl("delete", "pod", *SPACE, before.rpartition("_")[0], "--wait=false")

    until(lambda: holder(installed) not in {"", before})


def test_an_uninstall_hands_the_node_back_and_keeps_the_objects(installed: Cluster) -> None:
    node = installed.nodes["node-a"]
    assert "10.65.9.2" in node.run("ip route show proto 88")

    installed.helm("uninstall", "handover", *SPACE, *WAIT)

    # Nothing but ours leads to the guest: it stays.
    assert "10.65.9.2" in node.run("ip route show proto 88")
    assert "handover" not in node.run("nft list tables")
    assert "tap" in installed.kubectl("get", "wep", "tap", "-o", "name")
    assert "handover" not in installed.kubectl("get", "clusterrole", "-o", "name")


def test_helm_3_installs_it_again_and_it_serves_what_was_left(installed: Cluster) -> None:
    """The request of the uninstall before asks nobody now."""

    def helm3(verb: str, *arguments: str) -> str:
        return helm(installed, verb, *arguments, program="helm3")

    helm3("install", str(CHART), *WAIT)
    routed = ("--for=jsonpath={.status.routes[0].address}=10.65.9.2", "--timeout=30s")
    installed.kubectl("wait", *routed, "wep/tap")
    node = installed.nodes["node-a"]
    assert "10.65.9.2" in node.run("ip route show proto 88")
    said = helm3("test")
    assert "ok  node agents: 2 of 2 nodes have one that is ready" in said
    assert "NOT READY" not in said

    helm3("upgrade", str(CHART), "--set", "configuration.probeInterval=100ms", *WAIT)
    followed = ("--for=jsonpath={.spec.probeInterval}=100ms", "--timeout=60s")
    installed.kubectl("wait", *followed, "hc/default")
    helm3("uninstall", *WAIT)

    # The default keeps what the kernel has.
    assert "10.65.9.2" in node.run("ip route show proto 88")
    assert "tap" in installed.kubectl("get", "wep", "tap", "-o", "name")
