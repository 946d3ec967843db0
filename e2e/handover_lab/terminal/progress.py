"""One line that says what goes on, and for how long: nobody should wonder whether it lives.

In place at a terminal; elsewhere a line of its own, when something else is done and every few
seconds.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console

TICK: Final = 1.0
SILENCE: Final = 3.0
"""Seconds after which a line is written anew where there is no terminal."""


class Progress:
    """Says what a long piece of work is doing; a thread of its own speaks while that is busy."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._doing = ""
        self._since = self._began = time.monotonic()
        self._last = 0.0
        self._over = threading.Event()
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Speak up to the end of this."""
        # The work holds the main thread, so somebody else has to show that it lives.
        ticking = threading.Thread(target=self._tick, daemon=True)
        ticking.start()
        try:
            yield
        finally:
            self._over.set()
            ticking.join()
            if self._console.is_terminal:
                self._write("\r\x1b[K", end="")

    def say(self, doing: str) -> None:
        """Say what is done now."""
        with self._lock:
            self._doing, self._since = doing, time.monotonic()
            if self._console.is_terminal or self._since - self._last > SILENCE:
                self._show()

    def _tick(self) -> None:
        while not self._over.wait(TICK):
            with self._lock:
                if self._console.is_terminal or time.monotonic() - self._last > SILENCE:
                    self._show()

    def _show(self) -> None:
        now = time.monotonic()
        lasts = f" ({now - self._since:.0f} s)" if now - self._since > TICK else ""
        text = f"{now - self._began:5.0f} s  {self._doing}{lasts}"
        if self._console.is_terminal:
            self._write(f"\r\x1b[K{text}", end="")
        else:
            self._write(text, end="\n")
        self._last = now

    def _write(self, text: str, end: str) -> None:
        self._console.out(text, end=end, highlight=False)
