"""What the loop does in moments that no API server produces at will."""

import asyncio
import copy
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from tests.operator.memory import NAMESPACE, NOW, SOURCE, SPEC, Memory

from handover_api import names, peer
from handover_api.names import ObjectKey
from handover_operator import controller as room
from handover_operator.controller import Controller
from handover_operator.kinds import Kind
from handover_operator.kube import retry
from handover_operator.kube.errors import NotLeading
from handover_operator.kube.resync import Resync
from handover_operator.kube.versions import Version
from handover_operator.observability import metrics
from handover_operator.roles import parse, rules
from handover_operator.roles.parse import RawObject


@pytest.fixture
async def controller(memory: Memory) -> AsyncIterator[Controller]:
    """Run a controller that has not listed anything yet."""
    controller = Controller(memory, lambda: memory.now)
    task = asyncio.create_task(controller.run(2))
    yield controller
    if controller.synced:
        await settle(controller)
        await assert_idle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def settle(controller: Controller) -> None:
    """Wait until everything is written."""
    async with asyncio.timeout(10):
        while len(controller):  # noqa: ASYNC110  the queue has no other sign
            await asyncio.sleep(0.001)


def looks() -> float:
    """Count how often anything was looked at so far."""
    return metrics.REGISTRY.get_sample_value("handover_operator_looks_total") or 0.0


async def assert_idle() -> None:
    """After every scenario the operator has nothing to do, and no timer that is due."""
    before = looks()
    for _ in range(20):
        await asyncio.sleep(0.002)
    assert looks() == before


async def test_nothing_is_decided_before_the_first_lists_are_complete(
    memory: Memory, controller: Controller
) -> None:
    endpoint = memory.stored[Kind.ENDPOINT, ObjectKey(NAMESPACE, "a")]
    endpoint["metadata"]["annotations"] = {
        names.ROLE: "source",
        names.MIGRATION: "m1",
        names.MIGRATION_UID: "uid-m1",
    }
    controller.observe(Kind.ENDPOINT, copy.deepcopy(endpoint))
    await settle(controller)
    assert memory.patches == []
    await controller.load()
    await settle(controller)
    assert memory.patches == ["m1/status"]
    assert memory.role("a") == "source"


async def test_a_conflict_is_read_again_and_written(memory: Memory, controller: Controller) -> None:
    memory.meanwhile = list(memory.stored)
    await controller.load()
    await settle(controller)
    assert sorted(memory.patches) == ["a", "m1/status"]
    assert memory.role("a") == "source"


async def test_an_outage_is_tried_again(memory: Memory, controller: Controller) -> None:
    await controller.load()
    memory.outages = 2
    await settle(controller)
    assert sorted(memory.patches) == ["a", "m1/status"]


async def test_an_older_version_than_the_last_is_ignored(
    memory: Memory, controller: Controller
) -> None:
    old = await memory.get(Kind.ENDPOINT, ObjectKey(NAMESPACE, "a"))
    await controller.load()
    await settle(controller)
    memory.patches.clear()
    controller.observe(Kind.ENDPOINT, old)
    await settle(controller)
    assert memory.patches == []


async def test_the_end_of_a_former_object_of_that_name_means_nothing(
    memory: Memory, controller: Controller
) -> None:
    await controller.load()
    controller.forget(
        Kind.ENDPOINT, ObjectKey(NAMESPACE, "a"), Version("uid-of-another", memory.version + 1)
    )
    assert ObjectKey(NAMESPACE, "a") in controller.cache.resolver.index.endpoints


async def test_an_object_made_anew_under_its_name_is_another_one(
    memory: Memory, controller: Controller
) -> None:
    await controller.load()
    await settle(controller)
    controller.observe(Kind.ENDPOINT, memory.put(Kind.ENDPOINT, "a", SPEC, uid="second"))
    await settle(controller)
    assert memory.role("a") == "source"


async def test_an_answer_that_comes_after_the_deletion_revives_nothing(
    memory: Memory, controller: Controller
) -> None:
    await controller.load()
    key = ObjectKey(NAMESPACE, "a")
    late = memory.stored[Kind.ENDPOINT, key]
    controller.forget(Kind.ENDPOINT, key, Version("uid-a", memory.version + 1))
    await settle(controller)
    controller.observe(Kind.ENDPOINT, late)
    assert key not in controller.cache.resolver.index.endpoints


async def test_what_vanished_unseen_is_forgotten(memory: Memory, controller: Controller) -> None:
    await controller.load()
    await settle(controller)
    memory.put(Kind.CONFIGURATION, "default", {})
    del memory.stored[Kind.MIGRATION, ObjectKey(NAMESPACE, "m1")]
    await controller.sweep()
    await settle(controller)
    assert memory.role("a") is None


async def test_what_is_newer_than_the_list_is_kept(controller: Controller) -> None:
    await controller.load()
    controller.retain(Kind.ENDPOINT, {}, 0)
    assert ObjectKey(NAMESPACE, "a") in controller.cache.resolver.index.endpoints


