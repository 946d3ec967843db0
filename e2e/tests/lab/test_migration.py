"""A real VM migrates under traffic and its network follows: what the demonstration shows."""

import datetime as dt
import statistics
import time

import pytest

from handover_api.configuration import Settings
from handover_lab.cluster import observer
from handover_lab.four_nodes import trial
from handover_lab.guest.migration import LONG_PAUSE, POSTCOPY, Limits
from handover_lab.network.ping_record import DeliveryRecord
from handover_lab.testing.scenario import (
    ELEVATED,
    MOST_LOST,
    NORMAL,
    ROUTES_ALONE,
    Scenario,
    name_of,
)

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

LOST_IF_LATE = 200
"""Pings that a route would lose which waited for more than the announcement."""

ROUTED = "handover_nodeagent_announcement_to_route_seconds"


async def test_a_vm_moves_there_and_back_and_its_network_follows(scenario: Scenario) -> None:
    """Of several moves, because others may need the processors just when a route has to move."""
    migrated = []
    for _ in range(4):
        migrated.append(await scenario.lab.migrate(scenario.migration()))
        scenario.swap_nodes()

    felt = await scenario.loss(*(one.move for one in migrated))
    for one, flows in zip(migrated, felt, strict=True):
        assert one.cutover is not None
        assert one.cutover.signal == "RARP"
        assert one.cutover.at_ns > one.move.switchover.resumed_ns
        assert flows["TCP session"].lost == 0
    for name in ("ping", "ping v6", "UDP echo"):
        late = [flows[name].lost_after_switch for flows in felt]
        assert statistics.median(late) <= MOST_LOST
        assert max(late) < LOST_IF_LATE
    assert migrated[0].move.source == migrated[1].move.target


@pytest.mark.parametrize("limits", [LONG_PAUSE, POSTCOPY], ids=["long pause", "post-copy"])
async def test_the_network_follows_whatever_way_qemu_takes(
    scenario: Scenario, limits: Limits
) -> None:
    """Whoever waited for the migration's end would be late: post-copy ends long after RESUME."""
    migrated = await scenario.lab.migrate(scenario.migration(), limits)

    (felt,) = await scenario.loss(migrated.move)
    assert migrated.cutover is not None
    assert felt["ping"].lost_after_switch < LOST_IF_LATE
    assert felt["TCP session"].lost == 0


async def test_statement_21_as_it_is_installed_no_packet_is_lost(scenario: Scenario) -> None:
    """The agents are pods, with the rights and the processor time of the chart."""
    # Said, as the operator would put back what is but taken out.
    defaults = Settings().model_dump(mode="json", by_alias=True)
    await scenario.configure(**{name: defaults[name] for name in ROUTES_ALONE})
    vm, target = scenario.lab.vm, scenario.lab.cluster.nodes[scenario.there]
    try:
        with DeliveryRecord.kept(target, vm.nic.tap) as record:
            migrated = await scenario.lab.migrate(scenario.migration())
            ping = vm.flows["ping"]
            # An answer that is still on its way is no loss.
            await ping.overtaken(time.time_ns())
            came = record.delivered(4, ping.identifier)
        assert trial.lost_on_the_way(ping.recording, migrated.move, came) == ()

        def tells_of_it(migrations: observer.Objects) -> bool:
            (migration,) = migrations.values()
            (side,) = migration["status"]["target"]
            return all(
                one in side["cutover"] for one in ("announcementToRedirectMicroseconds", "hold")
            )

        await scenario.lab.migrations.until(tells_of_it, "how soon the source sent on, and what")
        assert scenario.seen(scenario.here)["status"]["state"] == "Redirected"
        await vm.answered()
    finally:
        await scenario.configure(**ROUTES_ALONE)
    scenario.swap_nodes()


async def test_the_target_has_a_route_at_each_moment_after_its_first(scenario: Scenario) -> None:
    """Guards the order at a change of metric: delete, then add is a withdrawal in all of BGP."""
    await scenario.lab.migrate(scenario.migration())
    await scenario.catch_up()

    for address in scenario.lab.vm.nic.addresses:
        assert scenario.changes(scenario.there, address) == [
            (ELEVATED, True),
            (NORMAL, True),
            (ELEVATED, False),
        ]
        assert scenario.changes(scenario.here, address) == [(NORMAL, True), (NORMAL, False)]
        for entry, standing in scenario.journals[scenario.here].moments(address):
            assert standing or not entry.is_ours


async def test_api_and_prometheus_tell_how_long_the_route_took(scenario: Scenario) -> None:
    before = await scenario.metrics(scenario.there)

    migrated = await scenario.lab.migrate(scenario.migration())

    seen = scenario.seen(scenario.there)["status"]["lastCutover"]
    uid = seen.pop("migrationUID")
    (migration,) = scenario.lab.migrations.objects.values()
    (side,) = migration["status"]["target"]
    assert uid == migration["metadata"]["uid"]
    assert side["cutover"] == seen
    assert side["node"] == scenario.there
    route_s = seen["announcementToRouteMicroseconds"] / 1e6
    after = await scenario.metrics(scenario.there)
    none = frozenset[tuple[str, str]]()
    endpoint = frozenset({("namespace", "default"), ("name", name_of(scenario.there))})
    grown = {key: value - before.get(key, 0) for key, value in after.items()}
    assert grown[f"{ROUTED}_count", none] == 1
    assert grown[f"{ROUTED}_sum", none] == pytest.approx(route_s, abs=2e-6)
    last = after["handover_nodeagent_last_cutover_seconds", endpoint]
    assert last == pytest.approx(route_s, abs=2e-6)
    times = [
        dt.datetime.fromisoformat(migration["status"][name])
        for name in ("startTime", "readyTime", "cutoverTime", "completionTime")
    ]
    assert times == sorted(times)
    assert observer.when_ns(seen["time"]) > migrated.move.switchover.resumed_ns
