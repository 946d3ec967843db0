"""Two real nodes: what runs on them, what reaches what, what survives, and what is left."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handover_lab.cluster.cluster import Cluster, ClusterError
from handover_lab.cluster.node import Node
from handover_lab.cluster.nodenetwork import NodeNetworkError
from handover_lab.images import archive
from handover_lab.processes.daemon import DaemonError
from handover_lab.sandbox import directories
from handover_lab.sandbox.directories import SandboxDirectory
from handover_lab.toolchain import requirements

pytestmark = pytest.mark.cluster

BUSYBOX = "handover.dev/test/busybox:1"
HOLD = ("sleep", "infinity")


def pod(name: str, node: str, *command: str, **extra: object) -> dict[str, object]:
    """Describe a pod of one container on *node*; *extra* is the pod's, "container" its own."""
    own = extra.pop("container", {})
    assert isinstance(own, dict)
    container = {"name": name, "image": BUSYBOX, "imagePullPolicy": "Never", **own}
    container["command"] = ["/bin/busybox", *(command or HOLD)]
    spec = {
        "nodeName": node,
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        **extra,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def create(cluster: Cluster, *pods: dict[str, object]) -> list[str]:
    """Make *pods*, wait until they are Ready, and return their addresses."""
    items = {"apiVersion": "v1", "kind": "List", "items": list(pods)}
    names = cluster.kubectl("create", "-f-", "-oname", input=json.dumps(items)).split()
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=60s", *names)
    return [cluster.kubectl("get", name, "-ojsonpath={.status.podIP}") for name in names]


def execute(cluster: Cluster, name: str, *command: str) -> str:
    """Run busybox's *command* in the pod *name*."""
    return cluster.kubectl("exec", name, "--", "/bin/busybox", *command)


@pytest.fixture(scope="module", autouse=True)
def busybox(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have an image with a shell on both nodes."""
    image = tmp_path_factory.mktemp("image") / "busybox.tar"
    program = Path("/bin/busybox").read_bytes()
    image.write_bytes(archive.image(BUSYBOX, {"bin/busybox": program}, ["/bin/busybox"]))
    cluster.load(image)


@pytest.fixture(autouse=True)
def no_pods(cluster: Cluster) -> Iterator[None]:
    """Leave no pod of a test to the next one.

    Its processes may still be on their way out, so every test calls its pods by other names.
    """
    yield
    cluster.kubectl("delete", "pods", "--all", "--wait")


@pytest.fixture
def node_a(cluster: Cluster) -> Node:
    """The first node."""
    return cluster.nodes["node-a"]


def test_each_kubelet_acts_as_its_own_node(cluster: Cluster) -> None:
    kubeconfig = cluster.control_plane.credentials("system:node:node-a", "system:nodes")

    def may(node: str) -> str:
        patch = (
            "patch",
            f"node/{node}",
            "--dry-run=server",
            "-p",
            '{"metadata":{"labels":{"a":"b"}}}',
        )
        return cluster.kubectl(f"--kubeconfig={kubeconfig}", *patch)

    assert "patched" in may("node-a")
    with pytest.raises(ClusterError, match='nodes "node-b" is forbidden'):
        may("node-b")


def test_pods_reach_each_other_across_nodes_and_the_router_reaches_them(cluster: Cluster) -> None:
    _here, there = create(cluster, pod("here", "node-a"), pod("there", "node-b"))

    assert there.startswith("10.244.12.")
    assert "1 packets received" in execute(cluster, "here", "ping", "-c1", "-W5", there)
    assert "1 packets received" in cluster.router.run(f"/bin/busybox ping -c1 -W5 {there}")


@pytest.mark.parametrize("host_network", [False, True])
def test_pods_reach_the_api_by_its_service(cluster: Cluster, host_network: bool) -> None:  # noqa: FBT001
    create(cluster, pod("client", "node-b", hostNetwork=host_network))
    script = "nc -w5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo through"

    assert execute(cluster, "client", "sh", "-c", script) == "through\n"


def test_a_pod_on_the_host_network_is_in_the_network_namespace_of_its_node(
    cluster: Cluster, node_a: Node
) -> None:
    addresses = create(cluster, pod("resident", "node-a", hostNetwork=True))

    (pid,) = node_a.pids("resident")
    assert addresses == [node_a.address]
    own, node = Path(f"/proc/{pid}/ns/net"), node_a.run("readlink /proc/self/ns/net")
    assert str(own.readlink()) == node.strip()
    assert "eth0" in execute(cluster, "resident", "ls", "/sys/class/net").split()


def test_a_host_path_below_run_is_the_own_of_each_node(cluster: Cluster, node_a: Node) -> None:
    path = {"path": "/run/handover", "type": "DirectoryOrCreate"}
    mount = {"volumeMounts": [{"name": "state", "mountPath": "/state"}]}
    volumes = [{"name": "state", "hostPath": path}]
    create(cluster, pod("writer", "node-a", volumes=volumes, container=mount))

    execute(cluster, "writer", "touch", "/state/here")

    assert node_a.run("ls /run/handover") == "here\n"
    assert cluster.nodes["node-b"].run("ls /run").split().count("handover") == 0
    assert not Path("/run/handover").exists()


def test_a_container_that_is_killed_starts_again(cluster: Cluster, node_a: Node) -> None:
    create(cluster, pod("victim", "node-a"))
    (before,) = node_a.pids("victim")

    os.kill(before, signal.SIGKILL)

    count = "{.status.containerStatuses[0].restartCount}"
    cluster.kubectl("wait", f"--for=jsonpath={count}=1", "--timeout=30s", "pod/victim")
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=30s", "pod/victim")
    (after,) = node_a.pids("victim")
    assert after != before


def test_pods_outlive_their_kubelet(cluster: Cluster, node_a: Node) -> None:
    create(cluster, pod("survivor", "node-a"))
    before = node_a.pids("survivor")

    node_a.restart_kubelet()

    create(cluster, pod("later", "node-a"))
    assert node_a.pids("survivor") == before


def test_a_memory_limit_holds(cluster: Cluster) -> None:
    limit = {"resources": {"limits": {"memory": "20Mi"}}}
    greedy = pod("greedy", "node-a", "tail", "/dev/zero", container=limit, restartPolicy="Never")
    cluster.kubectl("create", "-f-", input=json.dumps(greedy))

    reason = "{.status.containerStatuses[0].state.terminated.reason}"
    cluster.kubectl("wait", f"--for=jsonpath={reason}=OOMKilled", "--timeout=30s", "pod/greedy")


def test_what_a_pod_says_is_in_kubectl_logs(cluster: Cluster) -> None:
    create(cluster, pod("speaker", "node-b", "sh", "-c", "echo heard; exec sleep infinity"))

    assert cluster.kubectl("logs", "speaker") == "heard\n"


def test_a_node_keeps_the_kernel_settings_of_the_machine(node_a: Node) -> None:
    before = Path("/proc/sys/kernel/panic").read_text()

    node_a.run("echo 77 > /proc/sys/kernel/panic")

    assert node_a.run("cat /proc/sys/kernel/panic") == "77\n"
    assert Path("/proc/sys/kernel/panic").read_text() == before


def test_files_of_the_sandbox_are_the_same_on_every_node(cluster: Cluster, node_a: Node) -> None:
    file = SandboxDirectory(directories.PARENT / requirements.check()).files / "note"

    node_a.run(f"echo same > {file}")

    assert cluster.nodes["node-b"].run(f"cat {file}") == "same\n"
    assert file.read_text() == "same\n"


def test_other_files_in_var_lib_are_the_own_of_each_node(cluster: Cluster, node_a: Node) -> None:
    node_a.run("touch /var/lib/handover-test")

    assert cluster.nodes["node-b"].run("ls /var/lib").split().count("handover-test") == 0
    assert not Path("/var/lib/handover-test").exists()


def test_a_second_cluster_finds_no_room_in_the_same_sandbox(
    cluster: Cluster, tmp_path: Path
) -> None:
    with pytest.raises(NodeNetworkError, match="This sandbox has no room for a cluster"):
        Cluster.start(tmp_path / "second")

    assert not (tmp_path / "second").exists()
    cluster.kubectl("get", "nodes")


def test_a_program_that_ends_ends_the_waiting_too(cluster: Cluster, node_a: Node) -> None:
    node_a.start("sh", "-c", "echo I cannot live like this; exit 3")
    try:
        with pytest.raises(DaemonError, match="I cannot live like this"):
            cluster.await_nodes("never")
    finally:
        del node_a.daemons["sh"]


def test_a_broken_image_is_refused_with_the_name_of_the_node(
    cluster: Cluster, tmp_path: Path
) -> None:
    image = tmp_path / "broken.tar"
    image.write_bytes(b"no archive at all")

    with pytest.raises(ClusterError, match=r"node-a took no image: .*"):
        cluster.load(image)


def test_the_logs_name_every_program(cluster: Cluster) -> None:
    names = {line for line in cluster.logs(1).splitlines() if line.endswith(".log:")}

    programs = {
        f"{node}/{name}.log:" for node in cluster.nodes for name in ("containerd", "kubelet")
    }
    assert programs | {"control-plane/kube-apiserver.log:"} <= names


ONCE = """
import json, os, pathlib, subprocess, sys
from handover_lab.cluster.cluster import Cluster

directory = pathlib.Path(sys.argv[1])

def say(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()

def what_is_there():
    groups = f"handover-{os.environ['HANDOVER_SANDBOX']}-*"
    return {
        "groups": say("find", "/sys/fs/cgroup", "-name", groups),
        "processes": sorted(set(say("ps", "-eo", "comm=")) - {"ps", "find", "ip"}),
        "mounts": pathlib.Path("/proc/self/mounts").read_text().splitlines(),
        "links": say("ip", "-brief", "-4", "address"),
        "routes": say("ip", "route"),
        "files": [str(path) for path in directory.rglob("*")],
    }

before = what_is_there()
cluster = Cluster.start(directory / "cluster", say=lambda text: None)
cluster.kubectl("get", "nodes")
during = what_is_there()
if "killed" in sys.argv:
    print(os.environ["HANDOVER_SANDBOX"], flush=True)
    os.kill(os.getpid(), 9)
cluster.stop()
cluster.stop()
print(json.dumps([before, during, what_is_there()]))
"""


def once(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Start and stop a cluster in a sandbox of its own."""
    python = (sys.executable, "-m", "handover_lab.sandbox", "--", sys.executable, "-c", ONCE)
    return subprocess.run(
        [*python, str(directory), *words], capture_output=True, text=True, check=False, timeout=120
    )


def test_nothing_is_left_of_a_cluster_that_was_stopped(tmp_path: Path) -> None:
    done = once(tmp_path)

    assert done.returncode == 0, done.stderr
    before, during, after = json.loads(done.stdout)
    assert after == before
    assert [name for name in before if during[name] == before[name]] == ["mounts"]


def test_nothing_is_left_of_a_cluster_that_was_killed(tmp_path: Path) -> None:
    done = once(tmp_path, "killed")

    sandbox = done.stdout.strip()
    assert (done.returncode, len(sandbox)) == (128 + signal.SIGKILL, 6)
    assert not list(Path("/sys/fs/cgroup").glob(f"**/handover-{sandbox}-*"))
