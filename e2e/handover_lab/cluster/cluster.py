"""A whole cluster in one sandbox: a control plane, nodes, and the network between them.

The sandbox's own network namespace is router and client. It has the address of the API's service,
where the API server itself listens, so neither kube-proxy nor DNS is needed.
"""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, Self

from handover_lab.cluster import client
from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.cluster.node import Node
from handover_lab.images import archive
from handover_lab.network import bird, namespaces
from handover_lab.network.namespaces import Here
from handover_lab.processes import daemon
from handover_lab.processes.daemon import Daemon
from handover_lab.toolchain import requirements, tools

SERVICE: Final = "10.96.0.1"
"""The API's own service: the first address of the service network."""

POD_ROUTE: Final = "ip route add {pods} via {via} proto static\n"
PATIENCE: Final = 60.0
SCRATCH: Final = "scratch"
"""The directory, within the cluster's, for what is only needed on the way."""


class ClusterError(RuntimeError):
    """The cluster does not do what it should; the text ends with what was said last."""


@dataclass
class Cluster:
    """A running cluster; all of it stands below *directory*, in its nodes or in its sandbox."""

    directory: Path
    control_plane: ControlPlane
    nodes: Mapping[str, Node]
    router: Here
    mesh: Sequence[bird.Speaker]
    """Router and nodes, in this order, as members of a BGP mesh."""
    undo: contextlib.ExitStack
    """How to stop it, step by step."""

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        names: Sequence[str] = ("node-a", "node-b"),
        say: Callable[[str], object] = print,
    ) -> Self:
        """Start everything, and return when pods can be scheduled to every node.

        The *directory*, empty or not there yet, belongs to the cluster and goes with it. When
        something fails, what was started is stopped again.

        Raises:
            RuntimeError: of one of the modules used here; its text is for a person.
        """
        began = time.monotonic()
        sandbox = requirements.check()
        router = Here("router")
        with contextlib.ExitStack() as undo:
            directory = furnish(directory, undo)
            say("cluster: etcd, API server, controllers, scheduler")
            control_plane = start_control_plane(directory, router, undo)
            say(f"cluster: {' and '.join(names)}, each with its containerd and kubelet")
            nodes = {}
            for name in names:
                nodes[name] = Node.make(name, directory / name, sandbox)
                undo.callback(nodes[name].end)
            mesh = join(router, list(nodes.values()), undo)
            cluster = cls(directory, control_plane, nodes, router, mesh, undo)
            cluster.populate()
            cluster.undo = undo.pop_all()
        say(f"cluster: ready after {time.monotonic() - began:.1f} s")
        return cluster

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


def furnish(directory: Path, undo: contextlib.ExitStack) -> Path:
    """Make *directory* where it is missing, and return how every program can call it."""
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        message = f"A cluster takes an empty directory; {directory} is not."
        raise ClusterError(message)
    undo.callback(shutil.rmtree, directory)
    (directory / SCRATCH).mkdir()
    return directory.resolve()


def start_control_plane(directory: Path, router: Here, undo: contextlib.ExitStack) -> ControlPlane:
    """Start a control plane at the address of its service, which *router* gets."""
    try:
        router.run(f"ip address add {SERVICE}/32 dev lo")
    except subprocess.CalledProcessError as error:
        message = (
            f"This sandbox has no room for a cluster ({error.stderr.strip()}): one that runs here"
            " already has to stop first, or a second sandbox is wanted."
        )
        raise ClusterError(message) from error
    undo.callback(router.run, f"ip address delete {SERVICE}/32 dev lo")
    control_plane = ControlPlane.start(
        directory / "control-plane", address=SERVICE, port=443, controllers=True
    )
    undo.callback(control_plane.stop)
    return control_plane


def join(router: Here, nodes: Sequence[Node], undo: contextlib.ExitStack) -> list[bird.Speaker]:
    """Lay the network between *router* and *nodes*, down to the routes to their pods."""
    undo.callback(namespaces.disconnect, router)
    mesh = namespaces.connect(router, [node.namespace for node in nodes])
    for node, speaker in zip(nodes, mesh[1:], strict=True):
        node.address = speaker.address4
    places: list[Here | Node] = [router, *nodes]
    for place in places:
        others = (node for node in nodes if node is not place)
        place.run("".join(POD_ROUTE.format(pods=node.pods, via=node.address) for node in others))
    return mesh


def excerpt(log: Path, lines: int) -> str:
    """Return the last *lines* of *log* under its name."""
    said = log.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join([f"{log.parent.name}/{log.name}:", *(f"  {line}" for line in said)])
