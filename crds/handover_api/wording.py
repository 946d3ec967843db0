"""Texts for people that stay short, whatever a hostile object or node has many of."""

import heapq
import itertools
from collections.abc import Collection, Iterable
from typing import Final

# Who needs the rest knows by then where to look.
FEW: Final = 5
"""Things that a sentence names; the rest is counted."""
# The API server would take 32 KiB of a message, of each condition, and etcd keeps each version.
LONGEST: Final = 2048
"""Characters of a condition's message."""


def name_few(names: Collection[str]) -> str:
    """Name the first few *names* in order: "a, b, c, d, e and 7 more"."""
    return enumerate_few(heapq.nsmallest(FEW, names), len(names))


def enumerate_few(texts: Iterable[str], total: int, separator: str = ", ") -> str:
    """Name the first few of *total* things; the texts of the rest are never made."""
    named = list(itertools.islice(texts, FEW))
    more = total - len(named)
    # "a, b and 3 more", but "a; b; and 3 more": a part that has commas of its own needs its stop.
    return separator.join(named) + (f"{separator.rstrip(', ')} and {more} more" if more > 0 else "")


def clip(text: str, longest: int = LONGEST) -> str:
    """Return *text*, its end left out where it is too long."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
