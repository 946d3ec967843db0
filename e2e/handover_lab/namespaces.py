"""Network namespaces for one test: bare ones, and a router with nodes around it."""

import subprocess
from dataclasses import dataclass
from typing import Final

from handover_lab import bird

# Whatever happens to the test: the kernel ends what it started.
WITH_US: Final = ("setpriv", "--pdeathsig", "KILL")


@dataclass
class Namespace:
    """A network namespace, held by a sleeping process; a place where programs can run."""

    name: str
    holder: subprocess.Popen[str]

    @classmethod
    def make(cls, name: str) -> "Namespace":
        """Make one, with nothing but loopback in it."""
        script = "ip link set lo up && echo up && exec sleep infinity"
        argv = [*WITH_US, "unshare", "--net", "sh", "-c", script]
        holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        return cls(name, holder)

    def command(self, *argv: str) -> list[str]:
        """Compose what runs *argv* in this namespace."""
        return [*WITH_US, "nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--", *argv]

    def run(self, script: str) -> str:
        """Run a shell script here and return what it says."""
        argv = self.command("sh", "-ec", script)
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def end(self) -> None:
        """Let go: with its last process the namespace vanishes, and all that is in it."""
        self.holder.kill()
        self.holder.wait()
        if self.holder.stdout:
            self.holder.stdout.close()


FORWARDING = """
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
"""

ROUTER = f"""{FORWARDING}
ip link add bridge type bridge
ip link set bridge up
ip address add 172.30.0.1/24 dev bridge
ip address add fd00:172:30::1/64 dev bridge nodad
"""

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


def connect(router: Namespace, nodes: list[Namespace]) -> list[bird.Speaker]:
    """Join *nodes* to *router* by a bridge, and name all members of the BGP mesh."""
    router.run(ROUTER)
    mesh = [bird.Speaker(router.name, "172.30.0.1", "fd00:172:30::1", "bridge")]
    for number, node in enumerate(nodes, start=11):
        router.run(PORT.format(port=f"port{number}", pid=node.holder.pid))
        node.run(FORWARDING + NODE.format(number=number))
        addresses = f"172.30.0.{number}", f"fd00:172:30::{number}"
        mesh.append(bird.Speaker(node.name, *addresses, "eth0"))
    return mesh
