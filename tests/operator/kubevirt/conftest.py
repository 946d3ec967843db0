"""A cluster in memory with KubeVirt in it, and the operator's real controllers that look at it."""

import asyncio
import copy
import datetime as dt
import types
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator.controller import Controller
from handover_operator.kinds import AnyKind, Foreign, Kind, Plain, Watched
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Absent, Conflict, Temporary
from handover_operator.kube.standby import Standby
from handover_operator.kube.versions import version_of
from handover_operator.kubevirt.adapter import Adapter
from handover_operator.kubevirt.controller import KubeVirtController
from handover_operator.roles import parse
from handover_operator.roles.parse import RawObject
from handover_operator.status.kubernetes_events import KubernetesEvent

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
NAMESPACE = "vms"
MAC = "02:7a:31:00:00:01"

Raw = dict[str, Any]
Place = tuple[AnyKind, ObjectKey]


def merged(target: Raw, patch: Mapping[str, Any]) -> Raw:
    """Apply a merge patch (RFC 7386)."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = merged(result.get(key) or {}, value)
        else:
            result[key] = value
    return result


def noted(raw: Raw, written: Mapping[str, Any]) -> Raw:
    """Note as the API server does which labels the operator has written."""
    metadata = raw["metadata"]
    entries = metadata.get("managedFields") or [
        {"manager": names.OPERATOR_FIELD_MANAGER, "fieldsV1": {"f:metadata": {"f:labels": {}}}}
    ]
    labels = entries[0]["fieldsV1"]["f:metadata"]["f:labels"]
    ours = {**labels, **{f"f:{key}": {} for key in written["metadata"].get("labels", {})}}
    fields: Raw = {key: {} for key in ours if key.removeprefix("f:") in metadata.get("labels", {})}
    fields = {"f:metadata": {"f:labels": fields}}
    entry = {"manager": names.OPERATOR_FIELD_MANAGER, "operation": "Update", "fieldsV1": fields}
    return {**raw, "metadata": {**metadata, "managedFields": [entry]}}


def build(kind: AnyKind, name: str, **fields: Any) -> Raw:
    """Build an object; ``metadata`` is merged into what every object has."""
    metadata = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}"}
    metadata |= fields.pop("metadata", {})
    return {"apiVersion": kind.api_version, "kind": kind.value, "metadata": metadata, **fields}


def build_vmi(name: str = "vm", node: str | None = None, **fields: Any) -> Raw:
    """Build a VMI with one bridged interface, or with *interfaces* and *networks*."""
    interfaces = fields.pop("interfaces", [{"name": "default", "bridge": {}, "macAddress": MAC}])
    networks = fields.pop("networks", [{"name": "default", "pod": {}}])
    status = {"phase": "Running" if node else "Scheduling", **fields.pop("status", {})}
    if node is not None:
        status["nodeName"] = node
    spec = {"domain": {"devices": {"interfaces": interfaces}}, "networks": networks}
    return build(Foreign.VMI, name, spec=spec, status=status, **fields)


def build_pod(name: str, node: str | None = None, ips: tuple[str, ...] = (), **fields: Any) -> Raw:
    """Build a launcher pod; *migration* names the VMIM that made it, *vmi* its owner."""
    vmi, migration = fields.pop("vmi", "vm"), fields.pop("migration", None)
    labels = {"kubevirt.io": "virt-launcher", "app": "web", **fields.pop("labels", {})}
    annotations: dict[str, str] = fields.pop("annotations", {})
    if migration is not None:
        labels["kubevirt.io/migrationJobUID"] = f"uid-{migration}"
        annotations = annotations | {"kubevirt.io/migrationJobName": migration}
    owner = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "name": vmi,
        "uid": f"uid-{vmi}",
        "controller": True,
    }
    metadata = {
        "labels": labels,
        "annotations": annotations,
        "ownerReferences": fields.pop("owners", [owner]),
    }
    status: Raw = {"phase": "Running" if ips else "Pending"}
    if ips:
        status["podIPs"] = [{"ip": ip} for ip in ips]
    spec = {"nodeName": node} if node else {}
    return build(Foreign.POD, name, metadata=metadata, spec=spec, status=status, **fields)


def build_vmim(name: str = "m", phase: str = "", vmi: str = "vm", **state: Any) -> Raw:
    """Build a VMIM; *state* is its status.migrationState."""
    metadata = state.pop("metadata", {})
    status = {"phase": phase, "migrationState": state} if state else {"phase": phase}
    return build(Foreign.VMIM, name, spec={"vmiName": vmi}, status=status, metadata=metadata)


@types.coroutine
def _moment() -> Generator[None, None, None]:
    """Wait until the test lets the work go on: other things may happen before a request."""
    yield


class Server(Cluster):
    """The API server as a ``Cluster``: the world's objects, each request at a moment of its own."""

    def __init__(self, world: "World") -> None:
        self.may_write = lambda: True
        self._world = world

    async def objects(self, kind: Watched) -> AsyncIterator[tuple[list[RawObject], int]]:
        """List all objects of a kind, one a page."""
        await _moment()
        assert not isinstance(kind, Plain)
        found = self._world.listed(kind)
        version = self._world.version
        for raw in found:
            yield [copy.deepcopy(raw)], version
            await _moment()
        yield [], version

    async def get(self, kind: AnyKind, key: ObjectKey) -> Raw:
        """Read one object."""
        await _moment()
        self._world.log.append(f"get {key.name}")
        if (kind, key) not in self._world.stored:
            raise Absent(key.name)
        return copy.deepcopy(self._world.stored[kind, key])

    async def uid(self, kind: AnyKind, key: ObjectKey) -> str | None:
        """Return the uid of an object."""
        await _moment()
        self._world.log.append(f"uid {key.name}")
        found = self._world.stored.get((kind, key))
        return found["metadata"]["uid"] if found else None

    async def create(
        self, kind: Kind, namespace: str, body: RawObject, *, as_leader: bool = True
    ) -> Raw:
        """Create; Conflict when there is one of its name."""
        await _moment()
        key = ObjectKey(namespace, body["metadata"]["name"])
        if (kind, key) in self._world.stored:
            raise Conflict(key.name)
        self._note("create", key, as_leader=as_leader)
        self._world.number += 1
        made = merged(dict(body), {"metadata": {"uid": f"uid-{key.name}-{self._world.number}"}})
        self._world.put(noted(made, body))
        return copy.deepcopy(self._world.stored[kind, key])

    async def patch(
        self,
        kind: Kind,
        key: ObjectKey,
        patch: RawObject,
        *,
        subresource: str = "",
        as_leader: bool = True,
    ) -> Raw:
        """Merge; refuse what is based on an old version."""
        await _moment()
        found = self._world.stored.get((kind, key))
        if found is None:
            raise Absent(key.name)
        if found["metadata"]["resourceVersion"] != patch["metadata"]["resourceVersion"]:
            raise Conflict(key.name)
        self._note("patch", key, subresource, as_leader=as_leader)
        self._world.put(noted(merged(found, patch), patch))
        return copy.deepcopy(self._world.stored[kind, key])

    async def delete(self, kind: Kind, key: ObjectKey, uid: str, *, as_leader: bool = True) -> None:
        """Delete this very object."""
        await _moment()
        found = self._world.stored.get((kind, key))
        if found is not None and found["metadata"]["uid"] == uid:
            self._note("delete", key, as_leader=as_leader)
            self._world.delete(kind, key.name, key.namespace)

    async def emit(
        self, kind: AnyKind, key: ObjectKey, uid: str, event: KubernetesEvent, now: dt.datetime
    ) -> None:
        """Take an Event in."""
        await _moment()
        assert now == NOW
        assert uid
        self._world.events.append(f"{kind.value} {key.name}: {event.reason}")

    async def has_node(self, name: str) -> bool | None:
        """Every node exists."""
        await _moment()
        return bool(name)

    def _note(self, what: str, key: ObjectKey, part: str = "", *, as_leader: bool) -> None:
        self._claim_right(as_leader=as_leader)
        self._world.log.append(f"{what} {key.name}{part}")


