"""PURE: what came of asking nftables, and what that means for a table, in words for a person."""

import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from handover_api import wording
from handover_nodeagent.kernel.nft import names

# Of an error, for a sentence in a condition: octets at the end of what the process wrote, or
# characters of nft's own words.
LAST_WORDS: Final = 300
_DIED: Final = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS})
"""By these a process dies by itself; any other one was sent, by whomever."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; ``trouble`` is "" when it was done.

    ``is_lost``: there is no library to ask, so that each other question would end like this one.
    """

    text: bytes = b""
    trouble: str = ""
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: ``trouble`` is "" or says why nothing, or not everything, was done.

    ``is_lost``: nothing could be asked for at all; a question soon after would end like this one.
    """

    trouble: str = ""
    is_lost: bool = False


DONE: Final = Outcome()


def judge(answer: Answer, purpose: str) -> Outcome:
    """Say what an answer means for *purpose*, what the table is there for."""
    off = f"; {purpose} is off" if answer.is_lost else ""
    return Outcome(f"{answer.trouble}{off}", answer.is_lost)


def join(troubles: Iterable[str]) -> Outcome:
    """Say what of many changes was refused: each complaint once, and no more than a few."""
    distinct = dict.fromkeys(trouble for trouble in troubles if trouble)
    return Outcome("; ".join(list(distinct)[: wording.FEW]))


def unnamed(interfaces: Iterable[str]) -> Outcome:
    """Say which *interfaces* stay without a guard because nft cannot name them."""
    odd = [repr(name) for name in interfaces if not names.is_writable(name)]
    return Outcome(f"nftables cannot name interface {wording.name_few(odd)}") if odd else DONE


def complaint(buffer: bytes) -> str:
    """Return the first line of nft's error; the lines after it repeat the command."""
    first = (buffer.decode(errors="replace").strip() or "nftables gave no reason").splitlines()[0]
    place, _, text = first.partition(": ")
    # Such as "<cmdline>:1:1-30: Error: ...", which says nothing to who has not seen the command.
    is_place = place.count(":") > 1 and " " not in place
    return (
        wording.clip(text if is_place else first, LAST_WORDS)
        .removeprefix("netlink: ")
        .removeprefix("Error: ")
    )


def describe_end(status: int, words: bytes) -> str:
    """Say how the library's process ended: by its exit *status* and its last *words*."""
    if status < 0:
        ended_by = signal.Signals(-status)
        return (
            f"libnftables died of {ended_by.name}: a table that a newer nft made may be too new for"
            " it"
            if ended_by in _DIED
            else f"libnftables was ended by {ended_by.name}"
        )
    lines = words.decode(errors="replace").strip().splitlines()
    return f"libnftables ended itself: {lines[-1] if lines else f'status {status}'}"
