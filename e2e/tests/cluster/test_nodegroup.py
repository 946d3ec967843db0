"""What a node's programs may use of the processors, and how its groups go."""

import errno
import os
from pathlib import Path

import pytest

from handover_lab.cluster.nodegroup import NodeGroup
from handover_lab.processes import cgroups


def test_a_node_has_its_share_of_the_real_time_class_where_there_are_shares(tmp_path: Path) -> None:
    shared, free = tmp_path / "cpu", tmp_path / "unified"
    for group in (shared, free):
        (group / "node").mkdir(parents=True)
    knobs = [shared / "cpu.rt_runtime_us", shared / "node" / "cpu.rt_runtime_us"]
    for knob in knobs:
        knob.write_text("0")

    NodeGroup("node", (shared, free)).allow_real_time(200_000)

    assert [knob.read_text() for knob in knobs] == ["200000", "200000"]
    assert not (free / "cpu.rt_runtime_us").exists()


@pytest.mark.root
@pytest.mark.parametrize("step", ["found", "opened"])
def test_a_group_that_its_kubelet_removes_just_now_has_no_processes(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = NodeGroup.make(f"{os.getpid() & 0xFFFFFF:06x}", "node-a")
    pods = [path / "node" / "pod" for path in group.paths]
    for pod in pods:
        pod.mkdir()

    def read_late(path: Path) -> str:
        """Read it when its group is gone."""
        if step == "found" and path.parent in pods:
            path.parent.rmdir()
        with path.open() as file:
            if step == "opened" and path.parent in pods:
                path.parent.rmdir()
            return file.read()

    monkeypatch.setattr(Path, "read_text", read_late)
    try:
        assert group.processes() == frozenset()
        assert not any(pod.exists() for pod in pods)
    finally:
        monkeypatch.undo()
        group.end()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV])
def test_a_group_that_somebody_else_removes_is_removed(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "rmdir", fail)
    assert cgroups.is_removed("/gone")


def test_a_group_that_nobody_can_remove_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "rmdir", fail)
    with pytest.raises(PermissionError):
        cgroups.is_removed("/not-ours")
