"""`make soak`: two hours of a node's life in ten minutes, and nothing may be left of them.

    python -m handover_lab.testing.soak [--seconds 600] [--endpoints 200] [--seed N]

Guests come and go with migrations and without, migrations are aborted, links, routes, the guard's
table and the API flap, and the agent is killed. In the end every guest is at home: each address
has its route and no other one, memory and descriptors are what they were at the start, and the log
has no error. It runs in a sandbox, whose network namespace is the node.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from kubernetes_asyncio import client

from handover_api import names
from handover_lab.bench.agent.guests import Guest, run_batch
from handover_lab.bench.agent.node import MERGE_PATCH, Node, collection, running

SETTINGS: Final = {"liveMigrationRouteConvergenceTime": "1s", "routeOwnership": "all"}
AT_ONCE: Final = 12
"""Events under way at one time: more guests than that do not move on one node."""
PERIOD: Final = 0.1
"""Seconds between two events; a busy node has one in some seconds."""
OUTAGE: Final = 3.0
RARE: Final = {"agent killed": 10.0, "API away": 45.0}
"""Seconds between two of these at least: each start takes a processor for some seconds."""
PATIENCE: Final = 120.0
MORE_MEMORY: Final = 1.15
"""A heap that was in use has holes; what leaks grows with each of thousands of events."""
MORE_DESCRIPTORS: Final = 4
"""Of the connections to the API server, which come and go."""
UNREACHABLE: Final = (client.ApiException, aiohttp.ClientError, OSError)


class SoakError(RuntimeError):
    """Something is left that should not be; the text says what."""


@dataclass
class Life:
    """One guest, and whether it runs here."""

    guest: Guest
    runs: bool = True
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        """Its endpoint's."""
        return f"vm-{self.guest.number}"


