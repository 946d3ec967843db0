"""The bars of the house style: ``python -m handover_lab.house_style``, or `make lint`.

Sizes say nothing of quality, but what grows past them has lost its one concept. The words are
those that CONTRIBUTING.md bans: riddles, and names that fit everything.
"""

import ast
import io
import re
import statistics
import sys
import tokenize
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handover_lab import paths

SOURCES: Final = (
    "crds/handover_api",
    "operator/handover_operator",
    "nodeagent/handover_nodeagent",
)
TESTS: Final = ("tests",)
"""Those of the programs; the lab has its own in e2e/tests."""
PURE: Final = "pure rooms"
"""What the names of the import contracts say whose modules count as pure."""

# Names that fit everything say nothing; the others are riddles to a newcomer at 3 a.m.
VAGUE: Final = frozenset({"manager", "helper", "util", "utils", "common", "misc", "data", "info"})
PREFIXES: Final = ("do_", "handle_", "process_")
METAPHORS: Final = frozenset(
    {
        "attendance",
        "contest",
        "contests",
        "ear",
        "ears",
        "intake",
        "ledger",
        "lodging",
        "notices",
        "pace",
        "resident",
        "residents",
        "seating",
        "standing",
        "tally",
        "telling",
        "wish",
        "wishes",
    }
)
TERMS: Final = ("field_manager", "data_received")
"""Terms of Kubernetes and of asyncio, in which a banned word is right."""

_SKIPPED: Final = frozenset(
    {
        tokenize.ENCODING,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
        tokenize.COMMENT,
    }
)
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Documented = ast.Module | ast.ClassDef | _Function


@dataclass(frozen=True, slots=True)
class Function:
    """A function; its docstring is not among its *lines*, nor self among its *parameters*."""

    name: str
    lines: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Source:
    """One module, counted in lines."""

    path: str
    lines: int
    code: int
    comments: int
    docstrings: int
    ignores: int
    functions: tuple[Function, ...]
    banned: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of the table; *worst* names what to look at first."""

    point: str
    measured: str
    bar: str
    is_kept: bool
    worst: str = ""


def read(path: str, text: str) -> Source:
    """Count one module's *text*."""
    tree = ast.parse(text)
    documented = [node for node in ast.walk(tree) if isinstance(node, _Documented)]
    texts = [node for node in map(_docstring, _bodies(documented)) if node]
    described = {line for node in texts for line in _span(node)}
    code, comments, ignores = set[int](), 0, 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            is_directive = re.match(r"#\s*(noqa|type:|pragma:)", token.string)
            comments += not is_directive
            ignores += "type: ignore" in token.string
        elif token.type not in _SKIPPED:
            code.update(range(token.start[0], token.end[0] + 1))
    return Source(
        path=path,
        lines=len(text.splitlines()),
        code=len(code - described),
        comments=comments,
        docstrings=len(described),
        ignores=ignores,
        functions=tuple(_function(node) for node in documented if isinstance(node, _Function)),
        banned=tuple(sorted({name for name in _names(path, tree) if is_banned(name)})),
    )


def is_banned(name: str) -> bool:
    """Tell whether a word of *name*, in either spelling, says nothing or is a riddle."""
    spelled = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    for term in TERMS:
        spelled = spelled.replace(term, "")
    words = spelled.split("_")
    is_vague = not VAGUE.isdisjoint(words) or name.lstrip("_").startswith(PREFIXES)
    return is_vague or not METAPHORS.isdisjoint(words)


def bars(sources: Sequence[Source], pure: Sequence[str], tests: int) -> list[Bar]:
    """Hold *sources* against the bars; *pure* are dotted prefixes, *tests* lines of tests."""
    functions = [(one, source) for source in sources for one in source.functions]
    total = sum(source.lines for source in sources)
    share = sum(one.lines for one in sources if _is_pure(one.path, pure)) / total
    ratio = tests / total
    ignores = sum(source.ignores for source in sources)
    widest = max(functions, key=lambda pair: pair[0].parameters)
    banned = [name for source in sources for name in source.banned]
    longest = max(sources, key=lambda source: source.lines)
    longest_function, where = max(functions, key=lambda pair: pair[0].lines)
    return [
        Bar("pure share of lines", f"{share:.0%}", "≥ 50%", share >= 0.5),
        _sizes("module lines", [one.lines for one in sources], (170, 350, 500), longest.path),
        _sizes(
            "function lines",
            [one.lines for one, _ in functions],
            (10, 35, 60),
            f"{where.path}: {longest_function.name}",
        ),
        Bar(
            "parameters, most",
            str(widest[0].parameters),
            "≤ 6",
            widest[0].parameters <= 6,
            f"{widest[1].path}: {widest[0].name}",
        ),
        _density("comments per code line", sources, "comments", (0.05, 0.15)),
        _density("docstring lines per code line", sources, "docstrings", (0.15, 0.40)),
        Bar("type ignores", str(ignores), "≤ 5", ignores <= 5),
        Bar("tests : sources", f"{ratio:.2f}", "1.0-1.8", 1.0 <= ratio <= 1.8),
        Bar("banned words in names", str(len(banned)), "0", not banned),
    ]


