"""Whether KubeVirt is there, as a stand-in for the API server tells it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from handover_operator import main
from handover_operator.kubevirt import discovery
from handover_operator.kubevirt.discovery import KINDS, Discovery


class Server:
    """Says what is served, answer by answer, the last one again and again."""

    def __init__(self, answers: str) -> None:
        self.answers = answers.split()
        self.asked = 0
        self.has_answered = asyncio.Event()

    async def resources(self, api_version: str) -> frozenset[str]:
        """Return the plurals of what is served."""
        assert api_version == "kubevirt.io/v1"
        self.asked += 1
        if len(self.answers) == 1:
            self.has_answered.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return KINDS if answer == "yes" else frozenset()


def watched(server: Any) -> Discovery:
    """Have a KubeVirt that was there."""
    adapter: Any = SimpleNamespace(is_active=False)
    return Discovery(server, adapter, 60)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask every two milliseconds; gone is what is unserved for two hundred."""
    monkeypatch.setattr(discovery, "INTERVAL", 0.002)
    monkeypatch.setattr(discovery, "GONE_FOR", 0.2)


@pytest.mark.usefixtures("quick")
async def test_one_negative_answer_is_no_end() -> None:
    server = Server("yes no yes no yes")
    lasting = asyncio.create_task(watched(server)._outlast())
    await asyncio.wait_for(server.has_answered.wait(), 10)
    assert not lasting.done()
    lasting.cancel()
    await asyncio.gather(lasting, return_exceptions=True)


@pytest.mark.usefixtures("quick")
async def test_what_is_unserved_for_long_is_gone() -> None:
    server = Server("yes no")
    await asyncio.wait_for(watched(server)._outlast(), 10)
    assert server.asked > 2


def is_ready(found: Discovery | None, *, synced: bool = True, trouble: str = "") -> bool:
    """Ask as /readyz does."""
    parts: Any = SimpleNamespace(
        controller=SimpleNamespace(synced=synced),
        default=SimpleNamespace(trouble=trouble),
        discovery=found,
    )
    return not main._unready(parts)


async def test_a_replica_is_ready_when_it_could_lead() -> None:
    found = watched(Server("no"))
    assert not is_ready(found)
    await found.begin()
    assert is_ready(found)
    assert is_ready(None)
    assert not is_ready(found, synced=False)
    assert not is_ready(found, trouble="refused")
