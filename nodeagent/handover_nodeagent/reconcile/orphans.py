"""Routes that outlived their endpoints, and what ends them: a guest that is asked and is silent.

An object may be gone because somebody deleted the CRD, so its guest's routes stay while it answers.
It is asked again after 1 s, doubling to 60 s, as every guest that should be gone. An endpoint that
claims the address takes the route over (``desired.py``), an interface that goes takes it along.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from handover_api.configuration import Mode
from handover_api.names import ObjectKey
from handover_nodeagent import faults, fsm, metrics
from handover_nodeagent.fsm import timers
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.network.links import Links
from handover_nodeagent.network.model import Route
from handover_nodeagent.reconcile.enforce import Enforcer
from handover_nodeagent.reconcile.orphan import Orphan
from handover_nodeagent.retry.backoff import Backoff
from handover_nodeagent.sniff.endpoint_listener import EndpointListener
from handover_nodeagent.sniff.verdict import Accepted

# The machine's own times: a guest is asked as often, and has as long to answer, whether or not its
# object is still there.
_FIRST: Final = fsm.FIRST_ASK_INTERVAL.total_seconds()
_LAST: Final = fsm.LONGEST_ASK_INTERVAL.total_seconds()
_SILENCE: Final = timers.SILENCE.total_seconds()

_log: Final = structlog.get_logger()


@dataclass(slots=True)
class _Doubted:
    """An orphan, how long it is left in peace, and who listens while it is asked."""

    orphan: Orphan
    backoff: Backoff = field(default_factory=lambda: Backoff(_FIRST, _LAST))
    listener: EndpointListener | None = None
    alarm: asyncio.TimerHandle | None = None

    def retire(self) -> None:
        """Stop asking."""
        if self.listener:
            self.listener.close()
        if self.alarm:
            self.alarm.cancel()
        self.listener = self.alarm = None


class Orphans:
    """All orphans of this node; each is asked for itself, and one's fault is its own."""

    def __init__(self, enforcer: Enforcer, memory: Memory, links: Links) -> None:
        self._enforcer = enforcer
        self._memory = memory
        self._links = links
        self._doubted: dict[ObjectKey, _Doubted] = {}
        self._episode = 0

    def keep(self, orphan: Orphan) -> None:
        """Let the routes stay until the guest is found silent, and remember them."""
        # One of this key may be asked already: its listener and its alarm would outlive it.
        self.forget(orphan.key)
        doubted = self._doubted[orphan.key] = _Doubted(orphan)
        self._memory.keep(orphan.key, orphan.record)
        self._schedule(doubted, _FIRST, self._ask)
        metrics.ORPHANS.set(len(self._doubted))

    def make_way(self, key: ObjectKey) -> None:
        """Leave the memory's place to an endpoint of this key that is there again.

        What it has not claimed goes on under names of its own.
        """
        doubted = self._doubted.get(key)
        # Not _end: what the memory has under this key by now is the endpoint's.
        self.forget(key)
        if doubted:
            for left in doubted.orphan.parts(self._held(doubted.orphan)):
                self.keep(left)

    def forget(self, key: ObjectKey) -> None:
        """Ask no more."""
        doubted = self._doubted.pop(key, None)
        if doubted:
            doubted.retire()
            metrics.ORPHANS.set(len(self._doubted))

    def close(self) -> None:
        """Ask nobody any more; what is in the kernel stays."""
        for key in tuple(self._doubted):
            self.forget(key)

    # What a listener tells of the guest that it asks.

    def heard(self, key: ObjectKey, episode: int, accepted: Accepted, received_at: int) -> None:  # noqa: ARG002  the sink's form
        """Leave a guest in peace that answers."""
        self._answered(key, episode)

    def unaskable(self, key: ObjectKey, episode: int) -> None:
        """Take who cannot be asked for one that answers."""
        self._answered(key, episode)

    def listening_changed(self, key: ObjectKey) -> None:
        """Know what nobody is told of: an orphan has no status."""

    def _answered(self, key: ObjectKey, episode: int) -> None:
        doubted = self._doubted.get(key)
        if doubted and doubted.listener and doubted.listener.spec.episode == episode:
            self._ask_later(doubted)

    # From one asking to the next.

    def _ask(self, doubted: _Doubted) -> None:
        orphan, held = doubted.orphan, self._held(doubted.orphan)
        if not held:
            self._end(doubted)
            return
        link = self._links.by_index.get(held[0].oif)
        # Not asked, not silent: it is asked when the link is back, or the pause over.
        if link is None or self._is_left(orphan):
            self._schedule(doubted, doubted.backoff.delay, self._ask)
            return
        # What is still queued of an earlier asking answers nothing of this one.
        self._episode += 1
        addresses = dict.fromkeys(route.address for route in held)
        hint = self._enforcer.routes.find_mac(addresses, link.index)
        spec = orphan.listen_spec(held, link, self._episode, hint)
        doubted.listener = EndpointListener(orphan.key, spec, self)
        doubted.listener.ask()
        self._schedule(doubted, _SILENCE, self._conclude)

    def _conclude(self, doubted: _Doubted) -> None:
        """Take the routes out where the guest is silent; what was never asked is not."""
        assert doubted.listener is not None
        left = doubted.listener.silence_in(_SILENCE)
        # Silent or not: the mode may be another one by now, and then no route may go.
        if self._is_left(doubted.orphan):
            self._ask_later(doubted)
        elif left <= 0:
            self._take_out(doubted)
        elif doubted.listener.was_asked:
            self._schedule(doubted, left, self._conclude)
        else:
            # No probe could leave: that nobody answers means nothing.
            self._ask_later(doubted)

    def _is_left(self, orphan: Orphan) -> bool:
        """Tell whether nothing may be done now, or not in this namespace."""
        enforcer = self._enforcer
        return enforcer.settings.mode is not Mode.ACTIVE or orphan.key.namespace in enforcer.paused

    def _take_out(self, doubted: _Doubted) -> None:
        # Read before it ends: what was claimed while the guest was asked is not ours to take out.
        routes, held = self._enforcer.routes, self._held(doubted.orphan)
        self._end(doubted)
        self._enforcer.apply(routes.desired.drop_orphans(held))
        addresses = sorted({str(route.address) for route in held})
        _log.info("orphan_gone", endpoint=str(doubted.orphan.key), addresses=addresses)

    def _end(self, doubted: _Doubted) -> None:
        self.forget(doubted.orphan.key)
        self._memory.keep(doubted.orphan.key, lambda: None)

    def _held(self, orphan: Orphan) -> tuple[Route, ...]:
        """Return the routes that nobody has claimed and no interface has taken along."""
        return orphan.held(self._enforcer.routes.desired.orphans())

    def _ask_later(self, doubted: _Doubted) -> None:
        """Ask again later, each time after twice as long."""
        doubted.retire()
        self._schedule(doubted, doubted.backoff.next(), self._ask)

    def _schedule(self, doubted: _Doubted, delay: float, act: Callable[[_Doubted], None]) -> None:
        fire = partial(self._fire, doubted, act)
        doubted.alarm = asyncio.get_running_loop().call_later(delay, fire)

    def _fire(self, doubted: _Doubted, act: Callable[[_Doubted], None]) -> None:
        doubted.alarm = None
        try:
            act(doubted)
        except Exception as error:  # noqa: BLE001  the root of what is done for one orphan
            faults.note("orphan", error, endpoint=str(doubted.orphan.key))
            self._ask_later(doubted)