class Queue:
    """A work queue whose keys are worked on when the test says so."""

    def __init__(self, work: Callable[[Any], Coroutine[None, None, None]]) -> None:
        self.work = work
        self.ready: dict[Any, None] = {}
        self.later: dict[Any, float] = {}
        self.active: set[Any] = set()

    def __len__(self) -> int:
        return len(self.ready)

    def add(self, key: Any) -> None:
        """Work on *key* soon."""
        self.ready[key] = None

    def add_later(self, key: Any, delay: float) -> None:
        """Work on *key* when somebody lets time pass; at once where nothing is to be waited for."""
        if delay <= 0:
            self.add(key)
        else:
            self.later[key] = delay

    def clear(self) -> None:
        """Forget all."""
        self.ready.clear()
        self.later.clear()


@dataclass(eq=False)
class Job:
    """Work on one key; it has begun when it has a coroutine, and goes on request by request."""

    queue: Queue
    key: Any
    coroutine: Coroutine[None, None, None]


class Operator:
    """One operator process: the real controllers, whose work the test does step by step."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.server = Server(world)
        self.controller = Controller(self.server, lambda: NOW)
        self.kubevirt = KubeVirtController(self.server, self.controller, lambda: NOW)
        self.controller.follow(self.kubevirt)
        self.queues = (Queue(self.controller._work), Queue(self.kubevirt._work))
        self.jobs: list[Job] = []
        self.controller._queue, self.kubevirt._queue = self.queues  # type: ignore[assignment]
        self.controller._runs = self.kubevirt._runs = True
        self.controller._migrations.coalescer.seconds_left = lambda *_: 0.0  # type: ignore[method-assign]
        self.controller.synced = True
        self.kubevirt.is_active = True

    @property
    def adapter(self) -> Adapter:
        """What is known of KubeVirt's world."""
        return self.kubevirt.adapter

    def load(self, stored: Mapping[Place, Raw]) -> None:
        """List all, as at a start, before anything is decided."""
        self.controller.synced = self.kubevirt.is_active = False
        for (kind, _), raw in stored.items():
            self.observe(kind, raw)
        self.world.call(self.controller.start)
        self.world.call(self.kubevirt.start)

    def stand_by(self, standby: Standby | None) -> None:
        """Go on as a replica that does not lead, or as the leader, with whatever is due."""
        self.server.may_write = lambda: standby is None
        self.jobs.clear()
        for queue in self.queues:
            queue.clear()
            queue.active.clear()
        self.controller._awaited.clear()
        self.kubevirt._awaited.clear()
        self.controller._standby = self.kubevirt._standby = standby
        self.world.call(self.controller._review)
        self.world.call(self.kubevirt._review)

    def pass_time(self, seconds: float) -> None:
        """Let a time pass for what was put off."""
        for queue in self.queues:
            for key in [key for key, delay in queue.later.items() if delay <= seconds]:
                del queue.later[key]
                queue.add(key)
            queue.later = {key: delay - seconds for key, delay in queue.later.items()}

    def observe(self, kind: AnyKind, raw: Raw) -> None:
        """Take in a version of an object."""
        if isinstance(kind, Foreign):
            self.world.call(lambda: self.kubevirt.observe(kind, raw))
        else:
            self.world.call(lambda: self.controller.observe(kind, raw))

    def forget(self, kind: AnyKind, raw: Raw) -> None:
        """Take in the last version of an object that is gone."""
        if isinstance(kind, Foreign):
            self.world.call(lambda: self.kubevirt.end(kind, raw))
        else:
            key, last = parse.key(raw), version_of(raw)
            self.world.call(lambda: self.controller.forget(kind, key, last))

    def choices(self) -> list[Callable[[], None]]:
        """Return every piece of work that may be done next; the order is always the same."""
        begin = [
            (lambda queue=queue, key=key: self.begin(queue, key))
            for queue in self.queues
            for key in queue.ready
            if key not in queue.active
        ]
        return [*begin, *((lambda job=job: self.go_on(job)) for job in self.jobs)]

    def begin(self, queue: Queue, key: Any) -> None:
        """Begin to work on a key."""
        del queue.ready[key]
        queue.active.add(key)
        job = Job(queue, key, queue.work(key))
        self.jobs.append(job)
        self.go_on(job)

    def go_on(self, job: Job) -> None:
        """Do what comes before the next request of a job."""
        try:
            self.world.call(lambda: job.coroutine.send(None))
        except StopIteration:
            self._end(job)
        except Temporary:
            self._end(job)
            job.queue.add(job.key)

    def _end(self, job: Job) -> None:
        self.jobs.remove(job)
        job.queue.active.discard(job.key)


