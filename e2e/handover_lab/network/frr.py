"""FRR on nodes and routers: zebra and bgpd that follow the agent's routes, or reflect them.

The configurations are frr.conf.in and frr-reflector.conf.in, the very texts of the documentation.
"""

import os
import pwd
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final, Self

from handover_lab.network.bird import Speaker
from handover_lab.processes.place import Place

TEMPLATE: Final = Path(__file__).with_name("frr.conf.in")
REFLECTOR: Final = Path(__file__).with_name("frr-reflector.conf.in")
PROGRAMS: Final = Path("/usr/lib/frr")
USER: Final = "frr"


class FrrError(RuntimeError):
    """FRR did not start; the text is the end of its log."""


def configuration(speaker: Speaker, mesh: Sequence[Speaker]) -> str:
    """Write the configuration of *speaker* as a member of *mesh*."""
    return _filled(TEMPLATE, "next-hop-self", speaker, mesh)


def reflector(speaker: Speaker, mesh: Sequence[Speaker]) -> str:
    """Write the configuration of *speaker* as the route reflector of all others in *mesh*."""
    return _filled(REFLECTOR, "route-reflector-client", speaker, mesh)


def _filled(template: Path, role: str, speaker: Speaker, mesh: Sequence[Speaker]) -> str:
    """Fill in the peers; *role* is what each of them is told to be, or to be told."""
    peers = [peer for peer in mesh if peer != speaker]
    neighbors, members4, members6 = [], [], []
    for peer in peers:
        for address in (peer.address4, peer.address6):
            neighbors.append(f" neighbor {address} remote-as 64512")
            # A peer that starts later refuses the first attempt; the next may be minutes away.
            neighbors.append(f" neighbor {address} timers connect 1")
            neighbors.append(f" neighbor {address} advertisement-interval 0")
        members4 += [f"  neighbor {peer.address4} activate"]
        members4 += [f"  neighbor {peer.address4} {role}"]
        members4 += [f"  no neighbor {peer.address6} activate"]
        members6 += [f"  neighbor {peer.address6} activate"]
        members6 += [f"  neighbor {peer.address6} {role}"]
        # Else the routes would lead to a link-local address, of which no reader knows whose it is.
        members6 += [f"  neighbor {peer.address6} route-map readable6 in"]
    return Template(template.read_text()).substitute(
        name=speaker.name,
        router_id=speaker.address4,
        neighbors="\n".join(neighbors),
        members4="\n".join(members4),
        members6="\n".join(members6),
    )


@dataclass
class Frr:
    """One running FRR: zebra and bgpd, with sockets of their own."""

    place: Place
    directory: Path
    daemons: list[subprocess.Popen[bytes]]

    @classmethod
    def start(
        cls, place: Place, speaker: Speaker, mesh: Sequence[Speaker], directory: Path
    ) -> Self:
        """Start FRR for *speaker* at *place*; FRR's own user must be able to reach *directory*.

        Raises:
            FrrError: a daemon ended at once.
        """
        return cls.run(place, speaker, configuration(speaker, mesh), directory)

    @classmethod
    def run(cls, place: Place, speaker: Speaker, text: str, directory: Path) -> Self:
        """Start FRR for *speaker* at *place* with the configuration *text*, as above."""
        files = directory / f"frr-{speaker.name}"
        files.mkdir()
        (files / "frr.conf").write_text(text)
        # The daemons give root up and are this user before they open their files and sockets.
        user = pwd.getpwnam(USER)
        for path in (files, files / "frr.conf"):
            os.chown(path, user.pw_uid, user.pw_gid)
        self = cls(place, files, [])
        self._launch("zebra")
        self._launch("bgpd", "--listenon", speaker.address4, "--listenon", speaker.address6)
        return self

    def _launch(self, program: str, *options: str) -> None:
        """Start one daemon, and wait until it can be asked."""
        argv = (
            str(PROGRAMS / program),
            *(
                "--config_file",
                f"{self.directory}/frr.conf",
                "--pid_file",
                f"{self.directory}/{program}.pid",
            ),
            *("--socket", f"{self.directory}/zserv.api", "--vty_socket", str(self.directory)),
            *("--vty_port", "0", "--log", "stdout", *options),
        )
        with (self.directory / f"{program}.log").open("wb") as log:
            daemon = subprocess.Popen(
                self.place.command(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.daemons.append(daemon)
        deadline = time.monotonic() + 30
        while not (self.directory / f"{program}.vty").exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                said = (self.directory / f"{program}.log").read_text()[-500:]
                message = f"FRR's {program} did not start. Its log:\n{said}"
                raise FrrError(message)
            time.sleep(0.02)

    def ask(self, question: str) -> str:
        """Put one question to bgpd and zebra, as vtysh would; no answer is an empty string."""
        argv = self.place.command("vtysh", "--vty_socket", str(self.directory), "-c", question)
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    def stop(self) -> None:
        """End both daemons, bgpd first."""
        # zebra goes last: it takes bgpd's routes out of the kernel.
        for daemon in reversed(self.daemons):
            daemon.terminate()
            daemon.wait()
