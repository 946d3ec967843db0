"""Texts for people that stay short, whatever a hostile object or node has many of."""

import heapq
import itertools
from collections.abc import Collection, Iterable
from typing import Final

MANY: Final = 5
"""Names that a sentence holds; who needs the rest knows by then where to look."""
LONGEST: Final = 2048
"""Characters of a condition's message. The API takes 32 KiB of one, and etcd keeps each version."""


def some(names: Collection[str]) -> str:
    """Return the first few *names* in order, and how many more there are; never a list of all."""
    first = ", ".join(heapq.nsmallest(MANY, names))
    more = len(names) - MANY
    return f"{first} and {more} more" if more > 0 else first


def clipped(text: str, longest: int = LONGEST) -> str:
    """Return *text*, its end left out where it is too long."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def enumerate_few(texts: Iterable[str], total: int, separator: str = ", ") -> str:
    """Name the first few of *total* things; the texts of the rest are never made."""
    named = list(itertools.islice(texts, MANY))
    more = total - len(named)
    return separator.join(named) + (f"{separator}and {more} more" if more > 0 else "")
