"""One node of the cluster: namespaces of its own with a containerd and a kubelet in them.

What a node writes stands in memory file systems of its own or, of its programs' logs, in its
directory; all its processes stand in its control group. So its end is certain: the group's.
"""

import subprocess
from pathlib import Path
from string import Template
from typing import Final, Self

from handover_lab import paths
from handover_lab.cluster.nodegroup import NodeGroup
from handover_lab.images import archive
from handover_lab.network.namespaces import Namespace
from handover_lab.processes import daemon
from handover_lab.processes.daemon import Daemon
from handover_lab.sandbox import directories
from handover_lab.toolchain import requirements, tools

SOURCES: Final = paths.SOURCES / "node"
KINDS: Final = ("net", "uts", "mount")
CTR: Final = ("ctr", "--namespace", "k8s.io")
# The socket of a containerd that was killed is still there, and refuses ctr at once.
ANSWERED: Final = """
for attempt in $(seq 100); do ctr version > /dev/null 2>&1 && exit; sleep 0.1; done
ctr version > /dev/null
"""
"""Waits ten seconds for containerd to answer."""

# Stands before a program of the node and puts it into the node's control groups.
JOIN: Final = """
while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs"; shift; done
shift
exec "$@"
"""


class Node:
    """A running node; a place where programs can run."""

    def __init__(self, namespace: Namespace, directory: Path, group: NodeGroup) -> None:
        self.name = namespace.name
        self.namespace = namespace
        self.group = group
        self.directory = directory
        self.address = ""
        self.address6 = ""
        self.daemons: dict[str, Daemon] = {}
        """The containerd and the kubelet, by these names, while they should run."""
        self._kubelet: tuple[str, ...] = ()

    @classmethod
    def make(cls, name: str, directory: Path, sandbox: str) -> Self:
        """Make the namespaces of node *name*, with nothing in them yet.

        Raises:
            GroupError: the machine's control groups do not serve.
            NamespaceError: the kernel lacks something, for instance overlay file systems.
        """
        group = NodeGroup.make(sandbox, name)
        directory.mkdir(parents=True)
        setup = ("sh", str(SOURCES / "setup.sh"), name, str(directories.PARENT), *group.programs)
        try:
            namespace = Namespace.make(name, *setup, kinds=KINDS)
        except BaseException:
            group.end()
            raise
        return cls(namespace, directory, group)

    @property
    def pods(self) -> str:
        """The network of its pods, numbered as its address is."""
        return f"10.244.{self.address.rpartition('.')[2]}.0/24"

    @property
    def pods6(self) -> str:
        """The same for IPv6."""
        return f"fd00:244:{self.address.rpartition('.')[2]}::/64"

    @property
    def pod_ways(self) -> tuple[tuple[str, str], ...]:
        """For each family the network of its pods, and by which address others reach it."""
        return (self.pods, self.address), (self.pods6, self.address6)

    def command(self, *argv: str) -> list[str]:
        """Compose what runs *argv* on this node."""
        return self.namespace.command(*argv)

    def run(self, script: str) -> str:
        """Run a shell script on this node and return what it says."""
        return self.namespace.run(script)

    def start_containerd(self) -> None:
        """Start containerd; ``ctr`` waits by itself until it answers."""
        self.write("pods.conflist", directory="cni", pods=self.pods)
        configuration = self.write(
            "containerd.toml", pause=archive.PAUSE, cni=str(self.directory / "cni")
        )
        self.start("containerd", "--config", str(configuration))

    def restart_containerd(self) -> None:
        """Kill containerd, as a crash would, and start it again; its containers run on."""
        # The shims are the parents of the containers, not containerd itself.
        self.daemons.pop("containerd").kill()
        self.start("containerd", "--config", str(self.directory / "containerd.toml"))
        # A kubelet that finds no containerd ends, and nobody starts it again, as systemd would.
        self.run(ANSWERED)

    def start_kubelet(self, kubeconfig: Path, ca: Path) -> None:
        """Start the kubelet as the user of *kubeconfig*; it serves whom *ca* vouches for."""
        configuration = self.write("kubelet.yaml", group=self.group.name, ca=str(ca))
        self._kubelet = (
            str(tools.locate("kubelet")),
            f"--config={configuration}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address},{self.address6}",
        )
        self.start(*self._kubelet)

    def stop_kubelet(self) -> None:
        """Kill the kubelet, as a crash would; its pods run on."""
        self.daemons.pop("kubelet").kill()

    def restart_kubelet(self) -> None:
        """Kill the kubelet, where it runs, and start it again; it lives as long as our thread."""
        if "kubelet" in self.daemons:
            self.stop_kubelet()
        self.start(*self._kubelet)

    def load(self, image: Path) -> subprocess.Popen[str]:
        """Begin to import the archive *image*; the process says how it went."""
        return subprocess.Popen(
            self.command(*CTR, "images", "import", str(image)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def pids(self, pod: str, namespace: str = "default") -> frozenset[int]:
        """Return the processes of the containers of *pod* that run on this node now.

        Their numbers are the caller's: ``os.kill`` reaches them.
        """
        wanted = (
            f'labels."io.kubernetes.pod.name"=={pod},'
            f'labels."io.kubernetes.pod.namespace"=={namespace},'
            'labels."io.cri-containerd.kind"==container'
        )
        listing = self.command(*CTR, "containers", "list", "--quiet", wanted)
        only = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
        return self.group.processes(only) if only else frozenset()

    def end(self) -> None:
        """End all that runs on this node; its files and mounts vanish with it, its logs stay."""
        self.group.end()
        for program in self.daemons.values():
            program.kill()
        self.namespace.end()

    def write(self, name: str, directory: str = ".", **values: str) -> Path:
        """Fill in the template of configuration file *name* and return where it stands now."""
        path = self.directory / directory / name
        path.parent.mkdir(exist_ok=True)
        template = Template((SOURCES / f"{name}.in").read_text())
        path.write_text(template.substitute(values))
        return path

    def start(self, program: str, *options: str, **variables: str) -> None:
        """Start *program* in the node's control groups; what it says is added to its log."""
        name = Path(program).name
        log = self.directory / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command("sh", "-c", JOIN, "sh", *self.group.programs, "--", program, *options),
                env={**daemon.environment(), "PATH": requirements.PATH, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.daemons[name] = Daemon(name, process, log)
