"""How the parts of a process are put together, and who may write before any Lease is held."""

from collections.abc import AsyncIterator

import pytest
from kubernetes_asyncio import client

from handover_operator import main
from handover_operator.kube.connection import Connection
from handover_operator.settings import OperatorSettings


@pytest.fixture
async def api_server() -> AsyncIterator[Connection]:
    """Return a connection on which nothing is asked."""
    connection = Connection(client.Configuration())
    yield connection
    await connection.close()


async def test_the_only_replica_may_always_write(api_server: Connection) -> None:
    parts = main.wire(OperatorSettings(leader_election=False), api_server, None)

    assert parts.leadership is None
    assert parts.api.may_write()


async def test_one_of_several_may_not_write_before_it_holds_the_lease(
    api_server: Connection,
) -> None:
    """Guards: whatever begins a write asks the one who knows until when we hold it."""
    parts = main.wire(OperatorSettings(leader_election=True), api_server, None)

    assert parts.leadership is not None
    assert not parts.api.may_write()


@pytest.mark.parametrize("kubevirt", [True, False])
async def test_the_adapter_is_there_where_kubevirt_is_to_be_followed(
    api_server: Connection, *, kubevirt: bool
) -> None:
    parts = main.wire(OperatorSettings(kubevirt=kubevirt), api_server, None)

    both = (parts.controller, parts.adapter)
    assert parts.loops == (both if kubevirt else (parts.controller,))
    assert (parts.discovery is not None) == kubevirt
