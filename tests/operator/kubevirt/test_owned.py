"""One object brought up to date: when a write is confirmed first, and when none is made."""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from handover_api.names import ObjectKey
from handover_lab.processes.waiting import until
from handover_operator.controller import Controller
from handover_operator.kinds import AnyKind, Foreign, Kind
from handover_operator.kube.client import Cluster
from handover_operator.kube.standby import Standby
from handover_operator.kubevirt.controller import KubeVirtController
from handover_operator.kubevirt.desired import Owner
from handover_operator.kubevirt.diff import Create, Delete, Patch, Write
from handover_operator.kubevirt.owned import Owned, Unconfigured
from handover_operator.kubevirt.queue_items import Made, Subject
from handover_operator.observability import metrics
from handover_operator.roles.parse import RawObject
from handover_operator.status.kubernetes_events import KubernetesEvent

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
Build = Callable[..., dict[str, Any]]


class Creations(Cluster):
    """Takes every object that is made."""

    def __init__(self) -> None:
        self.may_write = lambda: True
        self.made: list[str] = []
        self.pod: RawObject = {}

    async def get(self, kind: AnyKind, key: ObjectKey) -> RawObject:
        """Read the one pod."""
        assert (kind, key.name) == (Foreign.POD, self.pod["metadata"]["name"])
        return self.pod

    async def create(self, kind: Kind, namespace: str, body: RawObject, **_: object) -> RawObject:
        """Make an object."""
        assert kind is Kind.ENDPOINT
        self.made.append(body["metadata"]["name"])
        metadata = body["metadata"] | {"namespace": namespace, "uid": "x", "resourceVersion": "9"}
        return {**body, "metadata": metadata}

    async def emit(
        self, kind: AnyKind, key: ObjectKey, uid: str, event: KubernetesEvent, now: dt.datetime
    ) -> None:
        """Take an Event in."""


SUBJECT = Subject(Kind.ENDPOINT, ObjectKey("vms", "p1"))
MIGRATION = Subject(Kind.MIGRATION, ObjectKey("vms", "m"))
OWNER = Owner(Foreign.POD, "p1", "uid-p1")
REFERENCE = {"kind": "Pod", "name": "p1", "uid": "uid-p1"}
ROLE = {"handover.dev/role": "target"}
ENDPOINT = Create({"kind": "WorkloadEndpoint", "metadata": {"name": "p1", "annotations": ROLE}})
PLAIN = Create({"kind": "WorkloadEndpoint", "metadata": {"name": "p1", "annotations": {}}})
LIVE = Create({"kind": "LiveMigration", "metadata": {"name": "m", "annotations": {}}})
ARMED = Patch({"metadata": {"resourceVersion": "3"}, "spec": {"armed": True}})
ENDED = Patch({"metadata": {"resourceVersion": "3"}, "spec": {"outcome": "Succeeded"}})
GONE = Delete("uid-of-ours")


class Site:
    """What is due, by one answer after the other, and all that is asked and written for it."""

    def __init__(self, *due: Write | None, configured: bool = True) -> None:
        self.answers = list(due)
        self.done: list[str] = []
        self.is_unknown = False
        self.bereft: set[str] = set()
        self.is_refused = False
        self.owned = Owned(self, self, self, lambda: configured)  # type: ignore[arg-type]

    # The diff.

    def due(self, kind: Kind, key: ObjectKey) -> Write | None:
        """Return the next answer; the last one holds."""
        assert kind in Kind
        assert key.namespace == "vms"
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def is_of_unknown_owner(self, kind: Kind, key: ObjectKey) -> bool:
        """Tell whether nobody has seen its owner."""
        return self.is_unknown and (kind, key) == (SUBJECT.kind, SUBJECT.key)

    def owner(self, *_: object) -> Owner:
        """Return the pod."""
        return OWNER

    def grounds(
        self, kind: Kind, key: ObjectKey, *, with_role: bool
    ) -> list[tuple[Foreign, ObjectKey]]:
        """Return what the write rests on."""
        found = [(Foreign.POD, ObjectKey("vms", "p1"))]
        assert (kind, key.namespace) in {(one, "vms") for one in Kind}
        return [*found, (Foreign.VMIM, ObjectKey("vms", "m"))] if with_role else found

    # What is asked.

    async def look_up_owner(self, subject: Subject) -> None:
        """Find out whether the owner exists."""
        self.done.append(f"owner of {subject.key.name}?")

    async def refresh(self, kind: Foreign, key: ObjectKey) -> None:
        """Read an object."""
        self.done.append(f"read {kind.value} {key.name}")

    # What is written.

    async def create(
        self, kind: Kind, key: ObjectKey, body: RawObject, *, as_leader: bool
    ) -> RawObject | None:
        """Make an object."""
        self.done.append(f"create {kind.value} {key.name} {'leads' if as_leader else 'stands in'}")
        metadata = body["metadata"] | {"uid": "made", "ownerReferences": [REFERENCE]}
        return None if self.is_refused else {**body, "metadata": metadata}

    async def patch(self, kind: Kind, key: ObjectKey, body: RawObject, *, as_leader: bool) -> bool:
        """Change an object."""
        assert body["metadata"]["resourceVersion"] == "3"
        self.done.append(f"patch {kind.value} {key.name} {'leads' if as_leader else 'stands in'}")
        return not self.is_refused

    async def delete(self, kind: Kind, key: ObjectKey, uid: str, *, as_leader: bool = True) -> None:
        """Delete an object."""
        said = "leads" if as_leader else "stands in"
        self.done.append(f"delete {kind.value} {key.name} {uid} {said}")


