"""Speakers hear of a guest that has come once its source sends on, or a moment later."""

import time
from ipaddress import ip_address
from typing import Any, Final

import pytest
from tests.nodeagent.node import Node
from tests.nodeagent.reconcile.test_redirects import (
    BOTH,
    KEY,
    ON,
    SOURCE,
    B,
    C,
    again,
    answer,
    heard,
    let_redirects_be_on,
    said,
)
from tests.nodeagent.witness import watching
from tests.nodeagent.world import MAC, World, count, settings

from handover_nodeagent import metrics
from handover_nodeagent.peers.messages import Times, Way
from handover_nodeagent.peers.sink import Acknowledgment
from handover_nodeagent.reconcile import exports
from handover_nodeagent.reconcile.peer_sink import PeerSink

pytestmark = pytest.mark.root
BGP: Final = settings(**ON, advertise="bgp")
WITHHELD: Final = "10.65.0.2 dev tap0 proto 89 ... metric 512"
EXPORTED: Final = "10.65.0.2 dev tap0 proto 88 ... metric 512"
LONG: Final = 30.0
"""Seconds that no test takes: what is done by then was not done because of the time."""


@pytest.fixture
async def on(world: World, node: Node, monkeypatch: pytest.MonkeyPatch) -> World:
    """Let redirects and a speaker be on; for the source's word is waited without end."""
    monkeypatch.setattr(exports, "PATIENCE", LONG)
    await let_redirects_be_on(world, node)
    world.settings = BGP
    await again(world)
    return world


async def to_target(on: World, *, way: Way = Way.TUNNEL, **spec: Any) -> None:
    """Let a guest be expected whose source has answered by that *way*."""
    on.put(said="target", **({"annotations": SOURCE} | spec))
    on.loop.peers.proved(KEY, f"node-{B}", way)
    await on.until_listening()


def protocols(on: World) -> list[int]:
    """Return whose the routes to the guest are by their numbers."""
    return [int(line.split(" proto ")[1].split()[0]) for line in on.routes()]


def told(on: World) -> list[int]:
    """Return the same as the status says it."""
    status = on.reports.statuses.get(KEY)
    return [route.protocol for route in status.routes] if status else []


def answered(on: World, by: str = B, uid: str = "m1", *, is_bystanders: bool = False) -> None:
    """Let the agent of a node say that it follows."""
    now = time.time_ns()
    ack = Acknowledgment(now, now, Times(now, now), None, is_bystanders)
    PeerSink(on.loop, lambda _key, _uid: False).acknowledged(KEY, uid, f"node-{by}", ack)


class TestWithheld:
    """The guest is served at once, and no speaker knows."""

    async def test_until_the_source_sends_on(self, on: World) -> None:
        await to_target(on, ips=BOTH)
        with watching() as witness:
            on.announce()
            # Not a turn of the loop later, and the source was told.
            assert protocols(on) == [89, 89]
            assert said(on) == [("have", "m1")]
            await on.until_state("Live")
            assert protocols(on) == [89, 89]
            answered(on)
            assert protocols(on) == [88, 88]
            await on.at_rest()
            # In place: at no moment is there none, and nobody is told twice.
            assert witness.told() == [
                "+10.65.0.2 512",
                "+fd00:65::2 512",
                "=10.65.0.2 512",
                "=fd00:65::2 512",
            ]

    async def test_its_answer_may_come_before_the_step(self, on: World) -> None:
        await to_target(on)
        with watching() as witness:
            on.announce()
            answered(on)
            assert on.state() == "Target"
            await on.shows(EXPORTED)
            await on.until_state("Live")
            await on.at_rest()
            assert witness.told() == ["+10.65.0.2 512", "=10.65.0.2 512"]

    async def test_by_a_next_hop_it_is_the_same(self, on: World) -> None:
        on.settings = settings(**ON | {"advertise": "bgp", "sourceRedirect": "link"})
        await again(on)
        await to_target(on, way=Way.PLAIN)
        on.announce()
        await on.shows(WITHHELD)
        answered(on)
        await on.shows(EXPORTED)

    async def test_a_moment_later_whoever_is_silent(
        self, on: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exports, "PATIENCE", 0.05)
        await to_target(on)
        on.announce()
        await on.shows(WITHHELD)
        await on.shows(EXPORTED)

    async def test_the_answers_of_others_are_none(self, on: World) -> None:
        await to_target(on)
        on.announce()
        answered(on, by=C)
        answered(on, uid="m0")
        answered(on, is_bystanders=True)
        await on.until_state("Live")
        await on.shows(WITHHELD)

    async def test_it_is_no_part_of_how_long_the_cutover_took(self, on: World) -> None:
        await to_target(on)
        on.announce()
        endpoint = on.loop.endpoints[KEY]
        (there,) = on.loop.routes.known.ours.of(ip_address("10.65.0.2"))
        ours = on.loop.routes.known.ours
        before = ours.acknowledged_ns(there)
        answered(on)
        (there,) = ours.of(ip_address("10.65.0.2"))
        assert there.protocol == 88
        assert ours.acknowledged_ns(there) == before > 0
        await on.until(lambda: endpoint.cutover)

    async def test_of_a_family_that_zebra_has_nothing_is_withheld(self, on: World) -> None:
        on.settings = settings(**ON, advertise="bgp", ipv4ElevatedRoutePriority=16)
        await again(on)
        await to_target(on, ips=BOTH)
        on.announce()
        assert protocols(on) == [88, 89]
        answered(on)
        assert protocols(on) == [88, 88]

    async def test_each_route_is_counted_once_when_it_comes_and_once_when_it_is_told(
        self, on: World
    ) -> None:
        await to_target(on, ips=BOTH)
        before = count(metrics.ROUTES, "add")
        on.announce()
        answered(on)
        await on.until_state("Live")
        await on.at_rest()
        assert count(metrics.ROUTES, "add") - before == 4

    async def test_nothing_is_wrong_meanwhile(self, on: World) -> None:
        await to_target(on)
        on.announce()
        await on.until_says("Programmed", "True", "Programmed")
        await on.until(lambda: told(on) == [89])
        await on.at_rest()
        assert protocols(on) == [89]
        assert on.condition("Programmed") == ("True", "Programmed")
        answered(on)
        await on.until(lambda: told(on) == [88])


