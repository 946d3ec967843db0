"""A kept lab does what a person's LiveMigrations ask for, whatever happens to their objects."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from handover_lab import lab
from handover_lab.cluster.client import ClientError
from handover_lab.lab import Lab

Action = Callable[[], Awaitable[None]]


class Migrations:
    """LiveMigrations of which a test tells."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}

    async def until(self, is_so: Callable[[Any], object], *_: object, **__: object) -> None:
        while not is_so(self.objects):  # noqa: ASYNC110  the test puts objects in at once
            await asyncio.sleep(0)

    def put(self, name: str, source: str, target: str, phase: str = "Ready") -> None:
        sides = {"source": [{"node": source}], "target": [{"node": target}]}
        self.objects[name] = {
            "metadata": {"name": name},
            "spec": {},
            "status": {"phase": phase, **sides},
        }


class Vm:
    """The VM, on node-a at first."""

    def __init__(self) -> None:
        self.home = "node-a"
        self.guests = {"node-a": None}

    async def start_target(self, node: str) -> None:
        self.guests[node] = None

    async def end(self, node: str) -> None:
        del self.guests[node]


class Kept(Lab):
    """A lab without a cluster."""

    def __init__(self) -> None:
        self.vm = Vm()  # type: ignore[assignment]
        self._observers = {"livemigrations": Migrations()}  # type: ignore[dict-item]
        self.said: list[str] = []
        self.trouble: Exception | None = None

    async def complete(self, migration: Any, *_: object) -> Any:
        if self.trouble:
            raise self.trouble
        self.vm._home = self.vm.home = "node-b"  # type: ignore[misc]
        await self.vm.end("node-a")
        await self.say_outcome(migration["metadata"]["name"], "Succeeded")

    async def say_outcome(self, name: str, outcome: str) -> None:
        self.said.append(f"{name} {outcome}")
        self.migrations.objects[name]["spec"]["outcome"] = outcome


async def driven(it: Kept, is_so: Callable[[], object]) -> list[str]:
    """Let it drive until something is so; return its complaints."""
    complaints: list[str] = []
    task = asyncio.create_task(it.drive(complaints.append))
    async with asyncio.timeout(10):
        while not is_so():
            assert not task.done()
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return complaints


@pytest.mark.parametrize(
    ("way", "phase", "said", "home"),
    [
        (("node-a", "node-b"), "Ready", "m Succeeded", "node-b"),
        (("node-b", "node-a"), "Ready", "m Succeeded", "node-a"),
        (("node-b", "node-a"), "Live", "m Succeeded", "node-a"),
        (("node-b", "node-c"), "Ready", "m Aborted", "node-a"),
    ],
    ids=["away", "to where it is", "already seen there", "from where it is not"],
)
async def test_every_migration_gets_its_outcome(
    way: tuple[str, str], phase: str, said: str, home: str
) -> None:
    it = Kept()
    it.migrations.put("m", *way, phase)  # type: ignore[attr-defined]
    assert await driven(it, lambda: it.said) == []
    assert (it.said, it.vm.home, list(it.vm.guests)) == ([said], home, [home])


@pytest.mark.parametrize(
    ("trouble", "complaint"),
    [
        (ClientError("not found"), "LiveMigration m: not found"),
        (KeyError("m"), "LiveMigration m: the lab has a defect, but goes on"),
    ],
)
async def test_after_a_migration_that_failed_the_next_one_is_followed(
    trouble: Exception, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab, "RESPITE_S", 0)
    it = Kept()
    it.trouble = trouble
    complaints: list[str] = []
    it.migrations.put("m", "node-a", "node-b")  # type: ignore[attr-defined]

    def complain(text: str) -> None:
        complaints.append(text)
        it.trouble = None
        it.migrations.objects.clear()
        it.migrations.put("m2", "node-a", "node-b")  # type: ignore[attr-defined]

    task = asyncio.create_task(it.drive(complain))
    async with asyncio.timeout(10):
        while not it.said:
            assert not task.done()
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (complaints, it.said) == ([complaint], ["m2 Succeeded"])
    assert list(it.vm.guests) == ["node-b"]
