"""The ARP guard in the kernel: nftables table ``handover`` of family arp.

It keeps a host with proxy_arp from answering a guest's question for the guest's own address
while our route is suppressed.
"""

from typing import Final

from handover_nodeagent.kernel.arp_guard import rules
from handover_nodeagent.kernel.nft import names, outcome
from handover_nodeagent.kernel.nft.outcome import Outcome
from handover_nodeagent.kernel.nft.writer import Writer
from handover_nodeagent.network.model import ArpGuard

_PURPOSE: Final = "the ARP guard"


class GuardTable:
    """The table ``arp handover`` of the network namespace in which *writer* is used first."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def replace(self, guard: ArpGuard) -> Outcome:
        """Make the whole table anew in one transaction: at start and on drift."""
        done = await self._writer.run([rules.render(guard)], _PURPOSE)
        return done if done.trouble else outcome.unnamed(guard)

    async def change(self, guard: ArpGuard) -> Outcome:
        """Bring the given interfaces to the given addresses, one transaction each.

        An interface without addresses is removed, and nothing of it stays; the others stay.
        """
        writable = filter(names.is_writable, guard)
        changes = [rules.render_change(interface, guard[interface]) for interface in writable]
        done = await self._writer.run(changes, _PURPOSE)
        return done if done.trouble else outcome.unnamed(guard)

    async def observe(self) -> ArpGuard | None:
        """Return what the table holds; None when it is absent or not as we write it."""
        answer = await self._writer.show(f"list table arp {names.TABLE}")
        return rules.parse(answer.text.decode())

    async def remove(self) -> Outcome:
        """Delete the table."""
        return await self._writer.run([rules.REMOVE_ALL], _PURPOSE)
