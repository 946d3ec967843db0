"""What a check found, and what to do about it."""

import enum
from collections.abc import Callable, Iterable
from typing import Final

from handover_api.model import Model


class Verdict(enum.StrEnum):
    """How bad it is: only *fail* keeps something from working."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(Model):
    """One line: ``remedy`` says what to do, "" where nothing is to be done."""

    check: str
    verdict: Verdict
    message: str
    remedy: str = ""


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check=check, verdict=Verdict.OK, message=message)


def warn(check: str, message: str, remedy: str) -> Finding:
    """It may bite under some circumstances."""
    return Finding(check=check, verdict=Verdict.WARN, message=message, remedy=remedy)


def fail(check: str, message: str, remedy: str) -> Finding:
    """Something does not work."""
    return Finding(check=check, verdict=Verdict.FAIL, message=message, remedy=remedy)


def attempt(check: str, find: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return what *find* finds; where it ends in an error, that is what was found.

    So no check costs the others: a person who asks has trouble already.
    """
    found: list[Finding] = []
    try:
        # One by one: what was found before the error stays.
        found.extend(find())
    except Exception as error:  # noqa: BLE001  the root of a check
        text = f"this could not be looked at: {type(error).__name__}: {error}"
        found.append(fail(check, text, "report this, with the agent's version"))
    return found


# Below the message: behind the verdict's column.
_INDENTED: Final = "\n" + " " * 6


def render(findings: Iterable[Finding]) -> str:
    """Write them for a person: one line each, and what to do below."""
    return "\n".join(
        f"{one.verdict:<4}  {one.check}: {one.message}"
        + (f"{_INDENTED}-> {one.remedy}" if one.remedy else "")
        for one in findings
    )


def has_failed(findings: Iterable[Finding]) -> bool:
    """Tell whether anything does not work."""
    return any(one.verdict is Verdict.FAIL for one in findings)
