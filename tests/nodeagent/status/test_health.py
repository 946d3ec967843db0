"""Probes and metrics over HTTP, a port that is taken, and who would fill it."""

import asyncio
import resource
import socket
import threading
import types
from collections.abc import Iterator
from http import HTTPStatus
from typing import cast

import aiohttp
import pytest

from handover_nodeagent import agent as wiring
from handover_nodeagent import main
from handover_nodeagent.settings import AgentSettings
from handover_nodeagent.status import health, http_messages
from handover_nodeagent.status.health import Metrics, Place, Server

CROWD = 1100


class Agent:
    """How an agent is, as its callables would say."""

    def __init__(self) -> None:
        self.unhealthy = ""
        self.unready = ""
        self.rendered: list[str] = []
        self.port = 0

    def render(self) -> bytes:
        self.rendered.append(threading.current_thread().name)
        return b"handover 1\n"

    def serve(self, *addresses: str) -> Server:
        pages = health.pages(unhealthy=lambda: self.unhealthy, unready=lambda: self.unready)
        pages["/metrics"] = Metrics(self.render)
        return Server(Place(address, self.port, pages) for address in addresses)


@pytest.fixture
def agent() -> Iterator[Agent]:
    made = Agent()
    server = made.serve("127.0.0.1")
    (made.port,) = server.ports
    yield made
    server.close()


async def read(agent: Agent, page: str, method: str = "GET") -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://127.0.0.1:{agent.port}{page}") as answer,
    ):
        return answer.status, await answer.text()


async def test_all_is_well(agent: Agent) -> None:
    for page in ("/healthz", "/readyz?verbose=1"):
        assert await read(agent, page) == (HTTPStatus.OK, "ok\n")


async def test_what_is_wrong_is_said(agent: Agent) -> None:
    agent.unready = "the first list is not complete"
    assert await read(agent, "/healthz") == (HTTPStatus.OK, "ok\n")
    expected = (HTTPStatus.SERVICE_UNAVAILABLE, "the first list is not complete\n")
    assert await read(agent, "/readyz") == expected
    agent.unhealthy = "the loop stood still"
    assert await read(agent, "/healthz") == (503, "the loop stood still\n")


async def test_metrics_are_made_off_the_loop_and_at_most_once_a_second(agent: Agent) -> None:
    for _ in range(20):
        assert await read(agent, "/metrics") == (HTTPStatus.OK, "handover 1\n")
    assert set(agent.rendered) == {"health"}
    assert len(agent.rendered) < 20


@pytest.mark.parametrize(
    ("method", "page", "status"),
    [("GET", "/other", 404), ("POST", "/healthz", 405), ("HEAD", "/healthz", 200)],
)
async def test_nothing_else_is_served(agent: Agent, method: str, page: str, status: int) -> None:
    assert await read(agent, page, method) == (status, "")


async def test_a_page_that_raises_is_an_error_of_that_page(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "render", lambda: 1 // 0)
    second = agent.serve("127.0.0.2")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.2:{agent.port}/metrics") as answer:
            assert answer.status == HTTPStatus.INTERNAL_SERVER_ERROR
        async with session.get(f"http://127.0.0.2:{agent.port}/healthz") as answer:
            assert answer.status == HTTPStatus.OK
    second.close()


def has_ended(client: socket.socket) -> bool:
    """Tell whether the server has ended this connection, without waiting for it."""
    client.settimeout(0)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True
    except BlockingIOError:
        return False


async def test_a_crowd_that_says_nothing_keeps_nobody_out(agent: Agent) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * CROWD), hard))
    idle = [socket.create_connection(("127.0.0.1", agent.port)) for _ in range(CROWD)]
    try:
        assert await asyncio.wait_for(read(agent, "/healthz"), 2) == (HTTPStatus.OK, "ok\n")
        assert await asyncio.wait_for(read(agent, "/metrics"), 2) == (200, "handover 1\n")
        assert sum(map(has_ended, idle)) >= CROWD - health.MOST - 2 * health.ACCEPTED
    finally:
        for each in idle:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ends(client: socket.socket) -> bool:
    """Wait for the end of this connection."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_says_nothing_is_left_after_a_while(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "TIMEOUT", 0.05)
    with socket.create_connection(("127.0.0.1", agent.port), timeout=20) as idle:
        idle.send(b"GET /healthz HTTP/1.1\r\n")
        assert ends(idle)


def test_a_question_without_an_end_is_not_kept(agent: Agent) -> None:
    with socket.create_connection(("127.0.0.1", agent.port), timeout=20) as client:
        client.sendall(b"x" * (http_messages.LONGEST_HEAD + 1))
        assert client.recv(100).startswith(b"HTTP/1.1 431 ")


async def test_a_port_that_is_taken_is_an_os_error(agent: Agent) -> None:
    with pytest.raises(OSError, match="Address already in use"):
        agent.serve("127.0.0.1")


async def test_an_address_that_is_not_ours_is_an_os_error() -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        Agent().serve("127.0.0.1", "192.0.2.1")


@pytest.mark.parametrize(
    ("listen", "metrics", "expected"),
    [
        ("127.0.0.1", "", {"127.0.0.1": 3}),
        ("127.0.0.1", "127.0.0.1", {"127.0.0.1": 3}),
        ("127.0.0.1", "192.0.2.7", {"127.0.0.1": 3, "192.0.2.7": 2}),
        ("127.0.0.1", "0.0.0.0", {"0.0.0.0": 3}),
        ("127.0.0.1", "::", {"::": 3}),
    ],
)
def test_liveness_is_for_the_node_and_metrics_for_who_scrapes(
    listen: str, metrics: str, expected: dict[str, int]
) -> None:
    settings = AgentSettings(node_name="n", listen_address=listen, metrics_address=metrics)
    places = list(main._places(settings, fake_agent("", "")))
    assert {place.address: len(place.pages) for place in places} == expected
    for place in places:
        assert ("/healthz" in place.pages) is (len(place.pages) == 3)


@pytest.mark.parametrize(
    ("unhealthy", "unready", "expected"),
    [("", "", b"ok\n"), ("", "not yet", b"not yet\n"), ("stuck", "", b"stuck\n")],
)
def test_who_is_unhealthy_is_not_ready(unhealthy: str, unready: str, expected: bytes) -> None:
    (place,) = main._places(AgentSettings(node_name="n"), fake_agent(unhealthy, unready))
    assert place.pages["/readyz"]().body == expected


def fake_agent(unhealthy: str, unready: str) -> wiring.Agent:
    """Make what an agent says of itself."""
    made = types.SimpleNamespace(
        supervisor=types.SimpleNamespace(unhealthy=lambda: unhealthy), unready=lambda: unready
    )
    return cast("wiring.Agent", made)
