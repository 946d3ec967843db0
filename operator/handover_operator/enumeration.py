"""Lists in sentences: a few are named and the rest counted, however many there are."""

import itertools
from collections.abc import Iterable
from typing import Final

NAMED: Final = 5
"""So many objects a message names: enough to go and look, and never a status that is refused."""


def enumerate_few(texts: Iterable[str], total: int, separator: str = ", ") -> str:
    """Name the first few of *total* things; the texts of the rest are never made."""
    named = list(itertools.islice(texts, NAMED))
    more = total - len(named)
    return separator.join(named) + (f"{separator}and {more} more" if more > 0 else "")
