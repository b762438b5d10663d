"""Expressions over collections of objects become nodes of a :class:`~neyman.events.features.graph.Graph`.

Objects are a function from the name of a field to the node that computes it: selecting, ordering or joining objects
does the same to each field that is asked for, and to no other.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache

from neyman.errors import ConfigError, NeymanError
from neyman.events.expression import FUNCTIONS, Walker, depth, names, parse
from neyman.events.features.graph import Graph
from neyman.events.features.kinematics import PAIRS, TOTALS

Objects = Callable[[str | None], int]
"""Node of a field; of the objects themselves for None."""

MAX_INDEX = 1000
MAX_PARTICLES = 16
MAX_TOTAL_DEPTH = 80

_REDUCTIONS = ("sum", "max", "min", "any", "all", "count")
_OBJECTS = ("sort", "concatenate", "first_of", "combine", "particle")
_ARGUMENTS: dict[str, tuple[int, int]] = {
    **{name: (count, count) for name, (count, _) in FUNCTIONS.items()},
    **dict.fromkeys(_REDUCTIONS, (1, 1)),
    **dict.fromkeys(PAIRS, (2, 2)),
    **dict.fromkeys(("mass", "pt", "combine"), (1, MAX_PARTICLES)),
    "particle": (4, 4),
    "sort": (2, 2),
    "fill": (2, 2),
    "concatenate": (2, MAX_PARTICLES),
    "first_of": (2, MAX_PARTICLES),
}
_COMPONENTS = ("pt", "eta", "phi", "mass")


@contextmanager
def naming(label: str) -> Iterator[None]:
    """Say in errors what they are about."""
    try:
        yield
    except NeymanError as error:
        where = f"{label}: {error.where}" if error.where else label
        raise type(error)(error.what, where=where, expected=error.expected, fix=error.fix) from error


class Definitions:
    """Named expressions, which may use each other in any order.

    Parameters
    ----------
    texts
        Expression by name.

    Raises
    ------
    ConfigError
        One is not an expression, uses itself, or they nest too deeply.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = dict(texts)
        self.trees: dict[str, ast.expr] = {}
        for name, text in self.texts.items():
            with naming(f"definition {name!r}"):
                self.trees[name] = parse(text)
        self.levels: dict[str, int] = {}
        waiting = {name: [n for n in names(text) if n in self.texts] for name, text in self.texts.items()}
        while waiting:
            ready = [name for name, used in waiting.items() if not set(used) & waiting.keys()]
            if not ready:
                first = next(iter(waiting))
                raise ConfigError(
                    f"definition {first!r} uses itself",
                    where=self.texts[first],
                    expected="a name that its expression does not use, such as 'good_jets' for a selection of 'Jet'",
                )
            for name in ready:
                self.levels[name] = self._level(self.trees[name], waiting.pop(name))
                if self.levels[name] > MAX_TOTAL_DEPTH:
                    raise ConfigError(
                        f"definition {name!r} is nested too deeply, with those that it uses",
                        expected=f"at most {MAX_TOTAL_DEPTH} levels",
                    )

    def _level(self, tree: ast.expr, used: list[str]) -> int:
        return depth(tree) + max((self.levels[name] for name in used), default=0)


class Compiler:
    """Adds expressions to a graph.

    Parameters
    ----------
    graph
        Where the nodes go.
    definitions
        Meaning of names; every other name is a collection or a column of the events.
    """

    def __init__(self, graph: Graph, definitions: Mapping[str, str]) -> None:
        self.graph = graph
        self.definitions = Definitions(definitions)
        self._values: dict[str, int] = {}
        self._objects: dict[str, Objects] = {}

    def value(self, text: str) -> int:
        """Return the node of an expression that gives numbers.

        Raises
        ------
        ConfigError
            The expression is not of the language, or uses no column of the events.
        """
        node = _Expression(self, text).walk(parse(text))
        if self.graph.number(node) is not None:
            raise ConfigError("an expression uses no column of the events", where=text)
        return node

    def objects(self, text: str) -> Objects:
        """Return the objects that an expression stands for."""
        return _Expression(self, text).objects(parse(text))

    def check(self, name: str) -> None:
        """Refuse a definition that is not of the language, used or not."""
        if self.means_objects(self.definitions.trees[name]):
            self.defined_objects(name)
        else:
            self.defined_value(name)

    def defined_value(self, name: str) -> int:
        """Return the node of a definition used as numbers."""
        if name not in self._values:
            text = self.definitions.texts[name]
            self._values[name] = _Expression(self, text).walk(self.definitions.trees[name])
        return self._values[name]

    def defined_objects(self, name: str) -> Objects:
        """Return the objects of a definition."""
        if name not in self._objects:
            text = self.definitions.texts[name]
            self._objects[name] = _Expression(self, text).objects(self.definitions.trees[name])
        return self._objects[name]

    def means_objects(self, node: ast.expr) -> bool:
        """Whether a node stands for objects, or for a name that may."""
        while True:
            match node:
                case ast.Name(id=name) if name in self.definitions.trees:
                    node = self.definitions.trees[name]
                case ast.Name():
                    return True
                case ast.Subscript(value=base):
                    node = base
                case ast.Call(func=ast.Name(id="sort" | "concatenate" | "first_of"), args=[first, *_]):
                    node = first
                case _:
                    return isinstance(node, ast.Call) and getattr(node.func, "id", "") in _OBJECTS


