"""The generated files of the Helm chart: ``python -m handover_lab.docs.chart``, or `make chart`.

Their sources are charts/handover/values.yaml, crds/*.yaml and the version of handover_api. Helm
packs no file from outside of a chart's folder, so the CRDs are copied into it. Tests check that
all of it is fresh.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from handover_api import __version__
from handover_lab import paths
from handover_lab.docs import chart_rules

ROOT: Final = paths.ROOT
CHART: Final = paths.CHART
CRDS: Final = paths.CRDS
CONFIGURATION: Final = CRDS / "handoverconfigurations.yaml"
BEGIN: Final = "<!-- values: made by `make chart` -->\n"
END: Final = "<!-- end of values -->\n"
MARK: Final = "@schema "
DRAFT: Final = "http://json-schema.org/draft-07/schema#"
"""The one that both Helm 3 and Helm 4 check values by."""

Schema = dict[str, Any]

QUANTITIES: Final[Schema] = {
    "type": "object",
    "additionalProperties": {
        "type": ["string", "number"],
        "minimum": 0,
        "pattern": "^[0-9]+([.][0-9]+)?([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]+)?$",
    },
}
RESOURCES: Final[Schema] = {
    "additionalProperties": False,
    "properties": {"requests": QUANTITIES, "limits": QUANTITIES},
}
TOLERATIONS: Final[Schema] = {
    "items": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "key": {"type": "string"},
            "operator": {"type": "string"},
            "value": {"type": "string"},
            "effect": {"type": "string"},
            "tolerationSeconds": {"type": "integer"},
        },
    }
}
SPREADING: Final[Schema] = {
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["maxSkew", "topologyKey", "whenUnsatisfiable"],
        "properties": {
            "maxSkew": {"type": "integer", "minimum": 1},
            "topologyKey": {"type": "string"},
            "whenUnsatisfiable": {"enum": ["DoNotSchedule", "ScheduleAnyway"]},
            "minDomains": {"type": "integer", "minimum": 1},
            "nodeAffinityPolicy": {"enum": ["Honor", "Ignore"]},
            "nodeTaintsPolicy": {"enum": ["Honor", "Ignore"]},
        },
    }
}
VALIDATION_ACTIONS: Final[Schema] = {
    "minItems": 1,
    "uniqueItems": True,
    "items": {"enum": ["Deny", "Warn", "Audit"]},
    # The API server takes no policy that refuses and warns of the same. See chart_rules.told.
    "if": {"allOf": [{"contains": {"const": "Deny"}}, {"contains": {"const": "Warn"}}]},
    "then": {"const": "Deny or Warn, not both; Audit beside either"},
}
TYPES: Final = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}


class UnreadableError(ValueError):
    """values.yaml has a value that cannot be described; the text names it."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the chart, or with ``parts`` a section of values."""

    name: str
    description: str
    default: object = None
    narrowing: Mapping[str, object] = field(default_factory=dict)
    parts: tuple["Value", ...] = ()


def main() -> int:
    """Write what is not fresh."""
    for path, content in generated().items():
        if not path.exists() or path.read_text() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            print(f"made {path.relative_to(ROOT)}")
    for path in strangers():
        path.unlink()
        print(f"removed {path.relative_to(ROOT)}")
    return 0


def generated() -> dict[Path, str]:
    """Return every generated file of the chart with the content that it must have."""
    found = values()
    copies = {
        CHART / "files" / "crds" / each.name: each.read_text() for each in CRDS.glob("*.yaml")
    }
    return {
        CHART / "Chart.yaml": versioned((CHART / "Chart.yaml").read_text()),
        CHART / "README.md": with_table((CHART / "README.md").read_text(), found),
        CHART / "values.schema.json": json.dumps(root_schema(found), indent=2) + "\n",
        **copies,
    }


def strangers() -> list[Path]:
    """Return copies of CRDs that exist no more."""
    copies = (CHART / "files" / "crds").glob("*")
    return sorted(each for each in copies if not (CRDS / each.name).exists())


def values() -> tuple[Value, ...]:
    """Read values.yaml with its comments."""
    text = (CHART / "values.yaml").read_text()
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    return tuple(read(node, text.splitlines(), ""))


