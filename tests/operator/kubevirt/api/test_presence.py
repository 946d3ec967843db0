"""KubeVirt comes and goes beside an operator that runs on."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes_asyncio import client, config

from handover_lab.kubevirt.objects import ALL_VMIMS, CRD, Guest
from handover_lab.processes.waiting import until
from handover_operator.kinds import Foreign
from handover_operator.kube.client import Cluster
from handover_operator.kube.connection import Connection
from handover_operator.kube.errors import Unserved
from handover_operator.kube.watch import Watch
from handover_operator.roles.parse import RawObject

pytestmark = pytest.mark.api

IPS = ("10.65.0.2", "fd00::2")
COLLECTED = 120.0
"""Seconds in which Kubernetes has collected what nobody owns: where kinds have just gone its
collector first waits half a minute for them."""


async def test_it_follows_kubevirts_coming_and_going(
    new_operator: Callable[..., Any], bare_desk: Any
) -> None:
    desk = bare_desk
    await desk.kubevirt.install()
    await desk.kubevirt.uninstall()
    operator = new_operator()
    await operator.start()
    await desk.until(lambda: count(operator, "kubevirt_absent"), lambda told: told == 1)
    pods = []
    for turn in (1, 2):
        await desk.kubevirt.install()
        pods.append(await desk.kubevirt.start(Guest(f"web{turn}"), "node-a", IPS))
        # Pods go with their VMI; these stay, to show that an endpoint goes with nothing else.
        await desk.kubevirt.patch_pod(pods[-1], {"metadata": {"finalizers": ["example.com/stays"]}})
        await desk.until(desk.roles, lambda roles, turn=turn: len(roles) == turn)
        endpoints = await desk.versions()
        await desk.kubevirt.uninstall()
        await desk.until(
            lambda: count(operator, "kubevirt_gone"), lambda told, turn=turn: told == turn
        )
        assert await desk.versions() == endpoints
    for pod in pods:
        await desk.kubevirt.patch_pod(pod, {"metadata": {"finalizers": None}})
    await until(desk.roles, lambda roles: not roles, "that they are collected", COLLECTED)
    assert operator.logged("kubevirt_absent") == 1
    assert operator.faults() == []


async def test_a_kind_that_goes_and_comes_back_is_watched_anew(
    release: Any, bare_desk: Any
) -> None:
    """Nothing is known of what it held, until there is a complete list again."""
    desk = bare_desk
    await desk.kubevirt.install()
    configuration = client.Configuration()
    await config.load_kube_config(
        config_file=str(release.kubeconfig), client_configuration=configuration
    )
    connection = Connection(configuration)
    cluster = Cluster(connection)
    sink = Sink()
    watching = asyncio.create_task(Watch(cluster, Foreign.VMIM, sink).run())
    try:
        await desk.until(sink.lists, lambda lists: lists == 1)
        path = f"{CRD}/virtualmachineinstancemigrations.kubevirt.io"
        await desk.api.call("DELETE", path)
        await desk.until(lambda: desk.api.exists(ALL_VMIMS), lambda served: not served)
        await desk.until(sink.outages, lambda outages: Unserved in outages)
        await desk.kubevirt.install()
        await desk.until(sink.lists, lambda lists: lists == 2)
        await desk.kubevirt.start(Guest("web"), "node-a", IPS)
        await desk.kubevirt.request("web", "move")
        await desk.until(sink.names, lambda names: "move" in names)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await connection.close()


class Sink:
    """Notes what a watch tells."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def observe(self, _: Foreign, raw: RawObject) -> None:
        self.told.append(raw["metadata"]["name"])

    end = observe

    def retain(self, *_: object) -> None:
        self.told.append(list)

    def miss(self, _: Foreign, reason: Exception) -> None:
        self.told.append(type(reason))

    async def lists(self) -> int:
        return self.told.count(list)

    async def outages(self) -> list[object]:
        return [each for each in self.told if isinstance(each, type)]

    async def names(self) -> list[object]:
        return [each for each in self.told if isinstance(each, str)]


async def count(operator: Any, event: str) -> int:
    """Count the lines of the log about this."""
    found: int = operator.logged(event)
    return found
