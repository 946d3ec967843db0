"""The shares of the processors that stand for cpu requests."""

from pathlib import Path

import pytest

from handover_lab.cluster.nodegroup import GroupError
from handover_lab.processes import cgroups, pods
from handover_lab.sandbox import sandbox


@pytest.mark.parametrize(
    ("quantity", "request_", "shares", "weight"),
    [
        # What a kubelet writes for them, and what runc and crun make of that for version 2.
        ("50m", 50, 51, 2),
        ("0.5", 500, 512, 20),
        ("1", 1000, 1024, 39),
        ("1m", 1, 2, 1),
    ],
)
def test_a_request_is_a_share(quantity: str, request_: int, shares: int, weight: int) -> None:
    assert pods.millicores(quantity) == request_
    assert pods.shares(request_) == shares
    assert pods.weight(request_) == weight


def test_the_charts_request_is_read() -> None:
    assert pods.chart_request() > 0


@pytest.mark.parametrize(
    ("version", "found"), [(1, {"cpu.shares": "1024"}), (2, {"cpu.weight": "39"})]
)
def test_only_the_knobs_that_are_there_are_turned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int, found: dict[str, str]
) -> None:
    top = tmp_path / "cpu"
    group = top / "handover-0000ff-vm"
    group.mkdir(parents=True)
    if version == 2:
        for place in (top, group):
            (place / "cgroup.controllers").write_text("cpu\n")
    for knob in found:
        (group / knob).write_text("")
    monkeypatch.setattr(cgroups, "hierarchies", lambda: [top])
    monkeypatch.setattr(sandbox, "current", lambda: "0000ff")

    assert pods.make("vm", 1000, is_real_time=True) == group
    assert {file.name: file.read_text() for file in group.glob("cpu.*")} == found


def test_a_machine_without_such_groups_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cgroups, "hierarchies", lambda: [tmp_path / "memory"])
    with pytest.raises(GroupError, match="shares the processors out"):
        pods.make("vm", 1000)
