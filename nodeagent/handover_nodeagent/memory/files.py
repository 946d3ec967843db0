"""Writes and reads what survives a SIGKILL, in the state directory (``/run/handover``).

One small file per endpoint, written behind, never on the way to a route, and each whole or not at
all.
"""

import asyncio
import functools
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from handover_api.names import ObjectKey
from handover_nodeagent import faults, metrics
from handover_nodeagent.memory import record
from handover_nodeagent.memory.record import Decoded, Record
from handover_nodeagent.retry.backoff import Backoff
from handover_nodeagent.retry.timers import Retry

DELAY: Final = 0.02
"""Seconds for which changes are collected before they are written: a cutover makes several."""
RETRY_AFTER: Final = 1.0
"""Seconds until what could not be written is tried again. Always the same, for as long as it is
not there a SIGKILL costs what it says."""

_log: Final = logging.getLogger(__name__)


class Memory:
    """Keeps the files; ``trouble`` says why they cannot be written, "" when they can."""

    def __init__(self, directory: Path) -> None:
        """Use *directory*, which is made when it is missing."""
        self.trouble = ""
        self._directory = directory / "endpoints"
        self._configuration = directory / "configuration.json"
        self._paused = directory / "paused.json"
        self._heard = directory / "heard.json"
        # Each is made when it is written: what changes ten times meanwhile is composed once.
        self._pending: dict[ObjectKey, Callable[[], Record | None]] = {}
        # One thread, so that files are written in the order in which they were handed to it.
        self._thread = ThreadPoolExecutor(1, "memory")
        self._timer: asyncio.TimerHandle | None = None
        self._failed: dict[ObjectKey, Record | None] = {}
        self._retry = Retry(self._try_again, Backoff(RETRY_AFTER, RETRY_AFTER))

    def load(self) -> dict[ObjectKey, Record]:
        """Read all files. For a thread, or before the loop runs."""
        records: dict[ObjectKey, Record] = {}
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for path in sorted(self._directory.glob("*.json")):
                found = _decode(path)
                if found.record:
                    records[found.key] = found.record
        except OSError as error:
            self.trouble = f"cannot use the state directory: {error}"
        return records

    def keep(self, key: ObjectKey, make: Callable[[], Record | None]) -> None:
        """Write what *make* returns when the time comes; None removes the file."""
        self._pending[key] = make
        self._failed.pop(key, None)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self._write)

    def load_configuration(self) -> dict[str, Mapping[str, object]] | None:
        """Read the HandoverConfigurations as they were last; None where there is no such memory."""
        return record.decode_configurations(_read(self._configuration))

    def keep_configuration(self, specs: Mapping[str, object]) -> None:
        """Write the HandoverConfigurations' *specs* by name, for a start without an API server."""
        text = json.dumps(specs)
        self._thread.submit(self._replace, self._configuration, text)

    def load_paused(self) -> frozenset[str]:
        """Read which namespaces were paused last."""
        return record.decode_paused(_read(self._paused))

    def keep_paused(self, namespaces: Iterable[str]) -> None:
        """Write which namespaces are paused, for a start without an API server."""
        self._thread.submit(self._replace, self._paused, json.dumps(sorted(namespaces)))

    def load_heard(self) -> tuple[tuple[ObjectKey, str], ...]:
        """Read the HAVE messages of other nodes that the API had not caught up with."""
        return record.decode_heard(_read(self._heard))

    def keep_heard(self, heard: Iterable[tuple[ObjectKey, str]]) -> None:
        """Write which HAVE messages the API has not caught up with."""
        self._thread.submit(self._replace, self._heard, record.encode_heard(heard))

    async def flush(self) -> None:
        """Write what is pending, and wait for it."""
        self._write()
        # It comes after all that was handed to the thread before.
        await asyncio.get_running_loop().run_in_executor(self._thread, _nothing)

    def close(self) -> None:
        """Give the thread back."""
        self._retry.cancel()
        self._thread.shutdown(wait=True)

    def _write(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        made: dict[ObjectKey, Record | None] = {}
        # On the loop, where nothing changes meanwhile; only the writing is the thread's.
        for key, make in self._pending.items():
            try:
                made[key] = make()
            except Exception as error:  # noqa: BLE001  the root of one file; its old one stays
                faults.note("memory", error, endpoint=str(key))
        self._pending.clear()
        if made:
            self._thread.submit(self._store, made, asyncio.get_running_loop())

    def _store(
        self, made: Mapping[ObjectKey, Record | None], loop: asyncio.AbstractEventLoop
    ) -> None:
        failed = {key: it for key, it in made.items() if not self._try(key, it)}
        if failed:
            loop.call_soon_threadsafe(self._wait, failed)

    def _wait(self, failed: Mapping[ObjectKey, Record | None]) -> None:
        """Try again later what nobody has said anew by then."""
        # What is pending is newer than what has just failed.
        self._failed |= {key: failed[key] for key in failed.keys() - self._pending.keys()}
        self._retry.failed()

    def _try_again(self) -> None:
        for key, unwritten in self._failed.items():
            self._pending[key] = functools.partial(_same, unwritten)
        self._failed.clear()
        self._write()

    def _try(self, key: ObjectKey, made: Record | None) -> bool:
        try:
            return self._put(key, made)
        except Exception as error:  # noqa: BLE001  the root of one file in a thread
            faults.note("memory", error, endpoint=str(key))
            # What cannot be written as JSON now cannot a second later either.
            return True

    def _put(self, key: ObjectKey, made: Record | None) -> bool:
        text = record.encode(made) if made else None
        return self._replace(self._directory / record.file_name(key), text)

    def _replace(self, path: Path, text: str | None) -> bool:
        """Write one file whole, or remove it; tell whether that could be."""
        try:
            if text is None:
                path.unlink(missing_ok=True)
            else:
                # Somebody may have cleared it away; the next life must not know less for that.
                path.parent.mkdir(parents=True, exist_ok=True)
                # Under another name first: rename(2) leaves the old file or the new one, never a
                # part. No fsync: /run is memory, and a boot takes the kernel's routes with it.
                draft = path.with_suffix(".draft")
                draft.write_text(text)
                draft.replace(path)
        except OSError as error:
            metrics.MEMORY_ERRORS.inc()
            if not self.trouble:
                _log.warning("cannot write the state directory: %s", error)
            self.trouble = f"cannot write the state directory: {error}"
            return False
        self.trouble = ""
        return True


def _decode(path: Path) -> Decoded:
    """Read an endpoint's file; what cannot be read is told, and counts as none."""
    try:
        found = record.decode(path.stem, path.read_text())
    except (OSError, ValueError) as error:
        found = Decoded(ObjectKey("", ""), None, f"is ignored: {error}")
    if found.complaint:
        _log.warning("the state file %s %s", path.name, found.complaint)
    return found


def _read(path: Path) -> str:
    """Read a file; "" where there is none that can be read."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _same(made: Record | None) -> Record | None:
    """Return what was to be written before."""
    return made


def _nothing() -> None:
    """Pass through the thread's queue."""
