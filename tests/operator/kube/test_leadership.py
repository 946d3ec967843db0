"""Replicas that agree, renew, lose and give back: with their real periods, in simulated time."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from handover_operator.kube import leadership, lease
from handover_operator.kube.errors import Absent, Conflict, Unavailable
from handover_operator.kube.leadership import Leadership
from handover_operator.kube.lease import Lease, Periods
from tests import simulated_time

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
PERIODS = Periods()
PATIENCE = 2 * PERIODS.duration
"""Seconds for what comes when a Lease has expired, at the latest."""


@pytest.fixture(autouse=True)
async def simulated(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Wait for no Lease."""
    loop = asyncio.get_running_loop()
    with simulated_time.simulated(loop):
        monkeypatch.setattr(leadership, "clock", loop.time)
        yield


class Store:
    """One Lease; it keeps the rules of resourceVersion, and its outages can be made."""

    def __init__(self) -> None:
        self.raw: dict[str, Any] | None = None
        self.version = 0
        self.holders: list[str] = []
        self.outage: type[BaseException] | None = None
        self.stuck = False
        self.stuck_once = False

    async def read(self) -> Lease:
        """Read it."""
        await self._network()
        if self.raw is None:
            raise Absent
        return lease.read(self.raw)

    async def write(self, version: str, spec: Mapping[str, object]) -> Lease:
        """Write it if it has this version."""
        await self._network()
        if self.raw is None and version:
            raise Absent
        if self.raw is not None and version != str(self.version):
            raise Conflict
        self.put(spec)
        return await self.read()

    def put(self, spec: Mapping[str, object]) -> None:
        """Write it, whoever holds it."""
        self.version += 1
        self.raw = {"metadata": {"resourceVersion": str(self.version)}, "spec": spec}
        holder = str(spec["holderIdentity"])
        if not self.holders or self.holders[-1] != holder:
            self.holders.append(holder)

    def label(self) -> None:
        """Give it another version."""
        assert self.raw is not None
        self.put(self.raw["spec"])

    def delete(self) -> None:
        """Delete it."""
        self.raw = None

    async def _network(self) -> None:
        await asyncio.sleep(0)
        if self.stuck or self.stuck_once:
            self.stuck_once = False
            await asyncio.Event().wait()
        if self.outage is not None:
            raise self.outage


class Replica:
    """Somebody who wants to lead; notes when it leads."""

    def __init__(self, store: Store, identity: str) -> None:
        self.renewed = asyncio.Event()
        self.leadership = Leadership(store, identity, lambda: NOW, self.renewed.set, PERIODS)
        self.terms = 0
        self.leads = asyncio.Event()
        self.rests = asyncio.Event()
        self.held_at_the_end: bool | None = None

    async def lead(self) -> None:
        """Lead until cancelled."""
        self.terms += 1
        self.leads.set()
        self.rests.clear()
        try:
            await asyncio.Event().wait()
        finally:
            self.held_at_the_end = self.leadership.holds()
            self.rests.set()
            self.leads.clear()


@asynccontextmanager
async def running(replica: Replica) -> AsyncIterator[Replica]:
    """Let a replica take part; it leaves in order."""
    task = asyncio.create_task(replica.leadership.run(replica.lead))
    yield replica
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def soon(event: asyncio.Event) -> None:
    """Wait for an event, not for ever."""
    await asyncio.wait_for(event.wait(), PATIENCE)


async def test_one_leads_and_the_other_follows_when_it_leaves() -> None:
    store = Store()
    one, two = Replica(store, "one"), Replica(store, "two")
    async with running(two):
        await soon(two.leads)
        async with running(one):
            await asyncio.sleep(PATIENCE)
            assert (one.terms, two.terms) == (0, 1)
            assert not one.leadership.holds()
            async with running(Replica(store, "three")):
                pass  # who leaves without having led gives nothing back
            assert store.holders == ["two"]
    async with running(one):
        loop = asyncio.get_running_loop()
        start = loop.time()
        await soon(one.leads)
        assert loop.time() - start < PERIODS.poll
    assert store.holders == ["two", "", "one", ""]


