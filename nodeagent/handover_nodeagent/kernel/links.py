"""The node's interfaces, with its own addresses and default routes, read from the kernel."""

from collections.abc import Mapping

from handover_nodeagent.kernel import route_lookup
from handover_nodeagent.kernel.netlink import dump, ifinfomsg, rtmsg
from handover_nodeagent.network.model import Link


def observe(table: int = 254) -> Mapping[int, Link]:
    """Return all links by index; *table* is where default routes count.

    Runs in a thread, never in the loop. Raises ObservationError.
    """
    links = dump.read(ifinfomsg.encode_dump_links())
    addresses = dump.read(ifinfomsg.encode_dump_addresses())
    with_default = frozenset(
        index
        for family in rtmsg.HOST
        for message in route_lookup.read_table(family, table)
        if message[rtmsg.PREFIX_LENGTH_AT] == 0
        for index in rtmsg.devices(message)
    )
    return ifinfomsg.decode_all(links, addresses, with_default)
