"""What the API server is asked, as values: method, path, query, headers and body. Pure.

``connection.py`` sends them, ``errors.py`` says what an answer means that is none of success.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator import kinds
from handover_operator.kinds import AnyKind, Foreign, Kind, Plain, Watched
from handover_operator.roles.parse import RawObject
from handover_operator.status.kubernetes_events import KubernetesEvent

JSON: Final = "application/json"
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

EVENT_NAME: Final = 200
"""Characters of an object's name in its Event's: the API server appends some, and refuses 254."""

EVENT_MESSAGE: Final = 1024
"""Characters; Kubernetes refuses a longer message."""

_IN_OUR_NAME: Final = {"fieldManager": names.OPERATOR_FIELD_MANAGER}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request; *accept* and *content_type* are its headers."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: RawObject | None = None
    accept: str = JSON
    content_type: str = JSON


def read(kind: AnyKind, key: ObjectKey) -> HttpRequest:
    """Ask for one object."""
    return HttpRequest("GET", _path(kind, key))


def read_header(kind: AnyKind, key: ObjectKey) -> HttpRequest:
    """Ask for the metadata of one object."""
    return HttpRequest("GET", _path(kind, key), accept=HEADER)


def read_page(kind: Watched, token: str, *, identities: bool = False) -> HttpRequest:
    """Ask for a page of a list: the first one, or that of the *token* in the one before it."""
    limit = FOREIGN_PAGE if isinstance(kind, Foreign) else PAGE
    query = {"limit": str(limit), **_selection(kind)}
    if token:
        query["continue"] = token
    is_header = identities or isinstance(kind, Plain)
    accept = IDENTITIES if is_header else JSON
    return HttpRequest("GET", kinds.collection(kind), query, accept=accept)


def watch(kind: Watched, version: str, lifetime: int) -> HttpRequest:
    """Ask for all changes since *version*; the API server ends it after *lifetime* seconds."""
    query = {
        "watch": "1",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(lifetime),
        **_selection(kind),
    }
    accept = HEADER if isinstance(kind, Plain) else JSON
    return HttpRequest("GET", kinds.collection(kind), query, accept=accept)


def create(kind: Kind, namespace: str, body: RawObject) -> HttpRequest:
    """Make an object."""
    return HttpRequest("POST", kinds.collection(kind, namespace), _IN_OUR_NAME, body)


def patch(kind: Kind, key: ObjectKey, body: RawObject, subresource: str = "") -> HttpRequest:
    """Merge *body* into an object, or into a part of it such as ``/status``."""
    path = _path(kind, key) + subresource
    return HttpRequest("PATCH", path, _IN_OUR_NAME, body, content_type=MERGE_PATCH)


def apply_default(spec: Mapping[str, object], *, dry: bool) -> HttpRequest:
    """Apply HandoverConfiguration ``default``, server-side and never by force."""
    key = ObjectKey("", names.DEFAULT_CONFIGURATION)
    body = {
        "apiVersion": names.API_VERSION,
        "kind": Kind.CONFIGURATION.value,
        "metadata": {"name": key.name},
        # An apply of {} that takes the last field away leaves null, which the schema refuses.
        **({"spec": spec} if spec else {}),
    }
    query = {**_IN_OUR_NAME, **({"dryRun": "All"} if dry else {})}
    path = _path(Kind.CONFIGURATION, key)
    return HttpRequest("PATCH", path, query, body, content_type=APPLY_PATCH)


def delete(kind: Kind, key: ObjectKey, uid: str) -> HttpRequest:
    """Delete this very object."""
    # Where the name is another object's by now, the API server answers 409.
    return HttpRequest("DELETE", _path(kind, key), body={"preconditions": {"uid": uid}})


def emit(
    kind: AnyKind, key: ObjectKey, uid: str, event: KubernetesEvent, now: dt.datetime
) -> HttpRequest:
    """Record an Event about an object."""
    # Events of objects without a namespace are kept there, as the API server demands.
    namespace = key.namespace or "default"
    when = now.isoformat(timespec="seconds").replace("+00:00", "Z")
    body = {
        "metadata": {"generateName": f"{key.name[:EVENT_NAME]}.", "namespace": namespace},
        "involvedObject": {
            "apiVersion": kind.api_version,
            "kind": kind.value,
            "name": key.name,
            "namespace": key.namespace or None,
            "uid": uid,
        },
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message[:EVENT_MESSAGE],
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
        "source": {"component": names.OPERATOR_FIELD_MANAGER},
        "reportingComponent": f"{names.GROUP}/{names.OPERATOR_FIELD_MANAGER}",
    }
    return HttpRequest("POST", f"/api/v1/namespaces/{namespace}/events", body=body)


def read_lease(namespace: str, name: str) -> HttpRequest:
    """Ask for a Lease."""
    return HttpRequest("GET", f"{_leases(namespace)}/{name}")


def write_lease(namespace: str, name: str, version: str, spec: Mapping[str, object]) -> HttpRequest:
    """Write a Lease if it has this version; without one, make it."""
    # Created, not applied: of two replicas that make it at once, one is answered 409.
    if not version:
        made = {"metadata": {"name": name, "namespace": namespace}, "spec": spec}
        return HttpRequest("POST", _leases(namespace), body=made)
    body = {"metadata": {"resourceVersion": version}, "spec": spec}
    path = f"{_leases(namespace)}/{name}"
    return HttpRequest("PATCH", path, body=body, content_type=MERGE_PATCH)


def uids(page: Iterable[RawObject]) -> dict[ObjectKey, str]:
    """Return the uid of each object in a page of a list."""
    found = (raw["metadata"] for raw in page)
    return {ObjectKey(each.get("namespace", ""), each["name"]): each["uid"] for each in found}


def _path(kind: AnyKind, key: ObjectKey) -> str:
    return f"{kinds.collection(kind, key.namespace)}/{key.name}"


def _leases(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def _selection(kind: Watched) -> Mapping[str, str]:
    selector = kind.selector if isinstance(kind, Foreign) else ""
    return {"labelSelector": selector} if selector else {}
