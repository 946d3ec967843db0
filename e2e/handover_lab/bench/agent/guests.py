"""The guests of the agent's bench: veth pairs whose far ends send what a real guest would."""

import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Final

from handover_api import names

NODE: Final = "node-a"
AGENTS: Final = "tap"
FLOORS: Final = "flo"
FIRST_OCTETS: Final = {AGENTS: "10.65", FLOORS: "10.67"}
"""The two kinds of guests share the node's main table, so no address may belong to both."""


@dataclass(frozen=True, slots=True)
class Guest:
    """One guest by its number, heard by the agent or by the floor as *prefix* says."""

    number: int
    prefix: str = AGENTS

    @property
    def name(self) -> str:
        """Its endpoint's and its workload's."""
        return f"vm-{self.number}"

    @property
    def tap(self) -> str:
        """The node's end."""
        return f"{self.prefix}{self.number}"

    @property
    def eth(self) -> str:
        """The guest's end."""
        return f"e{self.prefix}{self.number}"

    @property
    def mac(self) -> str:
        """Its MAC."""
        return f"52:54:00:65:{self.number >> 8:02x}:{self.number & 255:02x}"

    @property
    def address(self) -> IPv4Address:
        """Its address."""
        first = FIRST_OCTETS[self.prefix]
        return IPv4Address(f"{first}.{self.number >> 8}.{self.number & 255}")

    @property
    def rarp(self) -> bytes:
        """What QEMU sends for it: RFC 903, padded to the 60 bytes of the smallest frame."""
        mac = bytes.fromhex(self.mac.replace(":", ""))
        body = bytes.fromhex("0001080006040003") + mac + bytes(4) + mac + bytes(4)
        return b"\xff" * 6 + mac + bytes.fromhex("8035") + body + bytes(18)

    @property
    def endpoint(self) -> dict[str, Any]:
        """Its WorkloadEndpoint."""
        return {
            "apiVersion": names.API_VERSION,
            "kind": "WorkloadEndpoint",
            "metadata": {"name": self.name},
            "spec": {
                "node": NODE,
                "workload": self.name,
                "interface": self.tap,
                "mac": self.mac,
                "ips": [str(self.address)],
            },
        }


def run_batch(ip: list[str], lines: list[str]) -> None:
    """Run many commands of one `ip`, which is a process for each of them otherwise."""
    text = "\n".join(lines) + "\n"
    subprocess.run([*ip, "-batch", "-"], input=text, text=True, check=True)