async def test_a_kind_that_is_gone_is_an_outage(memory: Memory, controller: Controller) -> None:
    await controller.load()
    memory.outages = 1
    sweeper = Resync(controller.sweep, interval=0.001)
    task = asyncio.create_task(sweeper.run())
    async with asyncio.timeout(10):
        while memory.outages:  # noqa: ASYNC110  counts down by itself
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert ObjectKey(NAMESPACE, "a") in controller.cache.resolver.index.endpoints


async def test_the_first_lists_wait_for_the_crds(memory: Memory, controller: Controller) -> None:
    memory.outages = 2
    await retry.insist(controller.load, "the first lists")
    assert controller.synced


async def test_a_malformed_migration_keeps_its_roles_until_it_is_deleted(
    memory: Memory, controller: Controller
) -> None:
    await controller.load()
    await settle(controller)
    controller.observe(Kind.MIGRATION, memory.put(Kind.MIGRATION, "m1", {"armed": "perhaps"}))
    await settle(controller)
    assert memory.role("a") == "source"
    assert memory.events == ["m1 Malformed"]
    controller.forget(
        Kind.MIGRATION, ObjectKey(NAMESPACE, "m1"), Version("uid-m1", memory.version + 1)
    )
    await settle(controller)
    assert memory.role("a") is None


async def test_all_configurations_are_judged_again_when_the_default_changes(
    memory: Memory, controller: Controller
) -> None:
    memory.put(Kind.CONFIGURATION, "node.x", {})
    default = {"ipv4NormalRoutePriority": 600}
    await controller.load()
    await settle(controller)
    controller.observe(Kind.CONFIGURATION, memory.put(Kind.CONFIGURATION, "default", default))
    assert len(controller) == 2
    await settle(controller)
    controller.forget(
        Kind.CONFIGURATION, ObjectKey("", "default"), Version("uid-default", memory.version + 1)
    )
    await settle(controller)
    assert list(controller.cache.configurations) == ["node.x"]


async def test_a_finished_migration_is_deleted_in_time(
    memory: Memory, controller: Controller
) -> None:
    finished = {"phase": "Aborted", "completionTime": (NOW - dt.timedelta(9)).isoformat()}
    memory.put(Kind.MIGRATION, "m0", {**SOURCE, "ttlSecondsAfterFinished": 1}, status=finished)
    await controller.load()
    await settle(controller)
    assert (Kind.MIGRATION, ObjectKey(NAMESPACE, "m0")) not in memory.stored


@pytest.mark.parametrize("outcome", ["Succeeded", "Aborted"])
async def test_a_migration_whose_target_has_no_agent_leaves_the_operator_idle(
    memory: Memory, controller: Controller, outcome: str
) -> None:
    both = {**SOURCE, "target": {"workload": {"name": "b"}}}
    memory.put(Kind.ENDPOINT, "b", {**SPEC, "workload": "b", "node": "without-an-agent"})
    memory.put(Kind.MIGRATION, "m1", both)
    await controller.load()
    await settle(controller)
    await assert_idle()
    memory.now += dt.timedelta(seconds=5)
    found = memory.stored[Kind.MIGRATION, ObjectKey(NAMESPACE, "m1")]
    decided = memory.put(Kind.MIGRATION, "m1", {**both, "outcome": outcome}, status=found["status"])
    controller.observe(Kind.MIGRATION, decided)
    await settle(controller)
    memory.now += dt.timedelta(seconds=60)
    controller.observe(Kind.ENDPOINT, memory.put(Kind.ENDPOINT, "c", SPEC))
    await settle(controller)
    await assert_idle()


async def test_a_restored_backup_is_news(memory: Memory, controller: Controller) -> None:
    """The numbers of all versions, and what there is, are those of some time ago."""
    await controller.load()
    await controller.sweep()
    backup, version = copy.deepcopy(memory.stored), memory.version
    memory.put(Kind.ENDPOINT, "later", {**SPEC, "workload": "b"})
    for _ in range(20):
        memory.touch(Kind.ENDPOINT, ObjectKey(NAMESPACE, "a"))
    await controller.load()
    await settle(controller)
    await controller.sweep()
    assert memory.role("a") == "source"
    memory.stored, memory.version = backup, version
    memory.stored[Kind.ENDPOINT, ObjectKey(NAMESPACE, "a")]["metadata"]["annotations"] = {}
    memory.patches.clear()
    await controller.sweep()
    await settle(controller)
    assert memory.role("a") == "source"
    assert ObjectKey(NAMESPACE, "later") not in controller.cache.resolver.index.endpoints