class World:
    """An API server, the watches of one operator, and that operator.

    What others write reaches the operator only when its watch is told to deliver it, and then
    its own writes once more, which by then may be old news.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.stored: dict[Place, Raw] = {}
        self.watches: dict[AnyKind, deque[tuple[str, Raw]]] = {
            kind: deque() for kind in (*Foreign, Kind.ENDPOINT, Kind.MIGRATION)
        }
        self.log: list[str] = []
        self.events: list[str] = []
        self.check: Callable[[], None] = lambda: None
        self.number = 0
        self._loop = loop
        self.version = 0
        self.operator = Operator(self)

    def call(self, work: Callable[[], Any]) -> Any:
        """Call something that may ask for the running loop."""

        async def within() -> Any:
            try:
                return work()
            except StopIteration as end:  # which may not leave a coroutine
                return end

        result = self._loop.run_until_complete(within())
        if isinstance(result, StopIteration):
            raise result
        return result

    def put(self, raw: Raw) -> None:
        """Create or replace an object."""
        kind = self._kind(raw)
        key = parse.key(raw)
        self.version += 1
        raw = merged(raw, {"metadata": {"resourceVersion": str(self.version)}})
        raw["metadata"].setdefault("uid", f"uid-{raw['metadata']['name']}")
        raw["metadata"].setdefault("creationTimestamp", NOW.isoformat())
        self.stored[kind, key] = raw
        self.watches[kind].append(("MODIFIED", copy.deepcopy(raw)))
        self.check()

    def patch(self, kind: AnyKind, name: str, patch: Mapping[str, Any]) -> None:
        """Merge into an object that may be gone."""
        found = self.stored.get((kind, ObjectKey(NAMESPACE, name)))
        if found is not None:
            self.put(merged(found, patch))

    def delete(
        self, kind: AnyKind, name: str, namespace: str = NAMESPACE, *, cascade: bool = True
    ) -> None:
        """Delete an object, and in the end what it owns, or orphan that."""
        key = ObjectKey(namespace, name)
        gone = self.stored.pop((kind, key), None)
        if gone is None:
            return
        self.version += 1
        last = merged(gone, {"metadata": {"resourceVersion": str(self.version)}})
        self.watches[kind].append(("DELETED", last))
        for (of, owned), raw in list(self.stored.items()):
            owners = raw["metadata"].get("ownerReferences", [])
            if not any(owner["uid"] == gone["metadata"]["uid"] for owner in owners):
                continue
            if cascade:
                self.delete(of, owned.name, owned.namespace)
            else:
                self.put(merged(raw, {"metadata": {"ownerReferences": None}}))

    def deliver(self, kind: AnyKind) -> None:
        """Let one watch tell its next event, if there is one."""
        if self.watches[kind]:
            told, raw = self.watches[kind].popleft()
            (self.operator.forget if told == "DELETED" else self.operator.observe)(kind, raw)

    def relist(self, kind: AnyKind) -> None:
        """Break a watch off, and let it begin with a list again."""
        self.watches[kind].clear()
        found = self.listed(kind)
        for raw in found:
            self.operator.observe(kind, raw)
        existing = {parse.key(raw): raw["metadata"]["uid"] for raw in found}
        if isinstance(kind, Foreign):
            self.call(lambda: self.operator.kubevirt.retain(kind, existing, self.version))
        else:
            self.call(lambda: self.operator.controller.retain(kind, existing, self.version))

    def listed(self, kind: AnyKind) -> list[Raw]:
        """Return all objects of a kind."""
        return [raw for (of, _), raw in self.stored.items() if of is kind]

    def relist_all(self) -> "World":
        """Break all watches off, and settle."""
        for kind in self.watches:
            self.relist(kind)
        return self.settle()

    def settle(self) -> "World":
        """Deliver and work until nothing is left."""
        for _ in range(1_000):
            for kind in self.watches:
                while self.watches[kind]:
                    self.deliver(kind)
            choices = self.operator.choices()
            if not choices:
                return self
            choices[0]()
        message = f"the world does not settle: {self.log[-10:]}"
        raise AssertionError(message)

    def apply(self, *objects: Raw) -> "World":
        """Put objects one after the other, and settle after each."""
        for raw in objects:
            self.put(raw)
            self.settle()
        return self

    def restart(self) -> "World":
        """Start another operator that lists what there is."""
        for watch in self.watches.values():
            watch.clear()
        self.operator = Operator(self)
        self.operator.load(copy.deepcopy(self.stored))
        self.log.clear()
        return self.settle()

    @staticmethod
    def key(name: str) -> ObjectKey:
        """Return the key of an object."""
        return ObjectKey(NAMESPACE, name)

    def endpoint(self, name: str) -> Raw | None:
        """Return an endpoint."""
        return self.stored.get((Kind.ENDPOINT, ObjectKey(NAMESPACE, name)))

    def migration(self, name: str = "m") -> Raw | None:
        """Return a LiveMigration."""
        return self.stored.get((Kind.MIGRATION, ObjectKey(NAMESPACE, name)))

    def said(self) -> dict[str, str]:
        """Return what the annotations of every endpoint say."""
        return {
            key.name: said(raw)
            for (kind, key), raw in sorted(self.stored.items())
            if kind is Kind.ENDPOINT
        }

    @staticmethod
    def _kind(raw: Raw) -> AnyKind:
        name = raw["kind"]
        return Kind(name) if name in {*Kind} else Foreign(name)


def said(raw: Raw) -> str:
    """Write what an endpoint's annotations say: ``target of m``, ``source of m Succeeded``."""
    annotations = raw["metadata"].get("annotations", {})
    role = annotations.get(names.ROLE) or annotations.get(names.ENDED_ROLE)
    if role is None:
        return "-"
    told = annotations.get(names.OUTCOME)
    armed = "" if annotations.get(names.ARMED) != "false" or told else " (not armed)"
    return f"{role} of {annotations[names.MIGRATION]}" + (f" {told}" if told else armed)