class Soak:
    """Lets things happen, and looks what is left of them."""

    def __init__(self, node: Node, chance: random.Random, endpoints: int) -> None:
        self._node = node
        self._chance = chance
        self._lives = [Life(Guest(number)) for number in range(endpoints)]
        self._calm = asyncio.Lock()
        self._number = 0
        self._last: dict[str, float] = {}
        self.happened: Counter[str] = Counter()

    async def begin(self) -> tuple[float, int]:
        """Start with all guests at home; return memory and descriptors of the agent at rest."""
        guests = [life.guest for life in self._lives]
        self._node.connect(guests)
        self._turn(guests, on=True)
        await self._configure()
        await self._node.create(guests)
        self._node.agent.state = self._node.directory / "state"
        self._node.agent.start()
        await self._node.agent.ready()
        await self.await_home()
        return self._at_rest()

    async def live(self, seconds: float) -> None:
        """Let things happen, some at once."""
        until, tasks = time.monotonic() + seconds, set[asyncio.Task[None]]()
        while time.monotonic() < until:
            tasks.add(asyncio.create_task(self._happen(*self._choose())))
            await asyncio.sleep(PERIOD)
            while len(tasks) >= AT_ONCE:
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        await asyncio.gather(*tasks)

    async def end(self) -> tuple[float, int]:
        """Bring all guests home; return memory and descriptors of the agent at rest."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def come_home(life: Life) -> None:
            async with gate, life.busy:
                if not life.runs:
                    await self._arrive(life)

        await asyncio.gather(*map(come_home, self._lives))
        await self.await_home()
        return self._at_rest()

    async def await_home(self) -> None:
        """Wait until each guest has its route, at normal priority, and nobody has another one."""
        wanted = {(str(life.guest.address), life.guest.tap, 1024) for life in self._lives}
        deadline = time.monotonic() + PATIENCE
        while (there := routes()) != wanted:
            if time.monotonic() > deadline:
                message = (
                    f"missing: {few(wanted - there)}; too much: {few(there - wanted)};"
                    f" states: {Counter([await self._state(life) for life in self._lives])}"
                )
                raise SoakError(message)
            await asyncio.sleep(0.2)

    def _choose(self) -> tuple[str, Callable[[Life], Awaitable[None]], Life]:
        life = self._chance.choice(self._lives)
        kinds: dict[str, tuple[int, Callable[[Life], Awaitable[None]]]] = {
            "leaves": (30, self._leave),
            "arrives": (30, self._arrive),
            "aborted": (12, self._abort),
            "link flaps": (10, self._flap_link),
            "route goes": (10, self._take_route),
            "guard goes": (3, self._take_guard),
            "agent killed": (2, self._kill),
            "API away": (1, self._stop_api),
        }
        weights = [weight for weight, _ in kinds.values()]
        (what,) = self._chance.choices(list(kinds), weights)
        return what, kinds[what][1], life

    async def _happen(
        self, what: str, event: Callable[[Life], Awaitable[None]], life: Life
    ) -> None:
        if life.busy.locked() or ((what == "leaves") is not life.runs and what in MOVES):
            return
        now = time.monotonic()
        if now - self._last.get(what, 0.0) < RARE.get(what, 0.0):
            return
        self._last[what] = now
        async with life.busy:
            self.happened[what] += 1
            await event(life)

    async def _arrive(self, life: Life) -> None:
        """Let a guest come by a migration that succeeds."""
        uid = await self._say(life, role="target")
        await self._await_target(life, uid)
        self._turn([life.guest], on=True)
        self._announce(life)
        life.runs = True
        await self._say(life, uid, outcome="Succeeded", ended="target")

    async def _leave(self, life: Life) -> None:
        """Let a guest go by a migration that succeeds."""
        uid = await self._say(life, role="source")
        self._turn([life.guest], on=False)
        life.runs = False
        await self._say(life, uid, outcome="Succeeded", ended="source")

    async def _abort(self, life: Life) -> None:
        """Let a migration fail: the guest stays where it is, here or elsewhere."""
        role = "source" if life.runs else "target"
        uid = await self._say(life, role=role)
        await asyncio.sleep(self._chance.random())
        await self._say(life, uid, outcome="Aborted", ended=role)

    async def _flap_link(self, life: Life) -> None:
        run_batch(["ip"], [f"link set {life.guest.tap} down"])
        await asyncio.sleep(self._chance.random())
        run_batch(["ip"], [f"link set {life.guest.tap} up"])

    async def _take_route(self, life: Life) -> None:
        command = ["ip", "route", "flush", str(life.guest.address), "proto", "88"]
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)

    async def _take_guard(self, _: Life) -> None:
        command = ["nft", "delete", "table", "arp", "handover"]
        await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True)

    async def _kill(self, _: Life) -> None:
        async with self._calm:
            self._node.agent.stop()
            self._node.agent.start()
            await self._node.agent.ready()

    async def _stop_api(self, _: Life) -> None:
        async with self._calm:
            await asyncio.to_thread(self._node.plane.stop_api)
            await asyncio.sleep(OUTAGE)
            await asyncio.to_thread(self._node.plane.start_api)

    async def _say(
        self, life: Life, uid: str = "", *, role: str = "", outcome: str = "", ended: str = ""
    ) -> str:
        """Annotate an endpoint as the operator does; return the migration's uid."""
        if not uid:
            self._number += 1
            uid = f"soak-{self._number}"
        annotations = {
            names.ROLE: role or None,
            names.MIGRATION: "soak",
            names.MIGRATION_UID: uid,
            names.OUTCOME: outcome or None,
            names.ENDED_ROLE: ended or None,
        }
        patch = {"metadata": {"annotations": annotations}}
        write = self._node.api.patch_namespaced_custom_object
        await insist(
            lambda: write(*collection(), life.name, patch, _content_type=MERGE_PATCH)  # type: ignore[call-arg]
        )
        return uid

    async def _await_target(self, life: Life, uid: str) -> None:
        """Wait until the agent listens; a guest that is awaited for long comes all the same."""
        deadline = time.monotonic() + OUTAGE
        while time.monotonic() < deadline:
            status = await self._status(life)
            if status.get("migrationUID") == uid and status.get("state") == "Target":
                return
            await asyncio.sleep(0.1)

    async def _state(self, life: Life) -> str:
        return str((await self._status(life)).get("state"))

    async def _status(self, life: Life) -> Mapping[str, Any]:
        read = self._node.api.get_namespaced_custom_object
        found: dict[str, Any] = await insist(lambda: read(*collection(), life.name))
        return found.get("status") or {}

    async def _configure(self) -> None:
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "HandoverConfiguration",
            "metadata": {"name": names.DEFAULT_CONFIGURATION},
            "spec": SETTINGS,
        }
        where = (names.GROUP, names.VERSION, names.CONFIGURATIONS)
        await self._node.api.create_cluster_custom_object(*where, body)

    def _turn(self, guests: Iterable[Guest], *, on: bool) -> None:
        """Let guests answer, or no more."""
        lines = [
            line
            for guest in guests
            for line in (
                f"link set {guest.eth} arp {'on' if on else 'off'}",
                f"address {'replace' if on else 'delete'} {guest.address}/32 dev {guest.eth}",
            )
        ]
        run_batch(self._node.guests.command("ip"), lines)

    def _announce(self, life: Life) -> None:
        self._node.observer.announce(life.guest)

    def _at_rest(self) -> tuple[float, int]:
        agent = self._node.agent
        assert agent.process is not None
        descriptors = len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))
        return agent.rss_mib, descriptors