def missed() -> float:
    """Count the writes that were made for a leader."""
    return float(sum(metrics.STOOD_IN.labels(kind.value)._value.get() for kind in Kind))


async def test_what_was_made_is_told_with_its_owner() -> None:
    site = Site(ENDPOINT)
    with capture_logs() as lines:
        made = await site.owned.reconcile(SUBJECT, None)
    assert made == Made(Kind.ENDPOINT, SUBJECT.key, "made", OWNER)
    assert site.done == ["create WorkloadEndpoint p1 leads"]
    told = {"event": "made", "kind": "WorkloadEndpoint", "object": "vms/p1", "log_level": "info"}
    assert lines == [told]


@pytest.mark.parametrize(
    ("write", "expected", "told"),
    [
        (None, [], {}),
        (ARMED, ["patch LiveMigration m leads"], {"event": "changed", "spec": {"armed": True}}),
        (
            Patch({"metadata": {"resourceVersion": "3", "labels": {}}}),
            ["patch LiveMigration m leads"],
            {"event": "changed", "spec": {}},
        ),
        (GONE, ["delete LiveMigration m uid-of-ours leads"], {"event": "given_up"}),
    ],
)
async def test_the_leader_makes_the_write_that_is_due(
    write: Write | None, expected: list[str], told: dict[str, object]
) -> None:
    site = Site(write)
    with capture_logs() as lines:
        assert await site.owned.reconcile(MIGRATION, None) is None
    assert site.done == expected
    of_which = {"kind": "LiveMigration", "object": "vms/m", "log_level": "info"}
    assert lines == ([told | of_which] if told else [])


@pytest.mark.parametrize("write", [ENDPOINT, ARMED])
async def test_what_the_api_server_has_no_place_for_is_not_told(write: Write) -> None:
    site = Site(write)
    site.is_refused = True
    with capture_logs() as lines:
        assert await site.owned.reconcile(SUBJECT, None) is None
    assert lines == []


async def test_an_owner_that_nobody_has_seen_is_asked_for_before_anything_is_decided() -> None:
    """And by the leader alone, who may delete or end for it what it owned."""
    site = Site(GONE)
    site.is_unknown = True
    await site.owned.reconcile(SUBJECT, None)
    assert site.done == ["owner of p1?", "delete WorkloadEndpoint p1 uid-of-ours leads"]
    site.done.clear()
    await site.owned.reconcile(SUBJECT, Standby("two"))
    assert site.done == []


async def test_an_endpoint_waits_for_a_configuration_and_a_livemigration_does_not() -> None:
    """Agents act on endpoints that they see, and see nothing of LiveMigrations."""
    site = Site(ENDPOINT, configured=False)
    with pytest.raises(Unconfigured, match=r"^HandoverConfiguration default is not there so far$"):
        await site.owned.reconcile(SUBJECT, None)
    assert site.done == []
    site.answers = [LIVE]
    await site.owned.reconcile(MIGRATION, None)
    assert site.done == ["create LiveMigration m leads"]


@pytest.mark.parametrize(
    ("bereft", "writes", "expected"),
    [
        (set(), [ENDPOINT], ["create WorkloadEndpoint p1 leads"]),
        ({"another"}, [ENDPOINT], ["create WorkloadEndpoint p1 leads"]),
        ({"uid-p1"}, [ENDPOINT], ["read Pod p1", "create WorkloadEndpoint p1 leads"]),
        ({"uid-p1"}, [ENDPOINT, None], ["read Pod p1"]),
        ({"uid-p1"}, [ARMED], ["patch WorkloadEndpoint p1 leads"]),
    ],
)
async def test_an_owner_is_read_before_what_went_with_it_perhaps_is_made_anew(
    bereft: set[str], writes: list[Write | None], expected: list[str]
) -> None:
    site = Site(*writes)
    site.bereft = bereft
    await site.owned.reconcile(SUBJECT, None)
    assert site.done == expected


@pytest.mark.parametrize("write", [PLAIN, ENDED, GONE, None])
async def test_who_stands_in_leaves_to_the_leader_what_no_guest_waits_for(
    write: Write | None,
) -> None:
    site, standby = Site(write), Standby("two")
    await site.owned.reconcile(SUBJECT, standby)
    assert (site.done, standby.delay > 0) == ([], True)


