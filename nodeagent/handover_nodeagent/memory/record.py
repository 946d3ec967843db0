"""PURE: what survives a SIGKILL, as values and as the text of a file.

A file that cannot be read counts as none: kernel and guest go before it anyway. The names of the
fields are on disks, where an older or a newer agent reads them.
"""

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, NamedTuple, Self, TypeVar

import pydantic

from handover_api.model import Model, Moment
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, Role, State, WorkloadEndpoint
from handover_nodeagent.api import parse
from handover_nodeagent.fsm.machine import NO_RETURNS, Redirect, Returns, RouteLevel
from handover_nodeagent.fsm.restart import Remembered
from handover_nodeagent.network.model import (
    Encapsulated,
    IPAddress,
    Redirection,
    Route,
    Via,
    Way,
)

LONGEST: Final = 200
"""Characters of a file name, before the suffixes: with them below NAME_MAX, 255 (limits.h)."""


def _read_or_forget(value: object, read: pydantic.ValidatorFunctionWrapHandler) -> object:
    try:
        return read(value)
    except pydantic.ValidationError:
        return None


_T = TypeVar("_T")
_Known = Annotated[_T | None, pydantic.WrapValidator(_read_or_forget)]
"""What a newer agent wrote and this one cannot read counts as absent, and takes nothing along."""


class _Redirect(Model):
    """``machine.Redirect`` as JSON."""

    uid: str | None = None
    peer: Role
    level: RouteLevel


class _Returns(Model):
    """``machine.Returns`` as JSON."""

    uid: str | None = None
    count: int


class _Stood(Model):
    """``restart.Remembered`` as JSON."""

    state: State
    since: Moment
    uid: str | None = None
    awaiting: bool = False
    in_doubt: bool = False
    redirect: _Known[_Redirect] = None
    returns: _Known[_Returns] = None

    @property
    def remembered(self) -> Remembered:
        """The value."""
        to, back, state = self.redirect, self.returns, self.state
        if state is State.REDIRECTED and to is None:
            # To whom cannot be read: what is left of it is that no guest was here.
            state = State.WITHDRAWN
        return Remembered(
            state,
            self.since,
            self.uid,
            self.awaiting,
            self.in_doubt,
            Redirect(to.uid, to.peer, to.level) if to else None,
            Returns(back.uid, back.count) if back else NO_RETURNS,
        )


class _Way(Model):
    """``network.Way`` as JSON: into a tunnel where there is a ``remote``, else by a gateway."""

    remote: IPAddress | None = None
    source: IPAddress | None = None
    gateway: IPAddress | None = None

    @classmethod
    def of(cls, way: Way | None) -> Self | None:
        """Make it; None for a direct route, and for a way that no route of ours is kept by."""
        if isinstance(way, Encapsulated):
            return cls(remote=way.remote, source=way.source)
        return cls(gateway=way.gateway) if isinstance(way, Via) else None

    @property
    def way(self) -> Way | None:
        """The value."""
        if self.remote:
            return Encapsulated(self.remote, self.source)
        return Via(self.gateway) if self.gateway else None


class _Redirection(Model):
    """``network.Redirection`` as JSON."""

    oif: int
    ipv4: _Way | None = None
    ipv6: _Way | None = None


class _Kept(Model):
    """``network.Route`` as JSON."""

    address: IPAddress
    oif: int
    metric: int
    table: int
    protocol: int
    way: _Way | None = None

    @classmethod
    def of(cls, route: Route) -> Self:
        """Make it."""
        return cls(
            address=route.address,
            oif=route.oif,
            metric=route.metric,
            table=route.table,
            protocol=route.protocol,
            way=_Way.of(route.way),
        )

    @property
    def route(self) -> Route:
        """The value."""
        way = self.way.way if self.way else None
        return Route(self.address, self.oif, self.metric, self.table, self.protocol, way=way)


