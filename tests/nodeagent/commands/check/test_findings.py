"""A check that breaks is a finding, and costs no other one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from handover_nodeagent.commands.check import command, findings
from handover_nodeagent.commands.check.findings import Finding, Verdict


def broken() -> Iterator[Finding]:
    """Find something, then break."""
    yield findings.ok("x", "well so far")
    message = "odd"
    raise ValueError(message)


def test_a_check_that_breaks_keeps_what_it_found_and_says_so() -> None:
    found = findings.attempt("x", broken)
    assert [(one.verdict, one.message) for one in found] == [
        (Verdict.OK, "well so far"),
        (Verdict.FAIL, "this could not be looked at: ValueError: odd"),
    ]


def test_a_configuration_that_nobody_remembers_is_not_called_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HANDOVER_PROBE_INTERVAL", raising=False)
    _, (found,) = command.settings_in_force(tmp_path)
    assert found.verdict is Verdict.WARN
    assert "waits for the API server" in found.message
