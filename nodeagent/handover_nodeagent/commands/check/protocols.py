"""PURE: whose routes there are, by rtnetlink's protocol numbers, and what these are called."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from handover_nodeagent.kernel.netlink.rtmsg import Entry
from handover_nodeagent.network.model import Encapsulated


def foreign(entries: Iterable[Entry], number: int) -> tuple[Entry, ...]:
    """Return the routes with our protocol *number* that no agent makes."""
    return tuple(
        entry
        for entry in entries
        if entry.route.protocol == number and not (entry.is_host and _leads_to_guest(entry))
    )


def _leads_to_guest(entry: Entry) -> bool:
    # By a tunnel of ours the guest is still reached that has moved away.
    return entry.direct or isinstance(entry.route.way, Encapsulated)


def metrics(entries: Iterable[Entry]) -> Mapping[int, AbstractSet[int]]:
    """Return the metrics of all routes, by protocol number.

    A daemon's metric shows in its routes, whatever its configuration says.
    """
    found: dict[int, set[int]] = {}
    for entry in entries:
        found.setdefault(entry.route.protocol, set()).add(entry.route.metric)
    return found


def read_names(text: str) -> Mapping[int, str]:
    """Read a file as iproute2 does: a number, a name, and comments."""
    names: dict[int, str] = {}
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if len(words) >= 2 and words[0].isdigit():  # noqa: PLR2004  a number and a name
            names[int(words[0])] = words[1]
    return names
