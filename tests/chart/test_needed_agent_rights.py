"""Every right that the agents' role gives is needed: an agent that lacks it is refused."""

import asyncio
import datetime as dt
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chart import needs
from tests.chart.conftest import Kubectl, Manifest
from tests.chart.needs import Needy, Right

from handover_api import names
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State, WorkloadEndpointStatus
from handover_lab.cluster.controlplane import ControlPlane
from handover_nodeagent.api import credentials
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.api.errors import Refused
from handover_nodeagent.status import kubernetes_events, report
from handover_nodeagent.status.kubernetes_events import Event, Pending

pytestmark = pytest.mark.api

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
AGENTS = [
    ("handover.dev", "workloadendpoints", "list"),
    ("handover.dev", "workloadendpoints", "watch"),
    ("handover.dev", "handoverconfigurations", "list"),
    ("handover.dev", "handoverconfigurations", "watch"),
    ("handover.dev", "workloadendpoints/status", "patch"),
    ("", "events", "create"),
    ("", "nodes", "list"),
    ("", "nodes", "watch"),
]


@pytest.fixture
def needy(api_server: ControlPlane, kubectl: Kubectl, tmp_path: Path) -> Iterator[Needy]:
    """Have a user without rights."""
    with needs.without_rights(api_server, kubectl, tmp_path) as needy:
        yield needy


def test_the_agents_rights_are_those_that_are_tried_here(release: dict[str, Manifest]) -> None:
    assert needs.rights(release, "ClusterRole/handover-nodeagent") == set(AGENTS)


@pytest.mark.parametrize("lacking", AGENTS, ids=" ".join)
async def test_an_agent_that_lacks_a_right_is_refused_what_it_does(
    needy: Needy, api_server: ControlPlane, kubectl: Kubectl, lacking: Right
) -> None:
    spec = {"node": "node-a", "workload": "vm", "ips": ["10.65.0.9"]}
    manifest = {"apiVersion": names.API_VERSION, "kind": "WorkloadEndpoint", "spec": spec}
    given = json.dumps({**manifest, "metadata": {"name": "lone"}})
    uid = json.loads(
        kubectl("apply", "-n", needs.ROOM, "--filename=-", "--output=json", given=given)
    )
    needy.rights = set(AGENTS) - {lacking}
    needy.write_role()
    group, resource, verb = lacking

    async with ApiServer(
        credentials.find({"KUBECONFIG": str(api_server.credentials(needs.NEEDY))})
    ) as api:
        with pytest.raises(
            Refused, match=f'cannot {verb} resource "{resource}" in API group "{group}"'
        ):
            await live(api, uid["metadata"]["uid"])
        needy.rights = set(AGENTS)
        needy.write_role()
        await live(api, uid["metadata"]["uid"])


async def live(api: ApiServer, uid: str) -> None:
    """Do all that an agent does, by the calls that it uses."""
    kinds = (names.WORKLOAD_ENDPOINTS, names.CONFIGURATIONS)
    paths = [f"/apis/{names.API_VERSION}/{plural}" for plural in kinds]
    # Each watch ends after a second, which is the least that one can ask for.
    await asyncio.gather(*(follow(api, path) for path in (*paths, "/api/v1/nodes")))
    lone = ObjectKey(needs.ROOM, "lone")
    status = WorkloadEndpointStatus(state=State.BASE)
    await api.patch(report._path(lone), report.operations(uid, status))
    pending = Pending(Event(lone, uid, "Test", "", is_warning=False), uuid.uuid4().hex, NOW, NOW)
    await api.create(
        f"/api/v1/namespaces/{needs.ROOM}/events", kubernetes_events.to_object(pending, "node-a")
    )


async def follow(api: ApiServer, path: str) -> None:
    """List a kind and watch it."""
    async for page in api.pages(path):
        version = page.version
    query = {"resourceVersion": version, "timeoutSeconds": "1", "watch": "1"}
    async for _ in api.stream(path, query, silence=5, longest=10):
        pass
