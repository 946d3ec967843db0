"""KubeVirt comes and goes beside an operator that runs on."""

from collections.abc import Callable
from typing import Any

import pytest
from kubernetes_asyncio import client, config

from handover_lab.kubevirt.puppets import ALL_VMIMS, CRD, Guest
from handover_operator import kopf_app
from handover_operator.kube.errors import Unavailable

pytestmark = pytest.mark.api

IPS = ("10.65.0.2", "fd00::2")


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
    await desk.until_roles({})
    assert operator.logged("kubevirt_absent") == 1
    assert operator.faults() == []


async def test_a_watch_that_lacks_a_kind_ends_instead_of_missing_it(
    release: Any, bare_desk: Any
) -> None:
    """Kopf looks once for the kinds; they may be going, or coming, at that very moment."""
    await bare_desk.kubevirt.install()
    configuration = client.Configuration()
    await config.load_kube_config(
        config_file=str(release.kubeconfig), client_configuration=configuration
    )
    path = f"{CRD}/virtualmachineinstancemigrations.kubevirt.io"
    await bare_desk.api.call("DELETE", path)
    await bare_desk.until(lambda: bare_desk.api.exists(ALL_VMIMS), lambda served: not served)
    with pytest.raises(Unavailable, match="not all kinds"):
        await kopf_app.watch_foreign(None, configuration, None)  # type: ignore[arg-type]
    await bare_desk.kubevirt.install()


async def count(operator: Any, event: str) -> int:
    """Count the lines of the log about this."""
    found: int = operator.logged(event)
    return found
