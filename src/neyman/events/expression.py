"""Expressions over columns, such as ``"n_jets >= 2 and abs(deta) > 3"``, without running any code.

:func:`evaluate` is used for cuts and weights that come from a configuration file. The text is parsed into a
syntax tree and only a whitelist of nodes is walked: nothing else can be reached from an expression.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from neyman.errors import ConfigError, nearest

MAX_LENGTH = 1000
MAX_DEPTH = 40

FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "abs": (1, np.absolute),
    "sqrt": (1, np.sqrt),
    "exp": (1, np.exp),
    "log": (1, np.log),
    "log10": (1, np.log10),
    "sin": (1, np.sin),
    "cos": (1, np.cos),
    "tan": (1, np.tan),
    "arctan2": (2, np.arctan2),
    "hypot": (2, np.hypot),
    "minimum": (2, np.minimum),
    "maximum": (2, np.maximum),
    "where": (3, np.where),
}

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.true_divide,
    ast.Mod: np.mod,
    # Through float, or 9**9**9 in a configuration would be computed digit by digit.
    ast.Pow: lambda base, power: np.power(base * 1.0, power),
    ast.BitAnd: np.bitwise_and,
    ast.BitOr: np.bitwise_or,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: np.negative,
    ast.UAdd: np.positive,
    ast.Not: np.logical_not,
    ast.Invert: np.invert,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


def evaluate(expression: str, columns: Mapping[str, Any]) -> Any:
    """Compute `expression` over `columns`.

    Allowed are column names, numbers, ``+ - * / ** %``, comparisons (chained too), ``and or not & | ~``,
    brackets, and the functions of :data:`FUNCTIONS`. An undefined value (the logarithm of a negative number)
    is NaN, and a comparison with NaN is false, as everywhere in numpy.

    Parameters
    ----------
    expression
        At most 1000 characters, nested at most 40 deep.
    columns
        Arrays by name, numpy or awkward, that broadcast against each other.

    Returns
    -------
    The array, or a scalar where the expression names no column.

    Raises
    ------
    ConfigError
        Anything that is not allowed, an unknown name, or operands of the wrong type.

    Examples
    --------
    >>> evaluate("pt > 20 and abs(eta) < 2.4", {"pt": np.array([10.0, 30.0]), "eta": np.array([0.1, 1.0])})
    array([False,  True])
    """
    tree = _parse(expression)
    try:
        with np.errstate(all="ignore"):
            return _value(tree, columns, expression)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise ConfigError(
            f"cannot compute the expression: {str(error).strip().splitlines()[0]}",
            where=expression,
            expected="operands of the same length; & and | bind tighter than comparisons",
            fix="put each comparison in brackets, or write 'and' and 'or'",
        ) from error


def names(expression: str) -> tuple[str, ...]:
    """Column names that `expression` uses, in order of appearance."""
    nodes = list(ast.walk(_parse(expression)))
    functions = [node.func for node in nodes if isinstance(node, ast.Call)]
    return tuple(dict.fromkeys(n.id for n in nodes if isinstance(n, ast.Name) and n not in functions))


def _parse(expression: str) -> ast.expr:
    if not expression.strip():
        raise ConfigError("an expression is empty", where=repr(expression), expected="text such as 'pt > 20'")
    if len(expression) > MAX_LENGTH:
        raise ConfigError(
            f"an expression has {len(expression)} characters",
            where=expression[:60] + "...",
            expected=f"at most {MAX_LENGTH}",
            fix="compute the quantity in the processor and name it here",
        )
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ConfigError(f"not an expression: {error}", where=expression) from error
    if _depth(tree) > MAX_DEPTH:
        raise ConfigError(
            "an expression is nested too deeply", where=expression, expected=f"at most {MAX_DEPTH} levels"
        )
    return tree


def _depth(root: ast.AST) -> int:
    level, depth = [root], 0
    while level:
        level, depth = [child for node in level for child in ast.iter_child_nodes(node)], depth + 1
    return depth


def _value(node: ast.expr, columns: Mapping[str, Any], text: str) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() as number):
            return number
        case ast.Name(id=name) if name in columns:
            return columns[name]
        case ast.Name(id=name):
            raise ConfigError(
                f"unknown name {name!r} in an expression", where=text, expected=nearest(name, columns)
            )
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_value(left, columns, text), _value(right, columns, text))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand, columns, text))
        case ast.BoolOp(op=op, values=values):
            join = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return _reduce(join, [_value(value, columns, text) for value in values])
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARE for op in ops):
            sides = [_value(side, columns, text) for side in (left, *others)]
            pairs = zip(ops, sides, sides[1:], strict=False)
            return _reduce(np.logical_and, [_COMPARE[type(op)](a, b) for op, a, b in pairs])
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _call(name, [_value(argument, columns, text) for argument in arguments], text)
    raise ConfigError(
        f"not allowed in an expression: {ast.unparse(node)[:60]!r}",
        where=text,
        expected="column names, numbers, + - * / ** %, comparisons, and or not & | ~, "
        + ", ".join(FUNCTIONS),
    )


def _reduce(join: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    result = values[0]
    for value in values[1:]:
        result = join(result, value)
    return result


def _call(name: str, arguments: list[Any], text: str) -> Any:
    if name not in FUNCTIONS:
        raise ConfigError(
            f"unknown function {name!r} in an expression",
            where=text,
            expected=nearest(name, FUNCTIONS, n=len(FUNCTIONS)),
        )
    count, function = FUNCTIONS[name]
    if len(arguments) != count:
        raise ConfigError(
            f"{name} takes {count} argument{'s' * (count > 1)}, got {len(arguments)}", where=text
        )
    return function(*arguments)
