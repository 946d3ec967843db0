"""How the API server's answers are sorted, seen at a stand-in that gives any answer."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from kubernetes_asyncio import client

from handover_api.names import ObjectKey
from handover_operator.kinds import AnyKind, Foreign, Kind
from handover_operator.kube.client import Cluster
from handover_operator.kube.connection import Connection
from handover_operator.kube.errors import Absent, Conflict, Refused, Unavailable

KEY = ObjectKey("default", "a")
OBJECTS = 1001


class Server:
    """Answers every request with the one answer that it was given."""

    def __init__(self) -> None:
        self.code = 200
        self.headers: dict[str, str] = {}
        self.details: dict[str, str] = {"name": KEY.name}
        self.limits: list[int] = []

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer as an API server does."""
        if self.code == 200 and "limit" in request.query:
            return self._page(request.query)
        body = json.dumps({"kind": "Status", "message": "because", "details": self.details})
        return web.Response(text=body, status=self.code, headers=self.headers)

    def _page(self, query: Mapping[str, str]) -> web.Response:
        """Answer with the next of OBJECTS; the token says how many came before."""
        self.limits.append(int(query["limit"]))
        begin = int(query.get("continue", "0"))
        end = begin + self.limits[-1]
        metadata = {"resourceVersion": "7", "continue": str(end) if end < OBJECTS else ""}
        items = [{"metadata": {"name": f"x{n}"}} for n in range(begin, min(end, OBJECTS))]
        return web.json_response({"metadata": metadata, "items": items})


@pytest.fixture
async def server() -> Server:
    """Have one, not asked yet."""
    return Server()


@pytest.fixture
async def cluster(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    """Connect to it."""
    # To read what all of the system's authorities have signed takes longer than a test, and the
    # stand-in speaks plain HTTP.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: context)
    http = RawTestServer(server.answer)
    await http.start_server()
    configuration = client.Configuration()
    configuration.host = str(http.make_url("")).rstrip("/")
    connection = Connection(configuration)
    yield Cluster(connection)
    await connection.close()
    await http.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (404, Absent),
        (409, Conflict),
        (422, Refused),
        (403, Refused),
        (401, Unavailable),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
async def test_an_answer_is_sorted_by_what_can_be_done(
    server: Server, cluster: Cluster, code: int, kind: type[Exception]
) -> None:
    server.code = code
    with pytest.raises(kind, match="because"):
        await cluster.get(Kind.ENDPOINT, KEY)


async def test_a_kind_that_is_not_served_says_nothing_of_its_objects(
    server: Server, cluster: Cluster
) -> None:
    server.code, server.details = 404, {}
    with pytest.raises(Unavailable, match="because"):
        await cluster.get(Kind.ENDPOINT, KEY)
    with pytest.raises(Absent, match="because"):
        await cluster.identities(Kind.ENDPOINT)


@pytest.mark.parametrize(
    ("kind", "size"), [*((kind, 500) for kind in Kind), *((kind, 100) for kind in Foreign)]
)
async def test_a_list_comes_in_pages_that_memory_holds(
    server: Server, cluster: Cluster, kind: AnyKind, size: int
) -> None:
    """A launcher pod is many times as large as an object of ours."""
    pages = [page async for page, _ in cluster.objects(kind)]

    assert set(server.limits) == {size}
    assert [len(page) for page in pages] == [size] * (OBJECTS // size) + [1]
    assert len({each["metadata"]["name"] for page in pages for each in page}) == OBJECTS


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7.0), ("86400", 60.0), ("", 0.0), ("Wed, 25 Nov 2026 12:00:00 GMT", 0.0)],
)
async def test_the_patience_that_is_asked_for_is_told(
    server: Server, cluster: Cluster, code: int, said: str, seconds: float
) -> None:
    server.code, server.headers = code, {"Retry-After": said} if said else {}
    with pytest.raises(Unavailable) as caught:
        await cluster.get(Kind.ENDPOINT, KEY)
    assert caught.value.retry_after == seconds
