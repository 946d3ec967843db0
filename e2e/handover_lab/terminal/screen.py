"""What a demonstration says between its live views: steps, commands with their output, an end.

Plain lines where nobody sits at a terminal.
"""

import contextlib
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.rule import Rule
from rich.status import Status
from rich.text import Text

DONE: Final = Text("✓", "bold green")
FAILED: Final = Text("✗", "bold red")


class Screen:
    """Talks to a person."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._status: Status | None = None

    def headline(self, text: str) -> None:
        """Begin something new."""
        self.console.print()
        self.console.print(Rule(Text(text, "bold"), align="left", style="dim"))

    @contextlib.contextmanager
    def step(self, doing: str, done: str) -> Iterator[None]:
        """Say what is being done while it is, and when it was how long it took."""
        began = time.monotonic()
        # A moving line in a log would be thousands of lines.
        if self.console.is_terminal:
            self._status = self.console.status(f"{doing} …")
            self._status.start()
        else:
            self.console.print(f"  {doing} …", soft_wrap=True)
        try:
            yield
        except BaseException:
            self._settle()
            self.console.print(Text.assemble(FAILED, f" {doing}"), soft_wrap=True)
            raise
        self._settle()
        line = Text.assemble(DONE, f" {done}", (f"  {time.monotonic() - began:.1f} s", "dim"))
        self.console.print(line, soft_wrap=True)

    def say(self, text: str) -> None:
        """Tell how a step goes on."""
        if self._status:
            self._status.update(text)
        else:
            self.console.print(f"  {text}", style="dim", soft_wrap=True)

    def note(self, text: str) -> None:
        """Explain what is to be seen."""
        self.console.print(Text(text, "dim"), soft_wrap=True)

    def command(self, line: str, output: str) -> None:
        """Show a command as a person would type it, and what it answered."""
        self.console.print(Text.assemble(("$ ", "dim"), (line, "bold")))
        self.console.print(Text(f"{output.rstrip()}\n"), soft_wrap=True)

    def fault(self, text: str) -> None:
        """Say what went wrong."""
        self.console.print(Text.assemble(FAILED, f" {text}"), soft_wrap=True)

    def trouble(self, text: str) -> None:
        """Say what went wrong in between, with its traceback where it is being handled."""
        self.fault(text)
        if sys.exc_info()[0] is not None:
            self.console.print(Text(traceback.format_exc(), "dim"), soft_wrap=True)

    def _settle(self) -> None:
        if self._status:
            self._status.stop()
            self._status = None
