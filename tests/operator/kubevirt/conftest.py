"""A cluster in memory with KubeVirt in it, and the operator's pure parts that look at it."""

import datetime as dt
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator import conditions, gather, outcome
from handover_operator.kinds import AnyKind, Foreign, Kind
from handover_operator.kubevirt import gather as kubevirt
from handover_operator.kubevirt import objects
from handover_operator.kubevirt.adapter import Adapter
from handover_operator.kubevirt.ledger import Ledger
from handover_operator.kubevirt.objects import Create, Delete, Patch, Write
from handover_operator.kubevirt.wishes import Need
from handover_operator.resolver import Resolver
from handover_operator.versions import Version, Versions, version_of

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
    status = {"phase": phase, "migrationState": state} if state else {"phase": phase}
    return build(Foreign.VMIM, name, spec={"vmiName": vmi}, status=status)


class Operator:
    """What one operator process knows, and the writes that follow from it, one at a time."""

    def __init__(self) -> None:
        self.adapter = Adapter()
        self.ledger = Ledger()
        self.resolver = Resolver()
        self.resolver.driver = self.adapter.course
        self._versions = {kind: Versions() for kind in (*Foreign, *Kind)}

    def hear(self, kind: AnyKind, key: ObjectKey, raw: Raw | None, version: Version) -> None:
        """Take in what a watch or an answer tells, unless it is old news."""
        versions = self._versions[kind]
        if versions.bury(key, version) if raw is None else versions.take(key, version):
            self.see(kind, raw, key)

    def see(self, kind: AnyKind, raw: Raw | None, key: ObjectKey) -> None:
        """Take in what a watch tells; None: it is gone."""
        if isinstance(kind, Foreign):
            fact = None if raw is None else kubevirt.read(kind, raw)
            if fact is None:
                self.adapter.drop(kind, key)
            else:
                self.adapter.put(kind, fact)
            return
        if raw is None:
            self.ledger.drop(kind, key)
            drop = self.resolver.drop_endpoint
            (drop if kind is Kind.ENDPOINT else self.resolver.drop_migration)(key)
            return
        self.ledger.put(kind, key, raw)
        if kind is Kind.ENDPOINT:
            endpoint = gather.endpoint(raw)
            assert not isinstance(endpoint, gather.Unreadable)
            self.resolver.put_endpoint(endpoint)
        else:
            migration = gather.migration(raw)
            assert not isinstance(migration, gather.Unreadable)
            self.resolver.put_migration(migration)

    def resolve(self) -> None:
        """Bring wishes and verdicts up to date."""
        for change in self.adapter.resolve().values():
            for wanted in (*change.before.migrations.values(), *change.after.migrations.values()):
                self.resolver.doubt((wanted.key.namespace, wanted.owner.uid))
        self.resolver.resolve(NOW)

    def needs(self) -> list[Need]:
        """Return what must be asked for."""
        return sorted(
            (need for wishes in self.adapter.wishes().values() for need in wishes.needs),
            key=lambda need: (need.kind, need.key, need.uid),
        )

    def writes(self) -> list[tuple[Place, Write]]:
        """Return every write that is due."""
        self.resolve()
        return sorted(self._due(), key=lambda due: (due[0], type(due[1]).__name__))

    def _due(self) -> Iterator[tuple[Place, Write]]:
        wishes = list(self.adapter.wishes().values())
        endpoints = {key for each in wishes for key in each.endpoints} | {*self.ledger.endpoints}
        for key in endpoints:
            write = self.endpoint(key)
            if write is not None:
                yield (Kind.ENDPOINT, key), write
        migrations = {key for each in wishes for key in each.migrations} | {*self.ledger.migrations}
        for key in migrations:
            write = self.migration(key)
            if write is not None:
                yield (Kind.MIGRATION, key), write
        yield from self._roles()

    def endpoint(self, key: ObjectKey) -> Write | None:
        """Compare one endpoint."""
        if self.ledger.stranger(Kind.ENDPOINT, key):
            return None
        seen = self.ledger.endpoints.get(key)
        is_judged = seen is not None and self.adapter.has_judged(seen.owner_uid)
        wanted = self.adapter.endpoint(key)
        return objects.endpoint(wanted, self.ledger, key, is_judged=is_judged)

    def migration(self, key: ObjectKey) -> Write | None:
        """Compare one LiveMigration."""
        if self.ledger.stranger(Kind.MIGRATION, key):
            return None
        seen = self.ledger.migrations.get(key)
        fate = None if seen is None else self.adapter.course(seen.owner_uid)
        told = None if isinstance(fate, outcome.Undecided) else fate
        return objects.migration(self.adapter.migration(key), seen, told)

    def _roles(self) -> Iterator[tuple[Place, Write]]:
        index = self.resolver.index
        for key, endpoint in index.endpoints.items():
            verdict = self.resolver.verdict(key)
            if verdict is not None and verdict.assignment != endpoint.assignment:
                version = endpoint.resource_version
                metadata = {
                    "resourceVersion": version,
                    "annotations": verdict.assignment.to_annotations(),
                }
                yield (Kind.ENDPOINT, key), Patch({"metadata": metadata})
        for key, migration in index.migrations.items():
            status = conditions.status(migration, self.resolver.standing(key), NOW)
            if status != migration.status:
                metadata = {"resourceVersion": migration.metadata.resource_version}
                yield (
                    (Kind.MIGRATION, key),
                    Patch({"metadata": metadata, "status": status.to_object()}),
                )


