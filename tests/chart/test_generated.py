"""What is made from the chart's values, the CRDs and the version is fresh, and closed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from handover_api import __version__
from handover_api.configuration import Settings
from handover_lab.docs import chart
from handover_lab.docs.chart import CHART, CRDS, UnreadableError, Value

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object that a schema describes."""
    if schema.get("type") == "object" and path != ".global":
        yield path, schema
    for name, each in schema.get("properties", {}).items():
        yield from objects(each, f"{path}.{name}")
    if "items" in schema:
        yield from objects(schema["items"], f"{path}[]")


@pytest.mark.parametrize("path", chart.generated(), ids=lambda path: path.name)
def test_a_generated_file_is_fresh(path: Path) -> None:
    assert chart.generated()[path] == path.read_text(), "stale: run make chart"


def test_the_chart_has_no_kind_that_is_no_more() -> None:
    assert chart.strangers() == []


def test_the_copies_of_the_kinds_are_the_kinds() -> None:
    copies = {path.name: path.read_bytes() for path in (CHART / "files" / "crds").iterdir()}

    assert copies == {path.name: path.read_bytes() for path in CRDS.glob("*.yaml")}


def test_chart_and_images_have_one_version() -> None:
    read = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert (__version__, __version__) == (read["version"], read["appVersion"])


def test_every_object_is_closed_or_says_what_it_holds() -> None:
    open_objects = [path for path, each in objects(SCHEMA) if "additionalProperties" not in each]

    assert open_objects == []


def test_only_types_of_kubernetes_own_are_left_to_kubernetes() -> None:
    unchecked = [path for path, each in objects(SCHEMA) if each["additionalProperties"] is True]
    pods = ("podSecurityContext", "securityContext", "affinity")

    assert unchecked == [
        ".networkPolicy.metricsFrom[]",
        *(f".{program}.{name}" for program in ("operator", "nodeagent") for name in pods),
    ]


def test_the_defaults_satisfy_the_schema() -> None:
    jsonschema.validate(yaml.safe_load((CHART / "values.yaml").read_text()), SCHEMA)


def test_the_configuration_takes_every_field_that_the_agents_know() -> None:
    taken = SCHEMA["properties"]["configuration"]["properties"]

    assert {field.alias for field in Settings.model_fields.values()} == set(taken)


def test_the_configuration_keeps_the_limits_of_the_kind() -> None:
    taken = SCHEMA["properties"]["configuration"]["properties"]

    assert taken["mode"]["enum"] == ["active", "observe", "paused"]
    assert (taken["routeProtocol"]["minimum"], taken["routeProtocol"]["maximum"]) == (5, 254)
    assert "x-kubernetes" not in json.dumps(taken)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "# How deep.\n# @schema {minimum: 1}\ndepth: 3\n",
            Value("depth", "How deep.", 3, {"minimum": 1}),
        ),
        (
            "# A pond.\npond:\n  # First line,\n  # second line.\n  name: ''\n",
            Value("pond", "A pond.", parts=(Value("pond.name", "First line, second line.", ""),)),
        ),
        ("# Labels.\nlabels: {}\n", Value("labels", "Labels.", {})),
        (
            "# What it asks for.\n# @schema resources\nresources: {limits: {memory: 1Mi}}\n",
            Value("resources", "What it asks for.", {"limits": {"memory": "1Mi"}}, chart.RESOURCES),
        ),
    ],
    ids=["a narrowed value", "a section", "an empty map", "a map that is one value"],
)
def test_a_value_is_read_with_its_comment(text: str, expected: Value) -> None:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)

    assert [expected] == list(chart.read(node, text.splitlines(), ""))


def test_a_value_without_a_description_is_refused() -> None:
    text = "# A pond.\npond:\n  depth: 3\n"
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)

    with pytest.raises(UnreadableError, match=r"pond\.depth has no comment"):
        list(chart.read(node, text.splitlines(), ""))


def test_the_table_stands_between_its_marks_and_nothing_else_changes() -> None:
    readme = f"before\n{chart.BEGIN}old\n{chart.END}after\n"

    made = chart.with_table(readme, (Value("depth", "How deep.", 3),))

    assert made.startswith(f"before\n{chart.BEGIN}")
    assert made.endswith(f"{chart.END}after\n")
    assert "| `depth` | How deep. | `3` |" in made
    assert "old" not in made
    assert chart.with_table(made, (Value("depth", "How deep.", 3),)) == made
