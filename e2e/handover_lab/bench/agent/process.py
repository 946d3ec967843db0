"""The agent as a process of its own: what it costs, and whether it is ready."""

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from handover_lab.bench.agent.guests import NODE
from handover_lab.bench.agent.route_observer import BenchError
from handover_lab.network.namespaces import WITH_US

PORT: Final = 8081
# A start with thousands of endpoints on a machine whose processors are taken.
PATIENCE: Final = 300.0


@dataclass
class AgentProcess:
    """The real agent; whoever makes it stops it."""

    kubeconfig: Path
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    state: Path | None = None
    """Where each one finds what the last one kept; None: each begins anew."""
    environment: dict[str, str] = field(default_factory=dict)
    """Settings besides those that it must have."""
    prefix: tuple[str, ...] = ()
    """What its command begins with."""

    def start(self) -> None:
        """Start one."""
        state = self.state or self.directory / f"state-{time.monotonic_ns()}"
        environment = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(self.kubeconfig),
            "HANDOVER_NODE_NAME": NODE,
            "HANDOVER_PORT": str(PORT),
            "HANDOVER_STATE_DIRECTORY": str(state),
            **self.environment,
        }
        program = Path(sys.executable).with_name("handover-nodeagent")
        with (self.directory / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*WITH_US, *self.prefix, str(program), "run"],
                env=environment,
                stdout=log,
                stderr=log,
            )

    async def ready(self) -> None:
        """Wait until /readyz says ok."""
        deadline = time.monotonic() + PATIENCE
        while not await self._is_ready():
            if time.monotonic() > deadline or (self.process and self.process.poll() is not None):
                log = (self.directory / "agent.log").read_text()[-800:]
                message = f"the agent is not ready: {log}"
                raise BenchError(message)
            await asyncio.sleep(0.02)

    async def _is_ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        except OSError:
            return False
        writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return b" 200 " in answer[:16]

    @property
    def rss_mib(self) -> float:
        """Its resident memory."""
        assert self.process is not None
        return rss_mib(self.process.pid)

    @property
    def cpu_seconds(self) -> float:
        """What it has used of a processor."""
        assert self.process is not None
        return cpu_seconds(self.process.pid)

    def stop(self) -> None:
        """End it; a second time changes nothing."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """Return what all threads of a process have used of a processor."""
    # The first number of schedstat is exact, in ns; /proc/PID/stat counts ticks of 10 ms.
    tasks = Path(f"/proc/{pid}/task")
    spent = (int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())
    return sum(spent) / 1e9
