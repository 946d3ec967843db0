"""What the adapter says of which object, and that it says it once."""

from typing import Any

import pytest

from handover_api.names import ObjectKey
from handover_operator.kinds import Foreign, Kind
from handover_operator.kubevirt import emissions
from handover_operator.kubevirt.desired import DesiredEndpoint, NotFollowed, Owner
from handover_operator.kubevirt.diff import Diff
from handover_operator.kubevirt.emissions import LASTING, Emission, Emitted
from handover_operator.kubevirt.model import Vmi
from handover_operator.roles.outcome import no_driver
from handover_operator.status.kubernetes_events import KubernetesEvent

KEY = ObjectKey("vms", "a")


def test_of_an_object_each_thing_is_said_once_until_it_is_gone() -> None:
    emitted = Emitted()

    said = [emitted.note("uid", what) for what in ("x", "x", "y")]
    emitted.forget("uid")

    assert said == [True, False, True]
    assert emitted.note("uid", "x")
    emitted.clear()
    assert len(emitted) == 0


@pytest.mark.parametrize("reason", [*sorted(LASTING), "Preparing"])
def test_what_lasts_is_said_of_the_vmi_too(migration: Any, reason: str) -> None:
    vmi = Vmi(ObjectKey("vms", "vm"), "uid-vm")
    event = KubernetesEvent(reason, "because", warning=True)

    said = emissions.of_migration(vmi, migration("m1"), event)

    again = KubernetesEvent(reason, "LiveMigration m1: because", warning=True)
    expected = Emission(Foreign.VMI, vmi.key, "uid-vm", again)
    assert said == (expected if reason in LASTING else None)
    assert emissions.of_migration(None, migration("m1"), event) is None


def test_an_interface_that_is_not_followed_is_said_of_its_vmi() -> None:
    found = NotFollowed(ObjectKey("vms", "vm"), "uid-vm", "net1 is not bridged")

    said = emissions.of_interface(found)

    assert str(said) == "Event NotFollowed of VirtualMachineInstance vms/vm"
    assert (said.uid, said.event.message) == ("uid-vm", "net1 is not bridged")


@pytest.mark.parametrize(
    ("is_unreadable", "why"),
    [(False, "was not made by Handover"), (True, "breaks the contract")],
)
def test_a_clash_of_names_is_said_of_both(
    monkeypatch: pytest.MonkeyPatch, *, is_unreadable: bool, why: str
) -> None:
    diff = Diff(60, no_driver)
    raw = {"metadata": {"uid": "uid-other"}, "spec": {}}
    diff.observed.put(Kind.ENDPOINT, KEY, raw)
    if is_unreadable:
        diff.observed.put_unreadable(Kind.ENDPOINT, KEY, "uid-other")
    nobody = emissions.of_clash(diff, Kind.ENDPOINT, KEY)
    wanted = DesiredEndpoint(KEY, Owner(Foreign.POD, "pod", "uid-pod"), "node-a", is_makeable=True)
    monkeypatch.setattr(diff.adapter, "endpoint", {KEY: wanted}.get)

    ours, owner = emissions.of_clash(diff, Kind.ENDPOINT, KEY)

    assert nobody == ()
    assert (ours.kind, ours.key, ours.uid) == (Kind.ENDPOINT, KEY, "uid-other")
    assert (owner.kind, owner.key, owner.uid) == (Foreign.POD, ObjectKey("vms", "pod"), "uid-pod")
    assert ours.event == owner.event
    assert ours.event.message == f"WorkloadEndpoint a {why}; it is left alone, and Pod pod has none"
