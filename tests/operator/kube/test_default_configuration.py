"""``default`` is kept as it was given, and what a person has set stays theirs, whoever leads."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from handover_api.names import ObjectKey
from handover_operator.kinds import Kind
from handover_operator.kube import default_configuration as room
from handover_operator.kube.default_configuration import Default
from handover_operator.kube.errors import Conflict, Refused, Unavailable
from handover_operator.observability import metrics
from handover_operator.roles.parse import RawObject
from handover_operator.status.configuration import Application

KEY = ObjectKey("", "default")
GIVEN = {"mode": "active", "probeInterval": "1s"}


class Server:
    """One object with the rules of server-side apply without force."""

    def __init__(self) -> None:
        self.spec: dict[str, object] | None = None
        self.owners: dict[str, str] = {}
        self.generation = 0
        self.uid = 0
        self.calls: list[str] = []
        self.refusal = ""
        self.outages = 0
        self.tell: Callable[[RawObject], None] = lambda _: None

    async def apply_default(self, spec: Mapping[str, object], *, dry: bool) -> RawObject:
        """Apply as the operator."""
        self.calls.append("dry" if dry else "apply")
        if self.outages:
            self.outages -= 1
            message = "nobody there"
            raise Unavailable(message)
        if self.refusal:
            raise Refused(self.refusal)
        before = self.spec or {}
        causes = {
            f".spec.{name}": f'conflict with "{self.owners[name]}"'
            for name, value in spec.items()
            if self.owners.get(name, "us") != "us" and before.get(name) != value
        }
        if causes:
            message = "Apply failed"
            raise Conflict(message, causes)
        if not dry:
            kept = {name: value for name, value in before.items() if self.owners[name] != "us"}
            self._store({**kept, **spec}, {**dict.fromkeys(spec, "us"), **self._others()})
        return self.raw()

    def person(self, **fields: object) -> None:
        """Set fields as somebody else."""
        owners = self.owners | dict.fromkeys(fields, "kubectl-edit")
        self._store({**(self.spec or {}), **fields}, owners)
        self.tell(self.raw())

    def raw(self) -> RawObject:
        """Return the object."""
        metadata = {"name": "default", "uid": str(self.uid), "generation": self.generation}
        return {"metadata": metadata, "spec": self.spec}

    def _others(self) -> dict[str, str]:
        return {name: owner for name, owner in self.owners.items() if owner != "us"}

    def _store(self, spec: dict[str, object], owners: dict[str, str]) -> None:
        if self.spec is None:
            self.uid += 1
        self.generation += spec != self.spec
        self.spec, self.owners = spec, owners


class Listener:
    """What the controller was told."""

    def __init__(self) -> None:
        self.told: list[Application] = []

    def take_application(self, application: Application) -> None:
        """Take in one answer."""
        self.told.append(application)


@pytest.fixture
def server() -> Server:
    """Return a server without the object."""
    return Server()


@contextlib.asynccontextmanager
async def replica(
    server: Server, given: Mapping[str, object] | None = None, *, leads: bool = True
) -> AsyncIterator[tuple[Default, Listener]]:
    """Run one replica's part."""
    listener = Listener()
    default = Default(server, listener, GIVEN if given is None else given)
    server.tell = lambda raw: default.put(Kind.CONFIGURATION, KEY, raw)
    default.lead(leads=leads)
    task = asyncio.create_task(default.run())
    try:
        yield default, listener
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(holds: Callable[[], object]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  the server has no other sign
            await asyncio.sleep(0.001)


async def test_what_is_missing_is_made_and_what_was_deleted_is_made_again(server: Server) -> None:
    async with replica(server) as (default, listener):
        await until(lambda: server.spec == GIVEN)
        await until(lambda: default.trouble == "")
        server.spec = None
        default.drop(Kind.CONFIGURATION, KEY)
        await until(lambda: server.spec == GIVEN)

    assert {each.refusal for each in listener.told} == {""}


async def test_a_persons_pause_stays_when_another_replica_begins_to_lead(server: Server) -> None:
    async with replica(server):
        await until(lambda: server.spec == GIVEN)
    server.person(mode="paused")

    async with replica(server, GIVEN | {"probeInterval": "2s"}) as (default, listener):
        await until(lambda: listener.told)

        assert server.spec == {"mode": "paused", "probeInterval": "2s"}
        assert listener.told[-1].overridden == {"mode": 'conflict with "kubectl-edit"'}
        assert default.trouble == ""
        assert metrics.OVERRIDDEN._value.get() == 1


async def test_a_field_that_a_person_gives_back_is_ours_again(server: Server) -> None:
    async with replica(server) as (_, listener):
        await until(lambda: server.spec == GIVEN)
        server.person(mode="paused")
        await until(lambda: listener.told[-1].overridden)
        assert server.spec is not None
        del server.spec["mode"], server.owners["mode"]
        server.generation += 1
        server.tell(server.raw())

        await until(lambda: server.spec == GIVEN)
        await until(lambda: not listener.told[-1].overridden)


async def test_a_status_or_an_annotation_is_no_drift(server: Server) -> None:
    async with replica(server) as (default, _):
        await until(lambda: server.spec == GIVEN)
        calls = len(server.calls)
        for _ in range(5):
            default.put(Kind.CONFIGURATION, KEY, server.raw())
            default.put(Kind.CONFIGURATION, ObjectKey("", "node.a"), {"metadata": {"uid": "x"}})
            await asyncio.sleep(0)

        assert len(server.calls) == calls


async def test_what_nobody_told_of_is_healed_after_five_minutes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The watch may have lost it: nobody tells the replica that the object is gone.
    assert room.REST == 300.0
    monkeypatch.setattr(room, "REST", 0.01)
    async with replica(server) as (default, _):
        await until(lambda: default.trouble == "")
        server.spec = None

        await until(lambda: server.spec == GIVEN)


async def test_a_refusal_makes_the_replica_unready_until_it_is_mended(server: Server) -> None:
    server.refusal = "422: spec.probeInterval must be 0 (off) or at least 20ms"
    async with replica(server) as (default, listener):
        await until(lambda: listener.told)

        assert default.trouble.endswith(server.refusal)
        assert listener.told[-1].refusal == server.refusal
        assert metrics.APPLIED._value.get() == 0
        server.refusal = ""
        await until(lambda: default.trouble == "")
        assert metrics.APPLIED._value.get() == 1


async def test_a_replica_that_does_not_lead_asks_and_writes_nothing(server: Server) -> None:
    server.refusal = "422: no"
    async with replica(server, leads=False) as (default, listener):
        assert default.trouble != ""
        await until(lambda: default.trouble.endswith("422: no"))
        server.refusal = ""
        await until(lambda: default.trouble == "")

        assert (server.spec, set(server.calls), listener.told) == (None, {"dry"}, [])
        default.lead(leads=True)
        await until(lambda: server.spec == GIVEN)


async def test_an_outage_is_waited_for(server: Server) -> None:
    server.outages = 3
    async with replica(server) as (default, listener):
        await until(lambda: server.spec == GIVEN)
        await until(lambda: default.trouble == "")

        assert listener.told == [Application()]


async def test_somebody_who_undoes_it_each_time_is_answered_more_and_more_slowly(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "FIRST_DELAY", 0.02)
    async with replica(server):
        await until(lambda: server.spec == GIVEN)
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(5):
            server.spec, server.owners = {}, {}
            server.generation += 1
            server.tell(server.raw())
            await until(lambda: server.spec == GIVEN)
            times.append(loop.time())

    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses[-1] > 2 * pauses[0]


async def test_where_nothing_was_given_nothing_is_applied_and_all_are_ready(
    server: Server,
) -> None:
    default = Default(server, Listener(), None)
    await default.run()

    assert (default.trouble, server.calls) == ("", [])


def test_the_empty_configuration_is_one(server: Server) -> None:
    given: dict[str, Any] = {}

    assert Default(server, Listener(), given).trouble != ""
