"""PURE: what nft can name, and the one name that our tables have."""

import re
from typing import Final

TABLE: Final = "handover"
_WRITABLE: Final = re.compile(r"[!#-)+-\[\]-~]+")
"""What a quoted string of nft can hold and takes for itself: no quote, asterisk, backslash."""


def is_writable(interface: str) -> bool:
    """Tell whether nft can name *interface* at all."""
    return _WRITABLE.fullmatch(interface) is not None
