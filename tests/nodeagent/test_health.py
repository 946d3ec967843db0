"""Probes and metrics over HTTP, and a port that is taken."""

from collections.abc import AsyncIterator
from http import HTTPStatus

import aiohttp
import pytest
from aiohttp import web

from handover_nodeagent import health


class Agent:
    """How an agent is, as its callables would say."""

    def __init__(self) -> None:
        self.sick = ""
        self.unready = ""
        self.port = 0


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    made = Agent()
    runner = await serve(made)
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


async def serve(agent: Agent) -> web.AppRunner:
    return await health.serve(
        "127.0.0.1",
        agent.port,
        sick=lambda: agent.sick,
        unready=lambda: agent.unready,
        metrics=lambda: b"handover 1\n",
    )


async def read(agent: Agent, page: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{agent.port}{page}") as answer,
    ):
        return answer.status, await answer.text()


async def test_all_is_well(agent: Agent) -> None:
    for page in ("/healthz", "/readyz"):
        assert await read(agent, page) == (HTTPStatus.OK, "ok\n")


async def test_what_is_wrong_is_said(agent: Agent) -> None:
    agent.unready = "the first list is not complete"
    assert await read(agent, "/healthz") == (HTTPStatus.OK, "ok\n")
    expected = (HTTPStatus.SERVICE_UNAVAILABLE, "the first list is not complete\n")
    assert await read(agent, "/readyz") == expected
    agent.sick = "the loop stood still"
    assert await read(agent, "/healthz") == (503, "the loop stood still\n")


async def test_metrics_are_prometheus_text(agent: Agent) -> None:
    assert await read(agent, "/metrics") == (HTTPStatus.OK, "handover 1\n")


async def test_a_port_that_is_taken_is_an_os_error(agent: Agent) -> None:
    with pytest.raises(OSError, match="address already in use"):
        await serve(agent)


async def test_an_address_that_is_not_ours_is_an_os_error() -> None:
    with pytest.raises(OSError, match="cannot assign requested address"):
        await health.serve("192.0.2.1", 0, sick=str, unready=str, metrics=bytes)
