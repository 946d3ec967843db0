"""No agent sees an endpoint before there is a configuration that says what to do with it."""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

from handover_api.names import ObjectKey
from handover_lab.processes.waiting import until
from handover_operator.controller import Controller
from handover_operator.kinds import AnyKind, Foreign, Kind
from handover_operator.kube.client import Cluster
from handover_operator.kubevirt.controller import KubeVirtController
from handover_operator.roles.parse import RawObject
from handover_operator.status.kubernetes_events import KubernetesEvent

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


class Creations(Cluster):
    """Takes every object that is made."""

    def __init__(self) -> None:
        self.may_write = lambda: True
        self.made: list[str] = []
        self.pod: RawObject = {}

    async def get(self, kind: AnyKind, key: ObjectKey) -> RawObject:
        """Read the one pod."""
        assert (kind, key.name) == (Foreign.POD, self.pod["metadata"]["name"])
        return self.pod

    async def create(self, kind: Kind, namespace: str, body: RawObject, **_: object) -> RawObject:
        """Make an object."""
        assert kind is Kind.ENDPOINT
        self.made.append(body["metadata"]["name"])
        metadata = body["metadata"] | {"namespace": namespace, "uid": "x", "resourceVersion": "9"}
        return {**body, "metadata": metadata}

    async def emit(
        self, kind: AnyKind, key: ObjectKey, uid: str, event: KubernetesEvent, now: dt.datetime
    ) -> None:
        """Take an Event in."""


async def test_the_first_endpoint_waits_for_the_configuration(
    pod: Callable[..., Any], vmi: Callable[..., Any]
) -> None:
    there, cluster = False, Creations()
    asked: list[bool] = []

    def is_there() -> bool:
        asked.append(there)
        return there

    controller = Controller(cluster, lambda: NOW)
    adapter = KubeVirtController(cluster, controller, lambda: NOW, is_configured=is_there)
    controller.follow(adapter)
    adapter.start()
    task = asyncio.create_task(adapter.run(1))
    objects = {
        Foreign.VMI: vmi("vm", "node-a"),
        Foreign.POD: pod("virt-launcher-vm", "node-a", ("10.65.0.9",)),
    }
    for kind, raw in objects.items():
        raw["metadata"] |= {"resourceVersion": "1", "creationTimestamp": NOW.isoformat()}
        adapter.observe(kind, raw)
    cluster.pod = objects[Foreign.POD]

    async def answers() -> list[bool]:
        return asked

    async def made() -> list[str]:
        return cluster.made

    try:
        await until(answers, bool)
        before = list(cluster.made)
        there = True
        after = await until(made, bool)
    finally:
        task.cancel()
        await asyncio.wait([task])

    assert (before, after) == ([], ["virt-launcher-vm"])
