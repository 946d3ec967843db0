"""The program. It runs on every node, so what it never uses is kept out of its memory."""

import ctypes
import sys
from typing import Final

_M_ARENA_MAX: Final = -8
"""mallopt(3)."""


def main() -> None:
    """Run the command line."""
    # One heap for all threads: what each of them once needed for a dump would stay with it. It is
    # said before the first thread, which would have its own by then.
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    # structlog imports rich, which comes with typer, for tracebacks that we do not draw: 3 MiB.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    from handover_nodeagent.cli import app  # noqa: PLC0415  after that

    app()


if __name__ == "__main__":
    main()