def table(rows: Sequence[Bar]) -> str:
    """Lay the bars out for a person; what is missed says where to look."""
    widths = [max(len(getattr(row, name)) for row in rows) for name in ("point", "measured", "bar")]
    lines = []
    for row in rows:
        cells = (row.point, row.measured, row.bar)
        text = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append(f"  {'ok  ' if row.is_kept else 'MISS'}  {text}  {row.worst}".rstrip())
    return "\n".join(lines)


def main() -> int:
    """Print the table; fail where a bar is missed."""
    sources = [
        read(str(path.relative_to(paths.ROOT)), path.read_text()) for path in _files(SOURCES)
    ]
    tests = sum(len(path.read_text().splitlines()) for path in _files(TESTS))
    contracts = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    pure = [
        name
        for contract in contracts["contracts"]
        if PURE in contract["name"]
        for name in contract["source_modules"]
    ]
    rows = bars(sources, pure, tests)
    print(table(rows))
    for source in sources:
        if source.banned:
            print(f"  banned in {source.path}: {', '.join(source.banned)}")
    return 0 if all(row.is_kept for row in rows) else 1


def _sizes(point: str, sizes: Sequence[int], limits: tuple[int, int, int], worst: str) -> Bar:
    measured = (
        round(statistics.median(sizes)),
        sorted(sizes)[len(sizes) * 9 // 10],
        max(sizes),
    )
    is_kept = all(one <= limit for one, limit in zip(measured, limits, strict=True))
    shown, bar = (" / ".join(map(str, three)) for three in (measured, limits))
    return Bar(f"{point}, median / p90 / most", shown, f"≤ {bar}", is_kept, worst)


def _density(point: str, sources: Sequence[Source], what: str, limits: tuple[float, float]) -> Bar:
    code = sum(source.code for source in sources)
    density = sum(getattr(source, what) for source in sources) / code
    is_kept = limits[0] <= density <= limits[1]
    return Bar(point, f"{density:.3f}", f"{limits[0]:.2f}-{limits[1]:.2f}", is_kept)


def _is_pure(path: str, pure: Sequence[str]) -> bool:
    module = path.split("/", 1)[1].removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return any(module == one or module.startswith(f"{one}.") for one in pure)


def _files(roots: Sequence[str]) -> Iterator[Path]:
    for root in roots:
        yield from sorted((paths.ROOT / root).rglob("*.py"))


def _bodies(nodes: Sequence[_Documented]) -> Iterator[list[ast.stmt]]:
    for node in nodes:
        yield node.body
        if not isinstance(node, _Function):
            # A string under an assignment tells of the constant or the field above it.
            for above, below in zip(node.body, node.body[1:], strict=False):
                if isinstance(above, ast.Assign | ast.AnnAssign):
                    yield [below]


def _docstring(body: Sequence[ast.stmt]) -> ast.Expr | None:
    match body:
        case [ast.Expr(value=ast.Constant(value=str())) as text, *_]:
            return text
    return None


def _span(node: ast.expr | ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _function(node: _Function) -> Function:
    text = _docstring(node.body)
    lines = len(_span(node)) - (len(_span(text)) if text else 0)
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    names = [one.arg for one in given if one.arg not in {"self", "cls"}]
    return Function(node.name, lines, len(names))


def _names(path: str, tree: ast.Module) -> Iterator[str]:
    """Yield what the module defines, and its own name; words of libraries are theirs."""
    yield Path(path).stem
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr


if __name__ == "__main__":
    sys.exit(main())
