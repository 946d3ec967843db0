"""What survives a SIGKILL: one small file per endpoint in the state directory (``/run/handover``).

Written behind, never on the way to a route, each file whole or not at all. A file that cannot be
read counts as none: kernel and guest go before it anyway. The names of the fields are on disks,
where an older or a newer agent reads them.
"""

import asyncio
import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeVar

import pydantic

from handover_api.model import Model, Moment
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, State, WorkloadEndpoint
from handover_nodeagent import faults, metrics
from handover_nodeagent.api import parse
from handover_nodeagent.fsm.restart import Remembered
from handover_nodeagent.network.model import IPAddress, Route
from handover_nodeagent.retry.backoff import Backoff
from handover_nodeagent.retry.timers import Retry

DELAY: Final = 0.02
"""Seconds for which changes are collected before they are written: a cutover makes several."""
RETRY_AFTER: Final = 1.0
"""Seconds until what could not be written is tried again. Always the same, for as long as it is
not there a SIGKILL costs what it says."""
LONGEST: Final = 200
"""Characters of a file name, before the suffixes: with them below NAME_MAX, 255 (limits.h)."""

_log: Final = logging.getLogger(__name__)


def _read_or_forget(value: object, read: pydantic.ValidatorFunctionWrapHandler) -> object:
    try:
        return read(value)
    except pydantic.ValidationError:
        return None


_T = TypeVar("_T")
_Known = Annotated[_T | None, pydantic.WrapValidator(_read_or_forget)]
"""What a newer agent wrote and this one cannot read counts as absent, and takes nothing along."""


class _Stood(Model):
    """``restart.Remembered`` as JSON."""

    state: State
    since: Moment
    uid: str | None = None
    awaiting: bool = False
    in_doubt: bool = False


class _Orphan(Model):
    """``network.Route`` as JSON."""

    address: IPAddress
    oif: int
    metric: int
    table: int
    protocol: int


class Record(Model):
    """One file: an endpoint as last seen and where it stood, or the routes that outlived it."""

    endpoint: _Known[WorkloadEndpoint] = None
    stood: _Known[_Stood] = None
    cutover: _Known[Cutover] = None
    learned_mac: _Known[str] = None
    interface: _Known[str] = None
    orphans: tuple[_Known[_Orphan], ...] = ()
    gateways: tuple[IPAddress, ...] = ()
    """In whose name the guest of *orphans* is asked."""
    spared: tuple[IPAddress, ...] = pydantic.Field(default=(), exclude=True)
    """Never written: the addresses of an endpoint that cannot be read."""

    @classmethod
    def of(
        cls,
        endpoint: WorkloadEndpoint,
        stood: Remembered,
        cutover: Cutover | None,
        learned_mac: str | None,
        interface: str | None,
    ) -> Self:
        """Make the record of an endpoint; of its metadata only what a restart needs stays."""
        # Labels and owners are the operator's business, and the largest part of an object.
        metadata = endpoint.metadata.model_copy(update={"labels": {}, "owner_references": ()})
        place = _Stood(**dataclasses.asdict(stood))
        return cls(
            endpoint=WorkloadEndpoint(metadata=metadata, spec=endpoint.spec),
            stood=place,
            cutover=cutover,
            learned_mac=learned_mac,
            interface=interface,
        )

    @classmethod
    def of_orphans(
        cls, routes: Iterable[Route], mac: str | None = None, gateways: Iterable[IPAddress] = ()
    ) -> Self:
        """Make the record of routes whose endpoint is gone, with what their guest is asked by."""
        orphans = tuple(
            _Orphan(
                address=route.address,
                oif=route.oif,
                metric=route.metric,
                table=route.table,
                protocol=route.protocol,
            )
            for route in routes
        )
        return cls(orphans=orphans, learned_mac=mac, gateways=tuple(gateways))

    @property
    def remembered(self) -> Remembered | None:
        """Where the endpoint stood."""
        place = self.stood
        if place is None:
            return None
        return Remembered(
            place.state, place.since, place.uid, place.awaiting, in_doubt=place.in_doubt
        )

    @property
    def routes(self) -> tuple[Route, ...]:
        """The orphaned routes."""
        return tuple(
            Route(kept.address, kept.oif, kept.metric, kept.table, kept.protocol)
            for kept in self.orphans
            if kept
        )


