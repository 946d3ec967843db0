"""The API server as far as the operator's writes go: objects in memory, with their versions."""

import copy
import datetime as dt
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator.controller import Controller
from handover_operator.kinds import AnyKind, Kind, Watched
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Absent, Conflict, Unavailable
from handover_operator.kube.writer import Writer
from handover_operator.roles.parse import RawObject
from handover_operator.status.kubernetes_events import KubernetesEvent

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
NAMESPACE = "default"
SPEC = {"node": "n", "workload": "a", "ips": ["10.0.0.1"]}
SOURCE = {"source": {"workload": {"name": "a"}}}


class Memory(Cluster):
    """The objects of a cluster in memory; it keeps the rules of resourceVersion."""

    def __init__(self) -> None:
        self.may_write = lambda: True
        self.stored: dict[tuple[AnyKind, ObjectKey], dict[str, Any]] = {}
        self.version = 0
        self.patches: list[str] = []
        self.asked_for: list[str] = []
        self.stood_in: list[str] = []
        self.events: list[str] = []
        self.outages = 0
        self.now = NOW
        self.meanwhile: list[tuple[AnyKind, ObjectKey]] = []

    @classmethod
    def with_migration(cls) -> Self:
        """Return a cluster with one endpoint and its migration."""
        memory = cls()
        memory.put(Kind.ENDPOINT, "a", SPEC)
        memory.put(Kind.MIGRATION, "m1", SOURCE)
        return memory

    def put(self, kind: Kind, name: str, spec: object, **fields: Any) -> dict[str, Any]:
        """Create or replace an object; return it as a watch would."""
        self.version += 1
        key = ObjectKey("" if kind is Kind.CONFIGURATION else NAMESPACE, name)
        metadata = {
            "name": name,
            "namespace": key.namespace,
            "uid": fields.pop("uid", f"uid-{name}"),
            "resourceVersion": str(self.version),
            "creationTimestamp": NOW.isoformat(),
            "annotations": {},
            "labels": fields.pop("labels", {}),
        }
        self.stored[kind, key] = {"metadata": metadata, "spec": spec, **fields}
        return copy.deepcopy(self.stored[kind, key])

    async def get(self, kind: AnyKind, key: ObjectKey) -> RawObject:
        """Read one object."""
        self.asked_for.append(key.name)
        if (kind, key) not in self.stored:
            raise Absent(str(key))
        return copy.deepcopy(self.stored[kind, key])

    async def patch(
        self,
        kind: Kind,
        key: ObjectKey,
        patch: RawObject,
        *,
        subresource: str = "",
        as_leader: bool = True,
    ) -> RawObject:
        """Merge; refuse what is based on an old version."""
        if self.outages:
            self.outages -= 1
            message = "nobody there"
            raise Unavailable(message)
        while self.meanwhile:
            self.touch(*self.meanwhile.pop())
        found = self.stored.get((kind, key))
        if found is None:
            raise Absent(str(key))
        if found["metadata"]["resourceVersion"] != patch["metadata"]["resourceVersion"]:
            raise Conflict(str(key))
        for name, value in patch["metadata"].get("annotations", {}).items():
            found["metadata"]["annotations"][name] = value
            if value is None:
                del found["metadata"]["annotations"][name]
        found.update({"status": patch["status"]} if subresource else {})
        self.patches.append(f"{key.name}{subresource}")
        if not as_leader:
            self.stood_in.append(key.name)
        self.touch(kind, key)
        return copy.deepcopy(found)

    def touch(self, kind: AnyKind, key: ObjectKey) -> None:
        """Give an object a new version."""
        self.version += 1
        metadata = self.stored[kind, key]["metadata"]
        metadata["resourceVersion"] = str(self.version)

    async def emit(
        self, kind: AnyKind, key: ObjectKey, uid: str, event: KubernetesEvent, now: dt.datetime
    ) -> None:
        """Take an Event in."""
        assert (kind.plural, uid, now) == (kind.plural, f"uid-{key.name}", self.now)
        self.events.append(f"{key.name} {event.reason}")

    async def delete(
        self,
        kind: Kind,
        key: ObjectKey,
        uid: str,
        *,
        as_leader: bool = True,
    ) -> None:
        """Delete an object."""
        assert as_leader
        assert self.stored[kind, key]["metadata"]["uid"] == uid
        del self.stored[kind, key]

    async def objects(self, kind: Watched) -> AsyncIterator[tuple[list[RawObject], int]]:
        """List."""
        if self.outages:
            self.outages -= 1
            raise Absent(kind.plural)
        found = [copy.deepcopy(raw) for (of, _), raw in self.stored.items() if of is kind]
        yield list(found), self.version

    async def identities(self, kind: AnyKind) -> tuple[Mapping[ObjectKey, str], int]:
        """List names and uids."""
        if self.outages:
            self.outages -= 1
            raise Absent(kind.plural)
        found = {
            key: raw["metadata"]["uid"] for (of, key), raw in self.stored.items() if of is kind
        }
        return found, self.version

    def role(self, name: str) -> str | None:
        """Return the role that is written."""
        raw = self.stored[Kind.ENDPOINT, ObjectKey(NAMESPACE, name)]
        role = raw["metadata"]["annotations"].get(names.ROLE)
        assert role is None or isinstance(role, str)
        return role


class Known:
    """What is known of a cluster in memory, and resolved; nothing is written but by the test."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.controller = Controller(memory, lambda: memory.now)
        self.cache = self.controller.cache
        self.writer = Writer(memory, self.cache.uid, self.observe)
        for (kind, _), raw in tuple(memory.stored.items()):
            self.observe(kind, copy.deepcopy(raw))

    def observe(self, kind: AnyKind, raw: RawObject) -> None:
        """Take in a version, and what follows from it."""
        assert isinstance(kind, Kind)
        self.controller.observe(kind, raw)
        self.settle()

    def put(self, kind: Kind, name: str, spec: object, **fields: Any) -> None:
        """Create or replace an object, and take it in."""
        self.observe(kind, self.memory.put(kind, name, spec, **fields))

    def settle(self) -> None:
        """Resolve all that has changed."""
        self.cache.resolver.resolve(self.memory.now)
        self.cache.sharing.settle(self.memory.now)
        self.cache.peers.settle()

    def pass_time(self, seconds: float) -> None:
        """Let a time pass."""
        self.memory.now += dt.timedelta(seconds=seconds)
        self.settle()
