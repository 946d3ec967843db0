"""Objects as an API server may hold them, drawn from our own schemas; and rounds against a clock.

Most of what is drawn is valid and odd; now and then a field is absent, of another type, or a word
that an older program does not know. ``HANDOVER_FUZZ_SECONDS`` is how long a fuzzer goes on
(`make fuzz`), ``HANDOVER_FUZZ_SEED`` repeats a run from the seed that it printed.
"""

import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import hypothesis
import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

Raw = dict[str, Any]
Schema = Mapping[str, Any]
Draws = st.SearchStrategy[Any]

CRDS: Final = Path(__file__).parents[1] / "crds"
SECONDS: Final = float(os.environ.get("HANDOVER_FUZZ_SECONDS", "8"))
"""In CI a few seconds in each run find in the long run what an hour does at once."""
SHRINKS: Final = "HANDOVER_FUZZ_SHRINK" in os.environ
"""Whether to look for the smallest history that fails, which takes minutes."""
EXAMPLES: Final = 20
"""Histories in a round: a seed of its own makes each round short to repeat."""
LABELS: Final = 200
ENTRIES: Final = 40
"""Far above what anybody lists by hand, far below the API server's limit of 1.5 MB."""

_words: Final = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
_simple: Final = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), _words)
wrong: Final[Draws] = st.one_of(
    _simple, st.lists(_simple, max_size=3), st.dictionaries(_words, _simple, max_size=3)
)
"""A value of any type that JSON has."""
_times: Final = st.sampled_from(
    [
        "2026-11-24T12:00:00Z",
        "2026-11-24T12:00:00.123456Z",
        "2026-11-24T12:00:00.123456789+14:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "1969-12-31T23:59:60Z",
    ]
)


def schema(plural: str) -> Schema:
    """Return the schema of one of our kinds."""
    crd = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    found: Schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return found


def rarely(usual: Draws, unusual: Draws, *, one_in: int = 25) -> Draws:
    """Draw *unusual* once in a while."""
    return st.integers(1, one_in).flatmap(lambda drawn: unusual if drawn == one_in else usual)


def values(of: Schema, known: Mapping[str, Draws], name: str = "") -> Draws:
    """Draw values of a schema; *known* has better ones for fields of these names."""
    if name in known:
        usual = known[name]
    elif "enum" in of:
        usual = rarely(st.sampled_from(of["enum"]), st.sampled_from(["FromTheFuture", ""]))
    else:
        usual = _PLAIN.get(of.get("type", ""), _anything)(of, known)
    return rarely(usual, wrong, one_in=60)


def _objects(of: Schema, known: Mapping[str, Draws]) -> Draws:
    if "properties" not in of:
        value = of.get("additionalProperties")
        each = values(value, known) if isinstance(value, dict) else wrong
        return st.dictionaries(_words, each, max_size=5)
    needed = {*of.get("required", ())}
    fields = {name: values(part, known, name) for name, part in of["properties"].items()}
    return st.fixed_dictionaries(
        {name: drawn for name, drawn in fields.items() if name in needed},
        optional={name: drawn for name, drawn in fields.items() if name not in needed},
    )


def _arrays(of: Schema, known: Mapping[str, Draws]) -> Draws:
    each = values(of.get("items", {}), known)
    most = min(of.get("maxItems", ENTRIES), ENTRIES)
    return rarely(
        st.lists(each, min_size=of.get("minItems", 0), max_size=min(3, most)),
        each.map(lambda one: [one] * most),
    )


def _strings(of: Schema, known: Mapping[str, Draws]) -> Draws:
    del known
    if of.get("format") == "date-time":
        return _times
    return rarely(_words, st.just("x" * min(of.get("maxLength", 5000), 5000)))


def _integers(of: Schema, known: Mapping[str, Draws]) -> Draws:
    del known
    bits = 63 if of.get("format") == "int64" else 31
    return st.integers(of.get("minimum", -(2**bits)), of.get("maximum", 2**bits - 1))


def _booleans(of: Schema, known: Mapping[str, Draws]) -> Draws:
    del of, known
    return st.booleans()


def _anything(of: Schema, known: Mapping[str, Draws]) -> Draws:
    del of, known
    return wrong


_PLAIN: Final[Mapping[str, Callable[[Schema, Mapping[str, Draws]], Draws]]] = {
    "object": _objects,
    "array": _arrays,
    "string": _strings,
    "integer": _integers,
    "boolean": _booleans,
}


def crowd(prefix: str = "") -> Draws:
    """Draw labels, of which there may be very many."""
    few = st.dictionaries(st.sampled_from(["app", "vm", "job"]), _words, max_size=3)
    many = st.just({f"{prefix}label-{number}": "x" * 63 for number in range(LABELS)})
    return rarely(few, many)


def rounds(
    check: Callable[[Any], None], drawn: Draws, *, seconds: float = SECONDS, at_least: int = 1
) -> int:
    """Let *check* meet what is drawn until the time is over; return how many rounds it met.

    The seed of the first round is printed; each next one is its successor, and a failure names
    its own.
    """
    seed = int(os.environ.get("HANDOVER_FUZZ_SEED") or random.SystemRandom().getrandbits(32))
    print(f"HANDOVER_FUZZ_SEED={seed}")  # noqa: T201  pytest shows it where a test fails
    lenient = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink) if SHRINKS else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    until, done = time.monotonic() + seconds, 0
    while done < at_least or time.monotonic() < until:
        test = hypothesis.seed(seed + done)(lenient(hypothesis.given(drawn)(_unnamed(check))))
        try:
            test()
        except BaseException as error:
            error.add_note(f"repeat with HANDOVER_FUZZ_SEED={seed + done}")
            raise
        done += 1
    return done


def _unnamed(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """A method or a nested function has a form that hypothesis cannot wrap."""

    def meet(drawn: Any) -> None:
        check(drawn)

    return meet
