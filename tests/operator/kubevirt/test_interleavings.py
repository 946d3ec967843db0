"""One migration, in every order of its writers, its watches and our own writes.

KubeVirt's writers run in parallel, five watches tell of them with any delay, and each write of
ours may come at any moment after. Whatever the order, the roles are the same in the end, and a
target is never seen without one.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handover_api.names import ObjectKey
from handover_operator.kinds import AnyKind, Foreign, Kind

Raw = dict[str, Any]
Build = Callable[..., Raw]

A: Final = ("10.0.0.1",)
ORDERS: Final = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

TURNS: Final = 400
"""More than any order takes."""


@dataclass(frozen=True, slots=True)
class Step:
    """One write of KubeVirt's (without a patch: a deletion); it waits as its writer does."""

    after: tuple[str, ...]
    kind: Foreign
    name: str
    patch: Mapping[str, Any] | None


def phase(name: str) -> Mapping[str, Any]:
    return {"status": {"phase": name}}


HANDOFF: Final = {
    "status": {"migrationState": {"migrationUid": "uid-m", "sourcePod": "p1", "targetNode": "b"}}
}
READY: Final = {"status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}}
SCRIPT: Final = {
    "pending": Step((), Foreign.VMIM, "m", phase("Pending")),
    "said": Step(
        ("pending",), Foreign.VMIM, "m", {"status": {"migrationState": {"sourcePod": "p1"}}}
    ),
    "pod": Step(("pending",), Foreign.POD, "p2", {}),
    "scheduling": Step(("pod",), Foreign.VMIM, "m", phase("Scheduling")),
    "bound": Step(("pod",), Foreign.POD, "p2", {"spec": {"nodeName": "b"}}),
    "network": Step(("bound",), Foreign.POD, "p2", READY),
    "handoff": Step(("network", "scheduling"), Foreign.VMI, "vm", HANDOFF),
    "ready": Step(("handoff",), Foreign.VMIM, "m", phase("TargetReady")),
    "running": Step(("ready",), Foreign.VMIM, "m", phase("Running")),
}
SUCCESS: Final = SCRIPT | {
    "moved": Step(("running",), Foreign.VMI, "vm", {"status": {"nodeName": "b"}}),
    "left": Step(("running",), Foreign.POD, "p1", phase("Succeeded")),
    "final": Step(("moved",), Foreign.VMIM, "m", phase("Succeeded")),
}
VANISHED: Final = SCRIPT | {
    "moved": Step(("running",), Foreign.VMI, "vm", {"status": {"nodeName": "b"}}),
    "gone": Step(("moved",), Foreign.VMIM, "m", None),
}
"""It is gone before its final phase was written; nobody knows how it ended but the guest."""

CANCELLED: Final = {
    **{name: step for name, step in SCRIPT.items() if name not in {"ready", "running"}},
    "gone": Step(("handoff",), Foreign.VMIM, "m", None),
}
FAILURES: Final = {
    at: {
        **{name: step for name, step in SCRIPT.items() if name in before},
        "final": Step(before[-1:], Foreign.VMIM, "m", phase("Failed")),
        "ended": Step(("final",), Foreign.POD, "p2", phase("Failed")),
    }
    for at, before in {
        "Scheduling": ("pending", "said", "pod", "scheduling"),
        "bound": ("pending", "said", "pod", "bound"),
        "Running": tuple(SCRIPT),
    }.items()
}


class Play:
    """A world in which a script is played in a chosen order."""

    def __init__(self, world: Any, script: Mapping[str, Step], target: Raw, vmim: Raw) -> None:
        self.world = world
        self.script = dict(script)
        self.target = target
        self.done: set[str] = set()
        self.late: AnyKind | None = None
        """A watch that tells nothing while the script is played."""
        self.had_role = False
        self.was_bare = False
        world.check = self.check
        world.put(vmim)

    def check(self) -> None:
        """A target has its role from the request that makes it, and loses it with an outcome.

        Where all was over before we heard of it, the guest's pod has no role any more.
        """
        vmim = self.world.stored.get((Foreign.VMIM, ObjectKey("vms", "m")))
        phase = None if vmim is None else vmim["status"]["phase"]
        said = self.world.said().get("p2")
        assert not (self.had_role and said == "-")
        self.had_role = self.had_role or (said is not None and said.startswith("target of m"))
        self.was_bare = self.was_bare or said == "-"
        is_over = vmim is None or phase == "Succeeded"
        # Where it is over while its LiveMigration is being made, the guest is at home there.
        assert not (self.had_role and self.was_bare) or is_over
        if said is not None and (not is_over or self.had_role):
            assert said.startswith("target of m")
            has_ended = vmim is None or phase in {"Succeeded", "Failed"}
            assert has_ended or "ed" not in said.replace("armed", "")

    @property
    def wanted(self) -> dict[str, str]:
        """What is said after a success."""
        return {"p2": "target of m Succeeded" if self.had_role else "-"}

    def choices(self) -> list[Callable[[], None]]:
        """Return everything that may happen next; the order is always the same."""
        world = self.world
        steps = [
            (lambda name=name: self.take(name))
            for name, step in self.script.items()
            if name not in self.done and self.done.issuperset(step.after)
        ]
        told = [
            (lambda kind=kind: world.deliver(kind))
            for kind, queue in world.watches.items()
            if queue and kind is not self.late
        ]
        return [*steps, *told, *world.operator.choices()]

    def go_on(self, data: Any, turns: int = TURNS) -> None:
        """Let happen what hypothesis chooses, for so many *turns* or until nothing is left."""
        for _ in range(turns):
            choices = self.choices()
            if not choices:
                break
            data.draw(st.sampled_from(choices), label="next")()

    def take(self, name: str) -> None:
        """Let a writer make its step."""
        step = self.script[name]
        self.done.add(name)
        if name == "pod":
            self.world.put(copy.deepcopy(self.target))
        elif step.patch is None:
            self.world.delete(step.kind, step.name)
        else:
            self.world.patch(step.kind, step.name, step.patch)


def play(world: Any, script: Mapping[str, Step], build: Mapping[str, Build], data: Any) -> Play:
    """Play *script* in an order that hypothesis chooses."""
    world.apply(build["vmi"](node="a"), build["pod"]("p1", "a", A))
    played = Play(world, script, build["pod"]("p2", migration="m"), build["vmim"]())
    played.go_on(data)
    assert played.done == played.script.keys()
    world.settle()
    return played


@pytest.fixture(scope="session")
def build(pod: Build, vmi: Build, vmim: Build) -> dict[str, Build]:
    """Gather the builders."""
    return {"pod": pod, "vmi": vmi, "vmim": vmim}


@ORDERS
@given(data=st.data())
def test_a_success_ends_the_same_in_every_order(
    new_world: Any, build: dict[str, Build], data: Any
) -> None:
    played = play(new_world(), SUCCESS, build, data)
    assert played.world.said() == played.wanted
    migration = played.world.migration()
    assert migration is None or migration["spec"]["outcome"] == "Succeeded"


@ORDERS
@given(data=st.data())
def test_a_migration_that_vanishes_ended_where_the_guest_is_in_every_order(
    new_world: Any, build: dict[str, Build], data: Any
) -> None:
    played = play(new_world(), VANISHED, build, data)
    assert played.world.said()["p2"] == played.wanted["p2"]
    assert played.world.said()["p1"] in {"source of m Succeeded", "-"}
    assert played.world.migration() is None


@ORDERS
@given(data=st.data())
def test_a_migration_that_is_taken_back_is_aborted_in_every_order(
    new_world: Any, build: dict[str, Build], data: Any
) -> None:
    world = play(new_world(), CANCELLED, build, data).world
    assert world.said()["p1"] in {"source of m Aborted", "-"}
    assert world.said().get("p2", "target of m Aborted") == "target of m Aborted"
    assert world.migration() is None


@ORDERS
@given(data=st.data(), at=st.sampled_from(sorted(FAILURES)))
def test_a_failure_ends_the_same_in_every_order(
    new_world: Any, build: dict[str, Build], data: Any, at: str
) -> None:
    world = play(new_world(), FAILURES[at], build, data).world
    assert world.said()["p1"] in {"source of m Aborted", "-"}
    assert "p2" not in world.said()
    migration = world.migration()
    assert migration is None or migration["spec"]["outcome"] == "Aborted"


@ORDERS
@given(data=st.data(), kind=st.sampled_from([*Foreign, Kind.ENDPOINT, Kind.MIGRATION]))
def test_a_late_watch_changes_nothing_in_the_end(
    new_world: Any, build: dict[str, Build], data: Any, kind: Foreign | Kind
) -> None:
    """One watch is broken for the whole migration, and what it had to tell comes at the end."""
    world = new_world()
    world.put(build["vmi"](node="a"))
    world.put(build["pod"]("p1", "a", A))
    played = Play(world, SUCCESS, build["pod"]("p2", migration="m"), build["vmim"]())
    played.late = kind
    played.go_on(data)
    assert played.done == played.script.keys()
    assert world.settle().said() == played.wanted


@ORDERS
@given(data=st.data(), cut=st.integers(min_value=0, max_value=40))
def test_a_restart_at_any_moment_changes_nothing_in_the_end(
    new_world: Any, build: dict[str, Build], data: Any, cut: int
) -> None:
    world = new_world()
    world.apply(build["vmi"](node="a"), build["pod"]("p1", "a", A))
    played = Play(world, SUCCESS, build["pod"]("p2", migration="m"), build["vmim"]())
    played.go_on(data, cut)
    world.restart()
    played.go_on(data, TURNS - cut)
    assert world.settle().said() == played.wanted
