"""The whole operator among odd objects: nothing raises, and the VM beside them still moves.

Our kinds are drawn from our schemas. KubeVirt's are valid ones of which parts are gone, of another
type, too many, or spelled as a later release may spell them.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pydantic
from hypothesis import strategies as st
from tests.fuzzing import Raw

from handover_api import names
from handover_api.livemigration import LiveMigration
from handover_operator.kinds import AnyKind, Foreign, Kind
from handover_operator.roles import labels
from tests import fuzzing

CALLS_PER_EVENT: Final = 20_000
"""Calls of the operator's functions for one event and all that follows from it."""

ODD: Final = [f"odd{number}" for number in range(4)]
OURS: Final = [*ODD[:2], "mine0", "mine1"]
"""Some hold the names of what is wanted for KubeVirt's."""
LABELS: Final = {"kubevirt.io": "virt-launcher", "app": "web"}
"""The VM's."""
WORDS: Final = ["", "Unheard", "x" * 300, "2026-11-24T12:00:00Z", "10.65.0.9", "é\u0000", "-1"]


@st.composite
def spoiled(draw: st.DrawFn, of: st.SearchStrategy[Raw]) -> Raw:
    """Draw an object of which up to three parts of spec or status are not as they should be."""
    raw = copy.deepcopy(draw(of))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 3]))):
        places = [place for part in ("spec", "status") for place in _places(raw, part)]
        if places:
            holder, key = draw(st.sampled_from(places))
            match draw(st.integers(0, 4)):
                case 0 if isinstance(holder, dict):
                    del holder[key]
                case 1:
                    holder[key] = draw(st.sampled_from(WORDS))
                case 2 if isinstance(holder[key], list):
                    holder[key] = holder[key] * 100
                case _:
                    holder[key] = draw(fuzzing.wrong)
    return raw


def _places(holder: Any, key: Any) -> Iterator[tuple[Any, Any]]:
    """Return where something may be replaced."""
    if isinstance(holder, dict) and key not in holder:
        return
    yield holder, key
    value = holder[key]
    for inner in (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    ):
        yield from _places(value, inner)


def _with_mappings(raw: Raw) -> Raw:
    """The API server itself sees to it that spec and status are no words."""
    parts = {name: raw[name] for name in ("spec", "status") if isinstance(raw.get(name), dict)}
    return {"spec": {}, **{key: raw[key] for key in ("apiVersion", "kind", "metadata")}, **parts}


def _is_about_others(raw: Raw) -> bool:
    """Tell whether an object leaves the VM alone: a selector of nothing selects all there is."""
    if raw["kind"] != Kind.MIGRATION.value:
        return True
    try:
        target = LiveMigration.model_validate(raw).spec.target
    except pydantic.ValidationError:
        return True
    selector = target.selector if target else None
    return selector is None or not labels.is_match(selector, LABELS)


def _ours() -> st.SearchStrategy[tuple[str, Raw]]:
    metadata = st.fixed_dictionaries(
        {
            "name": st.sampled_from(OURS),
            "namespace": st.just("vms"),
            "uid": st.sampled_from(["u1", "u2"]),
            "labels": st.one_of(fuzzing.crowd(), st.just({"app": "odd"})),
            "annotations": st.fixed_dictionaries(
                {},
                optional={
                    names.ROLE: st.sampled_from(["source", "target", "both"]),
                    names.MIGRATION: st.sampled_from(OURS),
                    names.MIGRATION_UID: st.sampled_from(["u1", "u2", ""]),
                    names.OUTCOME: st.sampled_from(["Succeeded", "Aborted", "Unknown"]),
                    names.ENDED_ROLE: st.sampled_from(["source", "target", "none"]),
                },
            ),
        }
    )
    known = {
        "name": st.sampled_from(OURS),
        "workload": st.one_of(
            st.sampled_from(OURS), st.builds(lambda name: {"name": name}, st.sampled_from(OURS))
        ),
        "selector": st.sampled_from(
            [
                {"matchLabels": {"app": "odd"}},
                {"matchExpressions": [{"key": "app", "operator": "In", "values": ["odd"]}]},
                {"matchExpressions": [{"key": "app", "operator": "Near", "values": ["odd"]}]},
                {"matchLabels": {"app": "odd"}, "matchExpressions": None},
            ]
        ),
        "id": st.sampled_from(["u1", "u2", ""]),
        "node": st.sampled_from(["a", "b", ""]),
        "ips": st.lists(st.sampled_from(["10.66.0.1", "fd00::1", "10.66"]), max_size=16),
    }
    return st.one_of(
        *(
            st.fixed_dictionaries(
                {
                    "apiVersion": st.just(names.API_VERSION),
                    "kind": st.just(kind.value),
                    "metadata": metadata,
                    "spec": fuzzing.values(fuzzing.schema(kind.plural)["spec"], known),
                },
                optional={"status": fuzzing.values(fuzzing.schema(kind.plural)["status"], known)},
            )
            .map(_with_mappings)
            .filter(_is_about_others)
            .map(lambda raw: ("put", raw))
            for kind in (Kind.ENDPOINT, Kind.MIGRATION)
        )
    )


