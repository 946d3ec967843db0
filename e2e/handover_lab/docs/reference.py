"""The documentation's reference pages: ``python -m handover_lab.docs.reference``, or `make docs`.

Each page is made from what it describes: the CRDs, the chart's values, the registries of metrics,
the settings and the command lines of both programs. Tests check that all of it is fresh.
"""

import ast
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from handover_api.livemigration import LiveMigration
from handover_lab import paths
from handover_lab.docs import chart, commands
from handover_nodeagent import metrics as agent_metrics
from handover_nodeagent.configuration import VARIABLES
from handover_nodeagent.settings import AgentSettings
from handover_operator.kinds import Kind
from handover_operator.observability import metrics as operator_metrics
from handover_operator.settings import OperatorSettings

ROOT: Final = paths.ROOT
PAGES: Final = paths.DOCS / "reference"
MADE: Final = "<!-- Made by `make docs` from {source}: change that, then make it again. -->"
DEEPEST: Final = 3
"""How many fields below spec or status have rows of their own."""


def main() -> int:
    """Write the pages that are not fresh."""
    for path, text in generated().items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"made {path.relative_to(ROOT)}")
    return 0


def generated() -> dict[Path, str]:
    """Return every reference page with the content that it must have."""
    return {
        PAGES / "objects.md": objects(),
        PAGES / "values.md": values(),
        PAGES / "metrics.md": metrics(),
        PAGES / "settings.md": settings(),
        PAGES / "commands.md": page(
            "Commands",
            "the command lines of both programs",
            "With `--install-completion` a shell completes them.",
            *commands.sections(),
        ),
    }


def page(title: str, source: str, *parts: str) -> str:
    """Put a page together."""
    return "\n\n".join((f"# {title}", MADE.format(source=source), *parts)) + "\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table; a bar or a line break in a cell is written so that it stays one."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell(each) for each in line)} |" for line in lines)


def cell(text: str) -> str:
    """Return *text* as it may stand in a table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def objects() -> str:
    """Describe the fields of the three kinds, as the API server explains them."""
    parts = []
    for path in sorted(chart.CRDS.glob("*.yaml")):
        definition = yaml.safe_load(path.read_text())["spec"]
        (version,) = definition["versions"]
        schema = version["schema"]["openAPIV3Schema"]
        names = definition["names"]
        called = f"`kubectl get {(names.get('shortNames') or [names['plural']])[0]}`"
        parts += [
            f"## {names['kind']}",
            schema.get("description", ""),
            f"{definition['scope']}; {called}; `{definition['group']}/{version['name']}`.",
        ]
        for half in ("spec", "status"):
            found = schema["properties"][half]
            parts += [
                f"### {names['kind']} {half}",
                table(("field", "type", "meaning"), fields(found, "", 1)),
                *rules(found),
            ]
    introduction = (
        "`kubectl explain livemigration.spec`, `workloadendpoint.spec` or "
        "`handoverconfiguration.spec` tells the same on the command line."
    )
    return page("Objects", "`crds/*.yaml`", introduction, *filter(None, parts))


def fields(schema: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, ...]]:
    """Yield one row per field, those of objects and lists of objects after their own."""
    for name, each in schema.get("properties", {}).items():
        required = ", required" if name in schema.get("required", ()) else ""
        default = f", default `{json.dumps(each['default'])}`" if "default" in each else ""
        is_list = each.get("type") == "array"
        path = f"{prefix}{name}{'[]' if is_list else ''}"
        meaning = each.get("description", "")
        yield f"`{path}`", f"{kind(each)}{required}{default}", meaning
        inner = each.get("items", {}) if is_list else each
        if depth < DEEPEST and "conditions" not in name:
            yield from fields(inner, f"{path}.", depth + 1)


def kind(schema: Mapping[str, Any]) -> str:
    """Name the type of a field, or the values that it may have."""
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if schema.get("type") == "array":
        return f"list of {schema['items'].get('type', 'object')}"
    return str(schema.get("type", "object"))


def rules(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the sentences with which the API server refuses an object."""
    found = [each["message"] for each in every_rule(schema) if "message" in each]
    if found:
        yield "Refused with a sentence:"
        yield "\n".join(f"- {each.replace('<', '&lt;')}" for each in dict.fromkeys(found))


def every_rule(schema: object) -> Iterator[Mapping[str, Any]]:
    """Yield the CEL rules of a schema and of all that it holds."""
    if isinstance(schema, Mapping):
        yield from schema.get("x-kubernetes-validations", ())
        for each in schema.values():
            yield from every_rule(each)


