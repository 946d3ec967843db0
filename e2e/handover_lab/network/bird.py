"""BIRD 2 on nodes and routers: an iBGP full mesh that follows the agent's routes, or a reflector.

The configurations are bird.conf.in and bird-reflector.conf.in, the very texts of the documentation.
"""

import asyncio
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final, Self

from handover_lab.processes.place import Place

TEMPLATE: Final = Path(__file__).with_name("bird.conf.in")
REFLECTOR: Final = Path(__file__).with_name("bird-reflector.conf.in")


class BirdError(RuntimeError):
    """BIRD did not start or its sessions did not come up; the text says why."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """One member of the mesh; its name is also what its peers call the session."""

    name: str
    address4: str
    address6: str
    interface: str
    """That of the network on which the mesh talks; patterns as in BIRD."""


def configuration(speaker: Speaker, mesh: Sequence[Speaker]) -> str:
    """Write the configuration of *speaker* as a member of *mesh*."""
    return _filled(TEMPLATE, "mesh", speaker, mesh)


def reflector(speaker: Speaker, mesh: Sequence[Speaker]) -> str:
    """Write the configuration of *speaker* as the route reflector of all others in *mesh*."""
    return _filled(REFLECTOR, "client", speaker, mesh)


def _filled(template: Path, kind: str, speaker: Speaker, mesh: Sequence[Speaker]) -> str:
    peers = [
        f"protocol bgp {session(peer)}_{family} from {kind}{family}"
        f" {{ neighbor {address} as 64512; }}"
        for peer in mesh
        if peer != speaker
        for family, address in ((4, peer.address4), (6, peer.address6))
    ]
    return Template(template.read_text()).substitute(
        router_id=speaker.address4,
        address4=speaker.address4,
        address6=speaker.address6,
        interfaces=f'"{speaker.interface}"',
        peers="\n".join(peers),
    )


def session(peer: Speaker) -> str:
    """Name a peer as BIRD's grammar allows."""
    return "to_" + "".join(letter if letter.isalnum() else "_" for letter in peer.name)


class Bird:
    """One running BIRD, with a control socket of its own."""

    def __init__(self, place: Place, process: subprocess.Popen[bytes], files: Path) -> None:
        self._place = place
        self.process = process
        self._files = files

    @classmethod
    def start(
        cls, place: Place, speaker: Speaker, mesh: Sequence[Speaker], directory: Path
    ) -> Self:
        """Start BIRD for *speaker* at *place*; its files stand in *directory*."""
        return cls.run(place, speaker.name, configuration(speaker, mesh), directory)

    @classmethod
    def run(cls, place: Place, name: str, text: str, directory: Path) -> Self:
        """Start BIRD at *place* with the configuration *text*."""
        files = directory / f"bird-{name}"
        files.with_suffix(".conf").write_text(text)
        # In the foreground, so that it ends with us; all BIRDs share one control socket
        # unless it is named.
        argv = ("bird", "-f", "-c", f"{files}.conf", "-s", f"{files}.ctl", "-P", f"{files}.pid")
        with files.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                place.command(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return cls(place, process, files)

    def ask(self, *question: str) -> str:
        """Put one question to BIRD, as birdc would; no answer is an empty string."""
        # Restricted (-r): who asks cannot change anything.
        argv = self._place.command("birdc", "-r", "-s", f"{self._files}.ctl", *question)
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    def sessions(self) -> Mapping[str, str]:
        """Return the state of each BGP session by its name."""
        return sessions(self.ask("show", "protocols"))

    async def established(self, seconds: float = 30) -> None:
        """Wait until every session of the mesh is up.

        Raises:
            BirdError: BIRD ended, or a session is still down after *seconds*.
        """
        deadline = time.monotonic() + seconds
        while not (states := await asyncio.to_thread(self.sessions)) or set(states.values()) != {
            "Established"
        }:
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = self._files.with_suffix(".log").read_text()[-500:]
                message = f"BIRD is not connected: {dict(states) or 'no answer'}. Its log:\n{log}"
                raise BirdError(message)
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        """End BIRD; it takes its routes out of the kernel first."""
        self.process.terminate()
        self.process.wait()


def sessions(answer: str) -> Mapping[str, str]:
    """Read the BGP lines of "show protocols": name, BGP, table, state, since, details."""
    lines = (line.split() for line in answer.splitlines())
    # The last word of an established session is its state; else it is what went wrong.
    return {words[0]: words[-1] for words in lines if len(words) > 3 and words[1] == "BGP"}
