"""What the chart's admission policies refuse, and the sentence by which they do; a real API server.

Tokens are as the kubelet gets them for an agent's pod: bound to it, with its node's name in them.
"""

import contextlib
import datetime as dt
import http.client
import json
import ssl
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.chart.conftest import NAMESPACE, OPERATOR, Kubectl, Manifest, Render

from handover_api.names import ObjectKey
from handover_lab.cluster.controlplane import ControlPlane
from handover_nodeagent.status import kubernetes_events
from handover_nodeagent.status.kubernetes_events import Event, Pending

pytestmark = pytest.mark.api

PATIENCE = 30.0
NODES = ("node-a", "node-b")
ROLE = "handover.dev/role"
REPORT = {"status": {"state": "Base"}}
NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
ROOT = "/apis/handover.dev/v1alpha1/namespaces/default"
ENDPOINTS = f"{ROOT}/workloadendpoints"
EVENTS = "/api/v1/namespaces/default/events"
POLICIES = {
    f"{kind}/handover-{name}"
    for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    for name in ("node-status", "node-events", "annotations", "migrations")
}
EVENT = {"apiVersion": "v1", "kind": "Event"}
Ask = Callable[..., str]


def endpoint(name: str, node: str = "node-a", **annotations: str) -> str:
    """Compose an endpoint; underscores stand for hyphens."""
    metadata = {
        "name": name,
        "namespace": "default",
        "annotations": {
            f"handover.dev/{key.replace('_', '-')}": annotations[key] for key in annotations
        },
    }
    spec = {"node": node, "workload": "vm", "ips": ["10.65.0.9"]}
    return json.dumps({**kind("WorkloadEndpoint"), "metadata": metadata, "spec": spec})


def kind(name: str) -> dict[str, Any]:
    """Begin an object of ours."""
    return {"apiVersion": "handover.dev/v1alpha1", "kind": name}


def agent_pod(node: str) -> str:
    """Compose an agent's pod that is bound to a node."""
    spec = {
        "serviceAccountName": "handover-nodeagent",
        "nodeName": node,
        "containers": [{"name": "nodeagent", "image": "handover-nodeagent"}],
    }
    metadata = {"name": f"agent-{node}", "namespace": NAMESPACE}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def event(node: str) -> dict[str, Any]:
    """Compose an Event as the agent of a node does."""
    cut_over = Event(
        ObjectKey("default", "policy-a"), "", "CutOver", "It is here.", is_warning=False
    )
    return kubernetes_events.to_object(Pending(cut_over, uuid.uuid4().hex, NOW, NOW), node)


@pytest.fixture(scope="module")
def ask(api_server: ControlPlane) -> Ask:
    """Send the API server one request, with nothing before it, and return what it says.

    kubectl reads an object before it patches it, which agents may not.
    """
    context = ssl.create_default_context(cafile=api_server.ca)

    def request(method: str, path: str, token: str, body: object = None) -> str:
        connection = http.client.HTTPSConnection(
            api_server.shape.address, api_server.shape.port, context=context, timeout=PATIENCE
        )
        kind = "merge-patch+json" if method == "PATCH" else "json"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": f"application/{kind}"}
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body), headers)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return str(answer["message"]) if answer["kind"] == "Status" else "done"

    return request


@pytest.fixture(scope="module")
def tokens(
    installed: None,  # noqa: ARG001  the agents' account is there
    kubectl: Kubectl,
    ask: Ask,
) -> Iterator[dict[str, str]]:
    """Have an endpoint and an agent on each of two nodes; return the agents' tokens."""
    found = {"": kubectl("create", "token", "handover-nodeagent", "-n", NAMESPACE).strip()}
    for node in NODES:
        kubectl("apply", "--filename=-", given=endpoint(f"policy-{node[-1]}", node))
        kubectl("apply", "--filename=-", given=agent_pod(node))
        bound = ("--bound-object-kind=Pod", f"--bound-object-name=agent-{node}")
        token = kubectl("create", "token", "handover-nodeagent", "-n", NAMESPACE, *bound)
        found[node] = token.strip()
    settle(kubectl, ask, found[""])
    yield found
    for node in NODES:
        kubectl("delete", "wep", f"policy-{node[-1]}")
        kubectl("delete", "pod", "-n", NAMESPACE, f"agent-{node}", "--grace-period=0", "--force")


