"""PURE: where an agent distributes, and who else of it takes part, as the room sees them."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_api.peer import Peer
from handover_nodeagent.network.model import IPAddress

Heard = tuple[ObjectKey, str]
"""A HAVE: of which endpoint, for which migration."""


class Expect(Protocol):
    """Is told whether any moment may be the one that counts."""

    def __call__(self, *, is_expected: bool) -> None:
        """Know it; again, it changes nothing."""


def _ignore(*, is_expected: bool) -> None:
    """Expect nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which node it is, and what it must leave alone.

    ``recall`` and ``remember``: the HAVE messages that the API has not caught up with, which a
    restart must not forget. ``changed`` is called when our own endpoints may be told otherwise,
    ``let`` with the addresses of the nodes that may send into the second tunnel, whose device is
    made once it ``is_enclosed``, ``forward`` with the addresses of guests elsewhere for which
    others send to this node, and by which devices; ``expect`` with whether a guest may be on its
    way between other nodes.
    """

    node: str
    settings: Settings
    api_servers: AbstractSet[IPAddress] = frozenset()
    is_paused: Callable[[ObjectKey], bool] = lambda _: False
    recall: Callable[[], Iterable[Heard]] = tuple
    remember: Callable[[Iterable[Heard]], None] = lambda _: None
    changed: Callable[[], None] = lambda: None
    let: Callable[[frozenset[IPAddress]], None] = lambda _: None
    is_enclosed: Callable[[str], bool] = lambda _: True
    forward: Callable[[frozenset[IPAddress], frozenset[str]], None] = lambda *_: None
    expect: Expect = _ignore


class Speakers(Protocol):
    """The direct path: it is to know whose HAVE is believed, and who hears of ours."""

    def know_advertised(self, key: ObjectKey, speaker: Peer | None) -> None:
        """Know who hosts an advertised endpoint of another node; None: it is none any more."""

    def know_nodes(self, nodes: Mapping[str, tuple[IPAddress, ...]]) -> None:
        """Know the other nodes."""


class Nobody:
    """Stands in where there is no direct path."""

    def know_advertised(self, key: ObjectKey, speaker: Peer | None) -> None:
        """Hear of it in vain."""

    def know_nodes(self, nodes: Mapping[str, tuple[IPAddress, ...]]) -> None:
        """Hear of them in vain."""
