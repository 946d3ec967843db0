"""The brake on a namespace, as the operator's process carries it to the agents."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handover_api import names
from handover_operator.kinds import Kind
from handover_operator.kube import requests
from handover_operator.kube.errors import Absent

pytestmark = pytest.mark.api


async def annotate(desk: Any, value: str | None) -> None:
    """Set or lift the brake on the namespace of the test, as a person does."""
    await desk.api.call(
        "PATCH",
        f"/api/v1/namespaces/{desk.namespace}",
        body={"metadata": {"annotations": {names.PAUSED: value}}},
        content_type=requests.MERGE_PATCH,
    )


async def told(desk: Any) -> list[str] | None:
    """Return what the agents are told; None while they are told nothing."""
    try:
        found = await desk.get(Kind.CONFIGURATION, "default")
    except Absent:
        return None
    paused: list[str] | None = found.get("status", {}).get("pausedNamespaces")
    return paused


async def test_the_status_of_default_names_the_namespaces_that_are_paused(
    new_operator: Callable[..., Any], desk: Any, tmp_path: Path
) -> None:
    file = tmp_path / "default.yaml"
    file.write_text("{}\n")
    operator = new_operator(HANDOVER_CONFIGURATION_FILE=str(file))
    here = [desk.namespace]
    await operator.start()
    await desk.until(lambda: told(desk), lambda found: found == [])
    await annotate(desk, "ask Ada")
    await desk.until(lambda: told(desk), lambda found: found == here)
    # An object made anew is told again, at once.
    await desk.delete(Kind.CONFIGURATION, "default")
    await desk.until(lambda: told(desk), lambda found: found == here)
    operator.kill()
    await annotate(desk, None)
    assert await told(desk) == here
    await operator.start()
    await desk.until(lambda: told(desk), lambda found: found == [])
    await annotate(desk, "true")
    await desk.until(lambda: told(desk), lambda found: found == here)
    await annotate(desk, None)
    await desk.until(lambda: told(desk), lambda found: found == [])
    operator.kill()
    await desk.delete(Kind.CONFIGURATION, "default")