def settle(kubectl: Kubectl, ask: Ask, loose: str) -> None:
    """Wait until all policies are in force: what was written a moment ago may not be."""
    deadline = time.monotonic() + PATIENCE
    try_it = ("annotate", "wep", "policy-a", f"{ROLE}=target", "--dry-run=server")
    while not (
        "no node" in ask("PATCH", f"{ENDPOINTS}/policy-a/status", loose, {})
        and "in the name of the node" in ask("POST", EVENTS, loose, event("node-a"))
        and "only the operator" in kubectl(*try_it)
    ):
        assert time.monotonic() < deadline, "the policies never came into force"
        time.sleep(0.1)


def test_an_agent_writes_the_status_of_its_own_node(ask: Ask, tokens: dict[str, str]) -> None:
    for node in NODES:
        path = f"{ENDPOINTS}/policy-{node[-1]}/status"

        assert ask("PATCH", path, tokens[node], REPORT) == "done"


def test_an_agent_is_refused_for_another_nodes_endpoint(ask: Ask, tokens: dict[str, str]) -> None:
    said = ask("PATCH", f"{ENDPOINTS}/policy-b/status", tokens["node-a"], REPORT)

    assert "the agent of node node-a may not write the status of an endpoint of node node-b" in said
    assert "see that its HANDOVER_NODE_NAME comes from spec.nodeName" in said


AGENT = {
    "publicKey": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    "addresses": ["192.0.2.1"],
    "port": 7473,
}


def test_an_agent_publishes_its_key_for_its_own_node_alone(
    ask: Ask, kubectl: Kubectl, tokens: dict[str, str]
) -> None:
    report = {"status": {"agent": AGENT, "advertised": True}}

    assert ask("PATCH", f"{ENDPOINTS}/policy-a/status", tokens["node-a"], report) == "done"
    said = ask("PATCH", f"{ENDPOINTS}/policy-a/status", tokens["node-b"], report)
    assert "may not write the status of an endpoint of node node-a" in said
    found = json.loads(kubectl("get", "wep", "policy-a", "--output=json"))
    assert found["status"]["agent"] == AGENT


@pytest.mark.parametrize(
    "forged",
    [
        {"agent": AGENT | {"publicKey": "A" * 43 + "="}},
        {"agent": AGENT | {"addresses": ["192.0.2.9"]}},
        {"agent": None},
        {"advertised": False},
    ],
    ids=["another key", "another address", "no agent", "not advertised"],
)
def test_nobody_else_publishes_a_key_or_has_all_nodes_follow(
    ask: Ask, kubectl: Kubectl, tokens: dict[str, str], forged: dict[str, Any]
) -> None:
    """Not even who may write every status, by mistake or for a CNI."""
    report = {"status": {"agent": AGENT, "advertised": True}}
    ask("PATCH", f"{ENDPOINTS}/policy-a/status", tokens["node-a"], report)

    def patch(status: dict[str, Any]) -> str:
        text = json.dumps({"status": status})
        way = ("--subresource=status", "--type=merge", f"--patch={text}")
        return kubectl("patch", "wep", "policy-a", *way)

    assert "only the agent of an endpoint's node writes status.agent" in patch(forged)
    # What is none of these is not this policy's.
    assert "patched" in patch({"interface": "tap7"})


def test_an_agents_account_without_a_pod_is_refused(ask: Ask, tokens: dict[str, str]) -> None:
    said = ask("PATCH", f"{ENDPOINTS}/policy-a/status", tokens[""], REPORT)

    assert "bound to no node: use the one that the kubelet mounts into the pod of an agent" in said


def test_an_agent_gives_no_role_even_on_its_own_node(
    ask: Ask, kubectl: Kubectl, tokens: dict[str, str]
) -> None:
    patch = {"metadata": {"annotations": {ROLE: "target"}}}

    said = ask("PATCH", f"{ENDPOINTS}/policy-a", tokens["node-a"], patch)
    smuggled = ask("PATCH", f"{ENDPOINTS}/policy-a/status", tokens["node-a"], patch | REPORT)

    assert 'cannot patch resource "workloadendpoints"' in said
    # The subresource takes the status alone.
    assert smuggled == "done"
    assert ROLE not in kubectl("get", "wep", "policy-a", "--output=json")


