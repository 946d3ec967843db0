"""The operator as a process of its own, which can be killed and started again."""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

from handover_lab.cluster import controlplane, operator_process
from handover_lab.cluster.operator_process import Process, Start
from handover_lab.processes.waiting import PATIENCE, NeverSeenError, until
from handover_operator.kube.resync import SETTLE

EVENTS: Final = "handover_operator_events_total"
QUEUE: Final = "handover_operator_queue_length"
LOOK: Final = 0.3
CALM: Final = SETTLE + 1
"""Seconds for which its CPU rests when nothing more is to come: a sweep follows new lists."""


class Replica:
    """One process of the operator; whoever makes it stops it."""

    def __init__(
        self,
        log: Path,
        environment: Mapping[str, str],
        patience: float = PATIENCE,
        start: Start = operator_process.start_program,
    ) -> None:
        port = controlplane.free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self._patience = patience
        self._start = start
        self._environment = {
            # Nothing else of our own environment: a pod has none of it either.
            "PATH": os.environ["PATH"],
            "HANDOVER_PORT": str(port),
            "HANDOVER_LISTEN_ADDRESS": "127.0.0.1",
            **environment,
        }
        self._process: Process | None = None
        self._is_told_to_end = False
        self._refusals_begin = 0

    def launch(self) -> None:
        """Start the process; do not wait for it."""
        self._is_told_to_end = False
        self._process = self._start(self._environment, self.log)

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> float:
        """Start it unless it runs, and wait until it is ready; return the seconds that took.

        Raises NeverSeenError, also where an earlier process ended without being told to.
        """
        began = time.perf_counter()
        if self._process and not self.runs and not self._is_told_to_end:
            what = f"the operator ended by itself ({self._process.poll()}), see {self.log}"
            raise NeverSeenError(what)
        if not self.runs:
            self.launch()
        what = f"the operator ready, see {self.log}"
        await until(self._is_ready_or_dead, bool, what, self._patience)
        if not self.runs:
            raise NeverSeenError(what)
        return time.perf_counter() - began

    async def _is_ready_or_dead(self) -> bool:
        return not self.runs or (await self.get("/readyz"))[0] == 200

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End the process; return its exit status."""
        assert self._process is not None
        self.send(number)
        return self._process.wait(self._patience)

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        assert self._process is not None
        self._is_told_to_end |= number not in {signal.SIGSTOP, signal.SIGCONT}
        self._process.send_signal(number)

    def stop(self) -> None:
        """Clean up; a second time changes nothing."""
        if self.runs:
            self.kill()

    async def get(self, path: str) -> tuple[int, str]:
        """Ask over HTTP; 0 when nobody answers."""
        try:
            async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over the labels that are not named."""
        _, text = await self.get("/metrics")
        values = re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, flags=re.MULTILINE)
        return sum(map(float, values))

    async def until_idle(self, watched: int = 0) -> None:
        """Wait until its watches have told of so many objects and nothing is left to write."""
        await until(lambda: self.metric(EVENTS), lambda told: told >= watched, "all events")
        await until(lambda: self.metric(QUEUE), lambda left: left == 0, "an empty queue")

    async def until_calm(self) -> None:
        """Wait until nothing is left to write and its CPU rests."""
        deadline = time.perf_counter() + self._patience
        busy = time.perf_counter()
        while time.perf_counter() - busy < CALM:
            before = self.cpu_seconds
            await asyncio.sleep(LOOK)
            if self.cpu_seconds - before > 0.02 or await self.metric(QUEUE):
                busy = time.perf_counter()
            if time.perf_counter() > deadline:
                message = "the operator does not come to rest"
                raise NeverSeenError(message)

    @property
    def cpu_seconds(self) -> float:
        """What all of its threads have used so far."""
        tasks = Path(f"/proc/{self._pid}/task")
        spent = (int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())
        return sum(spent) / 1e9

    @property
    def rss_mib(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024

    def lines(self) -> list[dict[str, Any]]:
        """Return the log, which is JSON to the last line."""
        return [json.loads(line) for line in self._said().splitlines()]

    def logged(self, event: str) -> int:
        """Count the lines of the log about this."""
        return sum(line["event"] == event for line in self.lines())

    def faults(self) -> list[str]:
        """Return what the log calls an error."""
        return [line for line in self._said().splitlines() if '"error"' in line]

    def refusals(self) -> list[str]:
        """Return what the log says of rights that it lacks."""
        return re.findall(r"cannot \w+ resource [^:]*", self._said()[self._refusals_begin :])

    def ignore_refusals(self) -> None:
        """Do not count what was refused so far."""
        self._refusals_begin = len(self._said())

    def _said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def _pid(self) -> int:
        assert self._process is not None
        return self._process.pid
