"""PURE: the speakers of a network namespace, by the control sockets that its kernel lists.

/proc/net/unix shows the sockets of a network namespace, wherever their files are: so a speaker in
another container is seen too, and it can be said what of it is to be mounted.
"""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final, NamedTuple

# __SO_ACCEPTCON of linux/net.h: somebody waits for connections there.
_LISTENS: Final = 0x10000
_BGPD, _ZEBRA = "bgpd.vty", "zebra.vty"


class ControlSockets(NamedTuple):
    """BIRD's sockets, and the directories in which both of FRR's daemons have theirs."""

    bird: tuple[PurePosixPath, ...] = ()
    frr: tuple[PurePosixPath, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.bird or self.frr)


def find(table: str) -> ControlSockets:
    """Read /proc/net/unix."""
    paths = sorted(set(_listening(table.splitlines()[1:])))
    vtys = {path.parent for path in paths if path.name == _BGPD}
    return ControlSockets(
        # BIRD 1.6 has one for each family; both say which version they are.
        tuple(one for one in paths if one.name.startswith("bird") and one.suffix == ".ctl"),
        tuple(one.parent for one in paths if one.name == _ZEBRA and one.parent in vtys),
    )


def _listening(lines: Iterable[str]) -> Iterable[PurePosixPath]:
    for line in lines:
        # Num, RefCount, Protocol, Flags, Type, St, Inode, and the path, which may have blanks.
        words = line.split(maxsplit=7)
        if len(words) > 7 and int(words[3], 16) & _LISTENS and words[7].startswith("/"):  # noqa: PLR2004  as the comment says
            yield PurePosixPath(words[7])