def test_an_agent_tells_of_its_own_node(ask: Ask, tokens: dict[str, str]) -> None:
    assert ask("POST", EVENTS, tokens["node-a"], event("node-a")) == "done"


@pytest.mark.parametrize(
    "lie",
    [
        {"source": {"component": "handover-nodeagent", "host": "node-b"}},
        {"source": {"component": "kubelet"}},
        {"reportingInstance": "node-b"},
    ],
    ids=["as another host", "as no host", "as another instance"],
)
def test_an_agent_tells_nothing_in_another_nodes_name(
    ask: Ask, tokens: dict[str, str], lie: dict[str, Any]
) -> None:
    said = ask("POST", EVENTS, tokens["node-a"], event("node-a") | lie)

    assert 'in the name of the node in the token of its pod: that is node "node-a"' in said
    assert "if no agent sent it, somebody else uses its token" in said


@pytest.mark.parametrize(
    "other",
    [{"kind": "Pod", "apiVersion": "v1"}, {"apiVersion": "example.com/v1"}, {"kind": ""}],
    ids=["a pod", "a namesake", "nothing"],
)
def test_an_agent_tells_nothing_of_other_objects(
    ask: Ask, tokens: dict[str, str], other: dict[str, str]
) -> None:
    told = event("node-a")
    told["involvedObject"] |= other

    said = ask("POST", EVENTS, tokens["node-a"], told)

    assert "an agent writes Events of WorkloadEndpoints only, and this one is of a" in said
    assert "somebody else uses the token of node node-a" in said


@pytest.mark.usefixtures("tokens")
def test_everybody_else_tells_what_he_likes(kubectl: Kubectl) -> None:
    made = kubectl("create", "--filename=-", given=json.dumps(EVENT | event("node-x")))

    assert "created" in made


@pytest.mark.parametrize(
    ("verb", "method", "name"),
    [("create", "POST", ""), ("patch", "PATCH", "/policy"), ("delete", "DELETE", "/policy")],
)
def test_an_agent_touches_no_migration(
    ask: Ask, tokens: dict[str, str], verb: str, method: str, name: str
) -> None:
    path = f"{ROOT}/livemigrations{name}"

    said = ask(method, path, tokens["node-a"], {"spec": {"outcome": "Succeeded"}})

    assert f'cannot {verb} resource "livemigrations"' in said


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize(
    "name", ["role", "migration", "migration-uid", "armed", "outcome", "ended-role", "new"]
)
def test_nobody_else_writes_an_annotation_of_ours(kubectl: Kubectl, name: str) -> None:
    said = kubectl("annotate", "wep", "policy-a", f"handover.dev/{name}=x")

    assert f"only the operator writes handover.dev/{name} of a WorkloadEndpoint" in said
    assert "say what migrates with a LiveMigration (kubectl explain livemigration.spec)" in said


@pytest.mark.usefixtures("tokens")
def test_nobody_else_makes_an_endpoint_with_a_role(kubectl: Kubectl) -> None:
    said = kubectl("create", "--filename=-", given=endpoint("policy-c", role="target"))

    assert "only the operator writes handover.dev/role" in said
    assert "NotFound" in kubectl("get", "wep", "policy-c")


@pytest.mark.usefixtures("tokens")
def test_what_the_operator_wrote_can_neither_be_changed_nor_removed(kubectl: Kubectl) -> None:
    wrote = kubectl("annotate", "wep", "policy-a", f"{ROLE}=source", user=OPERATOR)
    changed = kubectl("annotate", "wep", "policy-a", f"{ROLE}=target", "--overwrite")
    removed = kubectl("annotate", "wep", "policy-a", f"{ROLE}-")
    other = kubectl("annotate", "wep", "policy-a", "example.com/note=hello")
    kubectl("annotate", "wep", "policy-a", f"{ROLE}-", user=OPERATOR)

    assert "annotated" in wrote
    assert "only the operator writes handover.dev/role" in changed
    assert "only the operator writes handover.dev/role" in removed
    assert "annotated" in other