class Memory:
    """Keeps the files; ``trouble`` says why they cannot be written, "" when they can."""

    def __init__(self, directory: Path) -> None:
        """Use *directory*, which is made when it is missing."""
        self.trouble = ""
        self._directory = directory / "endpoints"
        self._configuration = directory / "configuration.json"
        self._paused = directory / "paused.json"
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
                key, record = _read(path)
                if record:
                    records[key] = record
        except OSError as error:
            self.trouble = f"cannot use the state directory: {error}"
        return records

    def keep(self, key: ObjectKey, make: Callable[[], Record | None]) -> None:
        """Write what *make* returns when the time comes; None removes the file."""
        self._pending[key] = make
        self._failed.pop(key, None)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self._write)

    def load_configuration(self) -> dict[str, Any] | None:
        """Read the HandoverConfigurations as they were last; None where there is no such memory."""
        content = _load_json(self._configuration)
        if not isinstance(content, dict):
            return None
        return {name: spec for name, spec in content.items() if isinstance(spec, dict)}

    def keep_configuration(self, specs: Mapping[str, object]) -> None:
        """Write the HandoverConfigurations' *specs* by name, for a start without an API server."""
        text = json.dumps(specs)
        self._thread.submit(self._replace, self._configuration, text)

    def load_paused(self) -> frozenset[str]:
        """Read which namespaces were paused last."""
        content = _load_json(self._paused)
        return frozenset(map(str, content)) if isinstance(content, list) else frozenset()

    def keep_paused(self, namespaces: Iterable[str]) -> None:
        """Write which namespaces are paused, for a start without an API server."""
        self._thread.submit(self._replace, self._paused, json.dumps(sorted(namespaces)))

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
        failed = {key: record for key, record in made.items() if not self._try(key, record)}
        if failed:
            loop.call_soon_threadsafe(self._wait, failed)

    def _wait(self, failed: Mapping[ObjectKey, Record | None]) -> None:
        """Try again later what nobody has said anew by then."""
        # What is pending is newer than what has just failed.
        self._failed |= {key: failed[key] for key in failed.keys() - self._pending.keys()}
        self._retry.failed()

    def _try_again(self) -> None:
        for key, record in self._failed.items():
            self._pending[key] = functools.partial(_same, record)
        self._failed.clear()
        self._write()

    def _try(self, key: ObjectKey, record: Record | None) -> bool:
        try:
            return self._put(key, record)
        except Exception as error:  # noqa: BLE001  the root of one file in a thread
            faults.note("memory", error, endpoint=str(key))
            # What cannot be written as JSON now cannot a second later either.
            return True

    def _put(self, key: ObjectKey, record: Record | None) -> bool:
        text = json.dumps(record.to_object()) if record else None
        return self._replace(self._directory / _name(key), text)

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


def _load_json(path: Path) -> object:
    """Read a file; None where there is none that can be read."""
    try:
        content: object = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content


def _same(record: Record | None) -> Record | None:
    """Return what was to be written before."""
    return record


def _nothing() -> None:
    """Pass through the thread's queue."""


def _name(key: ObjectKey) -> str:
    """Return the file's name: a namespace has no dot, and a name of 253 letters must fit."""
    if len(key.name) + len(key.namespace) > LONGEST:
        return f"{key.namespace}.{hashlib.sha256(key.name.encode()).hexdigest()}.json"
    return f"{key.namespace}.{key.name}.json"


def _read(path: Path) -> tuple[ObjectKey, Record | None]:
    namespace, _, name = path.stem.partition(".")
    key = ObjectKey(namespace, name)
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        record = Record.model_validate(content)
    except (OSError, ValueError) as error:
        _log.warning("the state file %s is ignored: %s", path.name, error)
        return key, None
    raw = content.get("endpoint")
    if record.endpoint:
        # The name of the file may be a digest; the object says who it is.
        return record.endpoint.key, record
    if not isinstance(raw, dict):
        return key, record if record.routes else None
    # A newer agent's object: its addresses are left alone until the API tells what it is.
    _log.warning("the state file %s has an endpoint that nobody can read", path.name)
    return parse.key(raw), record.model_copy(update={"spared": parse.addresses(raw)})
