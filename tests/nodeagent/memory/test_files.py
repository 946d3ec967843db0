"""What survives a SIGKILL, and what a damaged or missing memory costs: nothing."""

import asyncio
import datetime as dt
import functools
import shutil
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State, WorkloadEndpoint
from handover_nodeagent import metrics
from handover_nodeagent.fsm.restart import Remembered
from handover_nodeagent.memory import files
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.memory.record import Record
from handover_nodeagent.network.model import Route

NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
KEY = ObjectKey("default", "vm")
ROUTE = Route(ip_address("10.65.0.2"), 7, 512, 254, 88)


LEFT = Record.of_orphans([ROUTE], "52:54:00:65:00:02", [ip_address("169.254.1.1")])
STOOD = Remembered(State.LIVE, NOW, "m1", awaiting=True, in_doubt=True)


def record(name: str = "vm", interface: str | None = "tap0") -> Record:
    """Remember an endpoint that is Live."""
    endpoint = WorkloadEndpoint.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": "u",
                "resourceVersion": "1",
                "labels": {"of": "no use"},
            },
            "spec": {"node": "n", "workload": "vm", "ips": ["10.65.0.2"]},
        }
    )
    return Record.of(endpoint, STOOD, None, None, interface)


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Memory]:
    """Give a memory that nobody has used before."""
    it = Memory(tmp_path / "state")
    it.load()
    yield it
    it.close()


def names_of_files(directory: Path) -> list[str]:
    """Return the names of the endpoints' files."""
    return sorted(path.name for path in (directory / "state" / "endpoints").iterdir())


async def test_what_was_kept_is_there_in_the_next_life(keeper: Memory, tmp_path: Path) -> None:
    keeper.keep(KEY, record)
    keeper.keep(ObjectKey("default", "gone"), lambda: LEFT)
    await keeper.flush()
    found = Memory(tmp_path / "state").load()
    assert found[KEY].remembered == STOOD
    endpoint = found[KEY].endpoint
    assert endpoint
    assert endpoint.metadata.labels == {}
    left = found[ObjectKey("default", "gone")]
    assert left == LEFT
    assert left.routes == (ROUTE,)


async def test_what_comes_within_a_moment_is_written_once_as_it_is_then(
    keeper: Memory, tmp_path: Path
) -> None:
    made: list[int] = []

    def make() -> Record:
        made.append(1)
        return record(interface=f"tap{len(made)}")

    for _ in range(100):
        keeper.keep(KEY, make)
    while not names_of_files(tmp_path):  # noqa: ASYNC110  the file is the only sign
        await asyncio.sleep(0.005)
    await keeper.flush()
    assert made == [1]


async def test_an_end_removes_the_file(keeper: Memory, tmp_path: Path) -> None:
    keeper.keep(KEY, record)
    await keeper.flush()
    assert names_of_files(tmp_path) == ["default.vm.json"]
    keeper.keep(KEY, lambda: None)
    await keeper.flush()
    assert names_of_files(tmp_path) == []


async def test_the_longest_name_has_a_file_of_its_own(keeper: Memory, tmp_path: Path) -> None:
    names = ["a" * 253, "a" * 252 + "b"]
    for name in names:
        keeper.keep(ObjectKey("default", name), functools.partial(record, name))
    await keeper.flush()
    found = Memory(tmp_path / "state").load()
    assert {key.name for key in found} == set(names)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stood": 7}', "\0"])
async def test_a_damaged_file_is_no_memory_and_costs_no_other_one(
    keeper: Memory, tmp_path: Path, content: str
) -> None:
    keeper.keep(KEY, record)
    keeper.keep(ObjectKey("default", "b"), functools.partial(record, "b"))
    await keeper.flush()
    (tmp_path / "state" / "endpoints" / "default.b.json").write_text(content)
    assert list(Memory(tmp_path / "state").load()) == [KEY]


async def test_a_kill_while_writing_leaves_the_version_before(
    keeper: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.keep(KEY, record)
    await keeper.flush()

    def dies(self: Path, target: Path) -> Path:
        raise KilledError(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    keeper.keep(KEY, lambda: record(interface="tap9"))
    await keeper.flush()
    monkeypatch.undo()
    assert Memory(tmp_path / "state").load()[KEY].interface == "tap0"


class KilledError(OSError):
    """The process ended here."""


async def test_a_directory_that_somebody_removed_is_made_again(
    keeper: Memory, tmp_path: Path
) -> None:
    """Else the next life would know nothing of what happened since."""
    shutil.rmtree(tmp_path / "state")
    keeper.keep(KEY, record)
    keeper.keep_configuration({"default": {"mode": "observe"}})
    await keeper.flush()
    assert keeper.trouble == ""
    heir = Memory(tmp_path / "state")
    assert list(heir.load()) == [KEY]
    assert heir.load_configuration() == {"default": {"mode": "observe"}}


async def test_a_directory_that_cannot_be_used_is_said_and_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in the way")
    deaf = Memory(tmp_path / "state")
    assert deaf.load() == {}
    assert "cannot use the state directory" in deaf.trouble
    deaf.keep(KEY, record)
    await deaf.flush()
    assert "cannot write the state directory" in deaf.trouble
    deaf.close()


async def test_what_could_not_be_written_is_tried_again_as_it_is_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to change for what is unwritten; who does is written at once."""
    monkeypatch.setattr(files, "RETRY_AFTER", 0.01)
    (tmp_path / "state").write_text("a file in the way")
    it, errors = Memory(tmp_path / "state"), metrics.MEMORY_ERRORS._value.get()
    it.keep(KEY, record)
    it.keep(ObjectKey("default", "b"), functools.partial(record, "b"))
    await it.flush()
    it.keep(ObjectKey("default", "b"), lambda: record("b", interface="tap9"))
    (tmp_path / "state").unlink()
    async with asyncio.timeout(5):
        while len(found := Memory(tmp_path / "state").load()) < 2:  # noqa: ASYNC110  likewise
            await asyncio.sleep(0.005)
    assert found[ObjectKey("default", "b")].interface == "tap9"
    assert it.trouble == ""
    assert metrics.MEMORY_ERRORS._value.get() >= errors + 2
    it.close()


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
async def test_without_a_readable_configuration_none_is_remembered(
    keeper: Memory, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "state" / "configuration.json").write_text(content)
    assert keeper.load_configuration() is None


async def test_paused_namespaces_are_remembered(keeper: Memory, tmp_path: Path) -> None:
    assert keeper.load_paused() == frozenset()
    keeper.keep_paused({"b", "a"})
    await keeper.flush()
    assert keeper.load_paused() == {"a", "b"}
    for damaged in ("{", "{}", "7"):
        (tmp_path / "state" / "paused.json").write_text(damaged)
        assert keeper.load_paused() == frozenset()


async def test_what_was_heard_of_other_nodes_is_remembered(keeper: Memory, tmp_path: Path) -> None:
    assert keeper.load_heard() == ()
    heard = ((ObjectKey("vms", "b"), "m2"), (ObjectKey("vms", "a"), "m1"))
    keeper.keep_heard(heard)
    await keeper.flush()
    # In the order in which it was heard: the last one counts.
    assert keeper.load_heard() == heard
    for damaged in ("", "[", "{}", "[[1]]", '[["a", "b"]]', '["abc"]'):
        (tmp_path / "state" / "heard.json").write_text(damaged)
        assert keeper.load_heard() == ()