async def test_a_fault_with_one_object_keeps_no_other_from_its_role(
    memory: Memory, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.put(Kind.ENDPOINT, "bad", {**SPEC, "workload": "a"})
    assign = rules.assign

    def fragile(endpoint: Any, *how: Any) -> Any:
        if endpoint.key.name == "bad":
            raise ZeroDivisionError
        return assign(endpoint, *how)

    monkeypatch.setattr(rules, "assign", fragile)
    with structlog.testing.capture_logs() as logs:
        await controller.load()
        await settle(controller)
    assert (memory.role("a"), memory.role("bad")) == ("source", None)
    assert [line["object"] for line in logs if line["event"] == "cannot_decide"] == ["default/bad"]
    monkeypatch.undo()
    await controller.sweep()
    await settle(controller)
    assert memory.role("bad") == "source"


async def test_an_object_that_cannot_be_taken_in_ends_no_list(
    memory: Memory, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.put(Kind.ENDPOINT, "0-bad", SPEC)
    read = parse.endpoint

    def fragile(raw: RawObject) -> Any:
        if raw["metadata"]["name"] == "0-bad":
            raise ZeroDivisionError
        return read(raw)

    monkeypatch.setattr(parse, "endpoint", fragile)
    await controller.load()
    await settle(controller)
    assert memory.role("a") == "source"


async def test_that_another_replica_leads_is_no_failed_write(
    memory: Memory, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [NotLeading("another replica leads")]
    patch = memory.patch

    async def refused(*what: Any, **how: Any) -> RawObject:
        if answers:
            raise answers.pop()
        return await patch(*what, **how)

    def failed() -> float:
        labels = {"kind": "WorkloadEndpoint", "result": "failed"}
        return metrics.REGISTRY.get_sample_value("handover_operator_writes_total", labels) or 0.0

    before = failed()
    monkeypatch.setattr(memory, "patch", refused)
    await controller.load()
    await settle(controller)
    assert (memory.role("a"), failed()) == ("source", before)


async def test_work_beyond_one_turn_goes_on_in_the_next(
    memory: Memory, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BUDGET", 1)
    for number in range(20):
        memory.put(Kind.ENDPOINT, f"a{number}", SPEC)
    await controller.load()
    async with asyncio.timeout(20):
        while memory.patches.count("m1/status") == 0 or len(memory.patches) < 22:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert {memory.role(f"a{number}") for number in range(20)} == {"source"}


async def test_who_may_speak_for_the_guest_is_written_once_on_each_side(
    memory: Memory, controller: Controller
) -> None:
    key = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    published = {"publicKey": key, "addresses": ["192.0.2.1"], "port": 7473}
    memory.put(Kind.MIGRATION, "m1", {**SOURCE, "target": {"workload": {"name": "b"}}})
    for name, state in (("a", "Base"), ("b", "Live")):
        spec = {**SPEC, "node": f"node-{name}", "workload": name}
        memory.put(Kind.ENDPOINT, name, spec, status={"state": state, "agent": published})

    def said(name: str) -> list[tuple[str, str]]:
        raw = memory.stored[Kind.ENDPOINT, ObjectKey(NAMESPACE, name)]
        found = peer.peers_from_annotations(raw["metadata"]["annotations"])
        return [(each.endpoint, each.uid) for each in found]

    await controller.load()
    await settle(controller)
    assert (said("a"), said("b")) == ([("b", "uid-m1")], [("a", "uid-m1")])
    # The roles first, then what follows from them.
    assert sorted(memory.patches) == ["a", "a", "b", "b", "m1/status"]

    again = Controller(memory, lambda: memory.now)
    task = asyncio.create_task(again.run(2))
    await again.load()
    await settle(again)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(memory.patches) == 5


async def test_an_address_that_two_nodes_serve_is_said_on_both_until_it_is_over(
    memory: Memory, controller: Controller
) -> None:
    route = {"address": "10.0.0.1", "metric": 1024, "table": 254, "protocol": 88}
    serving = {"state": "Base", "routes": [route]}
    for name in ("x", "y"):
        spec = {**SPEC, "node": f"node-{name}", "workload": name}
        memory.put(Kind.ENDPOINT, name, spec, status=serving)

    def said(name: str) -> Any:
        raw = memory.stored[Kind.ENDPOINT, ObjectKey(NAMESPACE, name)]
        return raw["metadata"]["annotations"].get(names.ADDRESS_SHARED)

    await controller.load()
    await settle(controller)
    assert (said("x"), said("y")) == (None, None)
    memory.now += dt.timedelta(seconds=10)
    await controller.sweep()
    await settle(controller)
    assert said("x") == "10.0.0.1 is also served by default/y on node-y"
    assert said("y") == "10.0.0.1 is also served by default/x on node-x"
    assert sorted(memory.events) == ["x AddressShared", "y AddressShared"]
    assert controller.cache.shared() == 2
    key = ObjectKey(NAMESPACE, "y")
    del memory.stored[Kind.ENDPOINT, key]
    controller.forget(Kind.ENDPOINT, key, Version("uid-y", memory.version + 1))
    await settle(controller)
    assert said("x") is None
    assert len(memory.events) == 2
