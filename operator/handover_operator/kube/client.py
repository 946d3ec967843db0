"""The API server as the operator needs it; foreign exceptions are turned into ours here."""

import contextlib
import datetime as dt
import json
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import structlog
from kubernetes_asyncio import client, config
from kubernetes_asyncio.client.exceptions import ApiException
from kubernetes_asyncio.config import incluster_config
from kubernetes_asyncio.config.config_exception import ConfigException

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator import kinds
from handover_operator.kinds import AnyKind, Foreign, Kind, Plain, Watched
from handover_operator.kube import errors, lease
from handover_operator.kube.errors import (
    Absent,
    Conflict,
    NotLeading,
    Refused,
    Unavailable,
    Unconfigured,
    Unserved,
)
from handover_operator.kube.lease import Lease
from handover_operator.roles.parse import RawObject
from handover_operator.status.kubernetes_events import KubernetesEvent

# Custom resources know no strategic merge patch. With a resourceVersion in its body this one is
# conditional: the API server answers 409 where the object has another one by now.
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
# The metadata alone, of one object and of a list. A watch sends single objects, so it takes HEADER.
HEADER: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
IDENTITIES: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
PAGE: Final = 500
"""Objects in one answer of a list, Kopf's too: all are in memory at once, also as text."""

FOREIGN_PAGE: Final = 100
"""A launcher pod has 20 to 30 kB, ten times as much once it is read: a page of 500 took 60 MiB."""

TIMEOUT: Final = 30.0
"""Seconds until a request without an answer counts as an outage; of a watch, its connecting."""

LEASES: Final = "/apis/coordination.k8s.io/v1/"


async def connect() -> client.Configuration:
    """Find the API server: KUBECONFIG, else the service account of the pod, else ~/.kube/config.

    Raises Unconfigured.
    """
    configuration = client.Configuration()
    try:
        # A person who names a cluster means it, also inside of a pod.
        if "KUBECONFIG" not in os.environ and incluster_config.SERVICE_HOST_ENV_NAME in os.environ:
            loader = incluster_config.InClusterConfigLoader(
                token_filename=incluster_config.SERVICE_TOKEN_FILENAME,
                cert_filename=incluster_config.SERVICE_CERT_FILENAME,
            )
            loader.load_and_set(configuration)
        else:
            await config.load_kube_config(client_configuration=configuration)
    except (ConfigException, OSError) as error:
        message = (
            f"no way to an API server: {error}; run in a pod with a service account, or set"
            " KUBECONFIG"
        )
        raise Unconfigured(message) from error
    return configuration