@pytest.mark.parametrize(
    ("write", "what"), [(ENDPOINT, "create"), (LIVE, "create"), (ARMED, "patch")]
)
async def test_who_stands_in_writes_after_it_has_read_what_the_leader_knows(
    write: Write, what: str
) -> None:
    site, standby, before = Site(write), Standby("two"), missed()
    await site.owned.reconcile(SUBJECT, standby)
    read = ["read Pod p1", "read VirtualMachineInstanceMigration m"]
    assert site.done == [*read, f"{what} WorkloadEndpoint p1 stands in"]
    # Nobody leads: from now on it waits for nobody.
    assert (standby.delay, missed()) == (0, before + 1)


@pytest.mark.parametrize("then", [None, GONE])
async def test_who_stands_in_writes_nothing_that_is_due_by_old_news_alone(
    then: Write | None,
) -> None:
    site, standby, before = Site(ARMED, then), Standby("two"), missed()
    await site.owned.reconcile(MIGRATION, standby)
    assert [line.split()[0] for line in site.done] == ["read", "read"]
    assert (standby.delay > 0, missed()) == (True, before)


@pytest.mark.parametrize(("standby", "said"), [(None, "leads"), (Standby("two"), "stands in")])
async def test_what_was_made_for_nobody_is_taken_back_by_whoever_made_it(
    standby: Standby | None, said: str
) -> None:
    site = Site(None)
    made = Made(Kind.ENDPOINT, SUBJECT.key, "made", OWNER)
    with capture_logs() as lines:
        await site.owned.take_back(made, standby)
    assert site.done == [f"delete WorkloadEndpoint p1 made {said}"]
    (line,) = lines
    told = (line["event"], line["kind"], line["object"])
    assert told == ("taken_back", "WorkloadEndpoint", "vms/p1")


async def test_the_first_endpoint_waits_for_the_configuration(
    pod: Callable[..., Any], vmi: Callable[..., Any]
) -> None:
    there, cluster = False, Creations()
    asked: list[bool] = []

    def is_there() -> bool:
        asked.append(there)
        return there

    controller = Controller(cluster, lambda: NOW)
    adapter = KubeVirtController(cluster, controller, lambda: NOW, is_configured=is_there)
    controller.follow(adapter)
    adapter.start()
    task = asyncio.create_task(adapter.run(1))
    objects = {
        Foreign.VMI: vmi("vm", "node-a"),
        Foreign.POD: pod("virt-launcher-vm", "node-a", ("10.65.0.9",)),
    }
    for kind, raw in objects.items():
        raw["metadata"] |= {"resourceVersion": "1", "creationTimestamp": NOW.isoformat()}
        adapter.observe(kind, raw)
    cluster.pod = objects[Foreign.POD]

    async def answers() -> list[bool]:
        return asked

    async def made() -> list[str]:
        return cluster.made

    try:
        await until(answers, bool)
        before = list(cluster.made)
        there = True
        after = await until(made, bool)
    finally:
        task.cancel()
        await asyncio.wait([task])

    assert (before, after) == ([], ["virt-launcher-vm"])


@pytest.mark.parametrize(
    ("kind", "name", "made"), [(Foreign.POD, "p1", "p1"), (Foreign.VMIM, "m", "m")]
)
def test_nothing_is_made_for_an_owner_that_is_gone(
    moving: Any, kind: Foreign, name: str, made: str
) -> None:
    """What it owned was collected, and the watch that tells of it is faster than the owner's."""
    moving.log.clear()
    moving.delete(kind, name)
    ours = Kind.ENDPOINT if kind is Foreign.POD else Kind.MIGRATION
    while moving.watches[ours]:
        moving.deliver(ours)
    while choices := moving.operator.choices():
        choices[0]()
    moving.settle()
    assert f"create {made}" not in moving.log
    assert (ours, moving.key(made)) not in moving.stored


def test_what_was_made_while_its_owner_went_is_taken_back(running: Any, vmim: Build) -> None:
    running.put(vmim(phase="Scheduling", sourcePod="p1"))
    running.deliver(Foreign.VMIM)
    making = Subject(Kind.MIGRATION, running.key("m"))
    while not any(job.key == making for job in running.operator.jobs):
        running.operator.choices()[0]()
    assert running.migration() is None  # the request to make it is under way
    running.delete(Foreign.VMIM, "m")
    running.deliver(Foreign.VMIM)
    assert running.settle().migration() is None
    written = [line for line in running.log if line in {"create m", "delete m"}]
    assert written == ["create m", "delete m"]
    assert running.said()["p1"] in {"-", "source of m Aborted"}


def test_a_migration_waits_for_no_look_at_what_was_just_told(
    running: Any, pod: Build, vmim: Build
) -> None:
    """Guards the guest's time: with looks before each write its role came twice as late."""
    running.log.clear()
    running.apply(vmim(phase="Scheduling", sourcePod="p1"), pod("p2", "b", migration="m"))
    assert "create p2" in running.log
    asked = {line for line in running.log if line.startswith(("get ", "uid "))}
    assert asked == {"uid m", "uid p2"}
    for name in ("m", "p2"):
        assert running.log.index(f"create {name}") < running.log.index(f"uid {name}")
