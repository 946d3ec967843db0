"""What is asked before something is decided: answers are taken in, absence is never guessed."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from handover_api.names import ObjectKey
from handover_operator.kinds import Foreign, Kind
from handover_operator.kube.errors import Absent, Unavailable
from handover_operator.kube.versions import Version, Versions
from handover_operator.kubevirt.desired import Lookup, Owner
from handover_operator.kubevirt.lookups import Lookups
from handover_operator.kubevirt.queue_items import Subject

Build = Callable[..., dict[str, Any]]
ABORTED = {"p1": "source of m Aborted", "p2": "target of m Aborted"}
KEY, VMI = ObjectKey("vms", "p1"), ObjectKey("vms", "vm")


def raw(name: str, uid: str, number: int = 7) -> dict[str, Any]:
    """Build an object as far as anybody reads it here."""
    return {"metadata": {"name": name, "uid": uid, "resourceVersion": str(number)}}


class Site:
    """An API server, what is known of it, and what is made of its answers: all in one order."""

    def __init__(self, **stored: dict[str, Any] | Exception) -> None:
        self.stored = stored
        self.done: list[str] = []
        self.versions = {kind: Versions() for kind in Foreign}
        self.lookups_left: tuple[Lookup, ...] = ()
        self.ownerless = set[str]()
        noted = self.ownerless.add
        self.diff: Any = SimpleNamespace(adapter=self, put_ownerless=noted, observed=None)
        self.lookups = Lookups(self, self.diff, self.versions, self)  # type: ignore[arg-type]

    # The API server.

    async def get(self, kind: Foreign, key: ObjectKey) -> dict[str, Any]:
        """Read one object."""
        self.done.append(f"get {kind.value} {key.name}")
        found = self.stored.get(key.name)
        if isinstance(found, Exception):
            raise found
        if found is None:
            raise Absent(key.name)
        return found

    async def uid(self, kind: Foreign, key: ObjectKey) -> str | None:
        """Read one object's metadata."""
        self.done.append(f"uid {kind.value} {key.name}")
        found = self.stored.get(key.name)
        return found["metadata"]["uid"] if isinstance(found, dict) else None

    # Who takes the answers in.

    def observe(self, kind: Foreign, raw: dict[str, Any]) -> None:
        """Take in a version."""
        metadata = raw["metadata"]
        version = Version(metadata["uid"], int(metadata["resourceVersion"]))
        self.versions[kind].take(ObjectKey("vms", metadata["name"]), version)
        self.done.append(f"observe {metadata['uid']}")

    def forget(self, kind: Foreign, key: ObjectKey, last: Version) -> None:
        """Take in that this very object is gone."""
        self.versions[kind].bury(key, last)
        self.done.append(f"forget {last.uid} at {last.number}")

    # What is decided from it.

    def desired(self) -> dict[ObjectKey, Any]:
        """Return what is still to be read for the VMI."""
        return {VMI: SimpleNamespace(lookups=self.lookups_left)}

    def judge(self, vmi: ObjectKey, uid: str) -> None:
        """Take in that the VMI was read since."""
        self.done.append(f"judge {vmi.name} {uid}")

    def put_absent(self, vmi: ObjectKey, uid: str) -> None:
        """Take in that no object has this uid."""
        self.done.append(f"absent {vmi.name} {uid}")


async def test_what_is_there_is_taken_in_as_a_watch_would_tell_it() -> None:
    site = Site(p1=raw("p1", "u1"))
    await site.lookups.refresh(Foreign.POD, KEY)
    assert site.done == ["get Pod p1", "observe u1"]


async def test_what_is_not_there_is_gone_at_the_version_known_before_it_was_asked() -> None:
    """What is made anew under its name while the request is on its way is not gone."""
    site = Site()
    site.versions[Foreign.POD].take(KEY, Version("u1", 3))
    get = site.get

    async def slow(kind: Foreign, key: ObjectKey) -> dict[str, Any]:
        site.observe(kind, raw("p1", "u2", 5))
        return await get(kind, key)

    site.get = slow  # type: ignore[method-assign]
    await site.lookups.refresh(Foreign.POD, KEY)
    assert site.done[-1] == "forget u1 at 3"
    assert site.versions[Foreign.POD].uid(KEY) == "u2"


async def test_of_what_was_never_known_nobody_is_told_that_it_is_gone() -> None:
    site = Site()
    await site.lookups.refresh(Foreign.POD, KEY)
    assert site.done == ["get Pod p1"]


async def test_an_outage_is_no_absence() -> None:
    site = Site(p1=Unavailable("nobody answers"), m=Unavailable("nobody answers"))
    site.diff.observed = observed(endpoint="e1", migration="v1")
    lookup = Lookup(VMI, Foreign.POD, KEY, "u1")
    for question in (
        site.lookups.refresh(Foreign.POD, KEY),
        site.lookups.look_up(lookup),
        site.lookups.look_up_owner(Subject(Kind.ENDPOINT, KEY)),
        site.lookups.look_up_owner(Subject(Kind.MIGRATION, ObjectKey("vms", "m"))),
    ):
        with pytest.raises(Unavailable):
            await question
    assert {line.split()[0] for line in site.done} == {"get"}
    assert site.ownerless == set()


async def test_how_a_vmim_ended_is_judged_by_its_vmi_as_it_is_now() -> None:
    site = Site(vm=raw("vm", "uid-vm"))
    lookup = Lookup(VMI, Foreign.VMI, VMI, "uid-vm", outcome_of="uid-m")
    await site.lookups.look_up(lookup)
    assert site.done == ["get VirtualMachineInstance vm", "observe uid-vm", "judge vm uid-m"]


async def test_a_vmi_that_is_gone_is_judged_too() -> None:
    site = Site()
    site.versions[Foreign.VMI].take(VMI, Version("uid-vm", 3))
    lookup = Lookup(VMI, Foreign.VMI, VMI, "uid-vm", outcome_of="uid-m")
    await site.lookups.look_up(lookup)
    assert site.done[1:] == ["forget uid-vm at 3", "judge vm uid-m"]


@pytest.mark.parametrize(
    ("there", "is_still_wanted", "expected"),
    [
        ("u1", False, ["observe u1"]),
        ("u2", True, ["observe u2", "absent vm u1"]),
        (None, True, ["absent vm u1"]),
    ],
    ids=["that one", "another of its name", "none"],
)
async def test_what_no_watch_has_shown_is_known_or_known_to_be_absent(
    there: str | None, *, is_still_wanted: bool, expected: list[str]
) -> None:
    site = Site(**({"m": raw("m", there)} if there else {}))
    lookup = Lookup(VMI, Foreign.VMIM, ObjectKey("vms", "m"), "u1")
    site.lookups_left = (lookup,) if is_still_wanted else ()
    await site.lookups.look_up(lookup)
    assert site.done[1:] == expected


async def test_what_was_to_be_known_for_a_vmi_that_is_gone_is_taken_in_all_the_same() -> None:
    site = Site(m=raw("m", "u1"))
    lookup = Lookup(ObjectKey("vms", "gone"), Foreign.VMIM, ObjectKey("vms", "m"), "u1")
    await site.lookups.look_up(lookup)
    assert site.done[1:] == ["observe u1"]


def observed(*, endpoint: str = "", migration: str = "") -> Any:
    """Return our objects whose owners nobody has seen: *migration*'s owner has that uid."""
    orphan = SimpleNamespace(uid=endpoint, workload="p1")
    ours = SimpleNamespace(owner_uid=migration)
    return SimpleNamespace(endpoints={KEY: orphan}, migrations={ObjectKey("vms", "m"): ours})


@pytest.mark.parametrize(("is_there", "ownerless"), [(True, set()), (False, {"e1"})])
async def test_an_endpoint_without_an_owner_is_kept_by_any_pod_of_its_workloads_name(
    *, is_there: bool, ownerless: set[str]
) -> None:
    site = Site(**({"p1": raw("p1", "any")} if is_there else {}))
    site.diff.observed = observed(endpoint="e1")
    await site.lookups.look_up_owner(Subject(Kind.ENDPOINT, KEY))
    assert site.done == ["get Pod p1"]
    assert site.ownerless == ownerless