MOVES: Final = frozenset({"leaves", "arrives"})


async def insist(call: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401  whatever it answers
    """Call the API until it is there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await call()
        except UNREACHABLE:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(1)


def routes() -> set[tuple[str, str, int]]:
    """Return address, device and metric of each of our routes."""
    command = ["ip", "-json", "-4", "route", "show", "table", "main", "proto", "88"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout or "[]")
    return {(each["dst"], each["dev"], each["metric"]) for each in listed}


def few(things: Iterable[object]) -> str:
    """Name the first of them."""
    known = sorted(map(str, things))
    return ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")


def errors(log: Path) -> Iterator[str]:
    """Yield the log's lines that nobody expects."""
    for line in log.read_text().splitlines():
        try:
            level = json.loads(line).get("level")
        except ValueError:
            # What the interpreter itself says, such as a traceback.
            yield line
            continue
        if level in {"error", "critical", "exception"}:
            yield line


async def soak(seconds: float, endpoints: int, seed: int) -> Counter[str]:
    """Live for so long; return what happened. Raises SoakError."""
    with tempfile.TemporaryDirectory(prefix="handover-soak-") as directory:
        async with running(Path(directory)) as node:
            live = Soak(node, random.Random(seed), endpoints)  # noqa: S311  repeatable on purpose
            memory, descriptors = await live.begin()
            await live.live(seconds)
            memory_now, descriptors_now = await live.end()
            if memory_now > MORE_MEMORY * memory:
                message = f"the agent had {memory:.1f} MiB, and has {memory_now:.1f} now"
                raise SoakError(message)
            if descriptors_now > descriptors + MORE_DESCRIPTORS:
                message = f"it had {descriptors} descriptors, and has {descriptors_now} now"
                raise SoakError(message)
            if found := list(errors(node.directory / "agent.log")):
                message = f"{len(found)} errors in the log, the first: {found[0][:1000]}"
                raise SoakError(message)
            return live.happened


def main() -> int:
    """Let an agent live through two hours in ten minutes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--endpoints", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    chosen = parser.parse_args()
    print(f"--seed {chosen.seed}", flush=True)
    try:
        happened = asyncio.run(soak(chosen.seconds, chosen.endpoints, chosen.seed))
    except SoakError as error:
        print(f"The soak failed: {error}", file=sys.stderr)
        return 1
    print(", ".join(f"{what} {count}" for what, count in happened.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