class Cluster:
    """Reads all kinds and writes ours; every call may raise what errors.py has.

    ``may_write`` is asked before every write but those of the Lease itself, and those that any
    replica may make (``as_leader=False``; see standby.py).
    """

    def __init__(self, configuration: client.Configuration) -> None:
        self.configuration = configuration
        self.may_write: Callable[[], bool] = lambda: True
        self._api = client.ApiClient(configuration)

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    async def objects(self, kind: Watched) -> AsyncIterator[tuple[list[RawObject], int]]:
        """Yield pages of all objects, and the version of the list."""
        accept = IDENTITIES if isinstance(kind, Plain) else "application/json"
        async for page in self._pages(kind, accept):
            yield page

    async def identities(self, kind: AnyKind) -> tuple[Mapping[ObjectKey, str], int]:
        """Return the uid of every object that exists, and the version of the list."""
        found: dict[ObjectKey, str] = {}
        version = 0
        async for page, version in self._pages(kind, IDENTITIES):  # noqa: B007  the last counts
            for raw in page:
                metadata = raw["metadata"]
                key = ObjectKey(metadata.get("namespace", ""), metadata["name"])
                found[key] = metadata["uid"]
        return found, version

    async def changes(
        self, kind: Watched, version: str, silence: float, lifetime: int
    ) -> AsyncGenerator[tuple[str, RawObject]]:
        """Yield type and object of each change since *version*.

        The API server ends it after *lifetime* seconds. Unavailable after *silence* seconds
        without a word. Who stops earlier closes it.
        """
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(lifetime),
            **_selection(kind),
        }
        headers = {"Accept": HEADER if isinstance(kind, Plain) else "application/json"}
        # No total, which would break off a watch that is well.
        limits = aiohttp.ClientTimeout(sock_connect=TIMEOUT, sock_read=silence)
        path = kinds.collection(kind)
        async with self._answer("GET", path, headers, query=query, limits=limits) as answer:
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
        try:
            return await self._call("GET", _path(kind, key))
        except Unserved as error:
            raise Unavailable(str(error)) from error

    async def uid(self, kind: AnyKind, key: ObjectKey) -> str | None:
        """Return the uid of an object; None where there is none of this name."""
        try:
            found = await self._call("GET", _path(kind, key), accept=HEADER)
        except Unserved as error:
            raise Unavailable(str(error)) from error
        except Absent:
            return None
        return str(found["metadata"]["uid"])

    async def read(self, path: str) -> RawObject:
        """Read whatever is at a path."""
        return await self._call("GET", path)

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
        return await self._call("POST", path, body=body)

    async def resources(self, api_version: str) -> frozenset[str]:
        """Return the plurals of what is served in an API version; none when it is not there."""
        try:
            found = await self._call("GET", f"/apis/{api_version}")
        except Absent:
            return frozenset()
        return frozenset(each["name"] for each in found["resources"])

    async def create(
        self, kind: Kind, namespace: str, body: RawObject, *, as_leader: bool = True
    ) -> RawObject:
        """Create an object; Conflict when there is one of its name."""
        self._claim_right(as_leader=as_leader)
        query = {"fieldManager": names.OPERATOR_FIELD_MANAGER}
        return await self._call("POST", kinds.collection(kind, namespace), body=body, query=query)

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
        return await self._call(
            "PATCH",
            _path(kind, key) + subresource,
            body=patch,
            content_type=MERGE_PATCH,
            query={"fieldManager": names.OPERATOR_FIELD_MANAGER},
        )

    async def apply_default(self, spec: Mapping[str, object], *, dry: bool = False) -> RawObject:
        """Apply HandoverConfiguration ``default``, or ask whether that would do.

        Server-side apply, never by force: Conflict where somebody else has set a field otherwise.
        """
        self._claim_right(as_leader=not dry)
        key = ObjectKey("", names.DEFAULT_CONFIGURATION)
        body = {
            "apiVersion": names.API_VERSION,
            "kind": Kind.CONFIGURATION.value,
            "metadata": {"name": key.name},
            # An apply of {} that takes the last field away leaves null, which the schema refuses.
            **({"spec": spec} if spec else {}),
        }
        return await self._call(
            "PATCH",
            _path(Kind.CONFIGURATION, key),
            body=body,
            content_type=APPLY_PATCH,
            query={
                "fieldManager": names.OPERATOR_FIELD_MANAGER,
                **({"dryRun": "All"} if dry else {}),
            },
        )

    async def delete(self, kind: Kind, key: ObjectKey, uid: str, *, as_leader: bool = True) -> None:
        """Delete this very object; one that is gone, or another of its name, is fine."""
        self._claim_right(as_leader=as_leader)
        # Where the name is another object's by now, the API server answers 409.
        body = {"preconditions": {"uid": uid}}
        with contextlib.suppress(Absent, Conflict):
            await self._call("DELETE", _path(kind, key), body=body)

    async def emit(
        self, kind: AnyKind, key: ObjectKey, uid: str, event: KubernetesEvent, now: dt.datetime
    ) -> None:
        """Record an Event about an object."""
        self._claim_right()
        # Events of objects without a namespace are kept there, as the API server demands.
        namespace = key.namespace or "default"
        when = now.isoformat(timespec="seconds").replace("+00:00", "Z")
        body = {
            # The API server appends some characters, and refuses a name of more than 253.
            "metadata": {"generateName": f"{key.name[:200]}.", "namespace": namespace},
            "involvedObject": {
                "apiVersion": kind.api_version,
                "kind": kind.value,
                "name": key.name,
                "namespace": key.namespace or None,
                "uid": uid,
            },
            "type": "Warning" if event.warning else "Normal",
            "reason": event.reason,
            # Kubernetes refuses a longer one.
            "message": event.message[:1024],
            "firstTimestamp": when,
            "lastTimestamp": when,
            "count": 1,
            "source": {"component": names.OPERATOR_FIELD_MANAGER},
            "reportingComponent": f"{names.GROUP}/{names.OPERATOR_FIELD_MANAGER}",
        }
        await self._call("POST", f"/api/v1/namespaces/{namespace}/events", body=body)

    async def read_lease(self, namespace: str, name: str) -> Lease:
        """Read the Lease of the replicas."""
        path = f"{LEASES}namespaces/{namespace}/leases/{name}"
        return lease.read(await self._call("GET", path))

    async def write_lease(
        self, namespace: str, name: str, version: str, spec: Mapping[str, object]
    ) -> Lease:
        """Write it if it has this version; without one, make it. Conflict: somebody was faster."""
        path = f"{LEASES}namespaces/{namespace}/leases"
        # Created, not applied: of two replicas that make it at once, one is answered 409.
        if not version:
            made = {"metadata": {"name": name, "namespace": namespace}, "spec": spec}
            return lease.read(await self._call("POST", path, body=made))
        patch = {"metadata": {"resourceVersion": version}, "spec": spec}
        return lease.read(
            await self._call("PATCH", f"{path}/{name}", body=patch, content_type=MERGE_PATCH)
        )

    def _claim_right(self, *, as_leader: bool = True) -> None:
        """Raise NotLeading where only the leader may write, and another replica is it."""
        if as_leader and not self.may_write():
            message = "another replica leads"
            raise NotLeading(message)

    async def _pages(
        self, kind: Watched, accept: str
    ) -> AsyncIterator[tuple[list[RawObject], int]]:
        # All pages are of the first one's version. A list that takes longer than the API server
        # remembers it ends with 410 (Expired), and whoever wants it begins anew.
        token = ""
        version = 0
        while True:
            limit = FOREIGN_PAGE if isinstance(kind, Foreign) else PAGE
            query = {"limit": str(limit), **_selection(kind)}
            if token:
                query["continue"] = token
            path = kinds.collection(kind)
            page = await self._call("GET", path, query=query, accept=accept)
            metadata = page["metadata"]
            # The first page's: what has come about since, a watch from there tells.
            version = version or int(metadata["resourceVersion"])
            # The API server writes an empty list of identities as null.
            yield page["items"] or [], version
            token = metadata.get("continue", "")
            if not token:
                return

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: RawObject | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        headers = {"Accept": accept, "Content-Type": content_type}
        async with self._answer(method, path, headers, body=body, query=query) as answer:
            parsed: dict[str, Any] = json.loads(await answer.read())
            return parsed

    @contextlib.asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        body: RawObject | None = None,
        query: Mapping[str, str] | None = None,
        limits: float | aiohttp.ClientTimeout = TIMEOUT,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; an answer that is none of success is raised as one of ours."""
        try:
            answer = await self._api.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params=dict(headers),
                body=body,
                auth_settings=["BearerToken"],
                # The answer itself: of a watch there is no end to wait for. Its status is ours to
                # look at then: kubernetes-asyncio does so only once it has read the whole.
                _preload_content=False,
                _request_timeout=limits,
            )
            async with answer:
                if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                    after = _seconds(answer.headers.get("Retry-After", ""))
                    text = (await answer.read()).decode(errors="replace")
                    raise errors.from_response(answer.status, text, after)
                yield answer
        except ApiException as error:
            text = str(error.body or error.reason)
            raise errors.from_response(error.status or 0, text) from error
        except (aiohttp.ClientError, ssl.SSLError, TimeoutError, OSError) as error:
            raise Unavailable(_text(error)) from error


def _path(kind: AnyKind, key: ObjectKey) -> str:
    return f"{kinds.collection(kind, key.namespace)}/{key.name}"


def _selection(kind: Watched) -> Mapping[str, str]:
    selector = kind.selector if isinstance(kind, Foreign) else ""
    return {"labelSelector": selector} if selector else {}


def _seconds(retry_after: str) -> float:
    """Read a Retry-After; the API server writes whole seconds, proxies may write a date."""
    return float(retry_after) if retry_after.isdecimal() else 0.0


def _text(error: BaseException) -> str:
    """Some exceptions of aiohttp and asyncio have no text of their own."""
    return str(error) or type(error).__name__
