"""Builders of objects, and a small world that plays the operator's pure core through a scenario."""

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from tests.operator.memory import Known, Memory

from handover_api.assignment import Assignment
from handover_api.livemigration import LiveMigration, Outcome
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, Role, Signal, State
from handover_operator.roles.model import Endpoint
from handover_operator.roles.outcome import Undecided
from handover_operator.roles.resolver import Resolution, Resolver
from handover_operator.status import livemigration, progress
from handover_operator.status.progress import Progress

START = dt.datetime(2026, 11, 24, 12, 0, 0, 250000, tzinfo=dt.UTC)


def build_migration(
    name: str = "m1", *, age: int = 0, namespace: str = "default", **fields: Any
) -> LiveMigration:
    """Build a LiveMigration; *age* is seconds after the start, *fields* are the spec's."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": fields.pop("object_uid", f"uid-{name}"),
        "generation": fields.pop("generation", 1),
        "creationTimestamp": (START + dt.timedelta(seconds=age)).isoformat(),
        "ownerReferences": fields.pop("owners", []),
    }
    status = fields.pop("status", {})
    spec = {
        side: {"workload": {"name": value}} if isinstance(value, str) else value
        for side, value in fields.items()
        if side in {"source", "target"}
    }
    spec |= {key: value for key, value in fields.items() if key not in spec}
    return LiveMigration.model_validate({"metadata": metadata, "spec": spec, "status": status})


def build_endpoint(name: str, *, namespace: str = "default", **fields: Any) -> Endpoint:
    """Build an endpoint; its workload and node are named after it unless told otherwise."""
    defaults: dict[str, Any] = {"node": f"node-{name}", "workload": name, "uid": f"uid-{name}"}
    return Endpoint(key=ObjectKey(namespace, name), **(defaults | fields))


class World:
    """Objects, the resolver, and an API that takes every write at once."""

    def __init__(self) -> None:
        self.now = START
        self.driven: dict[str, Outcome | Undecided] = {}
        """What a driver says of migrations, by their uids."""
        self.resolver = Resolver(self.driven.get)
        self.writes: list[str] = []
        self.resolutions: list[Resolution] = []
        self.wake: dt.datetime | None = None

    def apply(self, *objects: LiveMigration | Endpoint) -> "World":
        """Take objects in, one after the other, and settle after each."""
        for thing in objects:
            if isinstance(thing, Endpoint):
                self.resolver.put_endpoint(thing)
            else:
                self.resolver.put_migration(thing)
            self.settle()
        return self

    def delete(self, name: str, namespace: str = "default") -> "World":
        """Delete whatever has this name."""
        self.resolver.drop_endpoint(ObjectKey(namespace, name))
        self.resolver.drop_migration(ObjectKey(namespace, name))
        return self.settle()

    def settle(self) -> "World":
        """Resolve and write until nothing is left to write."""
        for _ in range(10):
            resolution = self.resolver.resolve(self.now)
            self.resolutions.append(resolution)
            self.wake = resolution.wake
            assert resolution.failures == ()
            if not self._write(resolution):
                return self
        message = "the world does not settle"
        raise AssertionError(message)

    def _write(self, resolution: Resolution) -> bool:
        wrote = False
        for key in sorted(resolution.endpoints):
            verdict, endpoint = self.resolver.verdict(key), self.endpoint(key.name, key.namespace)
            if verdict is None:
                continue  # what was written before it in this round concerns it: next round
            if verdict.assignment != endpoint.assignment:
                self.writes.append(f"{key.name}: {say(verdict.assignment)}")
                self.resolver.put_endpoint(
                    dataclasses.replace(endpoint, assignment=verdict.assignment)
                )
                wrote = True
        for key in sorted(resolution.migrations):
            migration = self.resolver.index.migrations[key]
            status = livemigration.status(migration, self.progress(key.name), self.now)
            if status != migration.status:
                assert status.phase is not None
                self.writes.append(f"{key.name}: {status.phase}")
                echoed = migration.model_copy(update={"status": status})
                self.resolver.put_migration(LiveMigration.model_validate(echoed.to_object()))
                wrote = True
        return wrote

    def wait(self, seconds: float) -> "World":
        """Let time pass, and settle."""
        self.now += dt.timedelta(seconds=seconds)
        return self.settle()

    def report(self, name: str, state: State | None = None, **fields: Any) -> "World":
        """Let the agent of an endpoint report; it acts upon the uid that is there."""
        endpoint = self.endpoint(name)
        uid = endpoint.assignment.migration_uid
        role = endpoint.assignment.role
        changed = {"state": state, "acted_uid": uid, "acted_role": role} | fields
        if state is State.LIVE and uid is not None:
            changed.setdefault("cutover", build_cutover(uid))
        changed.setdefault("listening", state in {State.TARGET, State.WITHDRAWN})
        changed.setdefault("routed", state in {State.BASE, State.LIVE, State.TIME_WAIT})
        return self.apply(dataclasses.replace(endpoint, **changed))

    def endpoint(self, name: str, namespace: str = "default") -> Endpoint:
        """Return an endpoint as the API has it."""
        return self.resolver.index.endpoints[ObjectKey(namespace, name)]

    def migration(self, name: str) -> LiveMigration:
        """Return a LiveMigration as the API has it."""
        return self.resolver.index.migrations[ObjectKey("default", name)]

    def roles(self) -> dict[str, str]:
        """Return what is said of each endpoint."""
        return {
            key.name: say(endpoint.assignment)
            for key, endpoint in sorted(self.resolver.index.endpoints.items())
        }

    def progress(self, name: str = "m1") -> Progress:
        """Return how far a LiveMigration is."""
        return progress.describe(self.resolver, ObjectKey("default", name))

    def phase(self, name: str = "m1") -> str | None:
        """Return the phase of a LiveMigration."""
        return self.migration(name).status.phase

    def condition(self, wanted: str, name: str = "m1") -> tuple[str, str] | None:
        """Return status and reason of a condition."""
        for found in self.migration(name).status.conditions:
            if found.type == wanted:
                return found.status, found.reason
        return None

    def restart(self) -> "World":
        """Start anew from what the API has, in another order."""
        index, self.writes = self.resolver.index, []
        self.resolver = Resolver(self.driven.get)
        for endpoint in reversed(index.endpoints.values()):
            self.resolver.put_endpoint(endpoint)
        for migration in reversed(index.migrations.values()):
            self.resolver.put_migration(migration)
        return self.settle()


def build_cutover(uid: str) -> Cutover:
    """Build what an agent measured for this migration."""
    return Cutover(
        signal=Signal.RARP,
        announcement_to_route_microseconds=180,
        time=START + dt.timedelta(seconds=9),
        migration_uid=uid,
    )


def say(assignment: Assignment) -> str:
    """Write an assignment the short way: ``target of m1`` or ``target of m1 Succeeded``."""
    role = assignment.role or assignment.ended_role
    if role is None:
        return "-"
    ended = f" {assignment.outcome}" if assignment.outcome is not None else ""
    return f"{role} of {assignment.migration}{ended}"


def build_assignment(said: str, uid: str | None = None) -> Assignment:
    """Read what :func:`say` writes; the uid of ``m1`` is ``uid-m1`` unless told otherwise."""
    role, _, migration, *ended = said.split()
    return Assignment(
        role=None if ended else Role(role),
        migration=migration,
        migration_uid=uid or f"uid-{migration}",
        outcome=Outcome(ended[0]) if ended else None,
        ended_role=Role(role) if ended else None,
    )


@pytest.fixture(scope="session")
def migration() -> Callable[..., LiveMigration]:
    """Build a LiveMigration."""
    return build_migration


@pytest.fixture(scope="session")
def endpoint() -> Callable[..., Endpoint]:
    """Build an endpoint."""
    return build_endpoint


@pytest.fixture(scope="session")
def assignment() -> Callable[..., Assignment]:
    """Build an assignment."""
    return build_assignment


@pytest.fixture(scope="session")
def cutover() -> Callable[[str], Cutover]:
    """Build what an agent measured."""
    return build_cutover


@pytest.fixture(scope="session")
def new_world() -> Callable[[], World]:
    """Make an empty world."""
    return World


@pytest.fixture
def world() -> World:
    """Return an empty world."""
    return World()


@pytest.fixture
def memory() -> Memory:
    """Return a cluster with one endpoint and its migration."""
    return Memory.with_migration()


@pytest.fixture
def known(memory: Memory) -> Known:
    """Know all of that cluster."""
    return Known(memory)
