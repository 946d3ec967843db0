"""What KubeVirt's own controllers made watches tell, delivered with every delay.

The recordings are kept beside the repository; nothing here runs where they are absent.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handover_operator.kinds import Foreign

TRACES: Final = Path(__file__).parents[4] / "shared" / "kubevirt" / "traces" / "raw"
VMIM: Final = "kubevirt-migrate-vm-x7k2p"
AGAIN: Final = "kubevirt-evacuation-9d4wz"

ENDED: Final[dict[str, dict[str, set[str]]]] = {
    "vm-start": {"ckhvl": {"-"}},
    "happy": {"rkhtf": {f"target of {VMIM} Succeeded", "-"}},
    "twice": {"z8xh2": {f"target of {AGAIN} Succeeded", "-"}},
    "postcopy": {"s4sx8": {f"target of {VMIM} Succeeded", "-"}},
    "hotplug": {"96gr8": {f"target of {VMIM} Succeeded", "-"}},
    "failed-target-pod": {"6xqpq": {f"source of {VMIM} Aborted", "-"}},
    "failed-proxy": {"vmwcm": {f"source of {VMIM} Aborted", "-"}},
    "cancel-running": {"r5ghw": {f"source of {VMIM} Aborted", "-"}},
    "decentralized": {"p2gfw": {"target of fedora-web-receive Succeeded", "-"}},
}
"""By trace: the pods that still have an endpoint, and what it may say; a migration that was over
before we heard of it is none."""

pytestmark = pytest.mark.skipif(
    not TRACES.is_dir(), reason="KubeVirt's recorded migrations are not beside the repository"
)


def events(name: str, *, sticky: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a trace; the CNI of the recording had masquerade and kept no addresses."""
    for line in (TRACES / f"{name}.watch.jsonl").read_text().splitlines():
        told = line.replace('"masquerade"', '"bridge"')
        if sticky:
            for last in ("2.22", "1.22", "1.23", "2.23"):
                told = told.replace(f"10.244.{last}", "10.244.1.21")
        event = json.loads(told)
        if event["object"]["kind"] in {*Foreign}:
            yield event["type"], event["object"]


@pytest.mark.parametrize("sticky", [True, False], ids=["sticky", "changing"])
@pytest.mark.parametrize("name", ENDED)
@settings(max_examples=10, deadline=None, suppress_health_check=[*HealthCheck])
@given(data=st.data())
def test_a_recording_ends_the_same_whatever_is_late(
    new_world: Callable[[], Any], name: str, data: Any, *, sticky: bool
) -> None:
    world = new_world()
    roles: dict[str, list[str]] = {}

    def check() -> None:
        """Note what was said; whoever was ever a target was never without a role."""
        for pod, said in world.said().items():
            told = roles.setdefault(pod, [])
            told.append(said)
            assert not ("-" in told and any(word.startswith("target") for word in told))

    world.check = check
    for kind, raw in events(name, sticky=sticky):
        # A controller's reference to the VM, which is not played here, would collect the VMI.
        if raw["kind"] == Foreign.VMI:
            raw["metadata"].pop("ownerReferences", None)
        if kind == "DELETED":
            place = (Foreign(raw["kind"]), raw["metadata"]["name"])
            world.delete(*place)
        else:
            world.put(raw)
        for _ in range(data.draw(st.integers(0, 4))):
            choices = [
                *(
                    (lambda of=of: world.deliver(of))
                    for of, queue in world.watches.items()
                    if queue
                ),
                *world.operator.choices(),
            ]
            if choices:
                data.draw(st.sampled_from(choices))()
    world.settle()
    found = {pod.rpartition("-")[2]: said for pod, said in world.said().items()}
    assert found.keys() == ENDED[name].keys()
    for pod, said in found.items():
        assert said in ENDED[name][pod]
        if any("of" in word for word in roles[next(p for p in roles if p.endswith(pod))]):
            assert said != "-"


@pytest.mark.parametrize("name", ENDED)
def test_a_recording_told_at_once_gives_every_role(new_world: Callable[[], Any], name: str) -> None:
    world = new_world()
    for kind, raw in events(name, sticky=True):
        if raw["kind"] == Foreign.VMI:
            raw["metadata"].pop("ownerReferences", None)
        if kind == "DELETED":
            world.delete(Foreign(raw["kind"]), raw["metadata"]["name"])
        else:
            world.put(raw)
        world.settle()
    found = {pod.rpartition("-")[2]: said for pod, said in world.said().items()}
    assert found == {pod: max(said) for pod, said in ENDED[name].items()}
