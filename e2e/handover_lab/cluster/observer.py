"""What the API says of migrations and endpoints, as it changes, told as facts.

A fact has the time at which the API said it; only a cutover has the time that the agent measured.
The watch is kubectl's: what a person would see who types the same command.
"""

import asyncio
import contextlib
import datetime as dt
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final, Self

from handover_lab.cluster.client import Client
from handover_lab.facts import Action, Fact, Note, Phase, Role, Signal, State

Object = Mapping[str, Any]
Objects = Mapping[str, Object]
"""By name; the lab lives in one namespace."""

ROLE: Final = "handover.dev/role"
NOTEWORTHY: Final = {
    ("Conflicted", "True"): (),
    ("SourceLingers", "True"): ("Withdrawing",),
    ("StillAlive", "True"): (),
    ("AddressNotAllowed", "True"): (),
    ("AddressShared", "True"): (),
    ("TargetTimeout", "True"): (),
    ("Programmed", "False"): ("InterfaceNotFound", "LinkDown", "Pending"),
    ("InterfaceDoubted", "True"): (),
    ("Unguarded", "True"): (),
}
"""Conditions that are news, but not for these reasons: those are the ordinary course.

An interface comes later than the endpoint of its pod, and goes before it; so does the guest's
process, and with it the interface's carrier.
"""


class ObserverError(RuntimeError):
    """The API did not say what was waited for; the text says what it said instead."""


class Observer:
    """The newest state of all objects of one kind, and whoever wants to hear of each change."""

    def __init__(self, process: asyncio.subprocess.Process, tell: Callable[[Fact], None]) -> None:
        self.objects: dict[str, Object] = {}
        self._process = process
        self._tell = tell
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def watch(cls, client: Client, kind: str, tell: Callable[[Fact], None]) -> Self:
        """Watch the *kind* (its plural) in the namespace default."""
        words = ("--watch", "--output-watch-events", "--output", "json")
        process = await client.start("kubectl", "get", kind, *words)
        return cls(process, tell)

    async def until(
        self, is_so: Callable[[Objects], object], what: str, seconds: float | None = 30
    ) -> None:
        """Wait until the objects satisfy *is_so*, without *seconds* for ever.

        Raises:
            ObserverError: they do not within *seconds*; *what* names it in words.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: is_so(self.objects))
                return
        seen = "; ".join(summary(thing) for thing in self.objects.values()) or "no object"
        message = f"{what} did not come true in {seconds} s: {seen}"
        raise ObserverError(message)

    async def stop(self) -> None:
        """End the watch; a second time changes nothing."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for event in values(self._process.stdout):
            moment, thing = time.time_ns(), event["object"]
            name = thing["metadata"]["name"]
            before = self.objects.pop(name, {})
            after = {} if event["type"] == "DELETED" else thing
            if after:
                self.objects[name] = after
            for fact in facts(before, after, moment):
                self._tell(fact)
            async with self._news:
                self._news.notify_all()


async def values(stream: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Yield each JSON object of a stream that has nothing but white space between them."""
    decoder, rest = json.JSONDecoder(), ""
    pending = b""
    while fresh := await stream.read(1 << 16):
        pending += fresh
        # A piece may end in the middle of a character; the next one has its rest.
        with contextlib.suppress(UnicodeDecodeError):
            rest, pending = (rest + pending.decode()).lstrip(), b""
        while rest:
            try:
                value, end = decoder.raw_decode(rest)
            except json.JSONDecodeError:
                break
            yield value
            rest = rest[end:].lstrip()


def facts(before: Object, after: Object, now_ns: int) -> Iterator[Fact]:
    """Tell what of a person's interest lies between two states of one object; {} is absent."""
    kind, phase = (after or before)["kind"], phase_of(after)
    if kind == "WorkloadEndpoint":
        yield from of_endpoint(before, after, now_ns)
    elif phase and phase != phase_of(before):
        is_ours = kind == "LiveMigration"
        yield Phase(now_ns, phase) if is_ours else Action(now_ns, "kubevirt", "vmim", phase)
    yield from notes(before, after, now_ns)


def of_endpoint(before: Object, after: Object, now_ns: int) -> Iterator[Fact]:
    """Tell the changes of a WorkloadEndpoint."""
    node = (after or before)["spec"]["node"]
    if role_of(after) != role_of(before):
        yield Role(now_ns, node, role_of(after))
    cutover = status(after).get("lastCutover")
    if cutover and cutover != status(before).get("lastCutover"):
        moment, route_us = when_ns(cutover["time"]), cutover["announcementToRouteMicroseconds"]
        # The agent's time is that of the route; what a person calls the signal was before it.
        yield Signal(moment - route_us * 1000, node, cutover["signal"], route_us)
    if state_of(after) != state_of(before):
        yield State(now_ns, node, state_of(after))


def notes(before: Object, after: Object, now_ns: int) -> Iterator[Note]:
    """Tell the conditions that a person would like to know of, once for each reason."""
    known = {(c["type"], c["status"], c["reason"]) for c in conditions(before)}
    for condition in conditions(after):
        kind, value, reason = (condition[key] for key in ("type", "status", "reason"))
        ordinary = NOTEWORTHY.get((kind, value))
        if ordinary is None or reason in ordinary or (kind, value, reason) in known:
            continue
        text = condition.get("message") or reason
        yield Note(now_ns, f"{after['metadata']['name']}: {kind}: {text}")


def status(thing: Object) -> Mapping[str, Any]:
    """Return the status of an object, {} where it has none."""
    return thing.get("status") or {}


def conditions(thing: Object) -> list[Mapping[str, str]]:
    """Return the conditions of an object."""
    return list(status(thing).get("conditions") or [])


def phase_of(migration: Object) -> str:
    """Return the phase of a migration, ours or KubeVirt's, empty where it has none yet."""
    return str(status(migration).get("phase", ""))


def role_of(endpoint: Object) -> str:
    """Return the role that the operator gave to an endpoint."""
    annotations = endpoint.get("metadata", {}).get("annotations") or {}
    return str(annotations.get(ROLE, ""))


def state_of(endpoint: Object) -> str:
    """Return the state that the agent reported."""
    return str(status(endpoint).get("state", ""))


def summary(thing: Object) -> str:
    """Say in a few words how an object stands, for an error."""
    words = [phase_of(thing) or state_of(thing) or "no status"]
    words += [f"{c['type']}={c['status']} {c['reason']}" for c in conditions(thing)]
    return f"{thing['metadata']['name']} is {', '.join(words)}"


def when_ns(text: str) -> int:
    """Read an RFC 3339 time of the API, exact to the microsecond."""
    moment = dt.datetime.fromisoformat(text)
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
