"""The chart on a real cluster: installed, tested, changed, moved and uninstalled with Helm."""

import json
import time
from collections.abc import Callable, Iterator

import pytest

from handover_lab import images
from handover_lab.chart import CHART
from handover_lab.cluster import Cluster, ClusterError

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
    if missing := [archive for archive in images.archives() if not archive.exists()]:
        pytest.fail(f"{missing[0].name} is not there: make images builds it", pytrace=False)
    cluster.load(*images.archives())
    cluster.nodes["node-a"].run(
        "ip link add tap9 type veth peer name far9; ip link set far9 up; ip link set tap9 up"
    )
    cluster.helm("install", "handover", str(CHART), *SPACE, "--create-namespace", *WAIT, *HAND_BACK)
    yield cluster
    cluster.kubectl("delete", "wep", "--all")
    cluster.nodes["node-a"].run("ip link delete tap9")


def pods(cluster: Cluster, component: str) -> dict[str, str]:
    """Return the node of each pod of a component."""
    label = f"app.kubernetes.io/component={component}"
    found = json.loads(cluster.kubectl("get", "pods", *SPACE, "-l", label, "-o", "json"))
    return {each["metadata"]["name"]: each["spec"]["nodeName"] for each in found["items"]}


def test_both_operators_run_on_nodes_of_their_own_and_one_leads(installed: Cluster) -> None:
    found = pods(installed, "operator")
    holder = installed.kubectl("get", "lease", "handover-operator", *SPACE, "-o", HOLDER)

    assert set(found.values()) == {"node-a", "node-b"}
    assert holder.rpartition("_")[0] in found


def test_helm_test_finds_the_cluster_ready_and_leaves_nothing(installed: Cluster) -> None:
    said = installed.helm("test", "handover", *SPACE, "--logs")

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


def test_the_other_operator_goes_on_when_the_leader_goes(installed: Cluster) -> None:
    def holder() -> str:
        return installed.kubectl("get", "lease", "handover-operator", *SPACE, "-o", HOLDER)

    before = holder()
    installed.kubectl("delete", "pod", *SPACE, before.rpartition("_")[0], "--wait=false")

    until(lambda: holder() not in {"", before})


def test_an_uninstall_hands_the_node_back_and_keeps_the_objects(installed: Cluster) -> None:
    node = installed.nodes["node-a"]
    assert "10.65.9.2" in node.run("ip route show proto 88")

    installed.helm("uninstall", "handover", *SPACE, *WAIT)

    assert node.run("ip route show proto 88") == ""
    assert "handover" not in node.run("nft list tables")
    assert "tap" in installed.kubectl("get", "wep", "tap", "-o", "name")
    assert "handover" not in installed.kubectl("get", "clusterrole", "-o", "name")


def test_it_is_installed_again_and_serves_what_it_left(installed: Cluster) -> None:
    """The request of the uninstall before asks nobody now."""
    installed.helm("install", "handover", str(CHART), *SPACE, *WAIT)
    routed = ("--for=jsonpath={.status.routes[0].address}=10.65.9.2", "--timeout=30s")
    installed.kubectl("wait", *routed, "wep/tap")
    node = installed.nodes["node-a"]
    assert "10.65.9.2" in node.run("ip route show proto 88")

    installed.helm("uninstall", "handover", *SPACE, *WAIT)

    # The default keeps what the kernel has.
    assert "10.65.9.2" in node.run("ip route show proto 88")
