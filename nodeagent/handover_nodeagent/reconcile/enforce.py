"""Makes the kernel's routes and guard what is desired, and tries again where it was refused.

Nothing is applied before :meth:`Enforcer.release`, nor within :meth:`Enforcer.reconfigured`, while
many endpoints change at once: what is affected meanwhile is held, and applied as it is desired in
the end.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final, NamedTuple

from handover_api.configuration import Mode, Settings
from handover_api.names import ObjectKey
from handover_nodeagent import faults
from handover_nodeagent.kernel import tunnel
from handover_nodeagent.network.desired import Affected
from handover_nodeagent.network.model import ArpGuard, IPAddress
from handover_nodeagent.reconcile.guard import GuardReconciler
from handover_nodeagent.reconcile.link_index import LinkIndex
from handover_nodeagent.reconcile.redirect_table import RedirectTableReconciler
from handover_nodeagent.retry.timers import Retries
from handover_nodeagent.routes.host_routes import Applied, HostRoutes

# What only the machine, the probes or the end of an installation go by.
_NONE_OF_THE_KERNELS: Final = (
    "live_migration_route_convergence_time",
    "target_timeout",
    "probe_interval",
    "on_uninstall",
    "gateways",
)
SLICE: Final = 16
"""Addresses that are applied in one turn of the loop, as many as one endpoint may have."""


class Trouble(NamedTuple):
    """What the kernel refused for an address, and what went wrong here; "" for nothing."""

    refused: str
    fault: str


class Enforcer:
    """The kernel as the endpoints want it; left alone until :meth:`release`.

    As long as not all endpoints are known, one could take another one's route out.
    ``resync_wanted`` is set when only a resync helps; ``blindness`` says why the last one could not
    read the kernel, "" when it could. ``paused``: the namespaces whose endpoints are left as they
    are. ``handed_back``: an uninstall has given the node back, and nothing is applied any more.
    """

    def __init__(
        self,
        settings: Settings,
        link_index: LinkIndex,
        paused: frozenset[str],
        report: Callable[[Iterable[ObjectKey]], None],
    ) -> None:
        """Call *report* with the endpoints for which it came out otherwise than before."""
        self.routes = HostRoutes(settings)
        self.guard = GuardReconciler(self._wanted_guard, self._report_all)
        is_open = partial(tunnel.is_open, self.routes.tables.channel)
        self.redirect_table = RedirectTableReconciler(
            settings, self.guard.writer, self._ports, is_open, self._report_all
        )
        self.blindness = ""
        self.handed_back = False
        self.paused = paused
        self.resync_wanted = asyncio.Event()
        self.settings = settings
        self._link_index = link_index
        self._report = report
        # None: nothing is held; what is affected is applied at once. A list, though empty, holds:
        # so it begins, for nobody knows yet whose the routes are that are in.
        self._held: list[Affected] | None = []
        self._is_complete = False
        self._retries = Retries[IPAddress](self.reapply)
        self._refused: dict[IPAddress, str] = {}
        self._faulty: dict[IPAddress, str] = {}
        self._later: dict[IPAddress, None] = {}
        self._next: asyncio.Handle | None = None
        self._spared: dict[ObjectKey, frozenset[IPAddress]] = {}

    def request_resync(self) -> None:
        """Have everything observed anew soon."""
        self.resync_wanted.set()

    def hold(self) -> None:
        """Leave the kernel alone from now on, for an uninstall: no reconfiguration ends this."""
        self._held = self._held or []

    def release(self, *, complete: bool) -> None:
        """Apply what was held; when *complete*, also prune what no endpoint wants."""
        affected = Affected.union(self._held or ())
        # Before it is applied, or it would only be held once more.
        self._held = None
        # Before the first sync a route may belong to an endpoint that nobody has told us of yet.
        if complete and not self._is_complete:
            self._is_complete = True
            affected |= Affected(self.routes.known.ours.addresses())
        self.apply(affected)
        self.guard.replace()
        self.redirect_table.replace()

    def apply(self, affected: Affected, *, give_back: bool = True) -> int:
        """Make routes and guard what is desired where something was *affected*.

        Return how many foreign routes were given back at once.
        """
        if self._held is not None:
            self._held.append(affected)
            return 0
        # One endpoint's own addresses are in at once; a change that concerns many takes its time.
        first = frozenset(itertools.islice(affected.addresses, SLICE))
        self._later.update(dict.fromkeys(affected.addresses - first))
        given_back = self._apply(Affected(first, affected.interfaces), give_back=give_back)
        self._go_on()
        return given_back

    def _go_on(self) -> None:
        """Apply the rest a slice at a time: between two a guest may announce itself."""
        if self._later and self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._apply_slice)

    def _apply_slice(self) -> None:
        self._next = None
        addresses = frozenset(itertools.islice(self._later, SLICE))
        for address in addresses:
            del self._later[address]
        try:
            # What is desired now counts, which may have changed meanwhile.
            self.apply(Affected(addresses))
            self._report(self.routes.desired.endpoints_with(addresses))
        finally:
            self._go_on()

    def _apply(self, affected: Affected, *, give_back: bool) -> int:
        before = {address: self.trouble(address) for address in affected.addresses}
        applied = self._apply_routes(affected.addresses, give_back=give_back)
        self.guard.touch(affected.interfaces)
        if affected.interfaces:
            self.redirect_table.touch()
        changed = [address for address, was in before.items() if was != self.trouble(address)]
        # Also of those who only share an address: their condition says the same.
        if changed:
            self._report(self.routes.desired.endpoints_with(changed))
        if applied.is_doubtful:
            self.request_resync()
        self._plan_retries(affected.addresses)
        return applied.given_back

    def _apply_routes(self, addresses: frozenset[IPAddress], *, give_back: bool) -> Applied:
        """Apply; where that fails one by one, so that one address is no other one's trouble."""
        # Taken off first: what fails again is put back below, each address by itself.
        for address in addresses & self._faulty.keys():
            del self._faulty[address]
        # A route on a device that nobody has told us of may be that of an endpoint to come.
        removable = None if self._is_complete else self._link_index.devices
        applied = self.routes.apply(addresses, give_back=give_back, removable=removable)
        if applied.fault and len(addresses) > 1:
            each = (
                self._apply_routes(frozenset({address}), give_back=give_back)
                for address in addresses
            )
            # What was given back before the fault is not given back once more.
            return Applied.union((applied, *each))
        if applied.fault:
            (address,) = addresses
            faults.note("routes", applied.fault, address=str(address))
            self._faulty[address] = f"{address}: {faults.describe(applied.fault)}"
            self._refused.pop(address, None)
            return applied
        # What was left as it is has the refusal that it had.
        for address in applied.addresses & self._refused.keys():
            del self._refused[address]
        self._refused.update(applied.refused)
        return applied

    def trouble(self, address: IPAddress) -> Trouble:
        """Say what *address* lacks, and why."""
        return Trouble(self._refused.get(address, ""), self._faulty.get(address, ""))

    def spare(self, key: ObjectKey, addresses: Iterable[IPAddress]) -> frozenset[IPAddress]:
        """Leave the routes of *addresses* alone as long as no endpoint that is known has them.

        They belong to the object *key*, which nobody can read or start, so that nobody can tell
        which routes it is to have. Return those that were spared for it before, and are no more.
        """
        before = self._spared.pop(key, frozenset())
        spared = frozenset(addresses)
        if spared:
            self._spared[key] = spared
        if before != spared:
            self.routes.spare(frozenset[IPAddress]().union(*self._spared.values()))
        return before - spared

    def reapply(self, addresses: Iterable[IPAddress]) -> None:
        """Make the kernel what is desired for *addresses*, once more."""
        self.apply(Affected(frozenset(addresses)))

    def reapply_all(self) -> None:
        """Make the kernel what is desired, once more; prune once all endpoints are known."""
        known = self.routes.desired.everything().addresses
        self.reapply(known | self.routes.known.ours.addresses() if self._is_complete else known)

    @contextlib.contextmanager
    def reconfigured(self, settings: Settings) -> Iterator[None]:
        """Go by *settings*, and apply when the block ends what they change and what it affected.

        Nothing is applied in the block, which has each endpoint desire its network under them: one
        must not take a route out that another one is about to claim.
        """
        before, desired = self.settings, self.routes.desired
        addresses, guard = desired.everything().addresses, self._desired_guard()
        # Before the first sync all is held anyway, and the end of this must not release it.
        was_held = self._held is not None
        self.hold()
        # The same ones must not forget what paused endpoints' metrics meant when they were written.
        if settings != before:
            self.settings = settings
            self.routes.configure(settings)
            self.redirect_table.configure(settings)
        yield
        affected = Affected()
        # A field of the machine's alone is no reason to touch any route.
        if _concerns_kernel(before, settings):
            affected = self._affected_since(addresses, guard)
        # Whatever the fields: the end of a pause may start machines under the very same settings.
        if not was_held:
            affected |= Affected.union(self._held or ())
            self._held = None
        self.apply(affected)
        # In another mode than active no change of the guard was written, whichever there were.
        if before.mode is not settings.mode:
            self.guard.replace()
        # Of the other table nobody knows so far what others have there.
        if before.route_table != settings.route_table:
            self.request_resync()

    def _affected_since(self, addresses: frozenset[IPAddress], guard: ArpGuard) -> Affected:
        """Return all that was or is desired, and of the guard what differs from *guard*."""
        now = self._desired_guard()
        interfaces = {name for name in guard.keys() | now if guard.get(name) != now.get(name)}
        affected = addresses | self.routes.desired.everything().addresses
        if self._is_complete:
            affected |= self.routes.known.ours.addresses()
        return Affected(affected, frozenset(interfaces))

    def seen(self, trouble: str = "") -> None:
        """Know that the kernel could be read, or the *trouble* with it."""
        was_blind, self.blindness = self.blindness, trouble
        if was_blind != trouble:
            self._report_all()

    def close(self) -> None:
        """Try nothing again; what is in the kernel stays."""
        self._retries.close()
        if self._next:
            self._next.cancel()
        self._later.clear()
        self.routes.close()

    def _plan_retries(self, addresses: frozenset[IPAddress]) -> None:
        """Plan another attempt for what was refused."""
        refused = addresses & (self._refused.keys() | self._faulty.keys())
        self._retries.succeeded(addresses - refused)
        self._retries.failed(refused)

    def _wanted_guard(self, interfaces: Iterable[str] | None) -> ArpGuard | None:
        if self.settings.mode is not Mode.ACTIVE:
            return None
        desired = self.routes.desired
        return desired.guard(desired.everything().interfaces if interfaces is None else interfaces)

    def _ports(self) -> AbstractSet[str]:
        return self.routes.desired.everything().interfaces

    def _desired_guard(self) -> ArpGuard:
        desired = self.routes.desired
        return desired.guard(desired.everything().interfaces)

    def _report_all(self) -> None:
        desired = self.routes.desired
        self._report(desired.endpoints_with(desired.everything().addresses))


def _concerns_kernel(before: Settings, after: Settings) -> bool:
    """Tell whether another configuration makes another network; most fields do."""
    same = {name: getattr(after, name) for name in _NONE_OF_THE_KERNELS}
    return before.model_copy(update=same) != after
