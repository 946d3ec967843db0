"""Looks at everything: when one counts, when another follows, and that none is the last."""

import inspect
import sys
from collections.abc import Iterable
from ipaddress import ip_address

import pytest
from tests.nodeagent.world import NORMAL_V4, World

from handover_api.configuration import Settings
from handover_nodeagent.kernel import links
from handover_nodeagent.kernel.netlink.codec import ObservationError
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.reconcile import observe as observation
from handover_nodeagent.routes import host_routes
from handover_nodeagent.routes.known import Observed

pytestmark = pytest.mark.root


class Views:
    """Counts the views of the kernel; during the first *restless* ones something happens."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, restless: int = 0) -> None:
        self.seen: list[Observed] = []
        self._world = world
        self._left = restless
        self._observe = host_routes.observe
        monkeypatch.setattr(host_routes, "observe", self._view)

    def _view(self, settings: Settings, addresses: Iterable[IPAddress]) -> Observed:
        observed = self._observe(settings, addresses)
        self.seen.append(observed)
        if self._left:
            self._left -= 1
            self._world.observation._news += 1
        return observed


async def test_a_view_that_is_older_than_what_happened_does_not_count(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = Views(world, monkeypatch, restless=2)
    view = await world.observation._observe(list)
    assert view.is_current
    assert view.observed is views.seen[2]
    assert len(views.seen) == 3


async def test_a_view_without_an_address_that_came_meanwhile_does_not_count(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: the CNI's route of a new endpoint, seen and then forgotten."""
    views = Views(world, monkeypatch)
    first, second = list[IPAddress](), list(map(_address, ["10.65.0.2"]))
    known = iter([first, second, second, second])
    view = await world.observation._observe(lambda: next(known))
    assert view.is_current
    assert len(views.seen) == 2


async def test_a_node_that_never_rests_is_looked_at_again_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: the old view that is the last word for ever."""
    monkeypatch.setattr(observation, "RESTLESS", 0.02)
    await world.at_rest()
    views = Views(world, monkeypatch, restless=2 * observation.ATTEMPTS)
    world.observation.request_resync()
    await world.until(lambda: len(views.seen) > 2 * observation.ATTEMPTS)


async def test_what_nobody_tells_is_found_within_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation, "REFRESH", 0.05)
    world.put()
    await world.shows(NORMAL_V4)
    await world.at_rest()
    subscription = world.observation._notifications._subscription
    monkeypatch.setattr(subscription, "_take", lambda _: None)
    world.node.run("ip route delete 10.65.0.2 dev tap0 metric 1024")
    await world.shows(NORMAL_V4)


async def test_a_kernel_that_cannot_be_read_for_hours_costs_no_more_than_at_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: each minute one more frame on the stack, until there is no room."""
    monkeypatch.setattr(observation, "RETRY_AFTER", 0)
    observe, left = links.observe, [None] * (observation.ATTEMPTS * 200)

    def refuse(table: int) -> object:
        if left:
            left.pop()
            text = "busy"
            raise ObservationError(text)
        return observe(table)

    monkeypatch.setattr(links, "observe", refuse)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        view = await world.observation._observe(list)
    finally:
        sys.setrecursionlimit(limit)
    assert view.is_current
    assert world.loop.enforcer.blindness == ""


def _address(text: str) -> IPAddress:
    return ip_address(text)
