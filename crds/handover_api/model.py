"""The base of all API types: frozen values that read and write the API's camelCase JSON.

Unknown fields are ignored, as the API server prunes them; a wrong value raises
``pydantic.ValidationError``, which names the field.
"""

import datetime as dt
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeVar

import pydantic
from pydantic.alias_generators import to_camel

# In microseconds, the finest that a timedelta holds; Go's own "ns" is none of the schema's.
_UNITS: Final = {
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
    "us": 1,
    "µs": 1,
}
# As the schema has it: no part of a microsecond, and nothing too long for an int64 of nanoseconds,
# which is how CEL and Go keep a duration.
_TERM: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3}(?![0-9uµ]))?)(ms|us|µs|h|m|s)")
_DURATION: Final = re.compile(rf"(?:{_TERM.pattern})+")
# The schema's maxLength.
_LONGEST_DURATION: Final = 20


def parse_duration(text: str) -> dt.timedelta:
    """Read a duration as Go and CEL write it: ``200ms``, ``1m30s``, ``0``.

    Raises ValueError for anything else, negative durations included.
    """
    if text == "0":
        return dt.timedelta()
    if len(text) > _LONGEST_DURATION or not _DURATION.fullmatch(text):
        message = f"{text!r} is not a duration such as 200ms, 30s or 10m"
        raise ValueError(message)
    microseconds = sum(float(number) * _UNITS[unit] for number, unit in _TERM.findall(text))
    return dt.timedelta(microseconds=microseconds)


def format_duration(value: dt.timedelta) -> str:
    """Write *value*, below 1000 hours, in a form that :func:`parse_duration` reads back."""
    rest = round(value / dt.timedelta(microseconds=1))
    text = ""
    for unit in ("h", "m", "s", "ms", "us"):
        count, rest = divmod(rest, _UNITS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0"


def field_path(location: Iterable[int | str]) -> str:
    """Write where an error is; pydantic's names for the members of a union say nothing."""
    return ".".join(str(part) for part in location if isinstance(part, int) or "[" not in part)


def _read_duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


Duration = Annotated[
    dt.timedelta,
    pydantic.BeforeValidator(_read_duration),
    pydantic.PlainSerializer(format_duration, return_type=str),
]


_REACH: Final = range(1, 9000)
"""The years of a time to which a span can be added and which every zone can show."""


def _within_reach(value: dt.datetime) -> dt.datetime:
    if value.year not in _REACH:
        message = f"the year {value.year} is out of reach"
        raise ValueError(message)
    return value


Moment = Annotated[pydantic.AwareDatetime, pydantic.AfterValidator(_within_reach)]
"""A time that can be compared and counted on from, whoever wrote it."""


class Model(pydantic.BaseModel):
    """A frozen API value; Python names are snake_case, JSON names camelCase."""

    model_config = pydantic.ConfigDict(
        alias_generator=to_camel,
        frozen=True,
        populate_by_name=True,
        extra="ignore",
        serialize_by_alias=True,
    )

    def to_object(self) -> dict[str, Any]:
        """Return the JSON form without absent fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


_M = TypeVar("_M", bound=Model)


def _read_leniently(value: object, read: pydantic.ValidatorFunctionWrapHandler) -> object:
    try:
        return read(value)
    except pydantic.ValidationError as error:
        # Field by field: one that a newer version has changed must not cost the others.
        wrong = {each["loc"][0] for each in error.errors(include_url=False) if each["loc"]}
        fields = value.items() if isinstance(value, dict) else ()
        return read({name: field for name, field in fields if name not in wrong})


Lenient = Annotated[_M, pydantic.WrapValidator(_read_leniently)]
"""A status. What a newer version of ours wrote, and this one cannot read, counts as absent.

Only our own programs write it: what somebody wants stands in the spec, which is read strictly.
"""


class OwnerReference(Model):
    """Who an object belongs to; at most one of them is its controller."""

    kind: str
    name: str
    uid: str
    controller: bool = False


class Metadata(Model):
    """What Handover reads of an object's metadata."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: Moment | None = None
    deletion_timestamp: Moment | None = None
    labels: dict[str, str] = pydantic.Field(default_factory=dict)
    annotations: dict[str, str] = pydantic.Field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()


class Condition(Model):
    """A metav1 condition."""

    type: str
    status: str
    reason: str
    message: str = ""
    last_transition_time: Moment
    observed_generation: int = 0
