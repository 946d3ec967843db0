"""A pod's network namespace on a node, made by the CNI plug-ins that a runtime would call.

No kubelet and no container: a process that sleeps, and a plug-in that gives it an interface.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from handover_lab.network.namespaces import Namespace, Network

PLUGINS: Final = Path("/usr/lib/cni")
VERSION: Final = "1.0.0"
"""Of the CNI specification: what Debian 12's plug-ins speak."""


class PodError(RuntimeError):
    """A plug-in refused; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod; a place where programs can run."""

    namespace: Namespace
    address4: str
    address6: str

    @classmethod
    def add(cls, node: Network, name: str, configuration: Mapping[str, object]) -> Self:
        """Make the pod *name* on *node* with the plug-in that *configuration* names.

        Raises:
            PodError: the plug-in refused.
        """
        namespace = Namespace.make(name)
        try:
            # Nobody else is on their link, and for a second nobody could send from its ends.
            for place in (node, namespace):
                place.run("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
            result = call(node, namespace, name, configuration)
        except BaseException:
            namespace.end()
            raise
        found = [each["address"].partition("/")[0] for each in result["ips"]]
        (four,) = (address for address in found if ":" not in address)
        (six,) = (address for address in found if ":" in address)
        return cls(namespace, four, six)

    def command(self, *argv: str) -> list[str]:
        """Compose what runs *argv* in this pod."""
        return self.namespace.command(*argv)

    def end(self) -> None:
        """Let go of it: its interface vanishes on the node, too."""
        self.namespace.end()


def call(
    node: Network, namespace: Namespace, name: str, configuration: Mapping[str, object]
) -> dict[str, Any]:
    """Have the plug-in add an interface, as the CNI specification says how."""
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": name,
        "CNI_NETNS": f"/proc/{namespace.holder.pid}/ns/net",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(PLUGINS),
    }
    done = subprocess.run(
        node.command(str(PLUGINS / str(configuration["type"]))),
        env={**os.environ, **environment},
        input=json.dumps({"cniVersion": VERSION, "name": "pods", **configuration}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        message = f"{configuration['type']} gives {name} no network: {done.stdout or done.stderr}"
        raise PodError(message)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def ptp(networks: Sequence[str]) -> dict[str, object]:
    """Configure pods as kindnet does: the gateway's address on the host's end of each link."""
    return {"type": "ptp", "ipam": ipam(networks)}


def bridge(networks: Sequence[str], mtu: int = 0) -> dict[str, object]:
    """Configure pods as flannel does: all on one bridge that has the gateway's address."""
    wanted = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": ipam(networks)}
    return {**wanted, **({"mtu": mtu} if mtu else {})}


def ipam(networks: Sequence[str]) -> dict[str, object]:
    """Configure who gives out addresses of *networks*, one for each family."""
    return {
        "type": "host-local",
        "ranges": [[{"subnet": network}] for network in networks],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }
