"""What a comparison remembers beside the objects themselves, and for how long."""

from typing import Any

import pytest

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator.kinds import Foreign, Kind
from handover_operator.kubevirt.desired import DesiredMigration, Owner
from handover_operator.kubevirt.diff import Diff
from handover_operator.roles.outcome import no_driver

KEY = ObjectKey("vms", "m")
OWNER = Owner(Foreign.VMIM, "m", "uid-m")


@pytest.fixture
def diff() -> Diff:
    """Return one that knows the LiveMigration of a VMIM."""
    diff = Diff(60, no_driver)
    metadata: dict[str, Any] = {
        "uid": "uid-lm",
        "resourceVersion": "1",
        "annotations": {names.ADAPTER: "kubevirt"},
    }
    diff.observed.put(Kind.MIGRATION, KEY, {"metadata": metadata, "spec": {"id": "uid-m"}})
    return diff


def test_a_livemigration_tells_of_the_end_of_its_vmim(diff: Diff) -> None:
    assert list(diff.vmims(Kind.MIGRATION, KEY)) == ["uid-m"]
    assert list(diff.vmims(Kind.ENDPOINT, KEY)) == []
    assert list(diff.vmims(Kind.MIGRATION, ObjectKey("vms", "other"))) == []


def test_that_an_owner_is_missing_is_forgotten_with_its_object(diff: Diff) -> None:
    unknown = diff.is_of_unknown_owner(Kind.MIGRATION, KEY)
    diff.put_ownerless("uid-m")
    known = diff.is_of_unknown_owner(Kind.MIGRATION, KEY)

    diff.drop(Kind.MIGRATION, KEY)

    assert (unknown, known) == (True, False)
    assert diff.ownerless == set()
    assert diff.observed.migrations == {}
    # Nothing is desired under this name, so nobody waits for its owner.
    assert diff.bereft == set()


def test_an_owner_is_looked_at_after_one_of_its_objects_has_gone(
    diff: Diff, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff.adapter, "migration", {KEY: DesiredMigration(KEY, OWNER)}.get)

    diff.drop(Kind.MIGRATION, KEY)
    before = set(diff.bereft)
    diff.drop_foreign(Foreign.VMIM, KEY, "uid-m")

    assert (before, diff.bereft) == ({"uid-m"}, set())


def test_when_kubevirt_goes_our_own_objects_stay_known(diff: Diff) -> None:
    diff.put_ownerless("uid-m")
    adapter = diff.adapter

    diff.clear()

    assert diff.adapter is not adapter
    assert (diff.ownerless, diff.bereft) == (set(), set())
    assert KEY in diff.observed.migrations
