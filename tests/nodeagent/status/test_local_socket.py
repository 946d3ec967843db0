"""The agent's door for persons on its node."""

import asyncio
import socket
import stat
from pathlib import Path

import pytest

from handover_nodeagent.status import local_socket


async def hello() -> bytes:
    return b"hello" * 100_000


async def test_who_connects_is_answered(tmp_path: Path) -> None:
    async with await local_socket.serve(tmp_path / "state", hello):
        answer = await asyncio.to_thread(local_socket.ask, tmp_path / "state")
    assert answer == b"hello" * 100_000


async def test_only_its_owner_may_ask(tmp_path: Path) -> None:
    async with await local_socket.serve(tmp_path, hello):
        mode = (tmp_path / local_socket.NAME).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


async def test_a_dead_agents_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / local_socket.NAME))
    with pytest.raises(local_socket.Unanswered, match="no agent runs"):
        await asyncio.to_thread(local_socket.ask, tmp_path)
    async with await local_socket.serve(tmp_path, hello):
        assert await asyncio.to_thread(local_socket.ask, tmp_path)


async def test_an_agent_that_fails_to_answer_is_told(tmp_path: Path) -> None:
    async def broken() -> bytes:
        raise OSError

    async with await local_socket.serve(tmp_path, broken):
        with pytest.raises(local_socket.Unanswered, match="see its log"):
            await asyncio.to_thread(local_socket.ask, tmp_path)


def test_a_directory_that_is_no_place_for_an_agent_is_told(tmp_path: Path) -> None:
    with pytest.raises(local_socket.Unanswered, match="no agent runs"):
        local_socket.ask(tmp_path / "nowhere")
    with pytest.raises(local_socket.Unanswered, match="does not answer"):
        local_socket.ask(tmp_path / ("long" * 50))
