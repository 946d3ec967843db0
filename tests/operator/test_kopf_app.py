"""What becomes of the process when Kopf ends, seen at a stand-in for the API server."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import kopf
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from kubernetes_asyncio import client
from yarl import URL

from handover_api import names
from handover_operator import kopf_app
from handover_operator.kinds import Kind
from handover_operator.kopf_runtime import Memo
from handover_operator.kube.errors import Unavailable
from handover_operator.kube.resync import Resync

RESOURCE = {"singularName": "", "namespaced": True, "verbs": ["list", "watch", "patch"]}


class Server:
    """Serves *kinds*, none of which has an object; a watch of the one that is ``gone`` fails.

    ``lists``: what the next lists of LiveMigrations hold; between two of them a watch expires.
    ``token``: what a request must show; ``logins``: what requests have shown, one after the other.
    """

    def __init__(self) -> None:
        self.kinds: tuple[Kind, ...] = (*Kind,)
        self.has_group = True
        self.token = ""
        self.logins: list[str] = []
        self.gone: Kind | None = None
        self.lists: list[tuple[str, ...]] = []

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; without the right token, where one is asked for, by 401."""
        said = request.headers.get("Authorization", "")
        if not self.logins or self.logins[-1] != said:
            self.logins.append(said)
        if said != self.token:
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        if "watch" in request.query:
            if self.gone is not None and request.path.endswith(self.gone.plural):
                return web.json_response({"kind": "Status", "code": 404}, status=404)
            stream = web.StreamResponse()
            await stream.prepare(request)
            if self.lists and request.path.endswith(Kind.MIGRATION.plural):
                expired = {"kind": "Status", "code": 410, "metadata": {}}
                await stream.write(json.dumps({"type": "ERROR", "object": expired}).encode())
                return stream
            await asyncio.Event().wait()
        if self.lists and request.path.endswith(Kind.MIGRATION.plural):
            named = [
                {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"}
                for name in self.lists.pop(0)
            ]
            items = [{"metadata": metadata, "spec": {}} for metadata in named]
            return web.json_response({"items": items, "metadata": {"resourceVersion": "7"}})
        return web.json_response(self._found(request.path))

    def _found(self, path: str) -> dict[str, Any]:
        version = {"version": names.VERSION}
        group = {"name": names.GROUP, "versions": [version], "preferredVersion": version}
        served = [{"name": kind.plural, "kind": kind.value, **RESOURCE} for kind in self.kinds]
        match path:
            case "/apis":
                return {"groups": [group] if self.has_group else []}
            case "/api":
                return {"versions": ["v1"]}
            case "/api/v1":
                return {"resources": [{"name": "namespaces", "kind": "Namespace", **RESOURCE}]}
            case _ if path.endswith(names.VERSION):
                return {"resources": served}
        return {"resources": [], "items": [], "metadata": {"resourceVersion": "1"}}


@pytest.fixture
def server() -> Server:
    """Have a stand-in."""
    return Server()


@pytest.fixture
async def configuration(server: Server) -> AsyncIterator[client.Configuration]:
    """Start the stand-in, and return how to connect to it."""
    http = RawTestServer(server.answer)
    await http.start_server()
    configuration = client.Configuration()
    configuration.host = str(http.make_url("")).rstrip("/")
    yield configuration
    await http.close()


def resync() -> Resync:
    """Have a resync that never sweeps."""
    return Resync(lambda: asyncio.sleep(0), 3600)


async def ended(configuration: client.Configuration) -> tuple[BaseException, set[str]]:
    """Watch until it ends by itself; return how, and the tasks that began meanwhile and live."""
    before = asyncio.all_tasks()
    number = itertools.count()

    def begin_another() -> None:
        others.append(asyncio.create_task(asyncio.Event().wait(), name=f"other {next(number)}"))

    others: list[asyncio.Task[bool]] = []
    controller: Any = SimpleNamespace(retain=lambda *_: None)
    memo = Memo(controller, resync(), configuration)
    [error] = await asyncio.gather(kopf_app.run(memo, begin_another), return_exceptions=True)
    assert isinstance(error, BaseException)
    await asyncio.sleep(0)
    left = {task.get_name() for task in asyncio.all_tasks() - before if not task.done()}
    for task in others:
        task.cancel()
    return error, left


async def test_kopf_ends_where_a_kind_lacks_and_takes_no_other_task_along(
    server: Server, configuration: client.Configuration
) -> None:
    server.kinds = (Kind.ENDPOINT, Kind.MIGRATION)
    error, left = await ended(configuration)
    assert isinstance(error, Unavailable)
    assert left == {"other 0"}


async def test_kopf_ends_when_a_kind_is_gone_and_no_watch_of_its_lives_on(
    server: Server, configuration: client.Configuration
) -> None:
    server.gone = Kind.MIGRATION
    error, left = await ended(configuration)
    assert getattr(error, "status", None) == 404
    assert left == {"other 0"}


async def test_each_list_of_a_watch_is_told_as_a_whole_also_an_empty_one(
    server: Server, configuration: client.Configuration
) -> None:
    """The only object is deleted while its watch has expired: no event will ever say so."""
    server.lists = [("m1",), ()]
    told: list[tuple[set[str], int]] = []
    observed: list[str] = []
    all_told = asyncio.Event()

    def retain(kind: Kind, existing: Any, version: int) -> None:
        if kind is Kind.MIGRATION:
            told.append(({key.name for key in existing}, version))
        if len(told) == 2:
            all_told.set()

    controller: Any = SimpleNamespace(
        retain=retain, observe=lambda _, raw: observed.append(raw["metadata"]["name"])
    )
    memo = Memo(controller, resync(), configuration)
    watching = asyncio.create_task(kopf_app.run(memo, lambda: None))
    await asyncio.wait_for(all_told.wait(), 20)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert told == [({"m1"}, 7), (set(), 7)]
    assert observed == ["m1"]
    assert memo.resync.lists >= 4


async def test_kopf_ends_where_not_even_the_group_is_served(
    server: Server, configuration: client.Configuration
) -> None:
    server.has_group = False
    error, left = await ended(configuration)
    assert isinstance(error, Unavailable)
    assert left == {"other 0"}


async def test_a_list_of_several_pages_is_told_once(configuration: client.Configuration) -> None:
    told: list[tuple[set[str], int]] = []
    controller: Any = SimpleNamespace(
        retain=lambda _, existing, version: told.append(({key.name for key in existing}, version))
    )
    memo = Memo(controller, resync(), configuration)
    url = URL(f"https://api/apis/{names.API_VERSION}/{Kind.MIGRATION.plural}")

    def page(name: str, version: str, token: str) -> dict[str, Any]:
        item = {"metadata": {"name": name, "namespace": "default", "uid": name}}
        return {"items": [item], "metadata": {"resourceVersion": version, "continue": token}}

    memo.read(url % {"limit": "1"}, page("lost", "6", "more"))
    memo.read(url % {"limit": "1"}, page("a", "7", "more"))
    memo.read(url % {"limit": "1", "continue": "more"}, page("b", "8", ""))
    assert told == [({"a", "b"}, 7)]


async def test_a_token_that_was_renewed_is_shown_and_one_that_is_refused_asked_for_no_more(
    server: Server, configuration: client.Configuration
) -> None:
    """Kopf logs in again at a 401: with nothing better to show, it would ask for ever."""
    server.token = "Bearer new"
    configuration.api_key["BearerToken"] = "Bearer old"
    error, left = await ended(configuration)
    assert isinstance(error, kopf.LoginError)
    assert left == {"other 0"}
    assert server.logins == ["Bearer old"]

    controller: Any = SimpleNamespace()
    memo = Memo(controller, resync(), configuration)
    first = await memo.login()
    server.gone = Kind.MIGRATION
    configuration.api_key["BearerToken"] = "Bearer new"
    assert (await memo.login()) != first
    assert first.aiohttp_session.closed
    await memo.close()
    error, _ = await ended(configuration)
    assert getattr(error, "status", None) == 404
    assert server.logins == ["Bearer old", "Bearer new"]


async def test_kopf_kills_nothing_after_it_has_ended() -> None:
    """By default it sends SIGKILL to its own process ten minutes later, however it ended."""
    settings = kopf.OperatorSettings()
    assert settings.process.ultimate_exiting_timeout is not None
    configure: Any = kopf_app.configure
    await configure(settings=settings)
    assert settings.process.ultimate_exiting_timeout is None
