"""What `ip -tshort -oneline monitor route` prints; `ip route show` too, with a time before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from handover_lab.cluster.observer import when_ns


@dataclass(frozen=True, slots=True)
class Line:
    """One line: a route that is there, or came, or went; *facts* by their words, as "dev"."""

    at_ns: int
    destination: str
    facts: Mapping[str, str]
    present: bool

    @classmethod
    def read(cls, line: str) -> Self | None:
        """Read a line; None for a default route, and for a kind, like "local" or "broadcast"."""
        moment, _, rest = line.strip().removeprefix("[").partition("] ")
        words = rest.split()
        present = words[:1] != ["Deleted"]
        words = words if present else words[1:]
        if not words or words[0].isalpha():
            return None
        facts = dict(zip(words[1::2], words[2::2], strict=False))
        return cls(when_ns(f"{moment}Z"), words[0], facts, present)