class World:
    """An API server, the watches of one operator, and that operator.

    What others write reaches the operator only when its watch is told to deliver it, and then
    its own writes once more, which by then may be old news.
    """

    def __init__(self) -> None:
        self.stored: dict[Place, Raw] = {}
        self.watches: dict[AnyKind, deque[tuple[ObjectKey, Raw | None, Version]]] = {
            kind: deque() for kind in (*Foreign, Kind.ENDPOINT, Kind.MIGRATION)
        }
        self.operator = Operator()
        self.log: list[str] = []
        self.check: Callable[[], None] = lambda: None
        self._version = 0

    def put(self, raw: Raw) -> None:
        """Create or replace an object."""
        kind = self._kind(raw)
        key = gather.key(raw)
        self._version += 1
        raw = merged(raw, {"metadata": {"resourceVersion": str(self._version)}})
        raw["metadata"].setdefault("uid", f"uid-{raw['metadata']['name']}")
        raw["metadata"].setdefault("creationTimestamp", NOW.isoformat())
        self.stored[kind, key] = raw
        self.watches[kind].append((key, raw, version_of(raw)))
        self.check()

    def patch(self, kind: AnyKind, name: str, patch: Mapping[str, Any]) -> None:
        """Merge into an object that may be gone."""
        found = self.stored.get((kind, ObjectKey(NAMESPACE, name)))
        if found is not None:
            self.put(merged(found, patch))

    def delete(self, kind: AnyKind, name: str, namespace: str = NAMESPACE) -> None:
        """Delete an object, and in the end what it owns."""
        key = ObjectKey(namespace, name)
        gone = self.stored.pop((kind, key), None)
        if gone is None:
            return
        self._version += 1
        last = Version(gone["metadata"]["uid"], self._version)
        self.watches[kind].append((key, None, last))
        for (of, owned), raw in list(self.stored.items()):
            owners = raw["metadata"].get("ownerReferences", [])
            if any(owner["uid"] == gone["metadata"]["uid"] for owner in owners):
                self.delete(of, owned.name, owned.namespace)

    def deliver(self, kind: AnyKind) -> None:
        """Let one watch tell its next event, if there is one."""
        if self.watches[kind]:
            self.operator.hear(kind, *self.watches[kind].popleft())

    def ask(self, need: Need) -> None:
        """Answer a live GET of the operator's."""
        raw = self.stored.get((need.kind, need.key))
        if raw is not None:
            self.operator.hear(need.kind, need.key, raw, version_of(raw))
        if raw is None or raw["metadata"]["uid"] != need.uid:
            self.operator.adapter.put_absent(need.home, need.uid)

    def write(self, place: Place, write: Write) -> None:
        """Carry out a write of the operator's; one that is based on an old version fails."""
        kind, key = place
        found = self.stored.get(place)
        match write:
            case Create(body) if found is None:
                self.log.append(f"create {key.name}")
                self.put(noted(dict(body), body))
                self._answer(place)
            case Patch(body) if found is not None:
                if found["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"]:
                    self.log.append(f"patch {key.name}")
                    self.put(noted(merged(found, body), body))
                    self._answer(place)
                else:
                    self._answer(place)
            case Delete(uid) if found is not None and found["metadata"]["uid"] == uid:
                self.log.append(f"delete {key.name}")
                self.delete(kind, key.name, key.namespace)
            case _:
                pass

    def _answer(self, place: Place) -> None:
        """Let the operator see what it wrote, or what was there instead."""
        kind, key = place
        self.operator.hear(kind, key, self.stored[place], version_of(self.stored[place]))

    def settle(self) -> "World":
        """Deliver, ask and write until nothing is left."""
        for _ in range(60):
            for kind in self.watches:
                while self.watches[kind]:
                    self.deliver(kind)
            writes, needs = self.operator.writes(), self.operator.needs()
            if not writes and not needs:
                return self
            for need in needs:
                self.ask(need)
            for place, write in writes:
                self.write(place, write)
        message = f"the world does not settle: {self.operator.writes()}"
        raise AssertionError(message)

    def apply(self, *objects: Raw) -> "World":
        """Put objects one after the other, and settle after each."""
        for raw in objects:
            self.put(raw)
            self.settle()
        return self

    def restart(self) -> "World":
        """Start another operator that lists what there is."""
        self.operator = Operator()
        for watch in self.watches.values():
            watch.clear()
        for (kind, key), raw in self.stored.items():
            self.operator.hear(kind, key, raw, version_of(raw))
        self.operator.adapter.put_complete()
        self.log = []
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


@pytest.fixture
def world() -> World:
    """Return an empty cluster."""
    return World()


@pytest.fixture(scope="session")
def new_world() -> Callable[[], World]:
    """Make an empty cluster."""
    return World


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