@pytest.fixture(scope="session")
def new_world() -> Iterator[Callable[[], World]]:
    """Make an empty cluster."""
    loop = asyncio.new_event_loop()
    yield lambda: World(loop)
    loop.close()


@pytest.fixture
def world(new_world: Callable[[], World]) -> World:
    """Return an empty cluster."""
    return new_world()


A = ("10.0.0.1",)


@pytest.fixture
def running(world: World) -> World:
    """A guest that runs on node a."""
    return world.apply(build_vmi(node="a"), build_pod("p1", "a", A))


@pytest.fixture
def moving(running: World) -> World:
    """A guest that is about to move to node b; its target pod is bound and has no network."""
    return running.apply(
        build_vmim(phase="Pending", sourcePod="p1"),
        build_pod("p2", migration="m"),
        build_vmim(phase="Scheduling", sourcePod="p1"),
        build_pod("p2", "b", migration="m"),
    )


@pytest.fixture(scope="session")
def pod() -> Callable[..., Raw]:
    """Build a launcher pod."""
    return build_pod


@pytest.fixture(scope="session")
def vmi() -> Callable[..., Raw]:
    """Build a VMI."""
    return build_vmi


@pytest.fixture(scope="session")
def vmim() -> Callable[..., Raw]:
    """Build a VMIM."""
    return build_vmim
