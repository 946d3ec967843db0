"""What is kept of a VM: little, and that once."""

import gc
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

from handover_operator.kinds import Foreign, Kind

Build = Callable[..., dict[str, Any]]

VMS = 100
MOST = 12_000
"""Bytes of a VM with twenty labels, its pod and its endpoint: twice that would be 100 MiB more for
ten thousand."""


def anew(raw: dict[str, Any]) -> dict[str, Any]:
    """Read an object as from an answer: no string of it is one that was there before."""
    read: dict[str, Any] = json.loads(json.dumps(raw))
    return read


def test_a_pod_its_endpoint_and_what_was_seen_of_that_have_one_mapping_of_labels(
    running: Any,
) -> None:
    for kind in (Foreign.POD, Kind.ENDPOINT):
        running.operator.observe(kind, anew(running.stored[kind, running.key("p1")]))
    key = running.key("p1")
    known = running.operator.controller.cache.resolver.index.endpoints[key].labels
    assert known["app"] == "web"
    assert running.operator.adapter.endpoint(key).labels is known
    assert running.operator.kubevirt.observed.endpoints[key].labels is known


def crowd(world: Any, pod: Build, vmi: Build) -> list[tuple[Any, str]]:
    """Make VMs with twenty labels each, which differ as those of real VMs do."""
    for number in range(VMS):
        name = f"virt-launcher-vm-{number}-abcde"
        labels = {f"vm.example.com/name-of-it-{each}": f"vm-{number}" for each in range(5)}
        labels |= {f"team.example.com/label-{each}": f"value-{number % 7}" for each in range(13)}
        world.put(vmi(f"vm-{number}", node="a"))
        world.put(pod(name, "a", (f"10.0.0.{number}",), vmi=f"vm-{number}", labels=labels))
    world.settle()
    return [
        (kind, json.dumps(raw | {"status": raw.get("status", {}), "x": "y" * 4_000}))
        for (kind, _), raw in world.stored.items()
    ]


def test_what_is_kept_of_a_vm_is_small_however_large_its_pod_is(
    new_world: Callable[[], Any], pod: Build, vmi: Build
) -> None:
    written = crowd(new_world(), pod, vmi)
    operator = new_world().operator
    gc.collect()
    tracemalloc.start()
    try:
        for kind, text in written:
            operator.observe(kind, json.loads(text))
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert operator.controller.cache.count(Kind.ENDPOINT) == VMS
    assert kept / VMS < MOST