def values() -> str:
    """Describe the chart's values."""
    introduction = "Anything else is refused by the chart's `values.schema.json`."
    return page(
        "Chart values",
        "`charts/handover/values.yaml`",
        introduction,
        chart.table(chart.values()).strip(),
    )


def metrics() -> str:
    """Describe what both programs count."""
    census = operator_metrics._Census(Nobody())  # noqa: SLF001  it registers itself only to count
    introduction = (
        "Both programs serve `/metrics`: the operator on port 8080, the node agent on 8081 of its "
        "node. The operator's registry has the usual `process_*` and `python_info` besides."
    )
    return page(
        "Metrics",
        "the `metrics.py` of both programs",
        introduction,
        "## Operator",
        metric_table((*collectors(operator_metrics), census)),
        "## Node agent",
        metric_table(collectors(agent_metrics)),
    )


class Nobody:
    """An empty cluster, of which the operator's census still tells the names."""

    def count(self, kind: Kind) -> int:
        """Count nothing."""
        del kind
        return 0

    def migrations(self) -> Iterator[LiveMigration]:
        """Return none."""
        return iter(())


def collectors(module: object) -> tuple[Collector, ...]:
    """Return the metrics that a module defines, in its order."""
    kinds = (MetricWrapperBase, agent_metrics.Counted)
    return tuple(each for each in vars(module).values() if isinstance(each, kinds))


def metric_table(found: Iterable[Collector]) -> str:
    """Return one row per metric."""
    rows = [
        (f"`{sample_name(each)}`", each.type, labels_of(collector, each), each.documentation)
        for collector in found
        for each in described(collector)
    ]
    return table(("metric", "type", "labels", "meaning"), rows)


def described(collector: Collector) -> Iterable[Metric]:
    """Ask a collector what it has, without its samples where it can say so."""
    return collector.describe() if isinstance(collector, MetricWrapperBase) else collector.collect()


def sample_name(metric: Metric) -> str:
    """Return the name under which Prometheus knows it."""
    return metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "")


def labels_of(collector: Collector, metric: Metric) -> str:
    """Return the names of its labels; the library has no public word for them."""
    names = getattr(collector, "_labelnames", ()) or tuple(
        dict.fromkeys(name for sample in metric.samples for name in sample.labels)
    )
    return ", ".join(f"`{each}`" for each in names)


def settings() -> str:
    """Describe the environment variables of both programs."""
    overridden = [(f"`{name}`", f"`{field}`") for name, field in VARIABLES.items()]
    return page(
        "Settings",
        "the `settings.py` of both programs",
        "The chart sets what it must; `operator.env` and `nodeagent.env` set the others.",
        "## Operator: `handover-operator run`",
        variable_table(OperatorSettings),
        "## Node agent: `handover-nodeagent run`",
        variable_table(AgentSettings),
        "## Fields of HandoverConfiguration, on one agent",
        "They go before `node.NAME`, which goes before `default`, which goes before the built-in.",
        table(("variable", "field"), overridden),
    )


def variable_table(owner: type[BaseSettings]) -> str:
    """Return one row per setting."""
    meanings = attribute_docstrings(owner)
    prefix = owner.model_config["env_prefix"]
    rows = []
    for name, field in owner.model_fields.items():
        meaning = meanings.get(name, "")
        if choices := getattr(field.annotation, "__args__", ()):
            words = [each for each in choices if isinstance(each, str)]
            meaning = f"{meaning} {', '.join(f'`{each}`' for each in words)}"
        variable = f"`{prefix}{name}`".upper()
        rows.append((variable, default_of(field), meaning.strip()))
    return table(("variable", "default", "meaning"), rows)


def default_of(field: FieldInfo) -> str:
    """Say what a setting is that nobody sets."""
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "made at start"
    if field.default in {None, ""}:
        return "empty"
    written = str(field.default)
    return f"`{written.lower() if isinstance(field.default, bool) else written}`"


def attribute_docstrings(owner: type) -> dict[str, str]:
    """Return the text below each attribute of a class, which Python does not keep."""
    (definition,) = ast.parse(inspect.getsource(owner)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for before, after in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[before.target.id] = inspect.cleandoc(str(after.value.value)).replace("``", "`")
    return found


if __name__ == "__main__":
    sys.exit(main())