class Record(Model):
    """One file: an endpoint as last seen and where it stood, or the routes that outlived it."""

    endpoint: _Known[WorkloadEndpoint] = None
    stood: _Known[_Stood] = None
    cutover: _Known[Cutover] = None
    learned_mac: _Known[str] = None
    interface: _Known[str] = None
    redirection: _Known[_Redirection] = None
    remaining: tuple[_Known[_Kept], ...] = ()
    """What is left of a redirect whose endpoint needs it no more, and until when."""
    until: _Known[Moment] = None
    orphans: tuple[_Known[_Kept], ...] = ()
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
        redirection: Redirection | None = None,
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
            redirection=_redirection(redirection) if redirection else None,
        )

    @classmethod
    def of_remaining(cls, routes: Iterable[Route], until: dt.datetime) -> Self:
        """Make the record of a redirect that stays *until* then."""
        return cls(remaining=tuple(map(_Kept.of, routes)), until=until)

    @classmethod
    def of_orphans(
        cls, routes: Iterable[Route], mac: str | None = None, gateways: Iterable[IPAddress] = ()
    ) -> Self:
        """Make the record of routes whose endpoint is gone, with what their guest is asked by."""
        orphans = tuple(map(_Kept.of, routes))
        return cls(orphans=orphans, learned_mac=mac, gateways=tuple(gateways))

    @property
    def remembered(self) -> Remembered | None:
        """Where the endpoint stood."""
        return self.stood.remembered if self.stood else None

    @property
    def routes(self) -> tuple[Route, ...]:
        """The orphaned routes."""
        return tuple(kept.route for kept in self.orphans if kept)

    @property
    def redirects(self) -> tuple[Route, ...]:
        """What is left of a redirect."""
        return tuple(kept.route for kept in self.remaining if kept)

    @property
    def led_to(self) -> Redirection | None:
        """Where the routes of a Redirected led."""
        kept = self.redirection
        if kept is None:
            return None
        ipv4, ipv6 = (each.way if each else None for each in (kept.ipv4, kept.ipv6))
        return Redirection(kept.oif, ipv4, ipv6)


class Decoded(NamedTuple):
    """What a file says: of whom, and what; ``complaint`` ends a sentence about it, or is ""."""

    key: ObjectKey
    record: Record | None
    complaint: str = ""


def file_name(key: ObjectKey) -> str:
    """Return the file's name: a namespace has no dot, and a name of 253 letters must fit."""
    if len(key.name) + len(key.namespace) > LONGEST:
        return f"{key.namespace}.{hashlib.sha256(key.name.encode()).hexdigest()}.json"
    return f"{key.namespace}.{key.name}.json"


def encode(record: Record) -> str:
    """Return the text of the file."""
    return json.dumps(record.to_object())


def decode(stem: str, text: str) -> Decoded:
    """Read the *text* of a file, named *stem* before its suffix."""
    namespace, _, name = stem.partition(".")
    key = ObjectKey(namespace, name)
    try:
        content: object = json.loads(text)
        record = Record.model_validate(content)
    except ValueError as error:
        return Decoded(key, None, f"is ignored: {error}")
    if record.endpoint:
        # The name of the file may be a digest; the object says who it is.
        return Decoded(record.endpoint.key, record)
    raw = content.get("endpoint") if isinstance(content, dict) else None
    if not isinstance(raw, dict):
        return Decoded(key, record if record.routes or record.redirects else None)
    # A newer agent's object: its addresses are left alone until the API tells what it is.
    spared = record.model_copy(update={"spared": parse.addresses(raw)})
    return Decoded(parse.key(raw), spared, "has an endpoint that nobody can read")


def decode_configurations(text: str) -> dict[str, Mapping[str, object]] | None:
    """Return the specs of HandoverConfigurations by name; None for no such memory."""
    content = _parse(text)
    if not isinstance(content, dict):
        return None
    return {name: spec for name, spec in content.items() if isinstance(spec, dict)}


def decode_paused(text: str) -> frozenset[str]:
    """Return the namespaces that were paused."""
    content = _parse(text)
    return frozenset(map(str, content)) if isinstance(content, list) else frozenset()


def _redirection(value: Redirection) -> _Redirection:
    return _Redirection(oif=value.oif, ipv4=_Way.of(value.ipv4), ipv6=_Way.of(value.ipv6))


def encode_heard(heard: Iterable[tuple[ObjectKey, str]]) -> str:
    """Return the text of the file of the HAVE messages that the API has not caught up with."""
    return json.dumps([[*key, uid] for key, uid in heard])


def decode_heard(text: str) -> tuple[tuple[ObjectKey, str], ...]:
    """Return the HAVE messages that were heard, in their order: of which endpoint, for which uid.

    What is no such entry is left out: the API tells of it later.
    """
    content = _parse(text)
    entries = content if isinstance(content, list) else ()
    return tuple(
        (ObjectKey(entry[0], entry[1]), entry[2])
        for entry in entries
        if isinstance(entry, list) and list(map(type, entry)) == [str, str, str]
    )


def _parse(text: str) -> object:
    """Return what *text* says; None where that is no JSON."""
    try:
        content: object = json.loads(text)
    except ValueError:
        return None
    return content