def _kubevirts(
    pod: Callable[..., Raw], vmi: Callable[..., Raw], vmim: Callable[..., Raw]
) -> st.SearchStrategy[tuple[str, Raw]]:
    name, node = st.sampled_from(ODD), st.sampled_from(["a", "b", None])
    ips = st.sampled_from([(), ("10.66.0.1",), ("10.66.0.1", "fd00::1"), ("10.66",)])
    phases = ["", "Pending", "Scheduling", "TargetReady", "Running", "Succeeded", "Failed", "New"]
    status = st.just('[{"name": "x", "interface": "eth0", "ips": ["10.66.0.1"]}, 7, {"ips": 7}]')
    interfaces = st.lists(
        st.fixed_dictionaries(
            {"name": st.sampled_from(["default", "second", "third"])},
            optional={
                "macAddress": st.sampled_from(["02-00-00-00-00-01", "02:00:00:00:00:02", "zz"]),
                **{each: st.just({}) for each in ("bridge", "masquerade", "passt", "sriov")},
                "binding": st.just({"name": "passt"}),
                "state": st.sampled_from(["absent", "up"]),
            },
        ),
        max_size=4,
    )
    pods = st.builds(
        pod,
        name,
        node=node,
        ips=ips,
        vmi=name,
        migration=st.sampled_from([*ODD, None]),
        annotations=st.fixed_dictionaries(
            {}, optional={"k8s.v1.cni.cncf.io/network-status": st.one_of(status, st.text())}
        ),
    )
    vmis = st.builds(vmi, name, node=node, interfaces=interfaces)
    vmims = st.builds(
        vmim, name, phase=st.sampled_from(phases), vmi=name, sourcePod=name, targetPod=name
    )
    return st.one_of(*(spoiled(kind).map(lambda raw: ("put", raw)) for kind in (pods, vmis, vmims)))


def _other(kinds: Sequence[AnyKind]) -> st.SearchStrategy[tuple[str, Any]]:
    return st.one_of(
        st.tuples(
            st.just("delete"), st.tuples(st.sampled_from(kinds), st.sampled_from([*ODD, *OURS]))
        ),
        st.tuples(st.just("relist"), st.sampled_from(kinds)),
        st.tuples(st.just("restart"), st.none()),
    )


def meet(world: Any, history: Sequence[tuple[str, Any]]) -> int:
    """Let an operator meet a history; return how many calls of its functions that took."""
    calls = 0

    def count(frame: Any, event: str, _: object) -> None:
        nonlocal calls
        if event == "call" and "/handover_operator/" in frame.f_code.co_filename:
            calls += 1

    sys.setprofile(count)
    try:
        for what, value in history:
            match what:
                case "put":
                    world.put(value)
                case "delete":
                    world.delete(*value)
                case "relist":
                    world.relist(value)
                case _:
                    world.restart()
            world.settle()
    finally:
        sys.setprofile(None)
    return calls


def role(world: Any, name: str) -> str:
    """Return what an endpoint is to which migration."""
    said = world.endpoint(name)["metadata"]["annotations"]
    return f"{said.get(names.ROLE)} of {said.get(names.MIGRATION)}"


def test_no_history_of_odd_objects_keeps_the_vm_beside_them_from_moving(
    new_world: Callable[[], Any],
    pod: Callable[..., Raw],
    vmi: Callable[..., Raw],
    vmim: Callable[..., Raw],
) -> None:
    kinds = [*Foreign, Kind.ENDPOINT, Kind.MIGRATION]
    events = st.one_of(_ours(), _kubevirts(pod, vmi, vmim), _other(kinds))

    def check(histories: tuple[Sequence[tuple[str, Any]], Sequence[tuple[str, Any]]]) -> None:
        before, meanwhile = histories
        world = new_world()
        world.apply(vmi(node="a"), pod("p1", node="a", ips=("10.65.0.2",)))
        calls = meet(world, before)
        world.apply(vmim(phase="Scheduling"), pod("p2", node="b", migration="m"))
        calls += meet(world, meanwhile)
        assert [role(world, name) for name in ("p1", "p2")] == ["source of m", "target of m"]
        assert calls <= CALLS_PER_EVENT * (len(before) + len(meanwhile))

    history = st.lists(events, max_size=8)
    fuzzing.rounds(check, st.tuples(history, history))
