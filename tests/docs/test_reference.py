"""The reference pages are what the code says, and the tables written by hand miss nothing."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from handover_api.conditions import (
    ConfigurationCondition,
    ConfigurationReason,
    EndpointCondition,
    EndpointReason,
    MigrationCondition,
    MigrationReason,
)
from handover_lab.docs import chart, reference
from handover_lab.docs.pages import DOCS, ROOT
from handover_nodeagent.fsm.commands import EventReason

CONDITIONS = (DOCS / "conditions.md").read_text()
EVENT = re.compile(r'[Ee]vent\((?:[^()"]*,)?\s*"([A-Z]\w+)"')


@pytest.mark.parametrize("path", reference.generated(), ids=lambda path: path.name)
def test_a_reference_page_is_fresh(path: Path) -> None:
    assert path.read_text() == reference.generated()[path], "run make docs"


def test_no_page_is_left_of_what_exists_no_more() -> None:
    assert set(reference.PAGES.iterdir()) == set(reference.generated())


def section(title: str) -> list[list[str]]:
    """Return the rows of the table below a title of the page on conditions."""
    text = CONDITIONS.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def named(rows: list[list[str]], column: int) -> set[str]:
    """Return the names in a column, of which one cell may hold several."""
    return {name for row in rows for name in row[column].split(", ") if name}


def test_every_condition_of_a_migration_is_told() -> None:
    rows = section("Conditions of a LiveMigration")

    assert named(rows, 0) == {each.value for each in MigrationCondition}
    assert named(rows, 1) == {each.value for each in MigrationReason}


def test_every_condition_of_an_endpoint_is_told() -> None:
    rows = section("Conditions of a WorkloadEndpoint")

    assert named(rows, 0) == {each.value for each in EndpointCondition}
    assert named(rows, 1) == {each.value for each in EndpointReason}


def test_every_condition_of_a_configuration_is_told() -> None:
    rows = section("Conditions of a HandoverConfiguration")

    assert named(rows, 0) == {each.value for each in ConfigurationCondition}
    assert named(rows, 1) == {each.value for each in ConfigurationReason}


def test_every_event_is_told() -> None:
    told = named(section("Events"), 1)

    assert set(written_events()) - told == set()
    assert {each.value for each in EventReason} - told == set()
    assert (
        told
        - set(written_events())
        - {
            *EventReason,
            *MigrationReason,
            *named(section("Conditions of a HandoverConfiguration"), 1),
        }
        == set()
    )


def written_events() -> Iterator[str]:
    """Yield the reasons that stand as words in the sources of both programs."""
    for folder in ("operator", "nodeagent"):
        for path in (ROOT / folder).rglob("*.py"):
            yield from EVENT.findall(path.read_text())


def test_the_search_for_events_finds_those_that_are_known() -> None:
    assert {"Malformed", "NameClash", "Shadowed", "RouteContested", "TargetTimeout"} <= set(
        written_events()
    )


def test_every_kind_and_every_value_has_its_place() -> None:
    objects = (reference.PAGES / "objects.md").read_text()
    values = (reference.PAGES / "values.md").read_text()

    assert re.findall(r"^## (\w+)$", objects, re.MULTILINE) == [
        "HandoverConfiguration",
        "LiveMigration",
        "WorkloadEndpoint",
    ]
    assert "`spec" not in objects
    assert all(f"`{each.name}`" in values for each in chart.leaves(chart.values()))


def test_every_policy_of_the_chart_is_in_the_security_model() -> None:
    policies = [
        each.name.split(".")[1]
        for each in chart.leaves(chart.values())
        if each.name.startswith("policies.") and each.name.endswith(".enabled")
    ]
    told = re.findall(r"^\* policy `(\w+)`:", (DOCS / "security.md").read_text(), re.MULTILINE)

    assert told == policies
