"""The language of cuts, weights and features, such as ``"n_jets >= 2 and abs(deta) > 3"``; it runs no code.

A text is parsed into a syntax tree and a :class:`Walker` visits a whitelist of nodes: nothing else can be reached
from an expression. :func:`evaluate` computes over flat columns, which is what cuts and weights of tables need. The
features of :class:`neyman.events.features.FeatureSpec` are the same language with collections of objects added.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np

from neyman.errors import ConfigError, nearest

MAX_LENGTH = 1000
MAX_DEPTH = 40

T = TypeVar("T")


def _remainder(number: Any, divisor: Any) -> Any:
    """Return the remainder, NaN for divisor 0, where numpy gives 0 for whole numbers."""
    result, zero = np.mod(number, divisor), np.equal(divisor, 0)
    return np.where(zero, np.nan, result) if np.any(zero) else result


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

_OPERATORS: dict[type[ast.AST], tuple[str, Callable[..., Any]]] = {
    ast.Add: ("+", np.add),
    ast.Sub: ("-", np.subtract),
    ast.Mult: ("*", np.multiply),
    ast.Div: ("/", np.true_divide),
    ast.Mod: ("%", _remainder),
    # Through float, or 9**9**9 in a configuration would be computed digit by digit.
    ast.Pow: ("**", lambda base, power: np.power(base * 1.0, power)),
    ast.BitAnd: ("&", np.bitwise_and),
    ast.BitOr: ("|", np.bitwise_or),
    ast.USub: ("negative", np.negative),
    ast.UAdd: ("positive", np.positive),
    ast.Not: ("not", np.logical_not),
    ast.Invert: ("~", np.invert),
    ast.And: ("and", np.logical_and),
    ast.Or: ("or", np.logical_or),
    ast.Lt: ("<", np.less),
    ast.LtE: ("<=", np.less_equal),
    ast.Gt: (">", np.greater),
    ast.GtE: (">=", np.greater_equal),
    ast.Eq: ("==", np.equal),
    ast.NotEq: ("!=", np.not_equal),
}
_SYMBOLS = {kind: symbol for kind, (symbol, _) in _OPERATORS.items()}

ELEMENTWISE: dict[str, Callable[..., Any]] = {
    **dict(_OPERATORS.values()),
    **{name: function for name, (_, function) in FUNCTIONS.items()},
}
"""Operators and functions, by symbol or name, that act on one element at a time."""


def evaluate(expression: str, columns: Mapping[str, Any]) -> Any:
    """Compute `expression` over `columns`.

    Allowed are column names, numbers, ``+ - * / ** %``, comparisons (chained too), ``and or not & | ~``,
    brackets, and the functions of :data:`FUNCTIONS`. An undefined value (the logarithm of a negative number)
    is NaN, and a comparison with NaN is false, as everywhere in numpy. Integers are computed with 64 bits: an
    unsigned counter minus 5 can be negative.

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
    tree = parse(expression)
    try:
        with np.errstate(all="ignore"):
            return _Columns(expression, columns).walk(tree)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise not_computable(error, expression) from error


def names(expression: str) -> tuple[str, ...]:
    """Names that `expression` uses, functions aside, in order of appearance."""
    nodes = list(ast.walk(parse(expression)))
    functions = [node.func for node in nodes if isinstance(node, ast.Call)]
    return tuple(dict.fromkeys(n.id for n in nodes if isinstance(n, ast.Name) and n not in functions))


def parse(expression: str) -> ast.expr:
    """Return the syntax tree of a text of legal length and depth; what its nodes are is checked by the walker.

    Raises
    ------
    ConfigError
        Empty, too long, nested too deeply, not ASCII, with a comment, or not an expression of Python.
    """
    if not expression.strip():
        raise ConfigError("an expression is empty", where=repr(expression), expected="text such as 'pt > 20'")
    if len(expression) > MAX_LENGTH:
        raise ConfigError(
            f"an expression has {len(expression)} characters",
            where=expression[:60] + "...",
            expected=f"at most {MAX_LENGTH}",
            fix="define parts of it on their own, or compute the quantity in the processor and name it here",
        )
    strange = next((character for character in expression if character == "#" or not character.isascii()), "")
    if strange:
        # Python reads letters that look alike, such as a mathematical x, as the same name.
        raise ConfigError(
            f"not allowed in an expression: {strange!r}", where=expression, expected="ASCII, and no comments"
        )
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ConfigError(f"not an expression: {error}", where=expression) from error
    if depth(tree) > MAX_DEPTH:
        raise ConfigError(
            "an expression is nested too deeply", where=expression, expected=f"at most {MAX_DEPTH} levels"
        )
    return tree


