"""The node agent, with a place to die at before and after each step of its work.

    python -m handover_lab.testing.faults FILE run

is the agent's command line. While FILE says "before answer" or "after memory", the process kills
itself when it comes to that moment, once: FILE is gone then. Of several moments, one a line, each
counts from the one before it on, and the last one kills. The agent knows nothing of it: the
functions that do the steps are wrapped from outside.
"""

import functools
import inspect
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Literal

from handover_nodeagent import cli, fsm
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.hold.recorder import HoldRecorder
from handover_nodeagent.hold.resend import Resend
from handover_nodeagent.kernel.netlink import rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.redirect_table.table import RedirectTable
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.reconcile.alarms import Alarms
from handover_nodeagent.reconcile.cutover import Cutovers
from handover_nodeagent.reconcile.listening import Listening
from handover_nodeagent.reconcile.loop import Reconciler
from handover_nodeagent.reconcile.peers import Peers
from handover_nodeagent.reconcile.redirects import Redirects
from handover_nodeagent.routes.route_writer import RouteWriter
from handover_nodeagent.sniff.endpoint_listener import EndpointListener

Moment = Literal["before", "after"]

STEPS: Final[dict[str, tuple[Any, str]]] = {
    "hearing": (EndpointListener, "heard"),
    "sending": (Cutovers, "_send"),
    "answer": (Channel, "_collect"),
    "deciding": (fsm, "step"),
    "gateway": (Listening, "announce_gateway"),
    "listening": (Reconciler, "follow_machine"),
    "question": (EndpointListener, "ask"),
    "timer": (Alarms, "_fire"),
    "exchange": (RouteWriter, "run"),
    "removal": (rtmsg, "encode_remove"),
    "memory": (Memory, "_store"),
    "rename": (Path, "replace"),
    "report": (ApiServer, "patch"),
    "saying": (Peers, "tell_at_once"),
    "saying later": (Peers, "tell"),
    "word": (Redirects, "peer_has"),
    "redirect": (Redirects, "_fire"),
    "table": (RedirectTable, "change"),
    "holding": (HoldRecorder, "_begin"),
    "resending": (Resend, "_turn"),
}
"""Each step by the function that does it.

"answer": the kernel has our messages, we take what it says to them. "exchange": routes change
otherwise than in a prepared cutover; "removal": what was to be added is in, and what has to go is
about to. "rename": a file of the memory is written and gets its name. "saying": a cutover's HAVE,
"saying later": that of a machine's step, or its RELEASED. "word": a peer's HAVE is taken in,
"redirect": what is prepared for it is sent; "table": nftables follow the redirect. "holding": a
ring is open for what a guest does not take, "resending": some of that is sent again.
"""


class FaultInjector:
    """Kills this process when *order*, a file, says so."""

    def __init__(self, order: Path) -> None:
        self._order = order

    def die_if_ordered(self, moment: Moment, step: str) -> None:
        """Die here, when that is the order; where more moments follow, await the next one."""
        try:
            first, *later = self._order.read_text().splitlines()
        except FileNotFoundError:
            return
        if first != f"{moment} {step}":
            return
        if later:
            draft = self._order.with_suffix(".later")
            draft.write_text("\n".join(later))
            # Whole, as the memory's thread reads it, too; and not by Path.replace, which is a step.
            os.replace(draft, self._order)  # noqa: PTH105
            return
        # Before the kill: the successor must not die of the same order.
        self._order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, step: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Put a moment before, and one after, each call of *work*."""

        @functools.wraps(work)
        def called(*words: object, **more: object) -> object:
            self.die_if_ordered("before", step)
            done = work(*words, **more)
            self.die_if_ordered("after", step)
            return done

        @functools.wraps(work)
        async def awaited(*words: object, **more: object) -> object:
            self.die_if_ordered("before", step)
            promise: Awaitable[object] = work(*words, **more)
            done = await promise
            self.die_if_ordered("after", step)
            return done

        return awaited if inspect.iscoroutinefunction(work) else called


def main() -> None:
    """Wrap every step, and be the agent."""
    injector = FaultInjector(Path(sys.argv.pop(1)))
    for step, (owner, name) in STEPS.items():
        setattr(owner, name, injector.wrap(step, getattr(owner, name)))
    cli.app()


if __name__ == "__main__":
    main()
