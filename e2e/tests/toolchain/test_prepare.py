"""`make` finds a Python that fits, and says what to do where there is none."""

import importlib.util
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from handover_lab.docs.pages import ROOT


def load() -> ModuleType:
    """Import ``e2e/prepare.py``, which is in no package: it runs before there is any."""
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "e2e/prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Return the module, for a checkout that has nothing so far."""
    module = load()
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv/handover.stamp")
    return module


def test_an_environment_that_was_copied_along_is_made_anew(
    prepare: ModuleType, tmp_path: Path
) -> None:
    assert not prepare.is_copied()
    (tmp_path / ".venv").mkdir()
    settings = tmp_path / ".venv/pyvenv.cfg"
    settings.write_text(f"home = /usr/bin\ncommand = /usr/bin/python3 -m venv {tmp_path}/.venv\n")
    assert not prepare.is_copied()
    settings.write_text("home = /usr/bin\ncommand = /usr/bin/python3 -m venv /elsewhere/.venv\n")
    assert prepare.is_copied()


def debian_without_venv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seem to be run by Debian's own Python, whose ensurepip is in a package of its own."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3.11")
    monkeypatch.setattr(sys, "version_info", (3, 11, 2, "final", 0))


def make(programs: dict[str, str], tmp_path: Path, goal: str) -> subprocess.CompletedProcess[str]:
    """Let make tell what it would run for *goal* where there are only these *programs*."""
    path = tmp_path / "bin"
    path.mkdir()
    for name, script in programs.items():
        (path / name).write_text(f"#!/bin/sh\n{script}\n")
        (path / name).chmod(0o755)
    argv = [str(shutil.which("make")), "--no-print-directory", "--dry-run", goal]
    # Debian's own is looked for by its whole name, wherever PATH leads.
    makefile = (ROOT / "Makefile").read_text().replace("/usr/bin/python3", "/nonexistent/python3")
    (tmp_path / "Makefile").write_text(makefile)
    environment = {"PATH": str(path)}
    return subprocess.run(
        argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize("goal", ["prepare", "test-fast", "demo"])
def test_make_takes_the_first_python_that_fits(tmp_path: Path, goal: str) -> None:
    old, fitting = "exit 1", "exit 0"
    done = make({"python3": old, "python3.12": fitting, "python3.11": fitting}, tmp_path, goal)

    assert "python3.12 e2e/prepare.py" in done.stdout


def test_a_python_that_is_named_is_taken() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "PYTHON=/opt/python", "prepare"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert "/opt/python e2e/prepare.py" in done.stdout


def test_make_says_so_where_no_python_fits(tmp_path: Path) -> None:
    done = make({"python3": "exit 1"}, tmp_path, "prepare")
    check = done.stdout.partition(" e2e/prepare.py")[0]
    said = subprocess.run(["/bin/sh", "-c", check], capture_output=True, text=True, check=False)

    assert said.returncode != 0
    assert said.stderr.startswith("Python 3.11 or newer is needed")
    assert "PYTHON=" in said.stderr


def test_debians_python_gets_the_package_that_it_needs_for_venv(
    prepare: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian_without_venv(monkeypatch)

    assert prepare.lacking_venv() == {"python3.11-venv": "makes .venv"}


def test_a_python_of_another_origin_needs_no_debian_package(
    prepare: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian_without_venv(monkeypatch)
    monkeypatch.setattr(sys, "executable", "/opt/python/bin/python3.11")

    assert prepare.lacking_venv() == {}


def test_nothing_is_missing_where_the_environment_stands(
    prepare: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian_without_venv(monkeypatch)
    prepare.VENV.mkdir()
    prepare.STAMP.write_text("made by somebody who had it")

    assert prepare.lacking_venv() == {}


def test_who_may_not_install_it_is_told_the_command(
    prepare: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare, "is_installed", lambda _: False)
    monkeypatch.setattr(prepare.os, "geteuid", lambda: 1000)

    assert prepare.install_packages({"python3.11-venv": "makes .venv"}) == 1
    assert "sudo apt-get install python3.11-venv" in capsys.readouterr().err


def test_root_installs_what_venv_needs_first_and_then_all_else_side_by_side(
    prepare: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian_without_venv(monkeypatch)
    monkeypatch.setattr(prepare.os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["prepare"])
    both = threading.Barrier(2, timeout=20)
    installed: list[set[str]] = []

    def install_packages(packages: dict[str, str]) -> int:
        installed.append(set(packages))
        if len(installed) == 2:
            both.wait()
        return 0

    def install_python() -> int:
        both.wait()
        return 7

    monkeypatch.setattr(prepare, "install_packages", install_packages)
    monkeypatch.setattr(prepare, "install_python", install_python)

    assert prepare.main() == 7
    assert installed == [{"python3.11-venv"}, set(prepare.PACKAGES)]


@pytest.mark.parametrize(
    ("settings", "foreign"),
    [
        (None, False),
        ("home = {home}\nversion = {version}\n", False),
        ("home = {home}\nversion = 3.10.1\n", True),
        ("home = /opt/python/bin\nversion = {version}\n", True),
    ],
)
def test_what_another_python_has_left_is_known(
    prepare: ModuleType, settings: str | None, *, foreign: bool
) -> None:
    if settings is not None:
        version = ".".join(map(str, sys.version_info[:3]))
        home = Path(sys.executable).parent
        prepare.VENV.mkdir()
        (prepare.VENV / "pyvenv.cfg").write_text(settings.format(home=home, version=version))

    assert prepare.is_foreign() is foreign
