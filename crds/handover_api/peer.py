"""Whom an endpoint's agent may believe about its guest, told by the operator in annotations.

Agents speak to each other without the API, but only of what it has prepared: who may speak for
which migration, and by which key. Odd text counts as absent, since anybody may have written it.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Final

import pydantic

from handover_api import names
from handover_api.workloadendpoint import AgentAddress, Role

MOST: Final = 4
"""Peers of one endpoint: those of a migration, and of the next one while that is not over."""
# Four peers of the longest names that Kubernetes allows stay below it.
_LONGEST: Final = 8192


class Peer(AgentAddress):
    """An endpoint of the other side of a migration, and the agent that speaks for it.

    ``uid`` is the migration's, ``role`` what the peer is in it, or was where that has ended;
    ``endpoint`` is a name in the namespace of the endpoint that has the annotation.
    """

    uid: str
    endpoint: str
    node: str
    role: Role


def peers_from_annotations(annotations: Mapping[str, str]) -> tuple[Peer, ...]:
    """Read handover.dev/peer, each entry for itself; at most MOST of them."""
    text = annotations.get(names.PEER, "")
    if not text or len(text) > _LONGEST:
        return ()
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(entries, list):
        return ()
    read = (_read(entry) for entry in entries)
    return tuple(entry for entry in read if entry is not None)[:MOST]


def _read(entry: object) -> Peer | None:
    try:
        return Peer.model_validate(entry)
    except pydantic.ValidationError:
        return None


def peers_to_annotation(peers: Iterable[Peer]) -> str | None:
    """Write the first MOST of *peers*, always alike for the same ones; None for none of them."""
    entries = [each.to_object() for each in peers][:MOST]
    return json.dumps(entries, sort_keys=True, separators=(",", ":")) if entries else None


def peer_live_from_annotations(annotations: Mapping[str, str]) -> str | None:
    """Return the uid of the migration in which a peer has the guest, by the API's word."""
    return annotations.get(names.PEER_LIVE) or None
