"""What bounds a redirect in the kernel: nftables table ``handover`` of family inet."""

from collections.abc import Mapping
from typing import Final

from handover_nodeagent.kernel.nft import names, outcome
from handover_nodeagent.kernel.nft.outcome import DONE, Outcome
from handover_nodeagent.kernel.nft.writer import Writer
from handover_nodeagent.kernel.redirect_table import rules
from handover_nodeagent.kernel.redirect_table.rules import Redirects
from handover_nodeagent.network.model import IPAddress

_PURPOSE: Final = "the redirect"


class RedirectTable:
    """The table ``inet handover`` of the network namespace in which *writer* is used first."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def replace(self, redirects: Redirects) -> Outcome:
        """Make the whole table anew in one transaction: at start and on drift."""
        done = await self._writer.run([rules.render(redirects)], _PURPOSE)
        return done if done.trouble else outcome.unnamed(redirects.ports)

    async def change(self, before: Redirects, after: Redirects) -> Outcome:
        """Lead from what it holds to what it is to hold, in one transaction."""
        commands = rules.render_change(before, after)
        done = await self._writer.run([commands], _PURPOSE) if commands else DONE
        return done if done.trouble else outcome.unnamed(after.ports)

    async def forwarded(self) -> Mapping[IPAddress, int]:
        """Return how many packets for each redirected address came since it is one."""
        answer = await self._writer.show(f"list table inet {names.TABLE}")
        return rules.forwarded(answer.text.decode())

    async def remove(self) -> Outcome:
        """Delete the table."""
        return await self._writer.run([rules.REMOVE_ALL], _PURPOSE)
