"""Network namespaces of the lab and its tests: bare ones, and a router with nodes around it."""

import subprocess
from dataclasses import dataclass
from typing import Final, Protocol

from handover_lab.network import bird

# Whatever happens to the test: the kernel ends what it started.
WITH_US: Final = ("setpriv", "--pdeathsig", "KILL")


class NamespaceError(RuntimeError):
    """A namespace could not be made; the text is what its set-up said last."""


class Network(Protocol):
    """A network namespace, whoever holds it."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def command(self, *argv: str) -> list[str]:
        """Compose what runs *argv* in this namespace."""
        ...

    def run(self, script: str) -> str:
        """Run a shell script here and return what it says."""
        ...


@dataclass(frozen=True)
class Here:
    """The network namespace that this process is in."""

    name: str

    def command(self, *argv: str) -> list[str]:
        """Compose what runs *argv* here."""
        return [*WITH_US, *argv]

    def run(self, script: str) -> str:
        """Run a shell script here and return what it says."""
        return output(self.command("sh", "-ec", script))


@dataclass
class Namespace:
    """A network namespace, held by a sleeping process; a place where programs can run."""

    name: str
    holder: subprocess.Popen[str]
    kinds: tuple[str, ...] = ("net",)

    @classmethod
    def make(cls, name: str, *setup: str, kinds: tuple[str, ...] = ("net",)) -> "Namespace":
        """Make one, with nothing but loopback in it, and run the command *setup* there.

        The *kinds*, in the words of unshare and nsenter, are what it has of its own.

        Raises:
            NamespaceError: the kernel refused, or *setup* failed.
        """
        script = 'ip link set lo up && "$@" && echo up && exec sleep infinity'
        unshare = ("unshare", *(f"--{kind}" for kind in kinds))
        argv = [*WITH_US, *unshare, "sh", "-c", script, "sh", *(setup or ("true",))]
        holder = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        namespace = cls(name, holder, kinds)
        assert holder.stdout is not None
        said = []
        # The holder says "up" when it is set up; whatever comes before that explains why it is not.
        while (line := holder.stdout.readline()) not in {"up\n", ""}:
            said.append(line.strip())
        if not line:
            namespace.end()
            message = f"No namespace for {name}: {'; '.join(said) or 'unshare was killed'}."
            raise NamespaceError(message)
        return namespace

    def command(self, *argv: str) -> list[str]:
        """Compose what runs *argv* in this namespace."""
        kinds = (f"--{kind}" for kind in self.kinds)
        return [*WITH_US, "nsenter", f"--target={self.holder.pid}", *kinds, "--", *argv]

    def run(self, script: str) -> str:
        """Run a shell script here and return what it says."""
        return output(self.command("sh", "-ec", script))

    def end(self) -> None:
        """Let go: with its last process the namespace vanishes, and all that is in it."""
        self.holder.kill()
        self.holder.wait()
        if self.holder.stdout:
            self.holder.stdout.close()


def output(argv: list[str]) -> str:
    """Run *argv* and return what it says."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


# Without the reverse path filter, as the tap needs it: a guest speaks before its route is there.
FORWARDING = """
echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter
echo 0 > /proc/sys/net/ipv4/conf/default/rp_filter
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
"""

ROUTER = f"""{FORWARDING}
ip link add bridge type bridge
ip link set bridge up
ip address add 172.30.0.1/24 dev bridge
ip address add fd00:172:30::1/64 dev bridge nodad
"""

# One end at the bridge, the other in the node at once: it is never seen in between.
PORT = """
ip link add {port} master bridge up type veth peer name eth0 netns {pid}
"""

NODE = """
ip link set eth0 up
ip address add 172.30.0.{number}/24 dev eth0
ip address add fd00:172:30::{number}/64 dev eth0 nodad
ip route add default via 172.30.0.1
ip route add default via fd00:172:30::1
"""


def connect(router: Network, nodes: list[Namespace]) -> list[bird.Speaker]:
    """Join *nodes* to *router* by a bridge, and name all members of the BGP mesh."""
    router.run(ROUTER)
    mesh = [bird.Speaker(router.name, "172.30.0.1", "fd00:172:30::1", "bridge")]
    for number, node in enumerate(nodes, start=11):
        node.run(FORWARDING)
        router.run(PORT.format(port=f"port{number}", pid=node.holder.pid))
        node.run(NODE.format(number=number))
        addresses = f"172.30.0.{number}", f"fd00:172:30::{number}"
        mesh.append(bird.Speaker(node.name, *addresses, "eth0"))
    return mesh
