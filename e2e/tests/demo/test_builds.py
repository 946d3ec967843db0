"""Builds beside a demonstration: their ends are seen, their failures told, and none is left."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from handover_lab.demo import builds
from handover_lab.demo.builds import BuildFailedError, Builds
from handover_lab.toolchain.tools import TOOLS

GOOD = ("timeit", "--number=1", "--repeat=1", "print('first'); print('last')")
SLOW = (
    "timeit",
    "--number=1",
    "--repeat=1",
    "import time; print('half of it', flush=True); time.sleep(600)",
)
BAD = ("timeit", "--number=1", "--repeat=1", "raise SystemExit('no Go here')")


@pytest.fixture
def started(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Builds]:
    """Start the builds that the test is parametrized with."""
    commands: Mapping[str, tuple[str, ...]] = request.param
    monkeypatch.setattr(builds, "COMMANDS", commands)
    monkeypatch.setattr(builds, "LOOK_S", 0.01)
    with Builds.started(tmp_path / "builds") as it:
        yield it


@pytest.mark.parametrize("started", [{"tools": GOOD, "images": GOOD}], indirect=True)
async def test_the_end_of_a_build_is_waited_for(started: Builds) -> None:

    await started.finished("images", lambda _: None)
    await started.finished("tools", lambda _: None)

    assert (started.directory / "images.log").read_text().startswith("first\nlast\n")


@pytest.mark.parametrize("started", [{"tools": SLOW}], indirect=True)
async def test_its_progress_is_told_meanwhile(started: Builds) -> None:
    told = asyncio.Event()
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        told.set()

    waiting = asyncio.create_task(started.finished("tools", say))
    await asyncio.wait_for(told.wait(), 20)
    waiting.cancel()

    assert said == ["half of it"]


@pytest.mark.parametrize("started", [{"tools": SLOW, "images": BAD}], indirect=True)
async def test_a_build_that_fails_ends_the_waiting_for_another(started: Builds) -> None:
    with pytest.raises(BuildFailedError, match="no Go here"):
        await started.finished("tools", lambda _: None)


@pytest.mark.parametrize("started", [{"tools": BAD}], indirect=True)
def test_a_failure_is_seen_without_waiting(started: Builds) -> None:
    deadline = time.monotonic() + 20
    while not (started.directory / "tools.status").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(BuildFailedError, match="no Go here"):
        started.check()


def test_a_build_that_runs_is_ended_with_the_demonstration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    marker = f"# {tmp_path}"
    monkeypatch.setattr(builds, "COMMANDS", {"tools": (*SLOW, marker)})
    with Builds.started(tmp_path / "builds"):
        await_running(marker, runs=True)

    await_running(marker, runs=False)


def await_running(marker: str, *, runs: bool) -> None:
    """Wait until a process with *marker* among its arguments is there, or until none is."""
    deadline = time.monotonic() + 20
    while is_running(marker) is not runs:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(marker: str) -> bool:
    """Whether any process has *marker* among its arguments."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in process.read_bytes():
                return True
        except OSError:
            continue
    return False


def test_a_demonstration_runs_parts_that_are_there() -> None:
    assert set(builds.PROGRAMS) == TOOLS.keys() - {"helm3", "flanneld"}
