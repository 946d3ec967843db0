"""Leadership: one replica writes, the others watch and wait.

The Lease (lease.py decides) is renewed while we lead. What we may write ends by our own clock,
before another replica may take over, whatever the network or a debugger does to us: ``holds`` is
asked before every single write (client.py), and what is under way is broken off.
"""

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import structlog

from handover_operator.kube import lease
from handover_operator.kube.errors import Absent, Conflict, Temporary
from handover_operator.kube.lease import Lease, Periods, Sighting, Step
from handover_operator.observability import metrics

NAME: Final = "handover-operator"
"""Of the Lease."""

RETRY: Final = 0.2
"""Seconds after a renewal that failed: the time that is left is for trying, not for waiting."""

RELEASE_TIMEOUT: Final = 2.0
"""Seconds. Giving the Lease back only saves the next leader a wait: our end takes no longer."""


class Leases(Protocol):
    """Where the Lease is kept (client.Leases); may raise Temporary, Absent or Conflict."""

    async def read(self) -> Lease:
        """Read it."""

    async def write(self, version: str, spec: Mapping[str, object]) -> Lease:
        """Write it if it still has this version; without one, make it."""


Work = Callable[[], Awaitable[None]]
"""What runs until it is cancelled."""


async def _idle() -> None:
    """Do nothing until cancelled."""
    await asyncio.Event().wait()


def clock() -> float:
    """Return seconds that also pass while the process is stopped or its machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Leadership:
    """One replica's part in the election: waits for the Lease, keeps it, gives it back.

    *on_renewal* is called whenever somebody else is seen to have renewed the Lease.
    """

    def __init__(
        self,
        leases: Leases,
        identity: str,
        now: Callable[[], dt.datetime],
        on_renewal: Callable[[], None],
        periods: Periods = Periods(),  # noqa: B008  frozen
    ) -> None:
        self._leases = leases
        self._identity = identity
        self._now = now
        self._on_renewal = on_renewal
        self._periods = periods
        self._seen: Sighting | None = None
        self._until = 0.0
        self._log = structlog.get_logger().bind(identity=identity)

    def holds(self) -> bool:
        """Return whether we may write at this very moment."""
        return clock() < self._until

    async def run(self, lead: Work, stand_by: Work = _idle) -> None:
        """Run *lead* whenever, and only while, we lead, else *stand_by*; until cancelled.

        When cancelled the Lease is given back, after *lead* has ended.
        """
        try:
            while True:
                async with asyncio.TaskGroup() as group:
                    # It has ended when the group is left: nobody stands by and leads at once.
                    meanwhile = group.create_task(_as_coroutine(stand_by))
                    await self._acquire()
                    meanwhile.cancel()
                await self._lead(lead)
        finally:
            metrics.LEADER.set(0)
            await self._release()

    async def _acquire(self) -> None:
        """Wait until the Lease is ours."""
        logged = ""
        while True:
            try:
                async with asyncio.timeout(self._periods.deadline):
                    step = await self._read()
                    if step is not Step.WAIT:
                        await self._hold()
                        return
            except (Temporary, Absent, Conflict, TimeoutError) as reason:
                doubt = str(reason) or "no answer in time"
                if doubt != logged and not isinstance(reason, Conflict):
                    self._log.warning("no_lease", reason=doubt)
                    logged = doubt
                await asyncio.sleep(self._periods.poll)
                continue
            assert self._seen is not None
            if logged != (logged := self._seen.lease.holder):
                self._log.info("standing_by", leader=logged)
            await asyncio.sleep(lease.seconds_to_next_read(self._seen, self._periods, clock()))

    async def _lead(self, lead: Work) -> None:
        """Lead until the Lease is lost."""
        self._log.info("leading")
        metrics.LEADER.set(1)
        metrics.TERMS.inc()
        async with asyncio.TaskGroup() as group:
            term = group.create_task(_as_coroutine(lead))
            await self._keep()
            term.cancel()
        # What is left of the time is nobody's to write in: *lead* has ended.
        self._until = 0.0
        metrics.LEADER.set(0)

    async def _keep(self) -> None:
        """Renew the Lease; return when it is lost, or too old to write any more."""
        pause = self._periods.renewal
        while True:
            # A process that was stopped wakes up late: it looks at the clock before anything else.
            await asyncio.sleep(min(pause, max(self._until - clock(), 0.0)))
            left = self._until - clock()
            if left <= 0:
                self._log.warning("stepping_down", reason="the Lease could not be renewed")
                return
            try:
                async with asyncio.timeout(lease.seconds_for_renewal(left)):
                    if not await self._renew():
                        assert self._seen is not None
                        leader = self._seen.lease.holder
                        self._log.warning("stepping_down", reason=f"the Lease is {leader}'s")
                        return
                pause = self._periods.renewal
            except (Temporary, Conflict, Absent, TimeoutError) as reason:
                self._log.warning("not_renewed", reason=str(reason) or "no answer in time")
                pause = RETRY

    async def _renew(self) -> bool:
        """Renew; False: somebody else holds the Lease."""
        with contextlib.suppress(Conflict, Absent):
            await self._hold()
            return True
        if await self._read() is not Step.RENEW:
            return False
        await self._hold()
        return True

    async def _read(self) -> Step:
        found: Lease | None = None
        with contextlib.suppress(Absent):
            found = await self._leases.read()
        before, self._seen = self._seen, lease.see(self._seen, found, clock())
        if lease.is_renewed_by_another(before, self._seen, self._identity):
            self._on_renewal()
        return lease.step(self._seen, self._identity, clock())

    async def _hold(self) -> None:
        """Write that we hold the Lease; our time counts from before the request."""
        assert self._seen is not None
        asked = clock()
        spec = lease.held(self._seen, self._identity, self._periods, self._now())
        taken = await self._leases.write(self._seen.lease.version, spec)
        self._seen = lease.see(self._seen, taken, clock())
        self._until = asked + self._periods.deadline

    async def _release(self) -> None:
        """Let another replica take over at once; best effort."""
        self._until = 0.0
        if self._seen is None or self._seen.lease.holder != self._identity:
            return
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT):
                await self._give_back()
            self._log.info("lease_released")
        except (Temporary, Conflict, Absent, TimeoutError) as reason:
            self._log.warning("lease_not_released", reason=str(reason) or "no answer in time")

    async def _give_back(self) -> None:
        assert self._seen is not None
        spec = lease.released(self._now())
        try:
            await self._leases.write(self._seen.lease.version, spec)
        except Conflict:
            # A renewal that was broken off has arrived after all.
            if await self._read() is not Step.RENEW:
                return
            await self._leases.write(self._seen.lease.version, spec)


async def _as_coroutine(work: Work) -> None:
    await work()
