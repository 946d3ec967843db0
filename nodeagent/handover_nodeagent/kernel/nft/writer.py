"""Who writes our tables: a thread that asks the process, which may die of the library.

What the library does costs neither the loop its time nor the agent its life.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from handover_nodeagent.kernel.nft import libnftables, outcome
from handover_nodeagent.kernel.nft.outcome import Answer, Outcome
from handover_nodeagent.kernel.nft.process import NftProcess

IDLE: Final = 30.0
"""Seconds after which the process, of some 5 MiB, is let go: most nodes have nothing to change."""
_T = TypeVar("_T")


class Writer:
    """For all tables of the network namespace in which it is used first; calls run in order.

    ``author`` is the name by which the kernel's notifications tell our own transactions from
    somebody else's.
    """

    def __init__(self, library: str = libnftables.LIBRARY) -> None:
        # A thread's name has room for 15 characters (TASK_COMM_LEN of linux/sched.h), as
        # many as these. Random, so that another agent on this node is somebody else, too.
        self.author = f"handover-{secrets.token_hex(3)}"
        # The process is bound to the life of the thread that starts it: always this one.
        self._thread = ThreadPoolExecutor(1, "nft")
        self._process = NftProcess(self.author, library)
        self._idle: asyncio.TimerHandle | None = None

    async def run(self, transactions: Iterable[str], purpose: str) -> Outcome:
        """Run each of *transactions*, whose table is there for *purpose*; go on after a refusal."""
        return await self._call(lambda: self._run_all(transactions, purpose))

    async def show(self, command: str) -> Answer:
        """Ask for the JSON that *command* prints."""
        return await self._call(lambda: self._process.show(command))

    def close(self) -> None:
        """Give thread and process back; the tables stay."""
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

    def _run_all(self, transactions: Iterable[str], purpose: str) -> Outcome:
        """Go on after a refusal, but not without a library: each attempt could take seconds."""
        troubles: list[str] = []
        for commands in transactions:
            done = self._run(commands, purpose)
            if done.is_lost:
                return done
            troubles.append(done.trouble)
        return outcome.join(troubles)

    def _run(self, commands: str, purpose: str) -> Outcome:
        return outcome.judge(self._process.run(commands), purpose)
