"""What the API server is asked: each request as a value."""

import datetime as dt
from typing import Any

import pytest

from handover_api.names import ObjectKey
from handover_operator.kinds import AnyKind, Foreign, Kind, Plain, Watched
from handover_operator.kube import requests
from handover_operator.kube.requests import HttpRequest
from handover_operator.status.kubernetes_events import KubernetesEvent

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
KEY = ObjectKey("vms", "a")
ENDPOINTS = "/apis/handover.dev/v1alpha1/namespaces/vms/workloadendpoints"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/here/leases"
OURS = {"fieldManager": "handover-operator"}


@pytest.mark.parametrize(
    ("kind", "key", "path"),
    [
        (Kind.ENDPOINT, KEY, f"{ENDPOINTS}/a"),
        (Foreign.POD, KEY, "/api/v1/namespaces/vms/pods/a"),
        (
            Kind.CONFIGURATION,
            ObjectKey("", "default"),
            "/apis/handover.dev/v1alpha1/handoverconfigurations/default",
        ),
    ],
)
def test_an_object_is_asked_for_where_it_lives(kind: AnyKind, key: ObjectKey, path: str) -> None:
    whole, header = requests.read(kind, key), requests.read_header(kind, key)

    assert (whole.method, whole.path, whole.accept) == ("GET", path, "application/json")
    assert (header.path, header.accept) == (path, requests.HEADER)


@pytest.mark.parametrize(
    ("kind", "limit", "accept"),
    [
        (Kind.ENDPOINT, "500", requests.JSON),
        (Foreign.VMI, "100", requests.JSON),
        # Of a namespace more than its metadata is never read.
        (Plain.NAMESPACE, "500", requests.IDENTITIES),
    ],
)
def test_a_page_is_asked_for_as_large_as_memory_holds(
    kind: Watched, limit: str, accept: str
) -> None:
    first = requests.read_page(kind, "")
    next_one = requests.read_page(kind, "token", identities=True)

    assert (first.query, first.accept) == ({"limit": limit}, accept)
    assert next_one.query == {"limit": limit, "continue": "token"}
    assert next_one.accept == requests.IDENTITIES


def test_of_all_pods_only_launchers_are_listed_and_watched() -> None:
    listed, watched = requests.read_page(Foreign.POD, ""), requests.watch(Foreign.POD, "7", 300)

    assert listed.query["labelSelector"] == "kubevirt.io=virt-launcher"
    assert watched.query == {
        "watch": "1",
        "resourceVersion": "7",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "300",
        "labelSelector": "kubevirt.io=virt-launcher",
    }
    assert requests.watch(Plain.NAMESPACE, "7", 300).accept == requests.HEADER


def test_a_patch_is_a_merge_patch_in_our_name() -> None:
    body = {"status": {"phase": "Live"}}
    expected = HttpRequest(
        "PATCH", f"{ENDPOINTS}/a/status", OURS, body, content_type=requests.MERGE_PATCH
    )

    assert requests.patch(Kind.ENDPOINT, KEY, body, "/status") == expected


def test_an_object_is_made_among_its_kind_in_our_name() -> None:
    expected = HttpRequest("POST", ENDPOINTS, OURS, {"spec": {}})

    assert requests.create(Kind.ENDPOINT, "vms", {"spec": {}}) == expected


def test_only_the_very_object_is_deleted() -> None:
    request = requests.delete(Kind.ENDPOINT, KEY, "uid-a")

    assert (request.method, request.path) == ("DELETE", f"{ENDPOINTS}/a")
    assert request.body == {"preconditions": {"uid": "uid-a"}}


@pytest.mark.parametrize(
    ("spec", "dry", "written", "query"),
    [
        ({"mode": "observe"}, False, {"spec": {"mode": "observe"}}, OURS),
        # An empty spec would leave null where it takes the last field away.
        ({}, True, {}, {**OURS, "dryRun": "All"}),
    ],
)
def test_the_default_is_applied_and_never_by_force(
    spec: dict[str, object], *, dry: bool, written: dict[str, Any], query: dict[str, str]
) -> None:
    request = requests.apply_default(spec, dry=dry)
    head = {
        "apiVersion": "handover.dev/v1alpha1",
        "kind": "HandoverConfiguration",
        "metadata": {"name": "default"},
    }

    assert (request.body, request.query) == ({**head, **written}, query)
    assert (request.method, request.content_type) == ("PATCH", requests.APPLY_PATCH)


def test_an_event_keeps_to_what_kubernetes_takes() -> None:
    event = KubernetesEvent("Ready", "x" * 5000, warning=True)
    key = ObjectKey("", "n" * 253)

    request = requests.emit(Kind.CONFIGURATION, key, "uid", event, NOW)

    assert request.path == "/api/v1/namespaces/default/events"
    assert request.body is not None
    assert request.body["metadata"] == {"generateName": f"{'n' * 200}.", "namespace": "default"}
    assert request.body["involvedObject"]["namespace"] is None
    assert request.body["message"] == "x" * 1024
    assert request.body["type"] == "Warning"
    assert request.body["firstTimestamp"] == "2026-11-24T12:00:00Z"


def test_a_lease_is_made_or_written_on_its_version() -> None:
    spec = {"holderIdentity": "me"}

    made = requests.write_lease("here", "ours", "", spec)
    written = requests.write_lease("here", "ours", "7", spec)

    assert (made.method, made.path) == ("POST", LEASES)
    assert made.body == {"metadata": {"name": "ours", "namespace": "here"}, "spec": spec}
    assert (written.method, written.path) == ("PATCH", f"{LEASES}/ours")
    assert written.body == {"metadata": {"resourceVersion": "7"}, "spec": spec}
    assert requests.read_lease("here", "ours").path == f"{LEASES}/ours"


def test_a_page_tells_the_uid_of_each_object() -> None:
    page = [
        {"metadata": {"name": "a", "namespace": "vms", "uid": "1"}},
        {"metadata": {"name": "default", "uid": "2"}},
    ]

    assert requests.uids(page) == {KEY: "1", ObjectKey("", "default"): "2"}
