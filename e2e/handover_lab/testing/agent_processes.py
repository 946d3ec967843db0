"""Node agents that can be made to die at a chosen step, in the place of the DaemonSet's.

Each is the real agent as a process of its own on its node, with the rights and the memory of the
pod that it stands in for. Whenever it dies, its successor is started at once, as the kubelet does.
"""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import yaml

from handover_lab.cluster import observer
from handover_lab.cluster.node import JOIN, Node
from handover_lab.lab import Lab
from handover_lab.processes import daemon
from handover_lab.testing import faults

SPACE: Final = ("--namespace", "handover-system")
DAEMONSET: Final = ("daemonset", "handover-nodeagent", *SPACE)
PODS: Final = ("pods", "--selector", "app.kubernetes.io/component=nodeagent", *SPACE)
NOWHERE: Final = "handover.dev/nowhere"
PATIENCE: Final = 20.0


class AgentProcessError(RuntimeError):
    """An agent did not do what the test is about; the text has its last words."""


@dataclass(frozen=True, slots=True)
class Death:
    """The end of one agent process, and its exit status."""

    at_ns: int
    status: int


class AgentProcess:
    """The agents of one node, one after the other."""

    def __init__(
        self,
        node: Node,
        directory: Path,
        kubeconfig: Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.deaths: list[Death] = []
        self._deaths_seen = 0
        self._node = node
        self._environment = {
            "KUBECONFIG": str(kubeconfig),
            "HANDOVER_NODE_NAME": node.name,
            # The chart has it from the pod's status.hostIPs.
            "HANDOVER_NODE_ADDRESSES": f"{node.address},{node.address6}",
            **(variables or {}),
        }
        self._order = directory / f"order-{node.name}"
        self._log = directory / f"agent-{node.name}.log"
        self._news = asyncio.Condition()
        self._may_start = asyncio.Event()
        self._may_start.set()
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        node: Node,
        directory: Path,
        kubeconfig: Path,
        variables: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Self]:
        """Keep an agent running on *node*; *directory* is for its log.

        The *variables* of its environment go before what it takes from the cluster.
        """
        it = cls(node, directory, kubeconfig, variables)
        living = asyncio.create_task(it._live())
        try:
            yield it
        finally:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
            await it._end()

    @property
    def pid(self) -> int:
        """The one that works now, by its process id."""
        assert self._process is not None
        return self._process.pid

    def order(self, *moments: str) -> None:
        """Have the agent die once (``faults``) when it comes to the last of these *moments*.

        Each counts from the one before it on.
        """
        self._deaths_seen = len(self.deaths)
        # The agent reads it before each of its steps: it must be whole as soon as it is there.
        draft = self._order.with_suffix(".draft")
        draft.write_text("\n".join(moments))
        draft.replace(self._order)

    def kill(self) -> None:
        """Have the agent die now."""
        assert self._process is not None
        self._deaths_seen = len(self.deaths)
        self._process.kill()

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Have no agent on the node meanwhile: this one dies, its successor comes afterwards."""
        self._may_start.clear()
        self.kill()
        await self.death()
        try:
            yield
        finally:
            self._may_start.set()

    async def death(self) -> Death:
        """Wait for the death that was ordered last."""
        number = self._deaths_seen
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE), self._news:
                await self._news.wait_for(lambda: len(self.deaths) > number)
        if len(self.deaths) <= number:
            self.fail(f"the agent of {self._node.name} came to no such moment")
        return self.deaths[number]

    async def begins(self, since_ns: int) -> int:
        """Wait until the agent that was started since then knows its endpoint; return when."""
        deadline = time.monotonic() + PATIENCE
        while not (seen := [at_ns for at_ns in self._first_sights() if at_ns > since_ns]):
            if time.monotonic() > deadline:
                self.fail(f"no successor works on {self._node.name}")
            await asyncio.sleep(0.02)
        return seen[0]

    def lines(self) -> Iterator[Mapping[str, Any]]:
        """Yield what all of them have logged."""
        for line in self._log.read_text().splitlines():
            if line.startswith("{"):
                yield json.loads(line)

    def troubles(self) -> list[str]:
        """Return what an agent logs when it goes wrong by itself."""
        lines = self._log.read_text().splitlines()
        return [line for line in lines if not line.startswith("{") or '"level": "error"' in line]

    def fail(self, what: str) -> NoReturn:
        """Raise the error that tells *what* went wrong, and what was logged last."""
        last = "\n".join(self._log.read_text().splitlines()[-20:])
        message = f"{what}; its log ends:\n{last}"
        raise AgentProcessError(message)

    def _first_sights(self) -> Iterator[int]:
        """Yield when an agent saw its endpoint for the first time."""
        for line in self.lines():
            if line["event"] == "endpoint":
                yield observer.when_ns(line["timestamp"])

    async def _live(self) -> None:
        while True:
            await self._may_start.wait()
            await self._start()
            assert self._process is not None
            status = await self._process.wait()
            async with self._news:
                self.deaths.append(Death(time.time_ns(), status))
                self._news.notify_all()

    async def _start(self) -> None:
        argv = (sys.executable, "-m", faults.__name__, str(self._order), "run")
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._node.command(
                    "sh", "-c", JOIN, "sh", *self._node.group.programs, "--", *argv
                ),
                env={**daemon.environment(), **self._environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _end(self) -> None:
        if self._process and self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)
            try:
                await asyncio.wait_for(self._process.wait(), PATIENCE)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


@contextlib.asynccontextmanager
async def take_over(lab: Lab, directory: Path) -> AsyncIterator[Mapping[str, AgentProcess]]:
    """Let processes of ours work on all nodes, and the pods again afterwards."""
    await select_nodes(lab, "true")
    await lab.kubectl("wait", *PODS, "--for=delete", "--timeout=60s")
    async with contextlib.AsyncExitStack() as stack:
        agents = {}
        for name, node in lab.cluster.nodes.items():
            kubeconfig = directory / f"{name}.kubeconfig"
            # It will hold a token, so nobody else may read it from the first moment.
            kubeconfig.touch(mode=0o600)
            kubeconfig.write_text(json.dumps(await credentials(lab, name)))
            agents[name] = await stack.enter_async_context(
                AgentProcess.open(node, directory, kubeconfig)
            )
        yield agents
    await select_nodes(lab, None)
    await lab.kubectl("rollout", "status", *DAEMONSET, "--timeout=60s")


async def select_nodes(lab: Lab, nowhere: str | None) -> None:
    """Let the DaemonSet have pods on no node, or again on all."""
    spec = {"template": {"spec": {"nodeSelector": {NOWHERE: nowhere}}}}
    await lab.kubectl("patch", *DAEMONSET, "--patch", json.dumps({"spec": spec}))


async def credentials(lab: Lab, node: str) -> dict[str, object]:
    """Compose the kubeconfig of *node*'s agent: like its pod's, its token names the node."""
    bound = ("--bound-object-kind=Node", f"--bound-object-name={node}")
    token = await lab.kubectl("create", "token", "handover-nodeagent", *SPACE, *bound)
    config: dict[str, Any] = yaml.safe_load(lab.cluster.kubeconfig.read_text())
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token.strip()}}]
    return config
