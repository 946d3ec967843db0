"""The redirect table's task: makes table ``inet handover`` what redirects need, change by change.

It decides on the loop; the work is a thread's and a process's (``kernel/nft/writer.py``). Neither
route nor guest waits for it: what is to be there in time is asked for before a guest moves.
"""

import asyncio
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import structlog

from handover_api.configuration import Advertise, Mode, Settings, SourceRedirect
from handover_nodeagent.kernel import conntrack
from handover_nodeagent.kernel.netlink.codec import ObservationError
from handover_nodeagent.kernel.nft import authorship
from handover_nodeagent.kernel.nft.drift import DriftWatch
from handover_nodeagent.kernel.nft.outcome import Outcome
from handover_nodeagent.kernel.nft.writer import Writer
from handover_nodeagent.kernel.redirect_table.rules import DISTRIBUTION, REDIRECT, Redirects
from handover_nodeagent.kernel.redirect_table.table import RedirectTable
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.reconcile.repairs import Repairs
from handover_nodeagent.retry.backoff import Backoff
from handover_nodeagent.retry.timers import Retry

_log: Final = structlog.get_logger()
_NOBODY: Final[frozenset[IPAddress]] = frozenset()


COUNT_FIRST: Final = 1.0
COUNT_LAST: Final = 60.0
"""Seconds until packets are counted after a redirect is in, and then ever longer: a listing wants
the process of libnftables, which else ends after half a minute, and what is late comes early."""


