"""What an owner does to an installed Handover, with the commands that docs/operations.md names."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from handover_api import __version__
from handover_lab.cluster import manifests, observer
from handover_lab.cluster.client import Client, ClientError
from handover_lab.cluster.node import CTR, Node
from handover_lab.images import build

NAMESPACE: Final = ("--namespace", "handover-system")
DONE: Final = ("--wait", "--timeout", "3m")
PAUSE: Final = 0.2
KINDS: Final = ("livemigrations", "workloadendpoints", "handoverconfigurations")
NEXT: Final = "next"
"""The tag of another version, which has what this one has."""

NEW_VERSION: Final = (f"operator.image.tag={NEXT}", f"nodeagent.image.tag={NEXT}")
DRAIN: Final = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
REFUSED: Final = "would violate the pod's disruption budget"


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of ours."""

    name: str
    node: str
    image: str
    started_ns: int
    """When its container began to run, to the second below; 0: it does not."""

    @property
    def tag(self) -> str:
        """The version that its image has."""
        return self.image.rpartition(":")[2]

    @classmethod
    def of(cls, thing: Mapping[str, Any]) -> Self:
        """Read it as the API has it."""
        metadata, spec = thing["metadata"], thing["spec"]
        (container,) = spec["containers"]
        running = (
            said["state"]["running"]["startedAt"]
            for said in thing["status"].get("containerStatuses", ())
            if "running" in said["state"]
        )
        started_ns = next(map(observer.when_ns, running), 0)
        return cls(metadata["name"], spec.get("nodeName", ""), container["image"], started_ns)


class OperationsError(RuntimeError):
    """A command did not say what it had to; the text is what it said instead."""


@dataclass(frozen=True, slots=True)
class Operations:
    """The owner's hand."""

    client: Client

    async def install(self, *values: str) -> None:
        """Install; *values* are "name=value"."""
        await self.client.run("helm", "install", *manifests.RELEASE, *DONE, *settings(values))

    async def upgrade(self, *values: str) -> None:
        """Upgrade, and return when all pods are those of the new manifests."""
        # New defaults of the chart count, and what was set at the install stays.
        options = ("--install", "--reset-then-reuse-values", *DONE, *settings(values))
        await self.client.run("helm", "upgrade", *manifests.RELEASE, *options)

    async def roll_back(self) -> None:
        """Go back to what was installed before the last upgrade."""
        await self.client.run("helm", "rollback", "handover", *NAMESPACE, *DONE)

    async def uninstall(self) -> None:
        """Uninstall, and return when nothing of the chart is left, no pod either."""
        await self.client.run("helm", "uninstall", "handover", *NAMESPACE, *DONE)
        gone = ("--for=delete", "pods", "--all", "--timeout=60s")
        await self.client.run("kubectl", "wait", *NAMESPACE, *gone)

    async def pods(self, component: str = "") -> list[Pod]:
        """List the pods of one component, or of all, but for those that are ending."""
        label = f"app.kubernetes.io/component={component}" if component else ""
        words = ("get", "pods", *NAMESPACE, "--selector", label, "--output", "json")
        found = json.loads(await self.client.run("kubectl", *words))
        pods = found["items"]
        return [Pod.of(pod) for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    async def agent(self, node: str) -> Pod:
        """Return the pod of the agent on *node*."""
        (pod,) = [pod for pod in await self.pods("nodeagent") if pod.node == node]
        return pod

    async def leader(self, seconds: float = 60) -> Pod:
        """Wait until a pod of the operator leads, and return it.

        Raises:
            UpkeepError: none does.
        """
        words = ("get", "lease", "handover-operator", *NAMESPACE, "--output", "json")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while loop.time() < deadline:
            holder = json.loads(await self.client.run("kubectl", *words))["spec"]["holderIdentity"]
            for pod in await self.pods("operator"):
                if holder.startswith(f"{pod.name}_"):
                    return pod
            await asyncio.sleep(PAUSE)
        pods = await self.client.run("kubectl", "get", "pods", *NAMESPACE, "--output", "wide")
        message = f"{holder} leads, and of these pods none:\n{pods}"
        raise OperationsError(message)

    async def said(self, pod: Pod, text: str, seconds: float = 60) -> None:
        """Wait until *pod* has logged *text*.

        Raises:
            UpkeepError: it has not.
        """
        words = ("logs", "--follow", *NAMESPACE, pod.name)
        async with self._running(*words) as process, asyncio.timeout(seconds):
            await found(process, text)

    async def answers(self, pod: Pod) -> None:
        """Let the agent in *pod* say how its node stands: by way of kubelet and containerd.

        Raises:
            ClientError: one of them does not do its part.
        """
        words = ("exec", *NAMESPACE, pod.name, "--", "handover-nodeagent", "status")
        # A kubelet or containerd that was started again does not answer at once.
        for _ in range(100):
            with contextlib.suppress(ClientError):
                await self.client.run("kubectl", *words)
                return
            await asyncio.sleep(PAUSE)
        await self.client.run("kubectl", *words)

    async def drain(self, node: str) -> None:
        """Take *node* out of service, and return when all pods but those of DaemonSets are gone."""
        await self.client.run("kubectl", "drain", node, *DRAIN)

    @contextlib.asynccontextmanager
    async def drain_that_waits(self, node: str) -> AsyncIterator[None]:
        """Begin to drain *node*; it must be refused a pod at first, and end with the context.

        Raises:
            UpkeepError: it was refused none.
            ClientError: it failed.
        """
        async with self._running("drain", node, *DRAIN) as process:
            async with asyncio.timeout(60):
                await found(process, REFUSED)
            yield
            rest, _ = await process.communicate()
            if process.returncode:
                raise ClientError(rest.decode())

    async def uncordon(self, node: str) -> None:
        """Put *node* back into service."""
        await self.client.run("kubectl", "uncordon", node)

    @contextlib.asynccontextmanager
    async def _running(self, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
        output = asyncio.subprocess.STDOUT
        process = await self.client.start("kubectl", *words, stderr=output)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def found(process: asyncio.subprocess.Process, text: str) -> None:
    """Read what *process* says, up to the line that has *text*. Raises UpkeepError."""
    assert process.stdout is not None
    said: list[str] = []
    async for line in process.stdout:
        said.append(line.decode())
        if text in said[-1]:
            return
    message = f"{text!r} was not in:\n{''.join(said[-20:])}"
    raise OperationsError(message)


def settings(values: tuple[str, ...]) -> list[str]:
    """Put "name=value" as Helm takes it."""
    return [part for value in values for part in ("--set", value)]


def tag_next(node: Node) -> None:
    """Have our images on *node* a second time, as those of another version."""
    for component in build.COMPONENTS:
        name = f"docker.io/library/{component.name}"
        old, new = f"{name}:{__version__}", f"{name}:{NEXT}"
        node.run(f"{' '.join(CTR)} images tag --force {old} {new}")
