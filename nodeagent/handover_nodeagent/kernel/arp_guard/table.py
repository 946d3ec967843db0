"""The ARP guard in the kernel: nftables table ``handover`` of family arp.

It keeps a host with proxy_arp from answering a guest's question for the guest's own address
while our route is suppressed. All work is done by a process of its own, which a thread asks: what
the library does there costs neither the loop its time nor the agent its life.
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from handover_nodeagent.kernel.arp_guard import rules
from handover_nodeagent.kernel.nft import libnftables, outcome
from handover_nodeagent.kernel.nft.outcome import Outcome
from handover_nodeagent.kernel.nft.process import NftProcess
from handover_nodeagent.network.model import ArpGuard

IDLE: Final = 30.0
"""Seconds after which the process, of some 5 MiB, is let go: most nodes have nothing to change."""
_T = TypeVar("_T")


class GuardTable:
    """The table ``arp handover`` of the network namespace in which it is used first.

    Calls run one after another. ``author`` is the name by which the kernel's notifications tell
    our own transactions from somebody else's.
    """

    def __init__(self, library: str = libnftables.LIBRARY) -> None:
        # A thread's name has room for 15 characters (TASK_COMM_LEN of linux/sched.h), as
        # many as these. Random, so that another agent on this node is somebody else, too.
        self.author = f"handover-{secrets.token_hex(3)}"
        # The process is bound to the life of the thread that starts it: always this one.
        self._thread = ThreadPoolExecutor(1, "guard")
        self._process = NftProcess(self.author, library)
        self._idle: asyncio.TimerHandle | None = None

    async def replace(self, guard: ArpGuard) -> Outcome:
        """Make the whole table anew in one transaction: at start and on drift."""
        done = await self._call(lambda: self._run(rules.render(guard)))
        return done if done.trouble else outcome.unnamed(guard)

    async def change(self, guard: ArpGuard) -> Outcome:
        """Bring the given interfaces to the given addresses, one transaction each.

        An interface without addresses is removed, and nothing of it stays; the others stay.
        """
        done = await self._call(lambda: self._change(guard))
        return done if done.trouble else outcome.unnamed(guard)

    async def observe(self) -> ArpGuard | None:
        """Return what the table holds; None when it is absent or not as we write it."""
        answer = await self._call(lambda: self._process.show(f"list table arp {rules.TABLE}"))
        return rules.parse(answer.text.decode())

    async def remove(self) -> Outcome:
        """Delete the table."""
        return await self._call(lambda: self._run(rules.REMOVE_ALL))

    def close(self) -> None:
        """Give thread and process back; the table stays."""
        if self._idle:
            self._idle.cancel()
        # The thread may wait for an answer, and the interpreter's end for the thread.
        self._process.interrupt()
        # Work that is queued may start another process: what the thread does last is to end it.
        self._thread.submit(self._process.close)
        self._thread.shutdown(wait=False)

    async def _call(self, work: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        # Else the end that is due would be queued behind this work, which starts a process.
        if self._idle:
            self._idle.cancel()
        try:
            return await loop.run_in_executor(self._thread, work)
        finally:
            self._idle = loop.call_later(IDLE, self._thread.submit, self._process.close)

    def _change(self, guard: ArpGuard) -> Outcome:
        """Go on after a refusal, but not without a library: each attempt could take seconds."""
        troubles: list[str] = []
        for interface in filter(rules.is_writable, guard):
            done = self._run(rules.render_change(interface, guard[interface]))
            if done.is_lost:
                return done
            troubles.append(done.trouble)
        return outcome.join(troubles)

    def _run(self, commands: str) -> Outcome:
        return outcome.judge(self._process.run(commands))
