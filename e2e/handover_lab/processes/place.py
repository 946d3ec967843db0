"""Where programs can run: what a node, a namespace, a pod and the lab itself have in common."""

from typing import Protocol


class Place(Protocol):
    """Where a program can run: a node of the lab, or the lab itself."""

    def command(self, *argv: str) -> list[str]:
        """Return *argv* in the form that runs it there."""
        ...