async def test_a_leader_that_cannot_renew_stops_before_another_begins() -> None:
    store = Store()
    one, two = Replica(store, "one"), Replica(store, "two")
    async with running(one):
        await soon(one.leads)
        cut = Store()
        one.leadership._leases = cut
        cut.stuck = True
        async with running(two):
            await soon(one.rests)
            assert (one.held_at_the_end, two.terms) == (False, 0)
            await soon(two.leads)
        assert one.terms == 1


async def test_after_an_outage_the_leader_leads_on() -> None:
    store = Store()
    one = Replica(store, "one")
    async with running(one):
        await soon(one.leads)
        store.outage = Unavailable
        await soon(one.rests)
        store.outage = None
        await soon(one.leads)
        assert one.terms == 2
    assert store.holders == ["one", ""]


async def test_one_request_that_gets_stuck_costs_no_term() -> None:
    store = Store()
    one = Replica(store, "one")
    async with running(one):
        await soon(one.leads)
        store.stuck_once = True
        await asyncio.sleep(2 * PERIODS.deadline)
        assert not store.stuck_once
        assert (one.terms, one.leads.is_set()) == (1, True)


async def test_who_does_not_lead_stands_by_and_hears_of_renewals() -> None:
    store = Store()
    one, two = Replica(store, "one"), Replica(store, "two")
    stands_by = asyncio.Event()

    async def stand_by() -> None:
        stands_by.set()
        try:
            await asyncio.Event().wait()
        finally:
            stands_by.clear()

    async with running(one):
        await soon(one.leads)
        task = asyncio.create_task(two.leadership.run(two.lead, stand_by))
        await soon(stands_by)
        await soon(two.renewed)
        assert two.terms == 0
    await soon(two.leads)
    assert not stands_by.is_set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_short_outage_changes_nothing() -> None:
    store = Store()
    one = Replica(store, "one")
    async with running(one):
        await soon(one.leads)
        store.outage = Unavailable
        await asyncio.sleep(PERIODS.deadline / 3)
        store.outage = None
        await asyncio.sleep(PERIODS.deadline)
        assert (one.terms, one.leads.is_set()) == (1, True)


async def test_who_reads_another_name_in_it_stops_at_once() -> None:
    store = Store()
    one = Replica(store, "one")
    async with running(one):
        await soon(one.leads)
        store.put({"holderIdentity": "a person", "leaseDurationSeconds": 1})
        await soon(one.rests)
        assert not one.leadership.holds()
        await soon(one.leads)  # a person does not renew
        assert store.holders == ["one", "a person", "one"]


async def test_a_lease_that_somebody_deletes_or_labels_stays_the_leader_s() -> None:
    store = Store()
    one = Replica(store, "one")
    async with running(one):
        await soon(one.leads)
        store.label()
        await asyncio.sleep(PERIODS.renewal * 2)
        store.delete()
        await asyncio.sleep(PERIODS.renewal * 2)
        assert store.raw is not None
        assert (one.terms, one.leadership.holds()) == (1, True)


async def test_it_gives_back_a_lease_that_has_another_version_by_now() -> None:
    store = Store()
    one = Replica(store, "one")
    async with running(one):
        await soon(one.leads)
        store.label()
    assert store.holders == ["one", ""]


async def test_it_gives_nothing_back_that_is_somebody_else_s() -> None:
    store = Store()
    one = Replica(store, "one")
    async with running(one):
        await soon(one.leads)
        store.put({"holderIdentity": "two", "leaseDurationSeconds": 1})
    assert store.holders == ["one", "two"]


async def test_nobody_leads_without_a_lease() -> None:
    store = Store()
    store.outage = Unavailable
    one = Replica(store, "one")
    async with running(one):
        await asyncio.sleep(PERIODS.poll * 3)
        assert one.terms == 0
        store.outage = None
        await soon(one.leads)
        store.outage = Unavailable  # and what cannot be given back runs out
    assert store.holders == ["one"]


async def test_what_breaks_while_leading_ends_the_process_and_gives_the_lease_back() -> None:
    store = Store()
    one = Replica(store, "one")

    async def fail() -> None:
        raise RuntimeError

    ended = asyncio.gather(one.leadership.run(fail), return_exceptions=True)
    [error] = await asyncio.wait_for(ended, PATIENCE)
    assert isinstance(error, ExceptionGroup)
    assert store.holders == ["one", ""]
