"""PURE: what a list or a message of a watch says of a collection that was not known so far.

Only real changes are told on: a list repeats nearly all that is known, and a watch that goes on
where it stood some of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from handover_api.names import ObjectKey
from handover_nodeagent.api.errors import RawObject, Unavailable


class Identity(NamedTuple):
    """Which object it is, and which version of it.

    Versions are opaque: they are the same or not, and say nothing of what came first.
    """

    uid: str
    version: str


Known = Mapping[ObjectKey, Identity]
Listed = Mapping[ObjectKey, tuple[Identity, RawObject]]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a list says that was not known: first the drops, then the puts."""

    drops: tuple[tuple[ObjectKey, str], ...] = ()
    puts: tuple[RawObject, ...] = ()


def identity(raw: RawObject) -> tuple[ObjectKey, Identity]:
    """Return who an object is. Raises Unavailable: no API server sends one without."""
    # Objects that belong to the whole cluster have no namespace.
    key = ObjectKey(_metadata(raw, "namespace", ""), _metadata(raw, "name"))
    return key, Identity(_metadata(raw, "uid"), _metadata(raw, "resourceVersion"))


def version(raw: RawObject) -> str:
    """Return the version from which a watch goes on. Raises Unavailable, as ``identity`` does."""
    return _metadata(raw, "resourceVersion")


def diff(known: Known, listed: Listed) -> Changes:
    """Compare; an object that was deleted and made anew meanwhile is a drop and a put."""
    return Changes(
        drops=tuple(
            (key, before.uid)
            for key, before in known.items()
            if key not in listed or listed[key][0].uid != before.uid
        ),
        puts=tuple(raw for key, (now, raw) in listed.items() if known.get(key) != now),
    )


def change(known: Known, kind: str, raw: RawObject) -> Changes:
    """Return what one message of a watch changes, which is no bookmark. Raises Unavailable."""
    key, found = identity(raw)
    before = known.get(key)
    is_same = before is not None and before.uid == found.uid
    if kind == "DELETED":
        # The end of an object may be told again, or after another one took its name.
        return Changes(drops=((key, found.uid),) if is_same else ())
    # A watch that goes on may repeat what was told before.
    if found == before:
        return Changes()
    return Changes(drops=((key, before.uid),) if before and not is_same else (), puts=(raw,))


def _metadata(raw: RawObject, name: str, default: str | None = None) -> str:
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    found = metadata.get(name, default) if isinstance(metadata, dict) else None
    if not isinstance(found, str):
        message = f"an object without metadata.{name}"
        raise Unavailable(message)
    return found
