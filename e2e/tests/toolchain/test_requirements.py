"""What a machine lacks is said in one sentence, before anything is started."""

from pathlib import Path

import pytest

from handover_lab.cluster import nodegroup
from handover_lab.processes import cgroups
from handover_lab.toolchain import requirements
from handover_lab.toolchain.requirements import NoSandboxError, RequirementError


@pytest.fixture(autouse=True)
def sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Seem to be in a sandbox of a machine that has everything."""
    monkeypatch.setenv("HANDOVER_SANDBOX", "5eed00")
    monkeypatch.setattr(requirements, "PROGRAMS", {"sh": "dash"})
    monkeypatch.setattr(requirements, "KERNEL_LOG", tmp_path)
    hierarchies = [tmp_path / name for name in ("cpu,cpuacct", "cpuset", "memory", "pids")]
    monkeypatch.setattr(cgroups, "hierarchies", lambda: hierarchies)


def test_who_has_everything_learns_the_name_of_the_sandbox() -> None:
    assert requirements.check() == "5eed00"


def test_without_a_sandbox_the_sentence_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HANDOVER_SANDBOX")

    with pytest.raises(NoSandboxError, match=r"run python -m handover_lab\.sandbox -- COMMAND"):
        requirements.check()


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "PROGRAMS", {"no-such-program": "its-package"})

    with pytest.raises(RequirementError, match=r"no-such-program.*apt-get install its-package"):
        requirements.check()


def test_a_hidden_kernel_log_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(requirements, "KERNEL_LOG", tmp_path / "nothing")

    with pytest.raises(RequirementError, match=r"A kubelet reads .*nothing"):
        requirements.check()


def test_controllers_that_the_kernel_lacks_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cgroups, "hierarchies", lambda: [tmp_path / "cpu", tmp_path / "cpuset"])

    with pytest.raises(RequirementError, match="no control groups for memory, pids"):
        requirements.check()


def test_version_2_lists_its_controllers_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb\n")
    monkeypatch.setattr(cgroups, "hierarchies", lambda: [tmp_path])

    assert nodegroup.missing() == {"pids"}