class _Expression(Walker[int]):
    """One expression."""

    syntax = (
        "columns, fields such as Jet.pt, [index], [start:stop], [condition], numbers, + - * / ** %, comparisons, "
        "and or not & | ~, "
    )

    def __init__(self, compiler: Compiler, text: str) -> None:
        super().__init__(text, {name: count for name, (count, _) in _ARGUMENTS.items()})
        self.compiler = compiler
        self.graph = compiler.graph

    def number(self, value: float) -> int:
        return self.graph.add("number", detail=value)

    def name(self, name: str) -> int:
        if name in self.compiler.definitions.texts:
            return self.compiler.defined_value(name)
        return self.graph.add("read", detail=(None, name))

    def apply(self, function: str, arguments: list[int]) -> int:
        return self._add("apply", *arguments, detail=function)

    def other(self, node: ast.expr) -> int:
        match node:
            case ast.Attribute(value=base, attr=field) if not field.startswith("_"):
                return self.objects(base)(field)
            case ast.Subscript(value=base, slice=inside):
                return self._inside(inside)(self.walk(base))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                self.count(name, arguments)
                return self._call(name, arguments)
        raise self.refused(node)

    def objects(self, node: ast.expr) -> Objects:
        """Return the objects that a node stands for."""
        match node:
            case ast.Name(id=name) if name in self.compiler.definitions.texts:
                return self.compiler.defined_objects(name)
            case ast.Name(id=name):
                return cache(lambda field: self._add("read", detail=(name, field)))
            case ast.Subscript(value=base, slice=inside):
                objects, change = self.objects(base), self._inside(inside)
                return cache(lambda field: change(objects(field)))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _OBJECTS:
                self.count(name, arguments)
                return self._made(name, arguments)
        if isinstance(node, ast.Attribute | ast.Call):
            raise ConfigError(
                f"not a collection of objects: {ast.unparse(node)[:60]!r}",
                where=self.text,
                expected="a name such as Jet, objects in brackets, or one of " + ", ".join(_OBJECTS),
            )
        raise self.refused(node)

    def count(self, name: str, arguments: list[ast.expr]) -> None:
        least, most = _ARGUMENTS[name]
        if least == most:
            super().count(name, arguments)
        elif not least <= len(arguments) <= most:
            raise ConfigError(
                f"{name} takes {least} to {most} arguments, got {len(arguments)}", where=self.text
            )

    def _made(self, name: str, arguments: list[ast.expr]) -> Objects:
        """Objects that a function returns."""
        if name == "particle":
            parts = dict(zip(_COMPONENTS, map(self.walk, arguments), strict=True))
            return lambda field: parts[self._component(field)]
        if name == "sort":
            objects, order = self.objects(arguments[0]), self._add("order", self.walk(arguments[1]))
            return cache(lambda field: self._add("arrange", objects(field), order))
        several = [self.objects(argument) for argument in arguments]
        if name == "combine":
            return cache(lambda field: self._total(self._component(field), several))
        operation, choice = ("join", None) if name == "concatenate" else ("choose", self._choice(arguments))
        return cache(
            lambda field: self._add(operation, *(objects(field) for objects in several), detail=choice)
        )

    def _call(self, name: str, arguments: list[ast.expr]) -> int:
        """Numbers that a function returns."""
        if name in PAIRS:
            fields, _ = PAIRS[name]
            pair = [self.objects(argument) for argument in arguments]
            return self.apply(name, [objects(field) for objects in pair for field in fields])
        if name in TOTALS:
            return self._total(name, [self.objects(argument) for argument in arguments])
        if name == "count" and self.compiler.means_objects(arguments[0]):
            return self._add("reduce", self.objects(arguments[0])(None), detail="count")
        if name in ("combine", "particle"):
            raise ConfigError(
                f"{name} gives objects, not numbers", where=self.text, expected=f"a field: {name}(...).pt"
            )
        values = [self.walk(argument) for argument in arguments]
        if name in _REDUCTIONS:
            return self._add("reduce", *values, detail=name)
        if name == "sort":
            return self._add("arrange", values[0], self._add("order", values[1]))
        if name == "first_of":
            return self._add("choose", *values, detail=self._choice(arguments))
        return self._add("join" if name == "concatenate" else "fill", *values)

    def _inside(self, node: ast.expr) -> Callable[[int], int]:
        """What square brackets do to the node before them."""
        if isinstance(node, ast.Slice) and node.step is None:
            bounds = tuple(
                None if bound is None else self._index(bound) for bound in (node.lower, node.upper)
            )
            return lambda base: self._add("cut", base, detail=bounds)
        if isinstance(node, ast.Slice | ast.Tuple):
            raise self.refused(node)
        condition = self.walk(node)
        if self.graph.number(condition) is not None:
            index = self._index(node)
            return lambda base: self._add("take", base, detail=index)
        return lambda base: self._add("select", base, condition)

    def _index(self, node: ast.expr) -> int:
        index = self.graph.number(self.walk(node))
        if type(index) is not int or abs(index) > MAX_INDEX:
            raise ConfigError(
                f"not an index: {ast.unparse(node)[:60]!r}",
                where=self.text,
                expected=f"a whole number between -{MAX_INDEX} and {MAX_INDEX}, or a condition",
            )
        return index

    def _total(self, name: str, objects: list[Objects]) -> int:
        fields, _ = TOTALS[name]
        return self.apply(f"total {name}", [each(field) for each in objects for field in fields])

    def _component(self, field: str | None) -> str:
        if field is not None and field not in _COMPONENTS:
            raise ConfigError(
                f"a particle made in an expression has no {field!r}",
                where=self.text,
                expected=", ".join(_COMPONENTS),
            )
        return field or "pt"

    def _choice(self, arguments: list[ast.expr]) -> str:
        return f"first_of({', '.join(map(ast.unparse, arguments))})"

    def _add(self, operation: str, *arguments: int, detail: object = None) -> int:
        try:
            return self.graph.add(operation, *arguments, detail=detail)
        except ConfigError as error:
            raise ConfigError(error.what, where=self.text, expected=error.expected) from error