class TestAtOnce:
    """Speakers hear in the instant of the announcement where there is nothing to wait for."""

    @pytest.mark.parametrize(
        "fields",
        [
            {"advertise": "agents"},
            {"advertise": "bgp", "sourceRedirect": "off"},
            # Of zebra's: it sets no route beside ours.
            {"advertise": "bgp", "ipv4ElevatedRoutePriority": 10, "ipv6ElevatedRoutePriority": 10},
        ],
        ids=["agents distribute", "no redirect", "FRR"],
    )
    async def test_where_nothing_could_be_faster_than_a_redirect(
        self, on: World, fields: dict[str, Any]
    ) -> None:
        on.settings = settings(**(ON | fields))
        await again(on)
        await to_target(on, ips=BOTH)
        on.announce()
        assert protocols(on) == [88, 88]

    async def test_where_the_source_has_not_answered(self, on: World) -> None:
        on.put(said="target", annotations=SOURCE)
        await on.until_listening()
        on.announce()
        assert protocols(on) == [88]

    async def test_where_nobody_is_named(self, on: World) -> None:
        on.put(said="target")
        await on.until_listening()
        on.announce()
        assert protocols(on) == [88]


class TestEnds:
    """Whatever happens in the moment, speakers hear of what stays."""

    async def test_who_is_killed_leaves_it_to_the_next(self, on: World) -> None:
        await to_target(on)
        on.announce()
        await on.until_state("Live")
        await on.at_rest()
        # As SIGKILL leaves it: who ends in order lets speakers hear first.
        on.loop.cutovers.exports._awaited.clear()
        await on.kill()
        assert protocols(on) == [89]
        await on.start(synced=False)
        # Before the API has said a word.
        await on.shows(EXPORTED)
        assert on.state() == "Live"

    async def test_who_stops_does_it_first(self, on: World) -> None:
        await to_target(on)
        on.announce()
        await on.until_state("Live")
        on.loop.close()
        assert protocols(on) == [88]

    async def test_who_stops_before_the_step_too(self, on: World) -> None:
        await to_target(on)
        on.announce()
        on.loop.close()
        assert protocols(on) == [88]

    async def test_the_orphan_of_a_guest_that_answers(self, on: World) -> None:
        await to_target(on)
        on.announce()
        await on.until_state("Live")
        on.delete()
        await on.until_state("Asking")
        answer(on)
        await on.until_state("gone")
        await on.shows(EXPORTED)

    async def test_a_pause_of_the_namespace(self, on: World) -> None:
        await to_target(on)
        on.announce()
        await on.until_state("Live")
        on.pause("default")
        await on.shows(EXPORTED)

    async def test_the_end_of_all_writing(self, on: World) -> None:
        await to_target(on)
        on.announce()
        await on.until_state("Live")
        on.configure(**ON, advertise="bgp", mode="observe")
        # Before it: from now on nothing is written.
        assert protocols(on) == [88]

    async def test_another_number(self, on: World) -> None:
        await to_target(on)
        on.announce()
        await on.until_state("Live")
        on.configure(**ON, advertise="bgp", routeProtocol=100)
        await on.until(lambda: protocols(on) == [100])
        answered(on)
        await on.at_rest()
        assert protocols(on) == [100]

    async def test_what_nobody_remembers_whose_guest_answers(self, on: World) -> None:
        await on.kill()
        on.node.run("ip route add 10.65.0.2 dev tap0 scope link metric 512 proto 89")
        on.node.run(f"ip neigh replace 10.65.0.2 lladdr {MAC} dev tap0")
        await on.start()
        await on.shows(EXPORTED)

    async def test_a_guest_that_goes_back(self, on: World) -> None:
        """The redirect takes the exported one's place, so that no speaker hears of it."""
        await to_target(on)
        on.announce()
        await on.until_state("Live")
        assert heard(on)
        await on.shows("10.65.0.2 ... dev handover0 proto 88 ... metric 512")
        await on.until_state("Redirected")
        assert protocols(on) == [88]
        answered(on)
        await on.at_rest()
        assert protocols(on) == [88]

    async def test_somebody_takes_it_meanwhile(self, on: World) -> None:
        await to_target(on)
        on.announce()
        await on.until_state("Live")
        on.node.run("ip route delete 10.65.0.2 dev tap0 metric 512")
        answered(on)
        await on.shows(EXPORTED)

    async def test_the_same_guest_announces_itself_again(self, on: World) -> None:
        await to_target(on)
        on.announce()
        on.announce()
        await on.until_state("Live")
        on.announce()
        await on.shows(WITHHELD)
        answered(on)
        await on.shows(EXPORTED)
