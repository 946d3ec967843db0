"""The ARP guard (design, ARP guard): nftables table ``handover``, by libnftables in process."""

from collections.abc import Callable

from handover_nodeagent.network import Guard


class GuardTable:
    """The table ``arp handover`` of the network namespace in which it is made.

    All calls run one after another in a thread of their own; none blocks the loop. A result is
    "" or the sentence that says why nothing was changed.
    """

    async def replace(self, guard: Guard) -> str:
        """Make the whole table anew in one transaction: at start and on drift."""
        raise NotImplementedError

    async def change(self, guard: Guard) -> str:
        """Bring the given interfaces to the given addresses, one transaction each.

        An interface without addresses is removed. The others stay.
        """
        raise NotImplementedError

    async def observe(self) -> Guard | None:
        """Return what the table holds; None when it is absent or not as we write it."""
        raise NotImplementedError

    async def remove(self) -> str:
        """Delete the table."""
        raise NotImplementedError

    def close(self) -> None:
        """Give thread and context back; the table stays."""


class DriftWatch:
    """Calls *drifted* when somebody else changed our table (or may have, after an overflow)."""

    def __init__(self, drifted: Callable[[], None]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Stop listening."""
