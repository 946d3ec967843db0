"""PURE: the small faults that a module's tests should notice, one at a time.

A tool that knows functions only would leave the state machine's tables and the filter's programs
alone, and those are where a wrong word costs most. So constants, members of enumerations and
entries of literals change as well.
"""

import ast
import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_COMPARED: Final[Mapping[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_CALCULATED: Final[Mapping[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_CALLED: Final = {"any": "all", "all": "any", "min": "max", "max": "min"}
_UNTOUCHED: Final = frozenset({"annotation", "returns", "decorator_list", "type_params"})
"""Parts that say something to a reader, a type checker or a class decorator only."""

_SHOWN: Final = 60

Put = Callable[[ast.AST], None]
"""Puts another node where a node is."""


@dataclass(frozen=True, slots=True)
class Change:
    """One fault: ``make`` works it into the tree that it was found in."""

    line: int
    where: str
    text: str
    make: Callable[[], None]


def changes(tree: ast.Module, members: Mapping[str, type[enum.Enum]]) -> list[Change]:
    """Return all faults of *tree*, always in the same order.

    *members*: the enumerations that the module knows, by the name that it has for them.
    """
    return list(_Finder(members).visit(tree, ""))


def _change(where: str, old: ast.AST, new: ast.AST, put: Put) -> Change:
    before, after = (" ".join(ast.unparse(node).split()) for node in (old, new))
    # Of long lines what differs, with a few characters around it.
    same = next(
        (at for at, pair in enumerate(zip(before, after, strict=False)) if len({*pair}) > 1), 0
    )
    begin = 0 if max(len(before), len(after)) <= _SHOWN else max(0, same - _SHOWN // 4)
    before, after = (f"{text[begin : begin + _SHOWN]}" for text in (before, after))
    return Change(
        getattr(old, "lineno", 0), where or "module", f"{before} → {after}", lambda: put(new)
    )


class _Finder:
    def __init__(self, members: Mapping[str, type[enum.Enum]]) -> None:
        self._members = members

    def visit(self, node: ast.AST, where: str) -> Iterator[Change]:
        """Yield the faults of all that *node* holds."""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            where = f"{where}.{node.name}" if where else node.name
        for field, value in ast.iter_fields(node):
            if field in _UNTOUCHED:
                continue
            children = value if isinstance(value, list) else [value]
            for index, child in enumerate(children):
                if not isinstance(child, ast.AST) or _is_untouched(node, child):
                    continue
                place = _list_place(value, index) if isinstance(value, list) else None
                put = place or _field_place(node, field)
                for other in self._others(node, child):
                    yield _change(where, child, other, put)
                yield from self.visit(child, where)

    def _others(self, parent: ast.AST, node: ast.AST) -> Iterator[ast.AST]:
        """Yield what may wrongly stand where *node* is."""
        if isinstance(node, ast.Attribute):
            yield from self._other_members(node)
        elif type(node) in _OTHERS:
            yield from _OTHERS[type(node)](node)
        elif isinstance(node, ast.stmt) and _is_effect(node):
            yield ast.Pass()
        if (
            isinstance(node, ast.expr)
            and _is_asked(parent, node)
            and not isinstance(node, ast.Compare | ast.UnaryOp)
        ):
            yield ast.UnaryOp(ast.Not(), node)

    def _other_members(self, node: ast.Attribute) -> Iterator[ast.expr]:
        """Yield the next member of the same enumeration."""
        if isinstance(node.value, ast.Name) and node.value.id in self._members:
            names = list(self._members[node.value.id].__members__)
            if node.attr in names and len(names) > 1:
                after = names[(names.index(node.attr) + 1) % len(names)]
                yield ast.Attribute(node.value, after, ast.Load())


def _list_place(nodes: list[ast.AST], index: int) -> Put:
    def put(node: ast.AST) -> None:
        nodes[index] = node

    return put


def _field_place(parent: ast.AST, field: str) -> Put:
    return lambda node: setattr(parent, field, node)


def _joined(op: ast.boolop, values: list[ast.expr]) -> ast.expr:
    return values[0] if len(values) == 1 else ast.BoolOp(op, values)


def _compare(node: ast.Compare) -> Iterator[ast.expr]:
    if len(node.ops) == 1:
        for wrong in _COMPARED[type(node.ops[0])]:
            yield ast.Compare(node.left, [wrong()], node.comparators)


def _bool_op(node: ast.BoolOp) -> Iterator[ast.expr]:
    yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    for value in node.values:
        yield _joined(node.op, [other for other in node.values if other is not value])


def _unary_op(node: ast.UnaryOp) -> Iterator[ast.expr]:
    if isinstance(node.op, ast.Not):
        yield node.operand


def _bin_op(node: ast.BinOp) -> Iterator[ast.expr]:
    if type(node.op) in _CALCULATED:
        yield ast.BinOp(node.left, _CALCULATED[type(node.op)](), node.right)


def _constant(node: ast.Constant) -> Iterator[ast.expr]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node.value, str) and node.value:
        yield ast.Constant(f"{node.value}XX")


def _joined_str(node: ast.JoinedStr) -> Iterator[ast.expr]:
    del node
    yield ast.Constant("")


def _call(node: ast.Call) -> Iterator[ast.expr]:
    if isinstance(node.func, ast.Name) and node.func.id in _CALLED:
        name = ast.Name(_CALLED[node.func.id], ast.Load())
        yield ast.Call(name, node.args, node.keywords)
    for keyword in node.keywords:
        if keyword.arg is not None:
            rest = [other for other in node.keywords if other is not keyword]
            yield ast.Call(node.func, node.args, rest)


def _dict(node: ast.Dict) -> Iterator[ast.expr]:
    for index in range(len(node.keys)):
        yield ast.Dict(
            [*node.keys[:index], *node.keys[index + 1 :]],
            [*node.values[:index], *node.values[index + 1 :]],
        )


def _set(node: ast.Set) -> Iterator[ast.expr]:
    for element in node.elts:
        yield ast.Set([other for other in node.elts if other is not element])


def _tuple(node: ast.Tuple) -> Iterator[ast.expr]:
    if isinstance(node.ctx, ast.Load) and _is_joined(node.elts):
        for element in node.elts:
            yield ast.Tuple([other for other in node.elts if other is not element], ast.Load())


def _return(node: ast.Return) -> Iterator[ast.stmt]:
    if node.value is not None and not _is_none(node.value):
        yield ast.Return(ast.Constant(None))


_OTHERS: Final[Mapping[type[ast.AST], Callable[[Any], Iterator[ast.AST]]]] = {
    ast.Compare: _compare,
    ast.BoolOp: _bool_op,
    ast.UnaryOp: _unary_op,
    ast.BinOp: _bin_op,
    ast.Constant: _constant,
    ast.JoinedStr: _joined_str,
    ast.Call: _call,
    ast.Dict: _dict,
    ast.Set: _set,
    ast.Tuple: _tuple,
    ast.Return: _return,
}


def _is_joined(elements: list[ast.expr]) -> bool:
    """A tuple that is put together from others, as programs are: not a pair of two things."""
    return any(isinstance(element, ast.Starred) for element in elements)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_effect(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Delete():
            return True
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return True
        case ast.Break() | ast.Continue():
            return True
    return False


def _is_asked(parent: ast.AST, node: ast.AST) -> bool:
    match parent:
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            return test is node
        case ast.comprehension(ifs=tests):
            return node in tests
        case ast.match_case(guard=guard):
            return guard is node
    return False


def _is_untouched(parent: ast.AST, node: ast.AST) -> bool:
    """Docstrings, imports, assertions; aliases of types; the words of an enumeration."""
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Assert():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(value=ast.BinOp() | ast.Subscript() | ast.Call()):
            return isinstance(parent, ast.Module)
        case ast.Assign(value=ast.Constant(value=str())):
            # An enumeration's words: schema, drawing and reference are compared with them.
            return isinstance(parent, ast.ClassDef)
    return isinstance(parent, ast.JoinedStr) and isinstance(node, ast.Constant)
