"""The CEL rules of a CRD, said once more in JSON schema, for the values of the chart.

Whoever installs a chart is told of a wrong value at once; the API server would tell the operator,
much later. Every rule needs its translation: one that nobody knows is refused. What JSON schema
cannot say, such as an order of two fields or a sum of durations, templates/_configuration.tpl says.
"""

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final

Schema = dict[str, Any]

DIGITS: Final = 6
DECIMALS: Final = 3
"""What a part of a duration may have before and after its point (handover_api.model)."""

UNITS: Final = {
    "h": Decimal(3_600_000_000),
    "m": Decimal(60_000_000),
    "s": Decimal(1_000_000),
    "ms": Decimal(1_000),
    "[uµ]s": Decimal(1),
}
"""Microseconds of each unit, by its pattern."""

NOT_ZERO: Final[Schema] = {"pattern": "[1-9]"}
_OCTET: Final = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_GROUP: Final = "[0-9A-Fa-f]{1,4}"
_IPV6: Final = "|".join(
    (
        f"({_GROUP}:){{7}}{_GROUP}",
        f"({_GROUP}:){{1,7}}:",
        *(f"({_GROUP}:){{1,{7 - n}}}(:{_GROUP}){{1,{n}}}" for n in range(1, 7)),
        f":(:{_GROUP}){{1,7}}",
        "::",
    )
)
_IPV4: Final = rf"{_OCTET}([.]{_OCTET}){{3}}"
_IP: Final = f"^({_IPV4}|{_IPV6})$"
_CIDR: Final = (
    rf"^({_IPV4}/([0-9]|[12][0-9]|3[0-2])"
    rf"|({_IPV6})/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))$"
)


class UntranslatedError(ValueError):
    """A rule of a CRD has no translation; the text is the rule."""


def of(schema: Schema) -> list[Schema]:
    """Return what the rules of this one schema say, without those of its parts."""
    rules = schema.get("x-kubernetes-validations", [])
    return [
        told(meanings, rule["message"])
        for rule in rules
        if (meanings := list(translate(rule["rule"])))
    ]


def told(meanings: list[Schema], message: str) -> Schema:
    """Return a schema that holds where all *meanings* do, and else is refused by the message.

    JSON schema has no messages of one's own: a pattern would be shown, or that a "not" failed. What
    a constant should have been is shown as it is, after "value must be".
    """
    return {"if": {"allOf": meanings}, "else": {"const": _wanted(message)}}


def _wanted(message: str) -> str:
    """Return what follows "must" in a message, so that it can follow "must be"."""
    found = re.fullmatch(r"spec\.\w+ must (?:be|hold)? ?(.+)", " ".join(message.split()))
    if found is None:
        raise UntranslatedError(message)
    return found[1].replace("not be ", "not ", 1)


def translate(rule: str) -> Iterator[Schema]:
    """Yield the schemas that all hold where *rule* does; none where only a template can say it."""
    text = " ".join(rule.split())
    for pattern, meaning in _RULES:
        found = re.fullmatch(pattern, text)
        if found is not None:
            yield from meaning(*found.groups())
            return
    raise UntranslatedError(text)


def less(bound: int) -> str:
    """Return a pattern of the whole numbers below *bound*, without leading zeros."""
    digits = str(bound)
    same = [
        f"{digits[:place]}[{0 if place else 1}-{int(digit) - 1}]{_any(len(digits) - place - 1)}"
        for place, digit in enumerate(digits)
        if int(digit) > (0 if place else 1)
    ]
    return "|".join(["0", *(f"[1-9]{_any(count)}" for count in range(len(digits) - 1)), *same])


def more(bound: int) -> str:
    """Return a pattern of the whole numbers above *bound*, without leading zeros."""
    digits = str(bound)
    same = [
        f"{digits[:place]}[{int(digit) + 1}-9]{_any(len(digits) - place - 1)}"
        for place, digit in enumerate(digits)
        if digit != "9"
    ]
    return "|".join([*same, *(f"[1-9]{_any(count)}" for count in range(len(digits), DIGITS))])


def _any(count: int) -> str:
    return f"[0-9]{{{count}}}" if count else ""


