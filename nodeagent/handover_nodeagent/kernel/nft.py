"""The ARP guard in the kernel: nftables table ``handover`` of family arp.

It keeps a host with proxy_arp from answering a guest's question for the guest's own address
while our route is suppressed. All work is done in a thread of its own, never in the loop.
"""

import asyncio
import ctypes
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from handover_nodeagent.kernel import guard_rules, libnftables
from handover_nodeagent.network import Guard

_PR_SET_NAME: Final = 15
_T = TypeVar("_T")


class GuardTable:
    """The table ``arp handover`` of the network namespace in which it is used first.

    Calls run one after another. What they return is "" or the sentence that says why nothing, or
    for ``change`` not everything, was done. ``author`` is the name by which the kernel's
    notifications tell our own transactions from somebody else's.
    """

    def __init__(self) -> None:
        self.author = f"handover-{secrets.token_hex(3)}"
        self._thread = ThreadPoolExecutor(1, "guard", self._open)
        self._context: libnftables.Context | None = None
        self._obstacle = ""

    async def replace(self, guard: Guard) -> str:
        """Make the whole table anew in one transaction: at start and on drift."""
        return await self._call(lambda: self._run(guard_rules.render(guard))) or _unnamed(guard)

    async def change(self, guard: Guard) -> str:
        """Bring the given interfaces to the given addresses, one transaction each.

        An interface without addresses is removed, and nothing of it stays; the others stay.
        """
        return await self._call(lambda: self._change(guard)) or _unnamed(guard)

    async def observe(self) -> Guard | None:
        """Return what the table holds; None when it is absent or not as we write it."""
        listing = await self._call(
            lambda: (
                self._context.show(f"list table arp {guard_rules.TABLE}") if self._context else ""
            )
        )
        return guard_rules.parse(listing)

    async def remove(self) -> str:
        """Delete the table."""
        return await self._call(lambda: self._run(guard_rules.REMOVE_ALL))

    def close(self) -> None:
        """Give thread and context back; the table stays."""
        self._thread.submit(self._release)
        self._thread.shutdown(wait=False)

    def _open(self) -> None:
        """Give the thread its name and its context."""
        ctypes.CDLL(None).prctl(_PR_SET_NAME, self.author.encode())
        try:
            self._context = libnftables.Context()
        except libnftables.UnavailableError as error:
            self._obstacle = f"{error}; the ARP guard is off"

    def _release(self) -> None:
        if self._context:
            self._context.close()

    async def _call(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _change(self, guard: Guard) -> str:
        complaints = [
            self._run(guard_rules.render_change(interface, addresses))
            for interface, addresses in guard.items()
            if guard_rules.is_writable(interface)
        ]
        return "; ".join(dict.fromkeys(filter(None, complaints)))

    def _run(self, commands: str) -> str:
        return self._context.run(commands) if self._context else self._obstacle


def _unnamed(guard: Guard) -> str:
    """Say which interfaces stay without a guard because nft cannot name them."""
    names = [repr(name) for name in sorted(guard) if not guard_rules.is_writable(name)]
    return f"nftables cannot name interface {', '.join(names)}" if names else ""
