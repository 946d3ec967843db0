"""The CNI plug-in that keeps a VM's addresses, beside the kernel and the bridge's plug-in."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from handover_lab.cluster import sticky
from handover_lab.network import tap
from handover_lab.network.namespaces import Namespace

CONFIGURATION = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [{"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local"}}],
}
ADDRESSES = ("10.65.0.2", "fd00:65::2")
HOST = sticky.interface("default", "virt-launcher-vm-1")


@dataclass
class Runtime:
    """Calls the plug-in on a node, for a pod, as containerd does."""

    plugins: Path
    node: Namespace
    pod: Namespace

    @property
    def sandbox(self) -> str:
        """The path of the pod's network namespace."""
        return f"/proc/{self.pod.holder.pid}/ns/net"

    def call(self, command: str, pod: str) -> str:
        """Return what the plug-in says."""
        configuration = sticky.sticky(CONFIGURATION, ADDRESSES)
        (own,) = configuration["plugins"]
        names = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID=1"
        done = subprocess.run(
            self.node.command(str(self.plugins / "sticky")),
            input=json.dumps(own, separators=(",", ":")),
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "CNI_COMMAND": command,
                "CNI_ARGS": names,
                "CNI_IFNAME": "eth0",
                "CNI_NETNS": self.sandbox,
                "CNI_PATH": str(self.plugins),
            },
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """Have a node and a pod without network."""
    sticky.write(tmp_path)
    bridge = tmp_path / "bridge"
    bridge.write_text('#!/bin/sh\necho "the bridge read $(cat)"\n')
    bridge.chmod(0o755)
    node, pod = Namespace.make("node"), Namespace.make("pod")
    yield Runtime(tmp_path, node, pod)
    for namespace in (node, pod):
        namespace.end()


@pytest.mark.root
def test_a_launcher_pod_has_the_addresses_and_the_node_the_routes(runtime: Runtime) -> None:
    said: dict[str, Any] = json.loads(runtime.call("ADD", "virt-launcher-vm-1"))

    assert [ip["address"] for ip in said["ips"]] == ["10.65.0.2/32", "fd00:65::2/128"]
    assert said["interfaces"] == [{"name": "eth0", "sandbox": runtime.sandbox}]
    assert f"10.65.0.2 dev {HOST} scope link" in runtime.node.run("ip route")
    assert f"fd00:65::2 dev {HOST} metric 1024" in runtime.node.run("ip -6 route")
    assert tap.MAC in runtime.node.run(f"ip link show {HOST}")
    inside = runtime.pod.run("ip address show eth0")
    assert "inet 10.65.0.2/32" in inside
    assert "inet6 fd00:65::2/128" in inside
    assert runtime.pod.run("ip route get 192.0.2.1").startswith("192.0.2.1 via 169.254.1.1")


@pytest.mark.root
def test_nothing_is_left_of_it_and_a_second_end_is_no_error(runtime: Runtime) -> None:
    runtime.call("ADD", "virt-launcher-vm-1")
    for _ in range(2):
        runtime.call("DEL", "virt-launcher-vm-1")

    assert HOST not in runtime.node.run("ip link")
    assert "eth0" not in runtime.pod.run("ip link")


@pytest.mark.root
def test_any_other_pod_is_the_bridges(runtime: Runtime) -> None:
    said = runtime.call("ADD", "handover-operator-5d9c")

    assert said.startswith('the bridge read {"type":"sticky","bridge":"cni0","ipam"')


def test_the_configuration_stays_what_it_was_but_for_the_plug_in() -> None:
    found = sticky.sticky(CONFIGURATION, ADDRESSES)

    (own,) = found["plugins"]
    assert own == {
        "type": "sticky",
        "bridge": "cni0",
        "ipam": {"type": "host-local"},
        "addresses": "10.65.0.2 fd00:65::2",
    }
    assert found | {"plugins": None} == CONFIGURATION | {"plugins": None}