def with_address(address: str) -> str:
    """Compose an endpoint with this address."""
    made = json.loads(endpoint("policy-d"))
    made["spec"]["ips"] = [address]
    return json.dumps(made)


@pytest.fixture
def bounded(kubectl: Kubectl, installed: None) -> Iterator[None]:  # noqa: ARG001
    """Have allowedCIDRs in force, and the policies that know them."""
    allowed = {
        "metadata": {"name": "default"},
        "spec": {"allowedCIDRs": ["10.0.0.0/8", "fd00::/8"]},
    }
    kubectl("apply", "--filename=-", given=json.dumps(kind("HandoverConfiguration") | allowed))
    kubectl("apply", "--filename=-", given=json.dumps(SERVERS))
    deadline = time.monotonic() + PATIENCE
    for address in ("192.0.2.1", service(kubectl), SERVER):
        while "spec.ips holds" not in attempt(kubectl, address):
            assert time.monotonic() < deadline, f"{address} is never refused"
            time.sleep(0.1)
    yield
    kubectl("delete", "hc", "default")
    kubectl("delete", "endpointslice", "policy-server")


def attempt(kubectl: Kubectl, address: str, **options: str) -> str:
    """Try to make an endpoint with this address."""
    return kubectl("create", "--dry-run=server", "-f=-", given=with_address(address), **options)


def service(kubectl: Kubectl) -> str:
    """Return the API server's address as a service."""
    return kubectl("get", "service", "kubernetes", "-o=jsonpath={.spec.clusterIP}")


SERVER = "10.99.0.1"
SERVERS = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    # The API server of the lab, which listens on loopback only, makes none.
    "metadata": {
        "name": "policy-server",
        "namespace": "default",
        "labels": {"kubernetes.io/service-name": "kubernetes"},
    },
    "addressType": "IPv4",
    "endpoints": [{"addresses": [SERVER]}],
}


@pytest.mark.usefixtures("bounded")
def test_an_address_that_no_agent_would_take_is_refused_at_once(kubectl: Kubectl) -> None:
    assert "created" in attempt(kubectl, "10.65.0.7")
    assert "created" in attempt(kubectl, "fd00::7")
    outside = attempt(kubectl, "192.0.2.1")
    other_family = attempt(kubectl, "2001:db8::1")
    assert "spec.ips holds 192.0.2.1, which is outside of the allowedCIDRs" in outside
    assert "spec.ips holds 2001:db8::1, which is outside of the allowedCIDRs" in other_family
    assert f"spec.ips holds {SERVER}, which is an address of the API" in attempt(kubectl, SERVER)
    address = service(kubectl)
    assert f"spec.ips holds {address}, which is one that the cluster gives" in attempt(
        kubectl, address
    )


@pytest.mark.usefixtures("bounded")
def test_the_operators_endpoint_says_it_itself(kubectl: Kubectl) -> None:
    assert "created" in attempt(kubectl, "192.0.2.1", user=OPERATOR)


def test_a_further_writer_is_named_beside_the_operator(render: Render) -> None:
    (policy,) = (
        each
        for each in render("policies.annotations.writers[0]=system:serviceaccount:cni:agent")
        if each["metadata"]["name"] == "handover-annotations" and "matchConditions" in each["spec"]
    )

    (condition,) = policy["spec"]["matchConditions"]
    assert condition["expression"] == (
        f'!(request.userInfo.username in ["{OPERATOR}","system:serviceaccount:cni:agent"])'
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("node-status", "nodeStatus"),
        ("node-events", "nodeEvents"),
        ("annotations", "annotations"),
        ("migrations", "migrations"),
    ],
)
def test_a_policy_can_be_switched_off(render: Render, name: str, value: str) -> None:
    left = {named(each) for each in render(f"policies.{value}.enabled=false")}

    assert {each for each in POLICIES if name not in each} == left & POLICIES


def test_without_kubevirt_nothing_is_made_for_it_and_nothing_guarded(render: Render) -> None:
    left = {named(each) for each in render("kubevirt.enabled=false")}

    assert {each for each in POLICIES if "migrations" not in each} == left & POLICIES


def named(manifest: Manifest) -> str:
    """Return kind and name."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"
