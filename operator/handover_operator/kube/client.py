"""The API server as the operator needs it: reads of all kinds, and writes of ours."""

import contextlib
import datetime as dt
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

import aiohttp
import structlog

from handover_api.names import ObjectKey
from handover_operator.kinds import AnyKind, Kind, Watched
from handover_operator.kube import lease, requests
from handover_operator.kube.connection import TIMEOUT, Connection
from handover_operator.kube.errors import (
    Absent,
    Conflict,
    NotLeading,
    Refused,
    Unavailable,
    Unserved,
)
from handover_operator.kube.lease import Lease
from handover_operator.kube.requests import HttpRequest
from handover_operator.roles.parse import RawObject
from handover_operator.status.kubernetes_events import KubernetesEvent


def _always() -> bool:
    return True


class Cluster:
    """Reads all kinds and writes ours; every call may raise what errors.py has.

    ``may_write`` is asked before every write but those that any replica may make
    (``as_leader=False``; see standby.py).
    """

    def __init__(self, connection: Connection, may_write: Callable[[], bool] = _always) -> None:
        self.may_write = may_write
        self._connection = connection

    async def objects(self, kind: Watched) -> AsyncIterator[tuple[list[RawObject], int]]:
        """Yield pages of all objects, and the version of the list."""
        async for page in self._pages(kind, identities=False):
            yield page

    async def identities(self, kind: AnyKind) -> tuple[Mapping[ObjectKey, str], int]:
        """Return the uid of every object that exists, and the version of the list."""
        found: dict[ObjectKey, str] = {}
        version = 0
        async for page, version in self._pages(kind, identities=True):  # noqa: B007  the last counts
            found |= requests.uids(page)
        return found, version

    async def changes(
        self, kind: Watched, version: str, silence: float, lifetime: int
    ) -> AsyncGenerator[tuple[str, RawObject]]:
        """Yield type and object of each change since *version*.

        The API server ends it after *lifetime* seconds. Unavailable after *silence* seconds
        without a word. Who stops earlier closes it.
        """
        # No total, which would break off a watch that is well.
        limits = aiohttp.ClientTimeout(sock_connect=TIMEOUT, sock_read=silence)
        request = requests.watch(kind, version, lifetime)
        async with self._connection.answer(request, limits) as answer:
            # By chunks, not by lines: aiohttp refuses lines of more than 128 KiB, and a pod's may
            # be longer.
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    yield message["type"], message["object"]

    async def get(self, kind: AnyKind, key: ObjectKey) -> RawObject:
        """Read one object; that its kind is not served, now, is no word about it."""
        return await self._of_object(requests.read(kind, key))

    async def uid(self, kind: AnyKind, key: ObjectKey) -> str | None:
        """Return the uid of an object; None where there is none of this name."""
        try:
            found = await self._of_object(requests.read_header(kind, key))
        except Absent:
            return None
        return str(found["metadata"]["uid"])

    async def read(self, path: str) -> RawObject:
        """Read whatever is at a path."""
        return await self._connection.call(HttpRequest("GET", path))

    async def has_node(self, name: str) -> bool | None:
        """Return whether there is a node of this name; None when we may not know."""
        try:
            await self.read(f"/api/v1/nodes/{name}")
        except Absent:
            return False
        except Refused as reason:
            structlog.get_logger().warning("node_not_asked_for", node=name, reason=str(reason))
            return None
        return True

    async def review(self, path: str, body: RawObject) -> RawObject:
        """Ask a question that is answered and not stored, such as who may do what."""
        return await self._connection.call(HttpRequest("POST", path, body=body))

    async def resources(self, api_version: str) -> frozenset[str]:
        """Return the plurals of what is served in an API version; none when it is not there."""
        try:
            found = await self.read(f"/apis/{api_version}")
        except Absent:
            return frozenset()
        return frozenset(each["name"] for each in found["resources"])

    async def create(
        self, kind: Kind, namespace: str, body: RawObject, *, as_leader: bool = True
    ) -> RawObject:
        """Create an object; Conflict when there is one of its name."""
        self._claim_right(as_leader=as_leader)
        return await self._connection.call(requests.create(kind, namespace, body))

    async def patch(
        self,
        kind: Kind,
        key: ObjectKey,
        patch: RawObject,
        *,
        subresource: str = "",
        as_leader: bool = True,
    ) -> RawObject:
        """Merge *patch* into an object; Conflict when its resourceVersion is another."""
        self._claim_right(as_leader=as_leader)
        return await self._connection.call(requests.patch(kind, key, patch, subresource))

    async def apply_default(self, spec: Mapping[str, object], *, dry: bool = False) -> RawObject:
        """Apply HandoverConfiguration ``default``, or ask whether that would do.

        Conflict where somebody else has set a field otherwise.
        """
        self._claim_right(as_leader=not dry)
        return await self._connection.call(requests.apply_default(spec, dry=dry))

    async def delete(self, kind: Kind, key: ObjectKey, uid: str, *, as_leader: bool = True) -> None:
        """Delete this very object; one that is gone, or another of its name, is fine."""
        self._claim_right(as_leader=as_leader)
        with contextlib.suppress(Absent, Conflict):
            await self._connection.call(requests.delete(kind, key, uid))

    async def emit(
        self, kind: AnyKind, key: ObjectKey, uid: str, event: KubernetesEvent, now: dt.datetime
    ) -> None:
        """Record an Event about an object."""
        self._claim_right()
        await self._connection.call(requests.emit(kind, key, uid, event, now))

    def _claim_right(self, *, as_leader: bool = True) -> None:
        """Raise NotLeading where only the leader may write, and another replica is it."""
        if as_leader and not self.may_write():
            message = "another replica leads"
            raise NotLeading(message)

    async def _of_object(self, request: HttpRequest) -> RawObject:
        try:
            return await self._connection.call(request)
        # Absent, too, but of the whole kind.
        except Unserved as error:
            raise Unavailable(str(error)) from error

    async def _pages(
        self, kind: Watched, *, identities: bool
    ) -> AsyncIterator[tuple[list[RawObject], int]]:
        # All pages are of the first one's version. A list that takes longer than the API server
        # remembers it ends with 410 (Expired), and whoever wants it begins anew.
        token = ""
        version = 0
        while True:
            request = requests.read_page(kind, token, identities=identities)
            page = await self._connection.call(request)
            metadata = page["metadata"]
            # The first page's: what has come about since, a watch from there tells.
            version = version or int(metadata["resourceVersion"])
            # The API server writes an empty list of identities as null.
            yield page["items"] or [], version
            token = metadata.get("continue", "")
            if not token:
                return


class Leases:
    """The Lease by which replicas agree on one that writes; who does not lead may write it, too."""

    def __init__(self, connection: Connection, namespace: str, name: str) -> None:
        self._connection = connection
        self._namespace = namespace
        self._name = name

    async def read(self) -> Lease:
        """Read it; may raise Absent."""
        request = requests.read_lease(self._namespace, self._name)
        return lease.read(await self._connection.call(request))

    async def write(self, version: str, spec: Mapping[str, object]) -> Lease:
        """Write it if it has this version; without one, make it. Conflict: somebody was faster."""
        request = requests.write_lease(self._namespace, self._name, version, spec)
        return lease.read(await self._connection.call(request))
