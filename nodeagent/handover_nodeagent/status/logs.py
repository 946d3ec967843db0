"""Logging of the process: one JSON object per line, other libraries' records included.

A thread writes the lines: who reads them slowly, or not at all, stops nothing but them.
"""

import atexit
import collections
import logging
import os
import sys
import threading
from typing import Final

import structlog

from handover_nodeagent import metrics

MOST: Final = 1 << 20
"""Octets of lines that wait for their reader; then new ones are dropped, and counted."""
LONGEST: Final = 8 * 1024
"""Characters of one value in a line."""
LAST_WORDS: Final = 1.0
"""Seconds for which the end of the process waits for the reader."""


class Writer:
    """Writes to a descriptor in a thread of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines = collections.deque[bytes]()
        self._size = 0
        self._busy = False
        # A Condition and no queue.Queue: the bound is of octets, and a flush has an end.
        self._change = threading.Condition()
        # A daemon: a reader that is stuck must not hold up the process's end.
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, line: bytes) -> None:
        """Have *line* written, unless too much waits; this never waits itself."""
        with self._change:
            if self._size + len(line) > MOST:
                metrics.LOST_LINES.inc()
                return
            self._lines.append(line)
            self._size += len(line)
            self._change.notify_all()

    def flush(self, seconds: float = LAST_WORDS) -> bool:
        """Wait until all is written; tell whether it was in time."""
        with self._change:
            return self._change.wait_for(lambda: not (self._lines or self._busy), seconds)

    def _run(self) -> None:
        while True:
            with self._change:
                self._busy = False
                self._change.notify_all()
                self._change.wait_for(lambda: self._lines)
                self._busy = True
                text = b"".join(self._lines)
                self._lines.clear()
            # Without the lock, for this is what may last; until then the lines count as waiting.
            self._write(text)
            with self._change:
                self._size -= len(text)

    def _write(self, text: bytes) -> None:
        while text:
            try:
                text = text[os.write(self._descriptor, text) :]
            except OSError:
                # Standard error itself is gone: there is nobody to tell.
                return


class _Handler(logging.Handler):
    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001  logging's own way for what cannot be said
            self.handleError(record)
            return
        self._writer.write(line.encode(errors="backslashreplace") + b"\n")


def _bound(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Cut what is too long: a server's answer, an object, a traceback."""
    # Of a traceback the end is kept: there is what was raised, and where.
    for name, value in event.items():
        if isinstance(value, str) and len(value) > LONGEST:
            cut = f"…{value[-LONGEST:]}" if name == "exception" else f"{value[:LONGEST]}…"
            event[name] = cut
    return event


def configure(level: str, fmt: str) -> None:
    """Send structlog and the standard library the same way, to standard error."""
    writer = Writer(sys.stderr.fileno())
    # The thread is a daemon's: without this the last lines would end with it.
    atexit.register(writer.flush)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = _Handler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(fmt),
            ],
        )
    )
    root = logging.getLogger()
    # Whatever a library has put there would write its lines in a form of its own.
    root.handlers = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )


def _renderers(fmt: str) -> list[structlog.typing.Processor]:
    if fmt == "console":
        # It writes tracebacks itself, and a person there wants them whole.
        return [structlog.dev.ConsoleRenderer()]
    return [
        structlog.processors.format_exc_info,
        # After the traceback has become text, and before all of it is one line.
        _bound,
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ]
