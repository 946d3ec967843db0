"""What a node's programs may use of the processors."""

from pathlib import Path

from handover_lab.cluster.nodegroup import NodeGroup


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