def depth(root: ast.AST) -> int:
    """Levels of a syntax tree."""
    level, levels = [root], 0
    while level:
        level, levels = [child for node in level for child in ast.iter_child_nodes(node)], levels + 1
    return levels


def widen(array: Any) -> Any:
    """Return whole numbers of an array as int64, so that differences of unsigned counters do not wrap around."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.dtype == np.int64:
        return array
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise OverflowError(f"an integer is {array.max()}, which 63 bits do not hold")
    return array.astype(np.int64)


def not_computable(error: Exception, expression: str) -> ConfigError:
    """Say that numpy refused the operands of an expression."""
    return ConfigError(
        f"cannot compute the expression: {str(error).strip().splitlines()[0]}",
        where=expression,
        expected="operands of the same length; & and | bind tighter than comparisons",
        fix="put each comparison in brackets, or write 'and' and 'or'",
    )


class Walker(Generic[T]):
    """Visits the nodes that every expression may have; a subclass says what names and functions mean.

    Parameters
    ----------
    text
        The expression, for messages.
    functions
        Names of functions, with the number of their arguments.
    """

    syntax = "column names, numbers, + - * / ** %, comparisons, and or not & | ~, "

    def __init__(self, text: str, functions: Mapping[str, int]) -> None:
        self.text = text
        self.functions = functions

    def number(self, value: float) -> T:
        """Return what a literal stands for."""
        raise NotImplementedError

    def name(self, name: str) -> T:
        """Return what a name stands for."""
        raise NotImplementedError

    def apply(self, function: str, arguments: list[T]) -> T:
        """Return what an entry of :data:`ELEMENTWISE` gives."""
        raise NotImplementedError

    def other(self, node: ast.expr) -> T:
        """Return what a node of another kind stands for; refused by default."""
        raise self.refused(node)

    def walk(self, node: ast.expr) -> T:
        """Return what a node stands for."""
        match node:
            case ast.Constant(value=bool() | int() | float() as value):
                if not abs(value) < 2.0**63:
                    raise ConfigError("a number in an expression is too large", where=self.text)
                return self.number(value)
            case ast.Name(id=name):
                return self.name(name)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _SYMBOLS:
                return self.apply(_SYMBOLS[type(op)], [self.walk(left), self.walk(right)])
            case ast.UnaryOp(op=op, operand=operand):
                return self.apply(_SYMBOLS[type(op)], [self.walk(operand)])
            case ast.BoolOp(op=op, values=values):
                return self._join(_SYMBOLS[type(op)], map(self.walk, values))
            case ast.Compare(left=left, ops=ops, comparators=others) if all(
                type(op) in _SYMBOLS for op in ops
            ):
                sides = [self.walk(side) for side in (left, *others)]
                pairs = zip(ops, sides, sides[1:], strict=False)
                return self._join("and", [self.apply(_SYMBOLS[type(op)], [a, b]) for op, a, b in pairs])
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
                self.count(name, arguments)
                return self.apply(name, [self.walk(argument) for argument in arguments])
            case ast.Call(func=ast.Name(id=name)) if name not in self.functions:
                raise ConfigError(
                    f"unknown function {name!r} in an expression",
                    where=self.text,
                    expected=nearest(name, self.functions, n=len(self.functions)),
                )
        return self.other(node)

    def count(self, name: str, arguments: list[ast.expr]) -> None:
        """Refuse the wrong number of arguments of a function."""
        count = self.functions[name]
        if len(arguments) != count:
            raise ConfigError(
                f"{name} takes {count} argument{'s' * (count > 1)}, got {len(arguments)}", where=self.text
            )

    def refused(self, node: ast.expr) -> ConfigError:
        """Return the error that a node is not part of the language."""
        return ConfigError(
            f"not allowed in an expression: {ast.unparse(node)[:60]!r}",
            where=self.text,
            expected=self.syntax + ", ".join(self.functions),
        )

    def _join(self, function: str, values: Iterable[T]) -> T:
        first, *others = values
        for other in others:
            first = self.apply(function, [first, other])
        return first


class _Columns(Walker[Any]):
    """Computes over flat columns while it walks."""

    def __init__(self, text: str, columns: Mapping[str, Any]) -> None:
        super().__init__(text, {name: count for name, (count, _) in FUNCTIONS.items()})
        self.columns = columns

    def number(self, value: float) -> Any:
        return value

    def name(self, name: str) -> Any:
        if name not in self.columns:
            raise ConfigError(
                f"unknown name {name!r} in an expression",
                where=self.text,
                expected=nearest(name, self.columns),
            )
        return self.columns[name]

    def apply(self, function: str, arguments: list[Any]) -> Any:
        return ELEMENTWISE[function](*map(widen, arguments))