def _matches(pattern: str) -> Iterator[Schema]:
    # Python's \d has the digits of all scripts, Go's and JSON schema's have not.
    yield {"pattern": pattern.replace(r"\d", "[0-9]")}


def _above_zero(pattern: str) -> Iterator[Schema]:
    yield from _matches(pattern)
    yield NOT_ZERO


def _up_to(pattern: str, most: str) -> Iterator[Schema]:
    yield from _above_zero(pattern)
    yield {"not": {"pattern": _single(most, is_above=True)}}


def _zero_or_from(pattern: str, least: str) -> Iterator[Schema]:
    # The pattern ends in "$"; a bare 0 has no unit.
    yield {"pattern": f"^0$|{next(_matches(pattern))['pattern']}"}
    yield {"not": {"allOf": [NOT_ZERO, {"pattern": _single(least, is_above=False)}]}}


def _single(bound: str, *, is_above: bool) -> str:
    """Return a pattern of the durations of one part that are beyond a bound such as 20ms."""
    written = re.fullmatch(r"(\d+)(\w+)", bound)
    assert written is not None
    limit = int(written[1]) * UNITS[written[2]]
    parts = []
    for unit, size in UNITS.items():
        whole, rest = divmod(int(limit * 10**DECIMALS / size), 10**DECIMALS)
        number = _above(whole) if is_above else _below(whole, rest)
        if number and whole < 10**DIGITS:
            parts.append(f"0*({number}){unit}")
    return f"^({'|'.join(parts)})$"


def _above(whole: int) -> str:
    return f"({more(whole)})([.][0-9]+)?|{whole}[.][0-9]*[1-9][0-9]*"


def _below(whole: int, rest: int) -> str:
    """Return a pattern of the numbers below whole + rest / 1000; rest only where whole is 0."""
    if whole:
        return f"({less(whole)})([.][0-9]+)?"
    # Below 0.020 are 0.001 to 0.019, with or without zeros behind.
    written = sorted({f"{n:03}".rstrip("0") for n in range(1, rest)})
    return f"[.]({'|'.join(written)})0*" if written else ""


def _not_in(numbers: str, first: str, last: str) -> Iterator[Schema]:
    listed = [int(number) for number in numbers.split(",")]
    between = {"minimum": int(first), "maximum": int(last)}
    yield {"not": {"anyOf": [{"enum": listed}, between]}}


def _network() -> Iterator[Schema]:
    yield {"pattern": _CIDR}


def _address() -> Iterator[Schema]:
    yield {"pattern": _IP}


def _by_template(*_: str) -> Iterator[Schema]:
    yield from ()


_FORM: Final = r"self\.matches\(r'([^']+)'\)"
_ABOVE: Final = rf"{_FORM} && duration\(self\) > duration\('0s'\)"
_ZERO: Final = r"duration\(self\) == duration\('0s'\)"
_FROM: Final = r"duration\(self\) >= duration\('(\w+)'\)"
_VALUE: Final = r"self\.\?\w+\.orValue\(\d+\)"
_RULES: Final[tuple[tuple[str, Callable[..., Iterator[Schema]]], ...]] = (
    (_ABOVE, _above_zero),
    (rf"{_ABOVE} && duration\(self\) <= duration\('(\w+)'\)", _up_to),
    (rf"self == '0' \|\| {_FORM} && \({_ZERO} \|\| {_FROM}\)", _zero_or_from),
    (r"!\(self in \[([0-9, ]+)\]\) && \(self < (\d+) \|\| self > (\d+)\)", _not_in),
    (r"isIP\(self\)", _address),
    (r"isCIDR\(self\) && cidr\(self\) == cidr\(self\)\.masked\(\)", _network),
    (rf"{_VALUE} < {_VALUE}", _by_template),
    (
        rf"self\.\?\w+\.orValue\('\w+'\) != '\w+' \|\| {_VALUE} \+ \d+ != {_VALUE}",
        _by_template,
    ),
    (rf"!\({_VALUE} - {_VALUE} in \[([0-9, ]+)\]\)", _by_template),
)