def read(section: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[Value]:
    """Yield the values of a section; one that has no description is refused."""
    for key, content in section.value:
        name = f"{prefix}{key.value}"
        description, narrowing = comment(lines, key.start_mark.line)
        is_section = isinstance(content, yaml.MappingNode) and content.value and not narrowing
        if not is_section and not description:
            message = f"values.yaml: {name} has no comment that describes it"
            raise UnreadableError(message)
        if is_section:
            parts = tuple(read(content, lines, f"{name}."))
            yield Value(name, description, parts=parts)
        else:
            default = yaml.safe_load(yaml.serialize(content))
            yield Value(name, description, default, narrowing)


def comment(lines: list[str], line: int) -> tuple[str, Mapping[str, object]]:
    """Return the description above a line, and what its ``@schema`` line narrows."""
    above = []
    for text in reversed(lines[:line]):
        if not text.lstrip().startswith("#"):
            break
        above.append(text.lstrip().removeprefix("#").strip())
    marked = [text.removeprefix(MARK) for text in above if text.startswith(MARK)]
    described = [text for text in reversed(above) if not text.startswith(MARK)]
    return " ".join(described), narrowing_of(marked[0]) if marked else {}


def narrowing_of(text: str) -> Mapping[str, object]:
    """Return a named schema, or the one that is written out (YAML)."""
    match text:
        case "configuration":
            return configuration_schema()
        case "resources":
            return RESOURCES
        case "tolerations":
            return TOLERATIONS
        case "spreading":
            return SPREADING
        case "validationActions":
            return VALIDATION_ACTIONS
    written: Mapping[str, object] = yaml.safe_load(text)
    return written


def configuration_schema() -> Schema:
    """Return the schema of HandoverConfiguration's spec, closed and without Kubernetes' words."""
    definition = yaml.safe_load(CONFIGURATION.read_text())
    (version,) = definition["spec"]["versions"]
    spec: Schema = plain(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    return {"properties": spec["properties"], "additionalProperties": False}


def plain(schema: Any) -> Any:  # noqa: ANN401  JSON
    """Say in JSON schema's words alone what the API server's say."""
    if isinstance(schema, list):
        return [plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: each for key, each in schema.items() if not key.startswith("x-kubernetes-")}
    if isinstance(kept.get("format"), str):
        del kept["format"]
    rules = chart_rules.of(schema)
    if schema.get("x-kubernetes-list-type") == "set":
        kept["uniqueItems"] = True
    said = {key: plain(each) for key, each in kept.items()}
    # Of a rule among others Helm says first that "allOf" failed.
    return said | (rules[0] if len(rules) == 1 else {"allOf": rules} if rules else {})


def root_schema(found: tuple[Value, ...]) -> Schema:
    """Return the schema of all values: what it does not name is refused."""
    schema = section_schema(found)
    # What a parent chart shares with all of its parts.
    schema["properties"]["global"] = {"type": "object"}
    return {"$schema": DRAFT, "title": "Values of the chart handover", **schema}


def section_schema(parts: tuple[Value, ...]) -> Schema:
    """Return the closed schema of a section."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {each.name.rpartition(".")[2]: value_schema(each) for each in parts},
    }


def value_schema(value: Value) -> Schema:
    """Return the schema of one value or section: the default's type, narrowed."""
    described = {"description": value.description} if value.description else {}
    if value.parts:
        return {**described, **section_schema(value.parts)}
    return {**described, "type": TYPES[type(value.default)], **value.narrowing}


def with_table(readme: str, found: tuple[Value, ...]) -> str:
    """Return *readme* with the table of all values between its marks."""
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table(found)}\n{END}{tail}"


def table(found: tuple[Value, ...]) -> str:
    """Return a Markdown table of all values."""
    rows = [
        f"| `{each.name}` | {each.description} | `{json.dumps(each.default)}` |\n"
        for each in leaves(found)
    ]
    return "| value | meaning | default |\n|---|---|---|\n" + "".join(rows)


def leaves(found: tuple[Value, ...]) -> Iterator[Value]:
    """Yield the values of all sections, in their order."""
    for each in found:
        if each.parts:
            yield from leaves(each.parts)
        else:
            yield each


def versioned(chart: str) -> str:
    """Return Chart.yaml with our version in both places."""
    return re.sub(r"^(version|appVersion): .*$", rf"\1: {__version__}", chart, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
