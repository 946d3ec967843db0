"""A handover made by hand: what a person with tcpdump and ip route could do, were they fast.

    python -m handover_lab.network.manual_cutover TAP MAC DELAY_MS METRIC ADDRESS...

Runs on the target node: hears the first RARP of MAC on TAP, waits DELAY_MS, sets the elevated
routes, prints when, and ends. With a delay of 1000 it is the "without Handover" that Handover is
measured against; with 0 it shows what the network can do at best.
"""

import argparse
import asyncio
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Final, Self

from handover_lab.guest.qemu import Nic
from handover_lab.network.flow import SO_TIMESTAMPNS
from handover_lab.processes.place import Place

ETH_P_RARP: Final = 0x8035
# The agent's own tag and metrics, so that BGP speakers treat these routes as they treat its.
PROTOCOL: Final = "88"
ELEVATED: Final = "512"
NORMAL: Final = "1024"
LISTENING: Final = b"listening\n"


@dataclass(frozen=True, slots=True)
class Cutover:
    """When the first RARP came in and when the last route stood, in ns since the epoch."""

    heard_ns: int
    routed_ns: int


class ManualCutover:
    """The process that waits on the target node."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def wait(cls, place: Place, nic: Nic, delay_ms: int = 0, metric: str = ELEVATED) -> Self:
        """Listen at *place*; returns when no RARP can be missed any more."""
        words = (nic.tap, nic.mac, str(delay_ms), metric, *nic.addresses)
        argv = (sys.executable, "-m", __name__, *words)
        process = await asyncio.create_subprocess_exec(
            *place.command(*argv), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        if await process.stdout.readline() != LISTENING:
            message = f"nobody can listen on {nic.tap} there"
            raise RuntimeError(message)
        return cls(process)

    async def cutover(self) -> Cutover:
        """Wait until the routes have moved."""
        assert self._process.stdout is not None
        heard, routed = (await self._process.stdout.readline()).split()
        await self._process.wait()
        return Cutover(int(heard), int(routed))

    async def end(self) -> None:
        """Give up waiting; a second time changes nothing."""
        if self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()


def add_routes(place: Place, nic: Nic, metric: str) -> None:
    """Set the host routes of *nic* at *place*, tagged as the agent tags its own."""
    for address in nic.addresses:
        subprocess.run(place.command(*ip_route("replace", nic.tap, address, metric)), check=True)


def delete_routes(place: Place, nic: Nic, metric: str) -> None:
    """Take those host routes away again."""
    for address in nic.addresses:
        subprocess.run(place.command(*ip_route("delete", nic.tap, address, metric)), check=True)


def delete_cni_routes(place: Place, nic: Nic) -> None:
    """Take a CNI's own routes to *nic* away: BIRD sees one per address, that of the best metric."""
    for family in ("-4", "-6"):
        flush = ("ip", family, "route", "flush", "dev", nic.tap, "proto", "boot")
        subprocess.run(place.command(*flush), check=True)


def ip_route(verb: str, device: str, address: str, metric: str) -> list[str]:
    """Compose the ip command for one host route."""
    words = ["ip", "route", verb, address, "dev", device, "metric", metric, "proto", PROTOCOL]
    return words if ":" in address else [*words, "scope", "link"]


def first_rarp(listener: socket.socket, mac: str) -> int:
    """Return when the first RARP of *mac* arrived, by the kernel's clock."""
    wanted = bytes.fromhex(mac.replace(":", ""))
    while True:
        frame, control, _, _ = listener.recvmsg(128, 64)
        if frame[6:12] == wanted:
            seconds, nanoseconds = struct.unpack("qq", control[0][2])
            return int(seconds) * 10**9 + int(nanoseconds)


def main() -> None:
    """Hear, wait, route, tell."""
    parser = argparse.ArgumentParser(description="Hand one guest over by hand.")
    parser.add_argument("tap")
    parser.add_argument("mac")
    parser.add_argument("delay_ms", type=int)
    parser.add_argument("metric")
    parser.add_argument("addresses", nargs="+")
    arguments = parser.parse_args()
    # With protocol 0 it hears nothing until it is bound (packet(7)): no frame of another interface.
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as listener:
        listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        listener.bind((arguments.tap, ETH_P_RARP))
        sys.stdout.buffer.write(LISTENING)
        sys.stdout.flush()
        heard = first_rarp(listener, arguments.mac)
        time.sleep(arguments.delay_ms / 1000)
        for address in arguments.addresses:
            subprocess.run(
                ip_route("replace", arguments.tap, address, arguments.metric), check=True
            )
        print(heard, time.time_ns(), flush=True)


if __name__ == "__main__":
    main()