class RedirectTableReconciler:
    """Remembers what is wanted, and writes it as it is when its turn comes.

    There is no table where no tunnel is and nothing redirected. ``trouble`` says why it is not
    as it should be, "" when all is well: meanwhile no tunnel of this node is safe. ``enclosed`` is
    called when a tunnel may be made that was waiting for its rules.
    """

    def __init__(
        self,
        settings: Settings,
        writer: Writer,
        ports: Callable[[], AbstractSet[str]],
        is_open: Callable[[str], bool],
        report: Callable[[], None],
    ) -> None:
        """Write by *writer*; take from *ports* the VMs' devices; *report* another trouble.

        *is_open* tells of a tunnel's device whether the node has it.
        """
        self.trouble = ""
        self.counted: Callable[[Mapping[IPAddress, int]], None] = _ignore
        self.enclosed: Callable[[], None] = _go_on
        self._is_open = is_open
        # What was found of both devices; to be asked again where one may have come or gone.
        self._open = frozenset[str]()
        self._was_asked = False
        self._enclosed = frozenset[str]()
        self._seen: Mapping[IPAddress, int] = {}
        self._until_count = COUNT_FIRST
        self._settings = settings
        self._writer = writer
        self._ports = ports
        self._report = report
        self._table = RedirectTable(writer)
        self._peers, self._redirected, self._nodes = _NOBODY, _NOBODY, _NOBODY
        self._away, self._uplinks = _NOBODY, frozenset[str]()
        self._leaving = _NOBODY
        self._has_tunnel = False
        # Until somebody knows which redirects there are, the last agent's table serves them.
        self._is_known = False
        # What was written last, None for no table; it counts only while nothing is to be made anew.
        self._written: Redirects | None = None
        self._whole = True
        self._retry = Retry(self._wake, Backoff(jitter=True))
        self._repairs = Repairs("redirect_table", "inet handover", self.replace, report)
        self._work = asyncio.Event()

    @property
    def contested(self) -> str:
        """Who undoes the table as often as it is written; "" when nobody does."""
        return self._repairs.contested

    def want(
        self,
        peers: frozenset[IPAddress],
        redirected: frozenset[IPAddress],
        leaving: frozenset[IPAddress] = _NOBODY,
        *,
        has_tunnel: bool = True,
    ) -> None:
        """Let *peers* send by the tunnel; *redirected* are those whose route leads on by now.

        That of those who are *leaving* may, any moment.

        Called after each change of a route, never before: until then the guest of this node
        answers by connections that are to be tracked. A tunnel that is about to be made counts.
        Without one its port is anybody's.
        """
        wanted = peers, redirected, leaving, has_tunnel
        self._was_asked &= has_tunnel or not self._has_tunnel
        known = self._peers, self._redirected, self._leaving, self._has_tunnel
        if not self._is_known or wanted != known:
            self._peers, self._redirected, self._leaving, self._has_tunnel = wanted
            self._is_known = True
            self._wake()

    def want_nodes(self, nodes: frozenset[IPAddress]) -> None:
        """Let *nodes* send by the second tunnel; without any there is none, or soon none."""
        is_ending = not nodes and DISTRIBUTION in self._open
        if nodes != self._nodes or is_ending:
            self._was_asked &= bool(nodes)
            self._nodes = nodes
            self._wake()

    def want_forwarded(self, away: frozenset[IPAddress], uplinks: frozenset[str]) -> None:
        """Leave alone what comes by *uplinks* for the guests of *away*, to be sent on."""
        if (away, uplinks) != (self._away, self._uplinks):
            self._away, self._uplinks = away, uplinks
            self._wake()

    def touch(self) -> None:
        """The devices of this node's VMs may have changed."""
        self._wake()

    def configure(self, settings: Settings) -> None:
        """Go by other *settings*."""
        self._settings = settings
        self._wake()

    def encloses(self, device: str) -> bool:
        """Tell whether the rules are in without which a tunnel's *device* is not to be made."""
        return device in self._enclosed

    def replace(self) -> None:
        """Make the whole table anew: at start, on drift."""
        self._whole, self._was_asked = True, False
        self._wake()

    async def run(self) -> None:
        """Work until cancelled; what fails is tried again, ever more patiently."""
        watch = self._watch()
        try:
            while True:
                if not await self._is_asked():
                    await self._count()
                    continue
                self._work.clear()
                # Taken before the work: what is asked for meanwhile is the next round's.
                whole, self._whole = self._whole, False
                self._conclude(await self._attempt(whole=whole))
        finally:
            self._retry.cancel()
            self._repairs.cancel()
            if watch:
                watch.close()

    async def remove(self) -> Outcome:
        """Take the whole table away."""
        return await self._table.remove()

    def _wake(self) -> None:
        self._work.set()

    def _watch(self) -> DriftWatch | None:
        repairs = self._repairs
        try:
            return DriftWatch(
                *(repairs.drifted, repairs.overflowed),
                author=self._writer.author,
                family=authorship.INET,
            )
        except OSError as error:
            why = f"nobody hears of its changes: {error.strerror}"
            _log.warning("redirect_table_unwatched", why=why)
            return None

    async def _is_asked(self) -> bool:
        """Wait until there is something to write, or (False) until it is time to count."""
        is_counting = self._written is not None and self._written.redirected
        try:
            async with asyncio.timeout(self._until_count if is_counting else None):
                await self._work.wait()
        except TimeoutError:
            self._until_count = min(2 * self._until_count, COUNT_LAST)
            return False
        return True

    async def _count(self) -> None:
        """Tell how many packets each redirect has sent on since this was done last."""
        found = await self._table.forwarded()
        news = {address: _grown(self._seen.get(address, 0), now) for address, now in found.items()}
        # Nothing to be seen is no count of nothing: the library may be gone.
        if news:
            self._seen = found
            self.counted(news)

    async def _attempt(self, *, whole: bool) -> Outcome | None:
        try:
            return await self._apply(whole=whole)
        except Exception:  # noqa: BLE001  the root of a task that all endpoints share: nothing may end it
            _log.exception("redirect_table_failed")
            return Outcome("an error within the agent; its log has more")

    async def _apply(self, *, whole: bool) -> Outcome | None:
        """Write what differs; None: nothing was to be written."""
        if self._settings.mode is not Mode.ACTIVE or not self._is_known:
            # What is there stays as it is; nobody knows what it is when that ends.
            self._whole = True
            return None
        wanted, before = self._wanted(), self._written
        if wanted == before and not whole:
            return None
        if whole or (before and before.redirected - (wanted.redirected if wanted else _NOBODY)):
            # What goes takes its counters along, those of an agent before this one, too.
            await self._count()
            self._seen = {}
        if wanted and (before is None or wanted.redirected - before.redirected):
            self._until_count = COUNT_FIRST
        if wanted is None:
            done = await self._table.remove()
        elif whole or before is None:
            done = await self._table.replace(wanted)
        else:
            done = await self._table.change(before, wanted)
        self._written = wanted
        if wanted and not done.trouble:
            known = before.away | before.redirected if before and not whole else _NOBODY
            await self._forget((wanted.away | wanted.redirected) - known, wanted)
        return done

    async def _forget(self, untracked: frozenset[IPAddress], wanted: Redirects) -> None:
        """Have connections forgotten that go untracked from now on: else they end at the return."""
        if not untracked:
            return
        try:
            await asyncio.to_thread(conntrack.forget, untracked, wanted.uplinks, wanted.peers)
        except (OSError, ObservationError) as error:
            # A kernel without conntrack remembers none.
            _log.warning("connections_remembered", why=str(error))

    def _wanted(self) -> Redirects | None:
        """Return what the table is to hold now; None: no tunnel of this node needs it."""
        settings = self._settings
        if not self._was_asked:
            self._open = frozenset(filter(self._is_open, (REDIRECT, DISTRIBUTION)))
            self._was_asked = True
        # As long as a device is there, whoever made it, and whatever is configured by now.
        is_on = settings.source_redirect is SourceRedirect.AUTO
        has_tunnel = (self._has_tunnel and is_on) or REDIRECT in self._open
        has_agents = settings.advertise is Advertise.AGENTS
        is_distributing = (has_agents and bool(self._nodes)) or DISTRIBUTION in self._open
        away = self._away if has_agents else _NOBODY
        if not (has_tunnel or is_distributing or self._redirected or away):
            return None
        return Redirects(
            settings.redirect_port if has_tunnel else 0,
            settings.peer_port,
            frozenset(self._ports()),
            self._peers if has_tunnel and is_on else _NOBODY,
            self._redirected,
            settings.distribution_port if is_distributing else 0,
            self._nodes if is_distributing and has_agents else _NOBODY,
            away,
            self._uplinks if has_agents else frozenset(),
            self._leaving if has_tunnel else _NOBODY,
        )

    def _conclude(self, outcome: Outcome | None) -> None:
        if outcome is None:
            return
        self._whole |= bool(outcome.trouble)
        (self._retry.failed if outcome.trouble else self._retry.succeeded)()
        if outcome.trouble != self.trouble:
            self.trouble = outcome.trouble
            _log.warning("redirect_table", trouble=outcome.trouble or "none any more")
            self._report()
        before, self._enclosed = self._enclosed, self._tunnels()
        if self._enclosed - before:
            self.enclosed()

    def _tunnels(self) -> frozenset[str]:
        """Return the tunnels whose rules are in."""
        written = self._written
        if written is None or self.trouble:
            return frozenset()
        ports = {REDIRECT: written.tunnel_port, DISTRIBUTION: written.distribution_port}
        return frozenset(name for name, port in ports.items() if port)


def _go_on() -> None:
    """Stand in for whoever waits to make a tunnel."""


def _grown(before: int, now: int) -> int:
    """Return by how much a counter has grown; a smaller one was made anew by somebody."""
    return now - before if now >= before else now


def _ignore(_: Mapping[IPAddress, int]) -> None:
    """Stand in for whoever wants to know what was sent on."""
