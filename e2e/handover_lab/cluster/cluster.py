"""A whole cluster in one sandbox: a control plane beside nodes, and what runs on those."""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, Self

from handover_lab.cluster import client, nodenetwork
from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.cluster.node import Node
from handover_lab.cluster.nodenetwork import NodeNetwork
from handover_lab.images import archive
from handover_lab.network import bird
from handover_lab.network.namespaces import Here
from handover_lab.processes import daemon
from handover_lab.processes.daemon import Daemon
from handover_lab.toolchain import tools

PATIENCE: Final = 60.0
SCRATCH: Final = "scratch"
"""The directory, within the cluster's, for what is only needed on the way."""


class ClusterError(RuntimeError):
    """The cluster does not do what it should; the text ends with what was said last."""


@dataclass
class Cluster:
    """A running cluster on the nodes of *network*."""

    network: NodeNetwork
    control_plane: ControlPlane
    undo: contextlib.ExitStack
    """How to stop it, step by step."""

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        names: Sequence[str] = nodenetwork.NAMES,
        say: Callable[[str], object] = print,
    ) -> Self:
        """Make nodes in *directory*, and start a cluster on them that takes them along.

        Raises:
            RuntimeError: of one of the modules used here; its text is for a person.
        """
        with contextlib.ExitStack() as undo:
            network = NodeNetwork.start(directory, names)
            undo.callback(network.stop)
            cluster = cls.on(network, say=say)
            undo.callback(cluster.undo.close)
            cluster.undo = undo.pop_all()
        return cluster

    @classmethod
    def on(cls, network: NodeNetwork, *, say: Callable[[str], object] = print) -> Self:
        """Start everything on the nodes, and return when pods can be scheduled to each of them.

        When something fails, what was started is stopped again. The network stays.

        Raises:
            RuntimeError: of one of the modules used here; its text is for a person.
        """
        began = time.monotonic()
        (network.directory / SCRATCH).mkdir()
        with contextlib.ExitStack() as undo:
            say("cluster: etcd, API server, controllers, scheduler")
            control_plane = ControlPlane.start(
                network.directory / "control-plane",
                address=nodenetwork.SERVICE,
                port=443,
                controllers=True,
            )
            undo.callback(control_plane.stop)
            cluster = cls(network, control_plane, undo)
            say(f"cluster: {' and '.join(network.nodes)}, each with its containerd and kubelet")
            cluster.populate()
            cluster.undo = undo.pop_all()
        say(f"cluster: ready after {time.monotonic() - began:.1f} s")
        return cluster

    @property
    def directory(self) -> Path:
        """Where all files of nodes and control plane are."""
        return self.network.directory

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by their names."""
        return self.network.nodes

    @property
    def router(self) -> Here:
        """The namespace between the nodes, where clients are, too."""
        return self.network.router

    @property
    def mesh(self) -> Sequence[bird.Speaker]:
        """Router and nodes, in this order, as members of a BGP mesh."""
        return self.network.mesh

    @property
    def kubeconfig(self) -> Path:
        """The cluster administrator's."""
        return self.control_plane.kubeconfig

    def kubectl(self, *args: str, input: str = "") -> str:  # noqa: A002  subprocess calls it so
        """Run kubectl and return what it says.

        Raises:
            ClusterError: it failed.
        """
        return self._run("kubectl", *args, text=input)

    def helm(self, *args: str) -> str:
        """Run helm and return what it says.

        Raises:
            ClusterError: it failed.
        """
        return self._run("helm", *args)

    def load(self, *images: Path) -> None:
        """Bring the archives *images* onto every node, side by side.

        Raises:
            ClusterError: containerd refused one.
        """
        # One image after the other, but on all nodes at once: each unpacks for itself.
        for image in images:
            loading = {name: node.load(image) for name, node in self.nodes.items()}
            said = {name: process.communicate()[0] for name, process in loading.items()}
            for name, process in loading.items():
                if process.returncode:
                    self.fail(f"{name} took no image: {said[name].strip()}", "containerd")

    def logs(self, lines: int = 20) -> str:
        """Return the last *lines* of each program's log."""
        return "\n".join(excerpt(file, lines) for file in sorted(self.directory.glob("*/*.log")))

    def stop(self) -> None:
        """Stop everything and remove it; a second time changes nothing."""
        self.undo.close()

    def populate(self) -> None:
        """Start what runs on the nodes, and wait until each is Ready."""
        for node in self.nodes.values():
            node.start_containerd()
        self.load(archive.pause(self.directory / SCRATCH))
        for node in self.nodes.values():
            credentials = self.control_plane.credentials(f"system:node:{node.name}", "system:nodes")
            node.start_kubelet(credentials, self.control_plane.ca)
        self.await_nodes(*self.nodes)
        for node in self.nodes.values():
            self.number_pods(node)

    def number_pods(self, node: Node) -> None:
        """Say in the Node which networks its pods have, as the controller for that would."""
        spec = {"podCIDR": node.pods, "podCIDRs": [node.pods, node.pods6]}
        self.kubectl("patch", "node", node.name, "--patch", json.dumps({"spec": spec}))

    def await_nodes(self, *names: str) -> None:
        """Wait until the nodes *names* are there and Ready.

        Raises:
            DaemonError: a containerd or a kubelet has ended.
            ClusterError: it takes too long.
        """
        nodes = [f"node/{name}" for name in names]
        # One at a time: of several things that are missing, kubectl 1.37 waits for none.
        for node in nodes:
            self._wait("--for=create", node)
        self._wait("--for=condition=Ready", *nodes)

    def check(self) -> None:
        """Raise DaemonError when a program of the cluster has ended that should run."""
        self.control_plane.check()
        for running in self._daemons():
            running.check()

    def fail(self, what: str, *programs: str) -> NoReturn:
        """Raise the error that tells *what* went wrong and what the *programs* said last."""
        files = [file for name in programs for file in sorted(self.directory.glob(f"*/{name}.log"))]
        raise ClusterError("\n".join([f"{what}.", *(excerpt(file, 8) for file in files)]))

    def _wait(self, *args: str) -> None:
        """Run "kubectl wait" for as long as the nodes' programs live."""
        waiting = subprocess.Popen(
            [str(tools.locate("kubectl")), "wait", f"--timeout={PATIENCE:g}s", *args],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with waiting:
            try:
                daemon.wait_until(lambda: waiting.poll() is not None, self._daemons(), 2 * PATIENCE)
            finally:
                waiting.kill()
            said = waiting.communicate()[1].strip()
        if waiting.returncode:
            self.fail(f"kubectl wait {' '.join(args)}: {said}", "kubelet", "containerd")

    def _daemons(self) -> list[Daemon]:
        return [running for node in self.nodes.values() for running in node.daemons.values()]

    def _run(self, program: str, *args: str, text: str = "") -> str:
        done = subprocess.run(
            [str(tools.locate(program)), *args],
            env=self._environment(),
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            self.fail(f"{program} {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def _environment(self) -> Mapping[str, str]:
        return client.environment(self.kubeconfig, self.directory / SCRATCH)


def excerpt(log: Path, lines: int) -> str:
    """Return the last *lines* of *log* under its name."""
    said = log.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join([f"{log.parent.name}/{log.name}:", *(f"  {line}" for line in said)])
