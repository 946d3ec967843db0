"""An agent that remembers no configuration acts on nothing before it knows how it is configured."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.nodeagent.node import Node
from tests.nodeagent.world import CNI

from handover_api import names
from handover_nodeagent.agent import Agent
from handover_nodeagent.api.errors import Absent, ApiError, Unreachable
from handover_nodeagent.api.responses import Page
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.settings import AgentSettings

pytestmark = pytest.mark.root

ENDPOINT = {
    "metadata": {
        "name": "vm",
        "namespace": "default",
        "uid": "u",
        "resourceVersion": "1",
        "annotations": {"handover.dev/role": "source", "handover.dev/migration-uid": "m1"},
    },
    "spec": {"node": "n", "workload": "vm", "ips": ["10.65.0.2"], "interface": "tap0"},
}


def configuration(name: str = "default", **spec: Any) -> dict[str, Any]:
    """Make a HandoverConfiguration as the API would tell it."""
    metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": "1"}
    return {"metadata": metadata, "spec": spec}


class Api:
    """An API server of two collections; what it knows of configurations is the test's to say."""

    def __init__(self) -> None:
        self.answer: list[Any] | ApiError = Unreachable("nobody answers")
        self.news: asyncio.Queue[tuple[str, Mapping[str, Any]]] = asyncio.Queue()
        self.asked: list[str] = []

    async def pages(self, path: str, query: Mapping[str, str] | None = None) -> AsyncIterator[Page]:
        assert query is not None
        kind = path.rpartition("/")[2]
        self.asked.append(kind)
        if kind == names.WORKLOAD_ENDPOINTS:
            yield Page([ENDPOINT], "1")
        elif isinstance(self.answer, ApiError):
            raise self.answer
        else:
            yield Page(self.answer, "1")

    async def stream(
        self, path: str, query: Mapping[str, str], **_: float
    ) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
        assert query
        while path.endswith(names.CONFIGURATIONS):
            yield await self.news.get()
        await asyncio.Event().wait()

    async def patch(self, *_: object) -> dict[str, Any]:
        return {}

    async def create(self, *_: object) -> dict[str, Any]:
        return {}


@pytest.fixture
def api() -> Api:
    return Api()


Start = Callable[..., Awaitable[Agent]]


@pytest.fixture
async def start(node: Node, api: Api, tmp_path: Path) -> AsyncIterator[Start]:
    """Start agents on a node whose VM has the CNI's route."""
    node.run(f"ip route add {CNI}")
    running: list[tuple[Agent, asyncio.Task[None]]] = []

    async def begin(**fields: Any) -> Agent:
        settings = AgentSettings(node_name="n", state_directory=tmp_path, **fields)
        agent = Agent(settings, Memory(tmp_path), api)  # type: ignore[arg-type]
        running.append((agent, asyncio.create_task(agent.run())))
        return agent

    yield begin
    for agent, work in running:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        await agent.close()


async def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so; fail when it never is."""
    deadline = asyncio.get_running_loop().time() + 5
    while not is_so():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


def ours(node: Node) -> list[str]:
    """Return our routes."""
    return [line for line in node.lines("ip route show") if "proto 88" in line]


@pytest.mark.usefixtures("mute")
async def test_a_first_start_waits_for_a_slow_list_and_goes_by_it(
    start: Start, api: Api, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes: a mode `observe` that is told late has written nothing before."""
    monkeypatch.setattr("handover_nodeagent.agent.CONFIGURATION_PATIENCE", 0.0)
    agent = await start()
    await until(lambda: api.asked.count(names.CONFIGURATIONS) >= 2)
    assert names.WORKLOAD_ENDPOINTS not in api.asked
    assert agent.unready()
    api.answer = [configuration(mode="observe")]
    await until(lambda: not agent.unready())
    assert agent.reconciler.endpoints
    assert ours(node) == []
    assert node.lines("ip route show 10.65.0.2") == ["10.65.0.2 dev tap0 proto 5 scope link"]


@pytest.mark.parametrize("answer", [[], Absent("no such kind")], ids=["none", "404"])
async def test_that_there_is_none_is_an_answer_where_nobody_applies_one(
    start: Start, api: Api, node: Node, answer: list[Any] | ApiError, tmp_path: Path
) -> None:
    api.answer = answer
    agent = await start()
    await until(lambda: not agent.unready())
    await until(lambda: ours(node))
    await agent.memory.flush()
    assert json.loads((tmp_path / "configuration.json").read_text()) == {}


@pytest.mark.parametrize("answer", [[], Absent("no such kind")], ids=["none", "404"])
async def test_where_the_operator_applies_one_the_agent_waits_for_it(
    start: Start, api: Api, node: Node, answer: list[Any] | ApiError
) -> None:
    """The first install: the list is empty for a moment, and then says `observe`."""
    api.answer = answer
    agent = await start(await_configuration=True)
    await until(lambda: names.CONFIGURATIONS in api.asked)
    api.answer = [configuration("node.n", probeInterval="1s")]
    await api.news.put(("ADDED", configuration("other")))
    await asyncio.sleep(0.05)
    assert names.WORKLOAD_ENDPOINTS not in api.asked
    api.answer = [configuration(mode="observe")]
    await api.news.put(("ADDED", configuration(mode="observe")))
    await until(lambda: not agent.unready())
    assert ours(node) == []


async def test_a_first_configuration_that_is_invalid_is_none(start: Start, api: Api) -> None:
    api.answer = [configuration(probeInterval="1ms")]
    agent = await start()
    await until(lambda: "probeInterval" in agent.unready())
    assert names.WORKLOAD_ENDPOINTS not in api.asked
    corrected = configuration(probeInterval="1s")
    corrected["metadata"]["resourceVersion"] = "2"
    await api.news.put(("MODIFIED", corrected))
    await until(lambda: not agent.unready())


async def test_an_agent_that_remembers_one_does_not_wait_for_long(
    start: Start, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handover_nodeagent.agent.CONFIGURATION_PATIENCE", 0.01)
    (tmp_path / "configuration.json").write_text('{"default": {"mode": "observe"}}')
    agent = await start(await_configuration=True)
    await until(lambda: not agent.unready())
    assert agent.reconciler.settings.mode == "observe"
    assert api.asked[0] == names.CONFIGURATIONS


@pytest.mark.parametrize("spec", ["text", ["mode"]], ids=repr)
async def test_a_configuration_that_is_no_object_is_refused_by_name(
    start: Start, api: Api, spec: object
) -> None:
    odd = configuration() | {"spec": spec}
    odd["metadata"] |= {"generation": "odd", "annotations": ["odd"]}
    api.answer = [odd]
    agent = await start()
    await until(lambda: "default: spec: is no object" in agent.unready())
    corrected = configuration(probeInterval="1s")
    corrected["metadata"]["resourceVersion"] = "2"
    await api.news.put(("MODIFIED", corrected))
    await until(lambda: not agent.unready())


async def test_a_remembered_configuration_that_is_no_object_is_forgotten(
    start: Start, api: Api, tmp_path: Path
) -> None:
    (tmp_path / "configuration.json").write_text('{"default": "odd", "node.n": {"mode": "paused"}}')
    api.answer = []
    agent = await start()
    assert agent.reconciler.settings.mode == "paused"
    await until(lambda: not agent.unready())
