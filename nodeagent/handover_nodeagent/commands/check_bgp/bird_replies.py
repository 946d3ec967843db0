"""PURE: what BIRD answers on its control socket, in the words of BIRD 2 and of BIRD 3.

Of the two the first says ``Kernel.metric`` and ``BGP.local_pref``, the other ``krt_metric`` and
``bgp_local_pref``; all else that is read here they say alike.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

_LAST: Final = re.compile(r"\d{4}(?: |$)")
_RELEASE: Final = re.compile(r"BIRD v?(\d+)\.(\S+)")
_CHANNEL: Final = re.compile(r"  Channel (ipv[46])$")
_NUMBERS: Final = re.compile(r"\s*(Import|Export) (updates|withdraws):\s+(.*)")
_ROUTE: Final = re.compile(r"\S+\s+unicast \[(\S+)[^\]]*\](?: \*)? \((\d+)")
_ATTRIBUTE: Final = re.compile(r"\s+([\w.]+): ?(.*)")


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply, without its codes but for the last one."""

    code: int
    text: str

    @staticmethod
    def is_last(line: str) -> bool:
        """Tell whether nothing follows *line*."""
        return _LAST.match(line) is not None

    @classmethod
    def of(cls, lines: Sequence[str]) -> Self:
        """Take the codes off; a continued line has a space instead, a coded one four digits."""
        text = [line[1:] if line[:1] in {" ", "+"} else line[5:] for line in lines]
        return cls(int(lines[-1][:4]), "\n".join(text))


@dataclass(frozen=True, slots=True)
class Channel:
    """One address family of a protocol. ``received`` … ``withdrawn`` are BIRD's own counters.

    A filter's name is in parentheses where it has none, and ACCEPT or REJECT where it is that.
    """

    table: str = ""
    preference: int = 0
    input_filter: str = ""
    output_filter: str = ""
    received: int = 0
    filtered: int = 0
    withdrawn: int = 0


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol with its channels by family. ``is_up``: a session is established."""

    name: str
    kind: str
    is_up: bool
    state: str = ""
    neighbor_as: str = ""
    local_as: str = ""
    channels: Mapping[str, Channel] = field(default_factory=dict)

    @property
    def is_internal(self) -> bool:
        """Tell whether LOCAL_PREF crosses this session."""
        return self.neighbor_as == self.local_as


@dataclass(frozen=True, slots=True)
class BirdRoute:
    """A route as BIRD shows it. ``local_pref``: None where it has none."""

    protocol: str
    preference: int
    metric: int | None
    local_pref: int | None


def release(greeting: str) -> tuple[int, str]:
    """Read which BIRD it is: (2, "2.0.12"); (0, …) where it does not say."""
    found = _RELEASE.search(greeting)
    return (int(found[1]), f"{found[1]}.{found[2]}") if found else (0, greeting.strip())


def protocols(text: str) -> Mapping[str, Protocol]:
    """Read the answer to "show protocols all"."""
    found = (_protocol(part) for part in re.split(r"\n(?=\S)", text))
    return {one.name: one for one in found if one is not None}


def _protocol(part: str) -> Protocol | None:
    head, *lines = part.splitlines()
    words = head.split()
    # Name, kind, table, state, since when, and what more there is to be said.
    if len(words) < 4 or words[:2] == ["Name", "Proto"]:  # noqa: PLR2004  as the comment says
        return None
    starts = [number for number, line in enumerate(lines) if line.startswith("  Channel ")]
    ends = [*starts[1:], len(lines)]
    facts = dict(_facts(lines[: starts[0]] if starts else lines))
    state = facts.get("BGP state", words[3])
    return Protocol(
        words[0],
        words[1],
        words[3] == "up" and state in {"up", "Established"},
        state,
        facts.get("Neighbor AS", ""),
        facts.get("Local AS", ""),
        {
            named[1]: _channel(lines[start + 1 : end])
            for start, end in zip(starts, ends, strict=False)
            # Of another family, as flow4, there is no guest.
            if (named := _CHANNEL.match(lines[start]))
        },
    )


def _channel(lines: Sequence[str]) -> Channel:
    facts = dict(_facts(lines))
    counts = {
        (found[1], found[2]): [int(word) for word in found[3].split() if word.isdigit()]
        for found in map(_NUMBERS.match, lines)
        if found
    }
    # The columns: received, rejected, filtered, ignored, …, accepted. A column that has no
    # meaning is shown as hyphens, but none of these two.
    updates = counts.get(("Import", "updates"), [0, 0, 0])
    # Of withdraws that are exported the last column alone has always a meaning.
    withdraws = counts.get(("Export", "withdraws"), [0])
    return Channel(
        facts.get("Table", ""),
        int(facts.get("Preference", "0")),
        facts.get("Input filter", ""),
        facts.get("Output filter", ""),
        updates[0],
        updates[2],
        withdraws[-1],
    )


def _facts(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, colon, value = line.strip().partition(":")
        if colon:
            yield name, value.strip()


def route(reply: Reply) -> BirdRoute | None:
    """Read the answer to "show route … all" for one prefix; None: there is no such route.

    Of several the first counts: it is the best one.
    """
    lines = iter(reply.text.splitlines())
    for line in lines:
        if head := _ROUTE.match(line):
            break
    else:
        return None
    attributes: dict[str, str] = {}
    for line in lines:
        if not line.startswith("\t"):
            break
        if found := _ATTRIBUTE.match(line):
            attributes[found[1]] = found[2]
    return BirdRoute(
        head[1],
        int(head[2]),
        _number(attributes, "Kernel.metric", "krt_metric"),
        _number(attributes, "BGP.local_pref", "bgp_local_pref"),
    )


def _number(attributes: Mapping[str, str], *names: str) -> int | None:
    found = next((attributes[name] for name in names if name in attributes), "")
    return int(found) if found.isdigit() else None