@pytest.mark.parametrize(
    ("there", "ownerless", "taken_in"),
    [("v1", set(), ["observe v1"]), ("v2", {"v1"}, ["observe v2"]), (None, {"v1"}, [])],
    ids=["that one", "another of its name", "none"],
)
async def test_a_livemigration_is_ownerless_where_its_very_vmim_is_not_there(
    there: str | None, ownerless: set[str], taken_in: list[str]
) -> None:
    site = Site(**({"m": raw("m", there)} if there else {}))
    site.diff.observed = observed(migration="v1")
    await site.lookups.look_up_owner(Subject(Kind.MIGRATION, ObjectKey("vms", "m")))
    assert site.done == ["get VirtualMachineInstanceMigration m", *taken_in]
    assert site.versions[Foreign.VMIM].uid(ObjectKey("vms", "m")) == there
    assert site.ownerless == ownerless


async def test_that_an_owner_is_there_costs_its_metadata_alone() -> None:
    site = Site(p1=raw("p1", "u1"))
    assert await site.lookups.is_gone(Owner(Foreign.POD, "p1", "u1"), "vms") is False
    assert site.done == ["uid Pod p1"]


@pytest.mark.parametrize("there", ["u2", None], ids=["another of its name", "none"])
async def test_an_owner_that_is_gone_is_taken_in_as_gone(there: str | None) -> None:
    site = Site(**({"p1": raw("p1", there)} if there else {}))
    site.versions[Foreign.POD].take(KEY, Version("u1", 3))
    assert await site.lookups.is_gone(Owner(Foreign.POD, "p1", "u1"), "vms")
    assert site.versions[Foreign.POD].uid(KEY) == there


async def test_an_owner_that_is_back_when_it_is_read_in_full_is_not_gone() -> None:
    """The answer by metadata was older than what the full one says."""
    site = Site(p1=raw("p1", "u1"))

    async def none(kind: Foreign, key: ObjectKey) -> str | None:
        return None if (kind, key) == (Foreign.POD, KEY) else "another question"

    site.uid = none  # type: ignore[method-assign]
    assert not await site.lookups.is_gone(Owner(Foreign.POD, "p1", "u1"), "vms")


def again(pod: Build, vmim: Build) -> list[dict[str, Any]]:
    """Build a VMIM of the same name as one before, and its pod."""
    labels = {"kubevirt.io/migrationJobUID": "uid-again"}
    annotations = {"kubevirt.io/migrationJobName": "m"}
    return [
        vmim(phase="Scheduling", sourcePod="p1", metadata={"uid": "uid-again"}),
        pod("p3", "c", labels=labels, annotations=annotations),
    ]


def test_an_orphan_of_ours_is_finished_and_stands_in_nobodys_way(
    moving: Any, pod: Build, vmim: Build
) -> None:
    """As after ``kubectl delete vmim m --cascade=orphan``, and the next migration of that name."""
    moving.delete(Foreign.VMIM, "m", cascade=False)
    assert moving.settle().said() == ABORTED
    assert moving.migration()["spec"]["outcome"] == "Aborted"
    moving.apply(*again(pod, vmim))
    assert moving.migration()["spec"]["id"] == "uid-again"
    assert moving.said() == {
        "p1": "source of m",
        "p2": "target of m Aborted",
        "p3": "target of m (not armed)",
    }
    assert not [event for event in moving.events if "NameClash" in event]


def test_an_endpoint_that_lost_its_owner_gets_it_back_or_goes_when_its_pod_has_gone(
    running: Any,
) -> None:
    references = running.endpoint("p1")["metadata"]["ownerReferences"]
    running.patch(Kind.ENDPOINT, "p1", {"metadata": {"ownerReferences": None}})
    assert running.settle().endpoint("p1")["metadata"]["ownerReferences"] == references
    running.delete(Foreign.POD, "p1", cascade=False)
    assert running.settle().said() == {}
