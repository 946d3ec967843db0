"""Where an agent can be made to die: at functions that it has, before or after, once."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from handover_lab.testing import faults
from handover_lab.testing.faults import FaultInjector


class DiedError(Exception):
    """The process would have ended here."""


@pytest.fixture(autouse=True)
def mortal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process survive."""

    def kill(pid: int, number: int) -> NoReturn:
        assert (pid, number) == (os.getpid(), signal.SIGKILL)
        raise DiedError

    monkeypatch.setattr(os, "kill", kill)


@pytest.fixture
def order(tmp_path: Path) -> Path:
    """The file that names a moment."""
    return tmp_path / "order"


@pytest.fixture(params=["sync", "async"])
def work(order: Path, request: pytest.FixtureRequest) -> Callable[[list[str]], Any]:
    """Add to a list, in a function that can die."""
    injector = FaultInjector(order)

    def add(done: list[str]) -> None:
        done.append("done")

    async def await_it(done: list[str]) -> None:
        add(done)

    if request.param == "sync":
        return injector.wrap("step", add)
    awaited = injector.wrap("step", await_it)
    return lambda done: asyncio.run(awaited(done))


def test_every_step_is_a_function_of_the_agent() -> None:
    for owner, name in faults.STEPS.values():
        assert callable(getattr(owner, name))


@pytest.mark.parametrize(("moment", "expected"), [("before", []), ("after", ["done"])])
def test_it_dies_at_the_ordered_moment_once(
    order: Path, work: Callable[[list[str]], Any], moment: str, expected: list[str]
) -> None:
    done: list[str] = []
    order.write_text(f"{moment} step")

    with pytest.raises(DiedError):
        work(done)

    assert done == expected
    work(done)
    assert done == [*expected, "done"]


def test_an_order_for_another_step_waits(order: Path, work: Callable[[list[str]], Any]) -> None:
    done: list[str] = []
    order.write_text("before another")

    work(done)

    assert done == ["done"]
    assert order.exists()


def test_of_several_moments_the_last_one_kills(order: Path) -> None:
    injector = FaultInjector(order)
    order.write_text("before hearing\nafter memory")

    # What comes before its turn does not count.
    injector.die_if_ordered("after", "memory")
    injector.die_if_ordered("before", "hearing")
    injector.die_if_ordered("before", "hearing")
    with pytest.raises(DiedError):
        injector.die_if_ordered("after", "memory")

    assert not order.exists()


def test_awaiting_the_next_moment_is_no_step_of_the_agent(
    order: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: the order is replaced as the memory's files are, which is a moment of its own."""
    injector = FaultInjector(order)
    monkeypatch.setattr(Path, "replace", injector.wrap("rename", Path.replace))
    order.write_text("before hearing\nbefore rename")

    injector.die_if_ordered("before", "hearing")

    assert order.read_text() == "before rename"
